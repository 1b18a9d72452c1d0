// Numbers are read by hand: every library function here would take 017, 0x10, inf or a trailing word.
#include "trainer/config_values.h"

#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <string_view>

namespace atoll {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// digits [. digits], no leading zero before a digit, optionally a sign.
struct Decimal {
  bool negative = false;
  std::string whole, fraction;
  std::string_view rest;
};
std::optional<Decimal> read_decimal(std::string_view text) {
  Decimal d;
  size_t i = 0;
  if (i < text.size() && (text[i] == '-' || text[i] == '+')) d.negative = text[i++] == '-';
  while (i < text.size() && is_digit(text[i])) d.whole += text[i++];
  if (d.whole.empty() || (d.whole.size() > 1 && d.whole[0] == '0')) return std::nullopt;
  if (i < text.size() && text[i] == '.') {
    ++i;
    while (i < text.size() && is_digit(text[i])) d.fraction += text[i++];
    if (d.fraction.empty()) return std::nullopt;
  }
  d.rest = text.substr(i);
  while (!d.fraction.empty() && d.fraction.back() == '0') d.fraction.pop_back();
  return d;
}

// decimal x unit as an exact whole number; nullopt when it is none or does not fit.
std::optional<int64_t> scaled(const Decimal& d, int64_t unit) {
  if (d.whole.size() > 19 || d.fraction.size() > 18) return std::nullopt;
  __int128 value = 0, denominator = 1;
  for (char c : d.whole + d.fraction) value = value * 10 + (c - '0');
  for (size_t i = 0; i < d.fraction.size(); ++i) denominator *= 10;
  if (value > std::numeric_limits<__int128>::max() / unit) return std::nullopt;
  value *= unit;
  if (value % denominator != 0) return std::nullopt;
  value /= denominator;
  if (value > std::numeric_limits<int64_t>::max()) return std::nullopt;
  return static_cast<int64_t>(d.negative ? -value : value);
}

struct Unit {
  const char* name;
  int64_t size;
};
constexpr std::array<Unit, 4> kCountUnits{{{"T", 1'000'000'000'000}, {"B", 1'000'000'000}, {"M", 1'000'000}, {"K", 1'000}}};
constexpr std::array<Unit, 4> kByteUnits{{{"TiB", 1ll << 40}, {"GiB", 1ll << 30}, {"MiB", 1ll << 20}, {"KiB", 1ll << 10}}};

std::optional<int64_t> read_with_units(std::string_view text, const std::array<Unit, 4>& units, bool space_before_unit) {
  const auto d = read_decimal(text);
  if (!d) return std::nullopt;
  std::string_view rest = d->rest;
  if (space_before_unit && rest.size() > 1 && rest[0] == ' ') rest.remove_prefix(1);
  if (rest.empty()) return scaled(*d, 1);
  for (const Unit& unit : units)
    if (rest == unit.name) return scaled(*d, unit.size);
  return std::nullopt;
}

std::string print_with_units(int64_t value, const std::array<Unit, 4>& units) {
  for (const Unit& unit : units)
    if (value != 0 && value % unit.size == 0) return std::to_string(value / unit.size) + unit.name;
  return std::to_string(value);
}

bool is_plain(const YamlNode& node) { return node.kind == YamlNode::Kind::kScalar && !node.is_quoted; }
std::string quotes_hint(const YamlNode& node) { return node.is_quoted ? " (without quotes)" : ""; }

}  // namespace

std::string parse_whole(const YamlNode& node, int64_t& out) {
  const std::string expected = "expected a whole number" + quotes_hint(node);
  if (!is_plain(node)) return expected;
  const auto d = read_decimal(node.text);
  if (d && d->rest.empty() && d->fraction.empty() && node.text.find('.') == std::string::npos) {
    const auto value = scaled(*d, 1);
    if (!value) return "expected a whole number that fits 64 bits";
    out = *value;
    return "";
  }
  if (node.text.size() > 1 && node.text[0] == '0' && is_digit(node.text[1])) return expected + " without leading zeros (some readers take them for octal)";
  if (d && !d->rest.empty() && (d->rest[0] == 'e' || d->rest[0] == 'E')) return expected + " written out, not in powers of ten";
  return expected;
}

std::string parse_count(const YamlNode& node, int64_t& out) {
  const std::string expected = "expected a whole number, such as 12, 1500K, 1.5M, 10T" + quotes_hint(node);
  if (!is_plain(node)) return expected;
  const auto value = read_with_units(node.text, kCountUnits, false);
  if (!value) return expected;
  out = *value;
  return "";
}

std::string parse_bytes(const YamlNode& node, int64_t& out) {
  const std::string expected = "expected a size in bytes, such as 4096, 512MiB, 1.5GiB (KiB MiB GiB TiB)" + quotes_hint(node);
  if (!is_plain(node)) return expected;
  const auto value = read_with_units(node.text, kByteUnits, true);
  if (!value) return expected;
  out = *value;
  return "";
}

std::string parse_real(const YamlNode& node, double& out) {
  const std::string expected = "expected a number, such as 0.1 or 2.2e-4" + quotes_hint(node);
  if (!is_plain(node)) return expected;
  const auto d = read_decimal(node.text);
  if (!d) return expected;
  std::string_view rest = d->rest;
  if (!rest.empty()) {  // exponent: e, sign, digits
    if (rest[0] != 'e' && rest[0] != 'E') return expected;
    rest.remove_prefix(1);
    if (!rest.empty() && (rest[0] == '-' || rest[0] == '+')) rest.remove_prefix(1);
    if (rest.empty()) return expected;
    for (char c : rest)
      if (!is_digit(c)) return expected;
  }
  const char* begin = node.text.data() + (node.text[0] == '+');
  double value = 0;
  const auto result = std::from_chars(begin, node.text.data() + node.text.size(), value);
  if (result.ec != std::errc() || !std::isfinite(value)) return "expected a number that a double can hold";
  out = value;
  return "";
}

std::string parse_switch(const YamlNode& node, bool& out) {
  if (!is_plain(node) || (node.text != "true" && node.text != "false")) return "expected true or false" + quotes_hint(node);
  out = node.text == "true";
  return "";
}

std::string parse_text(const YamlNode& node, std::string& out) {
  if (node.kind != YamlNode::Kind::kScalar) return "expected text";
  out = node.text;
  return "";
}

std::string parse_point(const YamlNode& node, RunPoint& out) {
  const std::string expected = "expected a point of the run, such as 2000 steps, 10T tokens, 10T, 0 or end";
  if (node.kind != YamlNode::Kind::kScalar) return expected;
  std::string_view text = node.text;
  if (text == "end") {
    out = RunPoint::end();
    return "";
  }
  bool has_unit = false;
  RunPoint point;
  for (const auto& [suffix, unit] :
       {std::pair{std::string_view(" steps"), RunPoint::Unit::kSteps}, {" step", RunPoint::Unit::kSteps}, {" tokens", RunPoint::Unit::kTokens}})
    if (!has_unit && text.size() > suffix.size() && text.substr(text.size() - suffix.size()) == suffix) {
      text.remove_suffix(suffix.size());
      point.unit = unit;
      has_unit = true;
    }
  const auto value = read_with_units(text, kCountUnits, false);
  if (!value || *value < 0) return expected;
  if (!has_unit && *value != 0 && is_digit(text.back()))
    return "say whether these are steps or tokens: \"" + node.text + " steps\" or \"" + node.text + " tokens\"";
  point.value = *value;
  out = point;
  return "";
}

std::string parse_points(const YamlNode& node, std::vector<PointValue>& out) {
  const std::string expected = "expected a number or a list of [point, value], such as [[0, 0.3], [10T, 0.1]]";
  std::vector<PointValue> points;
  if (node.kind == YamlNode::Kind::kScalar) {
    points.resize(1);
    if (!parse_real(node, points[0].value).empty()) return expected;
    out = points;
    return "";
  }
  if (node.kind != YamlNode::Kind::kList) return expected;
  for (const YamlNode& item : node.items) {
    if (item.kind != YamlNode::Kind::kList || item.items.size() != 2) return expected;
    PointValue point;
    if (const std::string error = parse_point(item.items[0], point.at); !error.empty()) return error;
    if (const std::string error = parse_real(item.items[1], point.value); !error.empty()) return error;
    points.push_back(point);
  }
  out = points;
  return "";
}

std::string parse_wholes(const YamlNode& node, std::vector<int64_t>& out) {
  if (node.kind != YamlNode::Kind::kList) return "expected a list of whole numbers, such as [4, 4, 3]";
  std::vector<int64_t> values;
  for (const YamlNode& item : node.items) {
    int64_t value = 0;
    if (const std::string error = parse_whole(item, value); !error.empty()) return "expected a list of whole numbers, such as [4, 4, 3]";
    values.push_back(value);
  }
  out = values;
  return "";
}

std::string print_count(int64_t value) { return print_with_units(value, kCountUnits); }
std::string print_bytes(int64_t value) { return print_with_units(value, kByteUnits); }

std::string print_real(double value) {
  char text[40];
  const auto result = std::to_chars(text, text + sizeof text, value);
  return std::string(text, result.ptr);
}

std::string print_text(const std::string& value) {
  bool is_safe = !value.empty() && value != "null" && value != "Null" && value != "NULL";
  for (char c : value) is_safe = is_safe && (is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '/' || c == '.' || c == '-');
  if (is_safe && value[0] != '-') return value;
  std::string out = "\"";
  for (char c : value) {
    const unsigned char u = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (u < 0x20 || u == 0x7f) {
      constexpr char kHex[] = "0123456789abcdef";
      out += std::string("\\x") + kHex[u >> 4] + kHex[u & 15];
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string print_points(const std::vector<PointValue>& points) {
  std::string out = "[";
  for (size_t i = 0; i < points.size(); ++i) out += (i > 0 ? ", [" : "[") + to_string(points[i].at) + ", " + print_real(points[i].value) + "]";
  return out + "]";
}

std::string print_wholes(const std::vector<int64_t>& values) {
  std::string out = "[";
  for (size_t i = 0; i < values.size(); ++i) out += (i > 0 ? ", " : "") + std::to_string(values[i]);
  return out + "]";
}

}  // namespace atoll
