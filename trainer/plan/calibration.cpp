// Reading a calibration file, and finding the measured shape that is nearest to the one asked. Policy: no interpolation: a rate is one that somebody measured,
// and says who.
#include <algorithm>
#include <cmath>
#include <map>

#include "kernels/base/error.h"
#include "trainer/plan/cluster.h"

namespace atoll::plan {
namespace {
class CalibrationReader {
 public:
  CalibrationReader(std::string file) : file_(std::move(file)) {}
  Calibration read(const YamlNode& root) {
    Calibration c;
    c.file = file_;
    for (const auto& [key, node] : root.entries) {
      if (key == "sources") read_sources(node);
    }
    for (const auto& [key, node] : root.entries) {
      if (key == "gpu")
        c.gpu = node.text;
      else if (key == "sources")
        continue;
      else if (key != "rates" && key != "glue" && key != "exchanges")
        fail(node, key + ": no such key; there are gpu, sources, rates, glue, exchanges");
      else if (node.kind != YamlNode::Kind::kList)
        fail(node, key + ": expected a list");
      else
        for (const YamlNode& item : node.items) {
          if (item.kind != YamlNode::Kind::kMap)
            fail(item, key + ": expected {...}, found " + to_string(item));
          else if (key == "rates")
            c.rates.push_back(read_rate(item));
          else
            (key == "glue" ? c.glue : c.exchanges).push_back(read_reached(item, key == "exchanges"));
        }
    }
    if (c.gpu.empty()) errors_.push_back(file_ + ": gpu is missing: the device that was measured");
    if (c.rates.empty()) errors_.push_back(file_ + ": rates is missing: what the kernels reach");
    if (!errors_.empty()) throw_errors(file_, errors_);
    return c;
  }
  Errors errors_;

 private:
  void fail(const YamlNode& node, const std::string& what) { errors_.push_back(file_ + ":" + std::to_string(node.line) + ": " + what); }
  void read_sources(const YamlNode& node) {
    for (const auto& [tag, text] : node.entries) sources_[tag] = text.text;
  }
  std::string source(const YamlNode& item, const YamlNode& value) {
    const auto at = sources_.find(value.text);
    if (value.text.empty()) fail(item, "source is empty");
    return at == sources_.end() ? value.text : at->second;
  }
  double number(const YamlNode& item, const std::string& key, const YamlNode& node, Unit unit, double least, double most) {
    double v = 0;
    const std::string error = node.kind == YamlNode::Kind::kScalar ? parse_number(node.text, unit, v) : "expected a number";
    if (!error.empty())
      fail(item, key + " = " + to_string(node) + ": " + error);
    else if (v < least || v > most)
      fail(item, key + " = " + to_string(node) + ": out of range: must be " + show(least, unit) + " to " + show(most, unit));
    return v;
  }
  static std::string word(const std::string& text, const std::vector<std::string>& allowed) {
    if (std::find(allowed.begin(), allowed.end(), text) != allowed.end()) return "";
    std::string list;
    for (const std::string& w : allowed) list += (list.empty() ? "" : ", ") + w;
    return "expected one of " + list;
  }
  Rate read_rate(const YamlNode& item) {
    Rate r;
    r.line = item.line;
    const std::map<std::string, std::vector<std::string>> words = {
        {"op", {"gemm", "grouped", "attention"}}, {"pass", {"forward", "input", "weight"}}, {"precision", {"bf16", "fp8"}}};
    for (const auto& [key, node] : item.entries) {
      if (const auto w = words.find(key); w != words.end()) {
        if (const std::string error = word(node.text, w->second); !error.empty()) fail(item, key + " = " + node.text + ": " + error);
        (key == "op" ? r.op : key == "pass" ? r.pass : r.precision) = node.text;
      } else if (key == "m" || key == "n" || key == "k") {
        (key == "m" ? r.m : key == "n" ? r.n : r.k) = number(item, key, node, Unit::kCount, 1, 1e9);
      } else if (key == "rate") {
        r.flops = number(item, key, node, Unit::kFlops, 1e8, 1e17);
      } else if (key == "sms") {
        r.sms = number(item, key, node, Unit::kCount, 1, 1e5);
      } else if (key == "source") {
        r.source = source(item, node);
      } else {
        fail(item, key + ": no such key of a rate; there are op, pass, precision, m, n, k, rate, sms, source");
      }
    }
    if (r.op.empty() || r.pass.empty() || r.precision.empty() || r.m == 0 || r.n == 0 || r.k == 0 || r.flops == 0 || r.sms == 0 || r.source.empty())
      fail(item, "a rate needs op, pass, precision, m, n, k, rate, sms and source");
    return r;
  }
  Reached read_reached(const YamlNode& item, bool is_exchange) {
    Reached r;
    r.line = item.line;
    for (const auto& [key, node] : item.entries) {
      if (key == "of")
        r.what = node.text;
      else if (key == "fraction")
        r.fraction = number(item, key, node, Unit::kFraction, 0.001, 1);
      else if (key == "source")
        r.source = source(item, node);
      else if (is_exchange && key == "by")
        r.by = node.text;
      else if (is_exchange && key == "ranks")
        r.ranks = number(item, key, node, Unit::kCount, 2, 1e6);
      else if (is_exchange && key == "fixed")
        r.fixed = number(item, key, node, Unit::kSeconds, 0, 1);
      else
        fail(item, key + ": no such key; there are of, fraction, source" + (is_exchange ? ", by, ranks, fixed" : ""));
    }
    if (r.what.empty() || r.fraction == 0 || r.source.empty()) fail(item, "needs of, fraction and source");
    return r;
  }

  std::string file_;
  std::map<std::string, std::string> sources_;
};

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
  return CalibrationReader(file).read(root);
}

Calibration load_calibration(const std::string& name, const std::string& folder) {
  const std::string path = folder + "/" + name + ".yaml";
  return parse_calibration(read_text(path), "calibration/" + name + ".yaml");
}

}  // namespace atoll::plan
