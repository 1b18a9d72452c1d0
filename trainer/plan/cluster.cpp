// The cluster's table of quantities, and what two of them say about each other.
#include "trainer/plan/cluster.h"

#include <filesystem>

#include "kernels/base/error.h"

namespace atoll::plan {
namespace {
const char* kLlama = "Llama 3 405B report, table 5: 419 unexpected interruptions in 54 days on 16,384 GPUs = one in 50,700 GPU-hours";

// Contradictions between quantities that are each in range; the place is that of the first that was given.
void check(const Sheet& s, const std::string& file, Errors& errors) {
  const auto require = [&](bool holds, const std::string& key, const std::string& other, const std::string& why) {
    if (holds) return;
    const std::string& first = s.at(key).place;
    const std::string& second = s.at(other).place;
    errors.push_back((first != "default"    ? first
                      : second != "default" ? second
                                            : file) +
                     ": " + key + " = " + show(s.number(key), s.at(key).unit) + ": " + why);
  };
  const auto value = [&](const std::string& key) { return key + " = " + show(s.number(key), s.at(key).unit); };
  require(s.number("gpu.fp8") >= s.number("gpu.bf16"), "gpu.fp8", "gpu.bf16", "slower than " + value("gpu.bf16") + "; give the same where there is no FP8");
  require(s.number("gpus_per_node") == 1 || s.number("links.intra.bandwidth") >= s.number("links.inter.bandwidth"), "links.intra.bandwidth",
          "links.inter.bandwidth", "slower than " + value("links.inter.bandwidth") + ": the link inside a node would be the thin one; are they swapped?");
  require(s.number("gpu.memory_bandwidth") >= s.number("links.intra.bandwidth"), "gpu.memory_bandwidth", "links.intra.bandwidth",
          "slower than links.intra.bandwidth: a link cannot carry more than memory gives");
  require(s.number("reliability.restart") < s.number("reliability.gpu_mtbf"), "reliability.restart", "reliability.gpu_mtbf",
          "longer than " + value("reliability.gpu_mtbf") + ", the time between failures of one GPU");
  require(s.number("power.node") == 0 || s.number("power.node") >= s.number("gpu.power") * s.number("gpus_per_node"), "power.node", "gpu.power",
          "less than its GPUs' " + show(s.number("gpu.power") * s.number("gpus_per_node"), Unit::kWatts));
}

Link link(const Sheet& s, const std::string& name) {
  return {s.number("links." + name + ".bandwidth"), s.number("links." + name + ".usable"), s.number("links." + name + ".latency")};
}
}  // namespace

const std::vector<SheetKey>& cluster_schema() {
  using enum Unit;
  static const std::vector<SheetKey> table = {
      {"name", kText, 0, 0, "!", "", "the cluster's name"},
      {"nodes", kCount, 1, 1e6, "!", "", "nodes"},
      {"gpus_per_node", kCount, 1, 1024, "!", "", "devices of a node: what the intra-node link joins"},
      {"gpu.name", kText, 0, 0, "!", "", "the device"},
      {"gpu.calibration", kText, 0, 0, "!", "", "calibration (launch/calibration/NAME.yaml) or a file.yaml: what kernels reach on it"},
      {"gpu.bf16", kFlops, 1e9, 1e17, "!", "", "dense BF16 peak: the denominator of MFU; no calibrated rate may beat it"},
      {"gpu.fp8", kFlops, 1e9, 1e17, "!", "", "dense FP8 peak: no calibrated rate may beat it"},
      {"gpu.memory", kBytes, 1e8, 1e13, "!", "", "memory of one device"},
      {"gpu.memory_bandwidth", kBandwidth, 1e9, 1e14, "!", "", "its bandwidth"},
      {"gpu.sms", kCount, 1, 1e5, "132", "Hopper SXM", "multiprocessors (cores)"},
      {"gpu.power", kWatts, 0, 1e4, "700 W", "Hopper SXM data sheet", "power of one device at load"},
      {"links.intra.bandwidth", kBandwidth, 1e6, 1e14, "!", "", "one device to its node, one direction, line rate"},
      {"links.intra.usable", kFraction, 0.01, 1, "100 %", "line rate", "part of it that payload reaches"},
      {"links.intra.latency", kSeconds, 0, 1, "5 us", "assumption: NCCL point to point inside a node", "of one message"},
      {"links.inter.bandwidth", kBandwidth, 1e6, 1e14, "!", "", "one device to other nodes, one direction, line rate"},
      {"links.inter.usable", kFraction, 0.01, 1, "100 %", "line rate", "part of it that payload reaches"},
      {"links.inter.latency", kSeconds, 0, 1, "10 us", "assumption: NCCL point to point between nodes", "of one message"},
      {"switches.tiers", kCount, 0, 10, "2", "assumption", "levels of the network between nodes; priced nowhere (congestion is not modelled)"},
      {"switches.per_gpu_power", kWatts, 0, 1e4, "0 W", "assumption: inside power.node", "network power of one device"},
      {"prices.gpu_hour", kDollarsPerHour, 0, 1e3, "2 $/h", "DeepSeek-V3 report, table 1: rental price assumed of an H800", "rent of one device"},
      {"prices.server_per_gpu", kDollars, 0, 1e6, "$31728", "SemiAnalysis, DeepSeek Debates (January 2025): server capital of one H800",
       "purchase, one device's part of its server and network"},
      {"prices.energy", kDollarsPerKwh, 0, 10, "0.08 $/kWh", "assumption: industrial power", "electricity"},
      {"power.node", kWatts, 0, 1e6, "10.2 kW", "DGX H100 data sheet: 10.2 kW a node at most", "a node with its devices at load; 0: devices only"},
      {"power.pue", kFraction, 1, 3, "1.3", "assumption", "power of the building / power of the machines"},
      {"reliability.gpu_mtbf", kSeconds, 1, 1e15, "50700 h", kLlama, "mean time between interruptions of one device"},
      {"reliability.restart", kSeconds, 0, 1e6, "10 min", "assumption: detect, drain, start, load", "from a failure to the first new step"},
      {"reliability.checkpoint", kSeconds, 0, 1e6, "2.5 s", "assumption: asynchronous save, blocking part (torchtune #443: 2.48 s)", "stall of one checkpoint"},
  };
  return table;
}

Cluster parse_cluster(const std::string& yaml, const std::string& file, const std::vector<std::string>& overrides) {
  Errors errors;
  Cluster c;
  c.sheet = read_sheet(cluster_schema(), read_tree(yaml, file), file, overrides, errors);
  if (errors.empty()) check(c.sheet, file, errors);
  if (!errors.empty()) throw_errors(file, errors);
  const Sheet& s = c.sheet;
  c.name = s.text("name");
  c.gpu = s.text("gpu.name");
  c.calibration = s.text("gpu.calibration");
  c.nodes = static_cast<int64_t>(s.number("nodes"));
  c.gpus_per_node = static_cast<int64_t>(s.number("gpus_per_node"));
  c.bf16 = s.number("gpu.bf16");
  c.fp8 = s.number("gpu.fp8");
  c.memory = s.number("gpu.memory");
  c.memory_bandwidth = s.number("gpu.memory_bandwidth");
  c.sms = s.number("gpu.sms");
  c.intra = link(s, "intra");
  c.inter = link(s, "inter");
  return c;
}

Cluster load_cluster(const std::string& what, const std::string& folder, const std::vector<std::string>& overrides) {
  if (is_yaml_path(what)) return parse_cluster(read_text(what), what, overrides);
  const std::string path = folder + "/" + what + ".yaml";
  std::error_code failed;
  if (!std::filesystem::is_regular_file(path, failed))
    throw ConfigError(no_such("cluster=" + what, "cluster", what, yaml_names(folder)) + " (in " + folder + "), or name a file.yaml");
  return parse_cluster(read_text(path), what + ".yaml", overrides);  // of ours the name is enough
}

}  // namespace atoll::plan
