// One forward and backward against a folder's files. Policy: tolerances are written down here, by dtype and kind of tensor, and are the same for every layout.
#include "trainer/verify_golden.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <limits>
#include <optional>
#include <set>

#include "trainer/golden_case.h"
#include "trainer/golden_watcher.h"
#include "trainer/hf_config.h"

namespace atoll {
namespace {
namespace fs = std::filesystem;

nlohmann::json read_json(const std::string& path) {
  std::ifstream in(path);
  if (!in) throw DataError(path + ": cannot be read; a golden folder has config.json, case.json, model.safetensors, io.safetensors and grads.safetensors");
  try {
    return nlohmann::json::parse(in);
  } catch (const nlohmann::json::exception& e) {
    throw DataError(path + ": " + e.what());
  }
}

int parse_int(const std::string& key, const std::string& value) {
  int n = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), n);
  if (error != std::errc{} || end != value.data() + value.size() || n < 1) throw ConfigError(key + "=" + value + ": a whole number of at least 1 is wanted");
  return n;
}

struct PassResult {
  Deviations deviations;
  std::vector<std::string> unknown, inputs;  // stored tensors that nothing was compared with
  StepResult step;
  double norm = 0;
};

void compare_gradients(Engine& engine, const SafetensorsFile& file, const std::string& prefix, bool wants_all, Deviations& out) {
  for (const ShardedAdamW::Owned& owned : engine.optimizer().owned()) {
    const std::string& name = owned.parameter->spec->name;
    if (wants_all || file.find(name)) out.compare(prefix + name, owned.grad, file.tensor(name).rows(owned.rows.begin, owned.rows.size()));
  }
}

PassResult run_pass(const std::string& folder, const std::string& suffix, const ModelConfig& model, const nlohmann::json& facts, const GoldenOptions& options, bool emulate_bf16, Communicator& world) {
  const SafetensorsFile weights(folder + "/model.safetensors"), io(folder + "/io" + suffix + ".safetensors"), grads(folder + "/grads" + suffix + ".safetensors");
  GoldenOptions o = options;
  if (emulate_bf16) o.dtype = DType::kF64;
  Engine engine(golden_engine_options(model, o, io.tensor("input_ids").dim[1]), world);
  engine.ctx().round_outputs_to_bf16 = emulate_bf16;
  load_golden_weights(engine, weights);
  PassResult r;
  GoldenFeed f = golden_feed(io, engine);
  GoldenWatcher watcher(engine, io, f, r.deviations, options.dtype == DType::kBF16);
  StepPlan plan;
  plan.mtp_lambda = facts.value("lambda_mtp", 0.0);
  plan.balance_alpha = facts.value("alpha", 0.0);
  plan.bias_gamma = facts.value("gamma", 0.0);
  r.step = engine.accumulate_gradients(f.batches, plan);
  engine.reduce_gradients();
  r.norm = engine.global_norm();
  watcher.compare_rows();
  watcher.stop_comparing();
  compare_gradients(engine, grads, "grad ", true, r.deviations);
  const std::string balance_path = folder + "/grads_balance" + suffix + ".safetensors";
  std::optional<SafetensorsFile> balance_grads;
  if (fs::exists(balance_path)) {  // nothing to predict: what is left is the balance loss alone
    balance_grads.emplace(balance_path);
    GoldenFeed unlabelled = golden_feed(io, engine, false);
    engine.accumulate_gradients(unlabelled.batches, {.mtp_lambda = 0, .balance_alpha = plan.balance_alpha, .bias_gamma = 0});
    engine.reduce_gradients();
    compare_gradients(engine, *balance_grads, "grad of balance: ", false, r.deviations);
  }
  if (facts.contains("gamma")) {
    engine.update_router_bias(r.step.expert_counts, plan.bias_gamma);
    for (const ParameterStore::Bias& b : engine.parameters().router_biases()) {
      r.deviations.compare("bias_after." + b.name, b.value, io.tensor("bias_after." + b.name));
      const Tensor counts(const_cast<int64_t*>(r.step.expert_counts.data() + b.layer * model.n_routed_experts), DType::kI64, {model.n_routed_experts});
      r.deviations.compare("counts of layer " + std::to_string(b.layer), counts, io.tensor("moe." + std::to_string(b.layer) + ".counts"));
    }
  }
  r.deviations.merge(world);
  const std::map<std::string, Deviation>& compared = r.deviations.all();
  for (const SafetensorsEntry& e : io.entries()) {
    const bool is_counts = e.name.rfind("moe.", 0) == 0 && e.name.ends_with(".counts");
    if (compared.count(is_counts ? "counts of layer " + std::to_string(std::stoll(e.name.substr(4))) : e.name)) continue;
    const bool is_input = e.name == "input_ids" || e.name == "labels" || e.name == "cu_seqlens";
    (is_input ? r.inputs : r.unknown).push_back(e.name);
  }
  for (const SafetensorsEntry& e : grads.entries())
    if (!compared.count("grad " + e.name)) r.unknown.push_back("grads" + suffix + ": " + e.name);
  if (balance_grads)
    for (const SafetensorsEntry& e : balance_grads->entries())
      if (!compared.count("grad of balance: " + e.name)) r.unknown.push_back("grads_balance" + suffix + ": " + e.name);
  return r;
}

std::vector<std::pair<std::string, std::pair<double, double>>> scalars(const PassResult& r, const nlohmann::json& facts) {  // name, (ours, theirs)
  std::vector<std::pair<std::string, std::pair<double, double>>> out;
  const nlohmann::json& loss = facts.at("loss");
  if (loss.is_object()) {
    out.push_back({"loss total", {r.step.total, loss.at("total").get<double>()}});
    out.push_back({"loss main", {r.step.loss, loss.at("main").get<double>()}});
    for (size_t k = 0; k < r.step.mtp_loss.size(); ++k) out.push_back({"loss mtp " + std::to_string(k + 1), {r.step.mtp_loss[k], loss.at("mtp").at(k).get<double>()}});
    out.push_back({"loss balance", {r.step.balance, loss.at("balance").get<double>()}});
    for (auto& [layer, value] : loss.at("balance_per_layer").items())
      out.push_back({"loss balance of layer " + layer, {r.step.balance_of_layer.at(std::stoul(layer)), value.get<double>()}});
  } else {
    out.push_back({"loss", {r.step.total, loss.get<double>()}});
  }
  out.push_back({"grad norm", {r.norm, facts.at("grad_norm").get<double>()}});
  return out;
}

bool is_discrete(const std::string& name) {
  return name.find("topk_ids") != std::string::npos || name.rfind("counts", 0) == 0 || name.ends_with(".labels") || name == "position_ids" || name == "document_of_token";
}

double tolerance_of(const std::string& name, DType dtype) {
  if (is_discrete(name)) return 0;
  if (dtype == DType::kF64) return 2e-7;
  return name.rfind("grad ", 0) == 0 ? 1e-4 : 1e-5;
}
}  // namespace

void verify_golden_pass(const std::string& folder, const std::string& suffix, const GoldenOptions& options, Communicator& world, GoldenReport& report) {
  const ModelConfig model = load_hf_config(folder + "/config.json");
  nlohmann::json facts = read_json(folder + "/case.json");
  if (suffix == "_packed") facts = facts.at("packed");
  const PassResult r = run_pass(folder, suffix, model, facts, options, false, world);
  const std::string prefix = suffix.empty() ? "" : "packed: ";
  auto add = [&](const std::string& name, double deviation, double tolerance) { report.rows.push_back({prefix + name, deviation, tolerance, std::isfinite(deviation) && deviation <= tolerance}); };
  for (const std::string& name : r.unknown) add("stored, but compared with nothing: " + name, std::numeric_limits<double>::infinity(), 0);
  for (const std::string& name : r.inputs) report.not_compared.push_back(prefix + name + " (an input)");
  if (options.dtype == DType::kBF16) {
    const PassResult emulated = run_pass(folder, suffix, model, facts, options, true, world);
    const auto theirs = scalars(emulated, facts), ours = scalars(r, facts);
    for (size_t i = 0; i < ours.size(); ++i) {
      // one scalar's rounding error can be small by chance: the bound is twice the emulated error or BF16's unit roundoff, whichever is larger
      const auto [value, reference] = ours[i].second;
      const double scale = std::max(std::abs(reference), 1e-300), allowed = 2 * std::abs(theirs[i].second.first - reference) / scale;
      add(ours[i].first, std::abs(value - reference) / scale, std::max(allowed, 0x1p-9));
    }
    for (const auto& [name, d] : r.deviations.all()) {
      if (is_discrete(name))
        add(name, static_cast<double>(d.mismatches), 0);
      else if (name.rfind("bias_after.", 0) == 0)
        add(name, d.relative_max(), tolerance_of(name, DType::kF32));  // FP32 in a BF16 run: the emulation has no error to measure it by
      else if (name.ends_with(".balance_f") || name.rfind("grad of balance: ", 0) == 0)
        report.not_compared.push_back(prefix + name + " (hangs on a choice of experts, which BF16 may make otherwise)");
      else
        add(name, d.relative_l2(), 2 * emulated.deviations.all().at(name).relative_l2());
    }
    return;
  }
  for (const auto& [name, pair] : scalars(r, facts))
    add(name, std::abs(pair.first - pair.second) / std::max(std::abs(pair.second), 1e-300), options.dtype == DType::kF64 ? 1e-10 : name == "grad norm" ? 1e-5 : 1e-6);
  for (const auto& [name, d] : r.deviations.all()) add(name, is_discrete(name) ? static_cast<double>(d.mismatches) : d.relative_max(), tolerance_of(name, options.dtype));
}

GoldenReport verify_golden(const std::string& folder, const GoldenOptions& options, Communicator& world) {
  GoldenReport report;
  if (!fs::is_directory(folder)) throw DataError(folder + ": no such folder");
  const bool is_training = fs::exists(folder + "/final.safetensors") && fs::exists(folder + "/data.safetensors");
  if (is_training) {
    report = verify_golden_training(folder, options, world);
  } else {
    verify_golden_pass(folder, "", options, world, report);
    if (fs::exists(folder + "/io_packed.safetensors")) verify_golden_pass(folder, "_packed", options, world, report);
  }
  for (const fs::directory_entry& e : fs::directory_iterator(folder)) {
    static const std::set<std::string> known = {"model", "io", "io_packed", "grads", "grads_packed", "grads_balance", "grads_balance_packed", "data", "final"};
    if (e.path().extension() == ".safetensors" && !known.count(e.path().stem().string()))
      report.rows.push_back({"a file that nothing reads: " + e.path().filename().string(), std::numeric_limits<double>::infinity(), 0, false});
  }
  report.folder = folder;
  const Mesh mesh(world.size(), options.mesh);
  report.description = fmt::format("{}, pp {}, dp {}, ep {}, {}", name_of(options.dtype), mesh.size(Axis::kPp), mesh.size(Axis::kDp), mesh.size(Axis::kEp), options.schedule);
  return report;
}

GoldenOptions parse_golden_options(const std::vector<std::string>& assignments) {
  GoldenOptions o;
  int world = 0;
  for (const std::string& a : assignments) {
    const size_t at = a.find('=');
    const std::string key = a.substr(0, at), value = at == std::string::npos ? "" : a.substr(at + 1);
    if (key == "dtype" || key == "train.dtype") {
      if (value != "fp64" && value != "fp32" && value != "bf16") throw ConfigError(a + ": fp64, fp32 or bf16");
      o.dtype = value == "fp64" ? DType::kF64 : value == "fp32" ? DType::kF32 : DType::kBF16;
    } else if (key == "parallel.pp") {
      o.mesh.pp = parse_int(key, value);
    } else if (key == "parallel.ep") {
      o.mesh.ep = parse_int(key, value);
    } else if (key == "parallel.schedule") {
      o.schedule = value;
      if (const std::vector<std::string> names = {"gpipe", "1f1b", "1f1b-split", "zb-h1", "gpipe-w-last", "1f1b-w-last"}; std::find(names.begin(), names.end(), value) == names.end())
        throw ConfigError(a + ": verify golden runs schedules of one stage a rank: gpipe, 1f1b, 1f1b-split, zb-h1, gpipe-w-last, 1f1b-w-last");
    } else if (key == "world") {
      world = parse_int(key, value);
    } else if (key == "threads" || key == "train.threads") {
      o.threads = parse_int(key, value);
    } else {
      throw ConfigError(a + ": no such key; known: dtype, parallel.pp, parallel.ep, parallel.schedule, world, threads");
    }
  }
  constexpr int64_t kMostRanks = 4096;
  const int64_t ranks = world > 0 ? world : int64_t{o.mesh.pp} * o.mesh.ep;
  if (ranks > kMostRanks) throw ConfigError(fmt::format("{} ranks: no case here can use more than {}", ranks, kMostRanks));
  o.world = static_cast<int>(ranks);
  Mesh(o.world, o.mesh);
  return o;
}

bool GoldenReport::ok() const {
  return !rows.empty() && std::all_of(rows.begin(), rows.end(), [](const GoldenRow& r) { return r.ok; });
}

std::string GoldenReport::text(bool all_rows) const {
  std::string out = fmt::format("{} ({})\n", folder, description);
  std::map<std::string, const GoldenRow*> worst;  // by kind: first word, layer numbers dropped
  const GoldenRow* first_bad = nullptr;
  size_t held = 0;
  auto line = [](const GoldenRow& r) { return fmt::format("  {:<72} {:>10.3e}  <= {:>9.2e}  {}\n", r.name, r.deviation, r.tolerance, r.ok ? "ok" : "FAIL"); };
  for (const GoldenRow& r : rows) {
    held += r.ok;
    if (!r.ok && !first_bad) first_bad = &r;
    if (all_rows || !r.ok) out += line(r);
    const std::string kind = r.name.substr(0, r.name.find_first_of(" .:"));
    const GoldenRow*& w = worst[kind];
    const auto closeness = [](const GoldenRow& x) { return x.tolerance > 0 ? x.deviation / x.tolerance : x.deviation; };
    if (!w || closeness(r) > closeness(*w)) w = &r;
  }
  if (!all_rows)
    for (auto& [kind, r] : worst)
      if (r->ok) out += line(*r);
  std::string inputs;
  for (const std::string& name : not_compared) inputs += (inputs.empty() ? "" : ", ") + name;
  if (!inputs.empty()) out += "  stored, not compared: " + inputs + "\n";
  out += fmt::format("  {} of {} quantities hold{}\n", held, rows.size(), first_bad ? "; the first out of line: " + first_bad->name : "");
  return out;
}

}  // namespace atoll
