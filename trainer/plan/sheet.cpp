// Flattening of a YAML map to the schema's names, units, and limits. Policy: an error names file, line, key, what is there, and what was expected.
#include "trainer/plan/sheet.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>

#include "kernels/base/error.h"

namespace atoll::plan {
namespace {
struct Suffix {
  const char* text;
  double factor;
};
// The first of each list is what show() and the messages name.
std::vector<Suffix> suffixes(Unit unit) {
  switch (unit) {
    case Unit::kCount: return {{"", 1}, {"K", 1e3}, {"M", 1e6}, {"B", 1e9}, {"T", 1e12}};
    case Unit::kFraction: return {{"", 1}, {"%", 0.01}};
    case Unit::kBytes:
      return {{"GB", 1e9}, {"B", 1}, {"KB", 1e3}, {"MB", 1e6}, {"TB", 1e12}, {"KiB", 1024}, {"MiB", 1048576}, {"GiB", 1073741824}, {"TiB", 1099511627776}};
    case Unit::kBandwidth: return {{"GB/s", 1e9}, {"B/s", 1}, {"MB/s", 1e6}, {"TB/s", 1e12}, {"Gb/s", 1.25e8}, {"Tb/s", 1.25e11}};
    case Unit::kFlops: return {{"TFLOPS", 1e12}, {"GFLOPS", 1e9}, {"PFLOPS", 1e15}};
    case Unit::kSeconds: return {{"s", 1}, {"ms", 1e-3}, {"us", 1e-6}, {"ns", 1e-9}, {"min", 60}, {"h", 3600}, {"days", 86400}, {"years", 31557600}};
    case Unit::kWatts: return {{"W", 1}, {"kW", 1e3}, {"MW", 1e6}};
    case Unit::kDollars: return {{"$", 1}, {"$K", 1e3}, {"$M", 1e6}, {"$B", 1e9}};
    case Unit::kDollarsPerHour: return {{"$/h", 1}};
    case Unit::kDollarsPerKwh: return {{"$/kWh", 1}};
    default: return {{"", 1}};
  }
}

std::string expected(Unit unit) {
  switch (unit) {
    case Unit::kNone: return "a number";
    case Unit::kCount: return "a whole number (K M B T allowed)";
    case Unit::kFraction: return "a fraction, as 0.9 or 90 %";
    case Unit::kText: return "a word";
    case Unit::kWords: return "a list of words, as [a, b]";
    case Unit::kSwitch: return "true or false";
    default: {
      std::string text = "a number with its unit (";
      for (const Suffix& s : suffixes(unit)) text += std::string(text.back() == '(' ? "" : " ") + s.text;
      return text + ")";
    }
  }
}

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> last(b.size() + 1), row(b.size() + 1);
  std::iota(last.begin(), last.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
    std::swap(last, row);
  }
  return last[b.size()];
}

bool begins(const std::string& text, const std::string& prefix) { return text.compare(0, prefix.size(), prefix) == 0; }

class Reader {
 public:
  Reader(const std::vector<SheetKey>& schema, const std::string& file, Errors& errors) : schema_(schema), file_(file), errors_(errors) {}
  Sheet sheet;

  void walk(const std::string& path, const YamlNode& node, const std::string& place) {
    if (const SheetKey* key = find(path)) return take(*key, node, place.empty() ? at(node) : place);
    const bool is_section = path.empty() || std::any_of(schema_.begin(), schema_.end(), [&](const SheetKey& k) { return begins(k.name, path + "."); });
    if (!is_section) {
      std::vector<std::string> names;
      for (const SheetKey& k : schema_)
        for (size_t end = k.name.size(); end != std::string::npos && end > 0; end = k.name.rfind('.', end - 1)) names.push_back(k.name.substr(0, end));
      const std::string near = nearest_of(path, names);
      return fail(place.empty() ? at(node) : place, path + ": no such key" + (near.empty() ? "" : "; did you mean " + near + "?"));
    }
    if (place.empty())
      if (const auto [first, is_new] = sections_.emplace(path, at(node)); !is_new) return fail(at(node), path + ": duplicate section, first given at " + first->second);
    if (node.kind == YamlNode::Kind::kNull) return;
    if (node.kind != YamlNode::Kind::kMap)
      return fail(place.empty() ? at(node) : place, (path.empty() ? "" : path + ": ") + "expected keys below it, found " + to_string(node));
    for (const auto& [name, child] : node.entries) walk(path.empty() ? name : path + "." + name, child, place);
  }
  void finish() {
    for (const SheetKey& key : schema_) {
      if (sheet.all().count(key.name)) continue;
      if (key.fallback == "!") {
        if (!has_failed(key.name)) fail(place_of_section(key.name), key.name + " is missing: " + key.doc);
        sheet.set(key.name, {});
        continue;
      }
      std::vector<YamlProblem> problems;
      YamlNode node = read_yaml(key.fallback, problems);
      if (node.kind == YamlNode::Kind::kNull) node = {.kind = YamlNode::Kind::kScalar, .text = key.fallback};
      Value v;
      const std::string error = parse(key, node, v);
      ATOLL_CHECK(error.empty(), "the default of ", key.name, ": ", error);
      v.source = key.source;
      v.place = "default";
      sheet.set(key.name, v);
    }
  }

 private:
  const SheetKey* find(const std::string& name) const {
    const auto it = std::find_if(schema_.begin(), schema_.end(), [&](const SheetKey& k) { return k.name == name; });
    return it == schema_.end() ? nullptr : &*it;
  }
  std::string at(const YamlNode& node) const { return file_ + ":" + std::to_string(std::max(1, node.line)); }
  std::string place_of_section(std::string name) const {  // of the innermost section of a key that the file has
    while (!name.empty()) {
      const size_t dot = name.rfind('.');
      name.erase(dot == std::string::npos ? 0 : dot);
      if (const auto section = sections_.find(name); section != sections_.end()) return section->second;
    }
    return file_;
  }
  void fail(const std::string& place, const std::string& what) { errors_.push_back(place + ": " + what); }
  bool has_failed(const std::string& name) const { return std::find(failed_.begin(), failed_.end(), name) != failed_.end(); }

  void take(const SheetKey& key, const YamlNode& given, const std::string& place) {
    const bool is_override = place == "(command line)";
    if (const auto old = sheet.all().find(key.name); old != sheet.all().end() && !is_override)
      return fail(place, key.name + ": duplicate key, first given at " + old->second.place);
    YamlNode node = given;
    std::string source;
    if (node.kind == YamlNode::Kind::kMap) {
      const YamlNode* value = nullptr;
      for (const auto& [name, child] : given.entries) {
        if (name == "source" && child.kind != YamlNode::Kind::kScalar)
          fail(at(child), key.name + ".source: expected text, found " + to_string(child));
        else if ((name == "value" && value != nullptr) || (name == "source" && !source.empty()))
          fail(at(child), key.name + "." + name + ": given twice");
        else if (name == "value")
          value = &child;
        else if (name == "source")
          source = child.text;
        else
          fail(at(child), key.name + "." + name + ": no such key; a value may be {value: x, source: text}");
      }
      if (value == nullptr) return fail(place, key.name + ": expected " + expected(key.unit));
      node = *value;
    }
    Value v;
    std::string error = parse(key, node, v);
    if (error.empty() && key.least < key.most && !(v.number >= key.least && v.number <= key.most))  // a default may lie outside: 0 that means any
      error = "out of range: must be " + show(key.least, key.unit) + " to " + show(key.most, key.unit);
    if (!error.empty()) {
      failed_.push_back(key.name);
      return fail(place, key.name + " = " + to_string(node) + ": " + error);
    }
    v.source = source;
    v.place = place;
    v.line = given.line;
    sheet.set(key.name, v);
  }

  static std::string parse(const SheetKey& key, const YamlNode& node, Value& v) {
    v.unit = key.unit;
    const auto is_allowed = [&](const std::string& word) {
      return key.words.empty() || (word.empty() && key.fallback.empty()) || std::find(key.words.begin(), key.words.end(), word) != key.words.end();
    };
    std::string choices;
    for (const std::string& w : key.words) choices += (choices.empty() ? "" : ", ") + w;
    if (key.unit == Unit::kWords) {
      if (node.kind != YamlNode::Kind::kList) return "expected " + expected(key.unit) + (choices.empty() ? "" : "; of " + choices);
      for (const YamlNode& item : node.items) {
        if (item.kind != YamlNode::Kind::kScalar || !is_allowed(item.text)) return "'" + item.text + "' is not one of " + choices;
        if (!key.words.empty() && std::find(v.words.begin(), v.words.end(), item.text) != v.words.end()) return "'" + item.text + "' is given twice";
        v.words.push_back(item.text);
      }
      return "";
    }
    if (node.kind != YamlNode::Kind::kScalar) return "expected " + expected(key.unit);
    if (key.unit == Unit::kText) {
      if (!is_allowed(node.text)) return "expected one of " + choices;
      if (node.text.empty() && key.fallback == "!") return "expected " + expected(key.unit);
      v.text = node.text;
      return "";
    }
    return parse_number(node.text, key.unit, v.number);
  }

  const std::vector<SheetKey>& schema_;
  std::string file_;
  Errors& errors_;
  std::vector<std::string> failed_;
  std::map<std::string, std::string> sections_;  // path, place
};
}  // namespace

bool Sheet::has_word(const std::string& name, const std::string& word) const {
  const auto& list = words(name);
  return std::find(list.begin(), list.end(), word) != list.end();
}

void Sheet::set(const std::string& name, Value value) {
  if (values_.use_count() > 1) values_ = std::make_shared<std::map<std::string, Value>>(*values_);
  (*values_)[name] = std::move(value);
}

const Value& Sheet::at(const std::string& name) const {
  const auto it = values_->find(name);
  ATOLL_CHECK(it != values_->end(), "no quantity ", name, " on this sheet");
  return it->second;
}

void throw_errors(const std::string& name, const Errors& errors) {
  std::string text = name + ": " + std::to_string(errors.size()) + (errors.size() == 1 ? " error" : " errors");
  for (const std::string& e : errors) text += "\n  " + e;
  throw ConfigError(text);
}

Sheet read_sheet(const std::vector<SheetKey>& schema, const YamlNode& root, const std::string& file, const std::vector<std::string>& overrides,
                 Errors& errors) {
  Reader reader(schema, file, errors);
  reader.walk("", root, "");
  for (const std::string& argument : overrides) {
    const size_t equals = argument.find('=');
    if (equals == std::string::npos) {
      errors.push_back("(command line): " + argument + ": expected key=value");
      continue;
    }
    std::vector<YamlProblem> problems;
    YamlNode node = read_yaml(argument.substr(equals + 1), problems);
    if (!problems.empty())
      errors.push_back("(command line): " + argument + ": " + problems[0].what);
    else
      reader.walk(argument.substr(0, equals), node, "(command line)");
  }
  reader.finish();
  return reader.sheet;
}

std::string parse_number(const std::string& text, Unit unit, double& out) {
  if (unit == Unit::kSwitch) {
    if (text != "true" && text != "false") return "expected true or false";
    out = text == "true";
    return "";
  }
  const bool is_money = unit == Unit::kDollars && !text.empty() && text[0] == '$';  // $1.6 B is 1.6 $B
  const std::string digits = is_money ? text.substr(1) : text;
  const char* begin = digits.c_str();
  char* end = nullptr;
  const double number = std::strtod(begin, &end);
  const bool is_plain =
      end != begin && (std::isdigit(static_cast<unsigned char>(*begin)) || *begin == '-' || *begin == '.') && digits.find_first_of("xX") == std::string::npos;
  if (!is_plain || !std::isfinite(number)) return "expected " + expected(unit);
  std::string rest = end;
  rest.erase(0, rest.find_first_not_of(' ') == std::string::npos ? rest.size() : rest.find_first_not_of(' '));
  for (const Suffix& s : suffixes(unit))
    if (is_money ? "$" + rest == s.text : rest == s.text) {
      out = number * s.factor;
      return unit == Unit::kCount && out != std::floor(out) ? "expected " + expected(unit) : "";
    }
  return "expected " + expected(unit);
}

std::string show(double v, Unit unit) {
  const auto scaled = [&](std::vector<Suffix> steps, const char* base) {
    for (const Suffix& s : steps)
      if (std::abs(v) >= s.factor) return fmt::format("{:.4g} {}", v / s.factor, s.text);
    return fmt::format("{:.4g} {}", v, base);
  };
  switch (unit) {
    case Unit::kFraction: return fmt::format("{:.4g} %", v * 100);
    case Unit::kBytes: return scaled({{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}}, "B");
    case Unit::kBandwidth: return scaled({{"TB/s", 1e12}, {"GB/s", 1e9}, {"MB/s", 1e6}}, "B/s");
    case Unit::kFlops: return scaled({{"PFLOPS", 1e15}, {"TFLOPS", 1e12}, {"GFLOPS", 1e9}}, "FLOPS");
    case Unit::kSeconds: return scaled({{"years", 31557600}, {"days", 86400}, {"h", 3600}, {"s", 1}, {"ms", 1e-3}, {"us", 1e-6}}, "s");
    case Unit::kWatts: return scaled({{"MW", 1e6}, {"kW", 1e3}}, "W");
    case Unit::kDollars:
      return std::abs(v) >= 1e9   ? fmt::format("${:.4g} B", v / 1e9)
             : std::abs(v) >= 1e6 ? fmt::format("${:.4g} M", v / 1e6)
             : std::abs(v) >= 1e4 ? fmt::format("${:.4g} K", v / 1e3)
                                  : fmt::format("${:.2f}", v);
    case Unit::kDollarsPerHour: return fmt::format("${:.2f}/h", v);
    case Unit::kDollarsPerKwh: return fmt::format("${:.3f}/kWh", v);
    case Unit::kSwitch: return v != 0 ? "true" : "false";
    case Unit::kCount:
      if (std::abs(v) < 100 && v != std::floor(v)) return fmt::format("{:.3g}", v);
      return std::abs(v) < 1e6 ? fmt::format("{:.0f}", v) : scaled({{"T", 1e12}, {"B", 1e9}, {"M", 1e6}}, "");
    default: return fmt::format("{:.6g}", v);
  }
}

std::string nearest_of(const std::string& name, const std::vector<std::string>& names) {
  std::string best;
  size_t score = 1 + std::max<size_t>(2, name.size() / 4);
  for (const std::string& candidate : names) {
    size_t d = edit_distance(name, candidate);
    const std::string word = name.substr(name.rfind('.') + 1), other = candidate.substr(candidate.rfind('.') + 1);
    if (word == other) d = std::min<size_t>(d, 2);  // the right word in the wrong section
    if (d < score) {
      score = d;
      best = candidate;
    }
  }
  return best;
}

}  // namespace atoll::plan
