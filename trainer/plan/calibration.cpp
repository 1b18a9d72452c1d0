// Reading a calibration file, and finding the measured shape that is nearest to the one asked. Policy: no interpolation: a rate is one that somebody measured,
// and says who.
#include <algorithm>
#include <cmath>

#include "kernels/base/error.h"
#include "trainer/plan/cluster.h"

namespace atoll::plan {
namespace {
const std::vector<SheetKey>& rate_schema() {
  using enum Unit;
  static const std::vector<SheetKey> table = {
      {"op", kText, 0, 0, "!", "", "what was measured", {"gemm", "grouped", "attention"}},
      {"pass", kText, 0, 0, "!", "", "forward, input gradients or weight gradients", {"forward", "input", "weight"}},
      {"precision", kText, 0, 0, "!", "", "of the operands", {"bf16", "fp8"}},
      {"m", kCount, 1, 1e9, "!", "", "rows of the result"},
      {"n", kCount, 1, 1e9, "!", "", "columns of the result"},
      {"k", kCount, 1, 1e9, "!", "", "the dimension that is summed over"},
      {"rate", kFlops, 1e8, 1e17, "!", "", "what it reached"},
      {"sms", kCount, 1, 1e5, "!", "", "multiprocessors that it ran on"},
      {"source", kText, 0, 0, "!", "", "who measured it"},
  };
  return table;
}
const std::vector<SheetKey>& reached_schema(bool is_exchange) {
  using enum Unit;
  static const std::vector<SheetKey> glue = {
      {"of", kText, 0, 0, "!", "", "what reached it, or all"},
      {"fraction", kFraction, 0.001, 1, "!", "", "part of the physical rate"},
      {"source", kText, 0, 0, "!", "", "who measured it"},
  };
  static const std::vector<SheetKey> exchanges = [] {
    std::vector<SheetKey> table = glue;
    table.push_back({"by", kText, 0, 0, "", "", "the library; empty: any"});
    table.push_back({"ranks", kCount, 2, 1e6, "0", "", "EP ranks of the measurement; 0: any"});
    table.push_back({"fixed", kSeconds, 0, 1, "0 s", "", "time that no byte explains"});
    return table;
  }();
  return is_exchange ? exchanges : glue;
}

Reached reached(const Sheet& s, bool is_exchange) {
  Reached r{.what = s.text("of"), .fraction = s.number("fraction"), .source = s.text("source"), .line = s.at("of").line};
  if (!is_exchange) return r;
  r.by = s.text("by");
  r.ranks = s.number("ranks");
  r.fixed = s.number("fixed");
  return r;
}

void check_sections(const YamlNode& root, const std::string& file, Errors& errors) {
  const std::vector<std::string> known = {"gpu", "sources", "rates", "glue", "exchanges"};
  for (const auto& [key, node] : root.entries) {
    const std::string place = file + ":" + std::to_string(node.line) + ": ";
    if (std::find(known.begin(), known.end(), key) == known.end())
      errors.push_back(place + no_such(key, "key", key, known));
    else if (&node != find_entry(root, key))
      errors.push_back(place + key + ": duplicate key, first given at " + file + ":" + std::to_string(find_entry(root, key)->line));
    else if (key == "sources" && node.kind != YamlNode::Kind::kMap)
      errors.push_back(place + "sources: expected tag: text, found " + to_string(node));
  }
}

const Reached& one_of(const std::vector<Reached>& list, const std::string& what, const std::string& file, const char* section) {
  for (const Reached& r : list)
    if (r.what == what) return r;
  for (const Reached& r : list)
    if (r.what == "all") return r;
  throw ConfigError(file + ": " + section + " has no fraction of " + what + " (nor of: all)");
}
}  // namespace

Calibration::Found Calibration::find(const std::string& op, const std::string& pass, const std::string& precision, double m, double n, double k,
                                     double sms) const {
  const Rate* best = nullptr;
  double nearest = 0;
  for (const Rate& r : rates) {
    if (r.op != op || r.pass != pass || r.precision != precision) continue;
    const double distance = 0.5 * std::abs(std::log(r.m / m)) + std::abs(std::log(r.n / n)) + std::abs(std::log(r.k / k));
    if (best == nullptr || distance < nearest) {
      best = &r;
      nearest = distance;
    }
  }
  if (best == nullptr) throw ConfigError(file + ": rates has no " + op + ", pass " + pass + ", precision " + precision);
  return {best->flops * sms / best->sms, best};
}

const Reached& Calibration::glue_of(const std::string& phase) const { return one_of(glue, phase, file, "glue"); }

const Reached& Calibration::exchange_of(const std::string& what, const std::string& library, double ranks) const {
  std::vector<const Reached*> candidates;
  for (const std::string& by : {library, std::string()}) {
    for (const Reached& r : exchanges)
      if (r.by == by && (r.what == what || r.what == "all")) candidates.push_back(&r);
    if (!candidates.empty()) break;
  }
  if (candidates.empty()) throw ConfigError(file + ": exchanges has no fraction of " + what + " (nor of: all)");
  const auto distance = [&](const Reached* r) { return std::make_pair(r->what != what, r->ranks == 0 ? 0 : std::abs(std::log(r->ranks / ranks))); };
  return **std::min_element(candidates.begin(), candidates.end(), [&](const Reached* a, const Reached* b) { return distance(a) < distance(b); });
}

Calibration parse_calibration(const std::string& yaml, const std::string& file) {
  const YamlNode root = read_tree(yaml, file);
  if (root.kind != YamlNode::Kind::kMap) throw_errors(file, {file + ":1: expected gpu, sources, rates, glue, exchanges"});
  Calibration c;
  c.file = file;
  Errors errors;
  check_sections(root, file, errors);
  const YamlNode *gpu = find_entry(root, "gpu"), *sources = find_entry(root, "sources");
  const auto resolve = [&](std::string& source) {  // a tag of `sources`, or the text itself
    if (const YamlNode* text = sources == nullptr ? nullptr : find_entry(*sources, source)) source = text->text;
  };
  for (const Sheet& s : read_sheets(rate_schema(), root, "rates", "rates", file, errors)) {
    c.rates.push_back({s.text("op"), s.text("pass"), s.text("precision"), s.number("m"), s.number("n"), s.number("k"), s.number("rate"), s.number("sms"),
                       s.text("source"), s.at("op").line});
    resolve(c.rates.back().source);
  }
  for (const bool is_exchange : {false, true}) {
    const std::string key = is_exchange ? "exchanges" : "glue";
    for (const Sheet& s : read_sheets(reached_schema(is_exchange), root, key, key, file, errors)) {
      auto& list = is_exchange ? c.exchanges : c.glue;
      list.push_back(reached(s, is_exchange));
      resolve(list.back().source);
    }
  }
  if (gpu != nullptr) c.gpu = gpu->text;
  if (c.gpu.empty()) errors.push_back(file + ":1: gpu is missing: the device that was measured");
  if (c.rates.empty()) errors.push_back(file + ":1: rates is missing: what the kernels reach");
  if (!errors.empty()) throw_errors(file, errors);
  return c;
}

Calibration load_calibration(const std::string& name, const std::string& folder, const std::string& place) {
  if (is_yaml_path(name)) return parse_calibration(read_text(name), name);
  const std::vector<std::string> names = yaml_names(folder);
  if (std::find(names.begin(), names.end(), name) == names.end())
    throw ConfigError(no_such(place + (place.empty() ? "" : ": ") + "gpu.calibration = " + name, "calibration", name, names) + " (in " + folder +
                      "), or name a file.yaml");
  return parse_calibration(read_text(folder + "/" + name + ".yaml"), "calibration/" + name + ".yaml");
}

}  // namespace atoll::plan
