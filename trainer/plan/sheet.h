// A sheet: named quantities of a data file (a cluster, a plan), each with unit, limits, default, meaning and the source of its value. One table reads,
// documents and explains it. Policy: strict: every value has its unit, nothing is guessed, all errors are collected with file:line; a value may be written `x`
// or `{value: x, source: "where from"}`.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "trainer/yaml_reader.h"

namespace atoll::plan {

enum class Unit { kNone, kCount, kFraction, kBytes, kBandwidth, kFlops, kSeconds, kWatts, kDollars, kDollarsPerHour, kDollarsPerKwh, kText, kWords, kSwitch };

struct SheetKey {
  std::string name;  // "links.inter.bandwidth"
  Unit unit = Unit::kNone;
  double least = 0, most = 0;  // least == most: no limits
  std::string fallback;        // as it would be written in the file; "!": the file must give it
  std::string source;          // of the fallback
  std::string doc;
  std::vector<std::string> words = {};  // kText, kWords: the only ones allowed; empty: any
};

struct Value {
  double number = 0;
  std::string text;                // kText
  std::vector<std::string> words;  // kWords
  Unit unit = Unit::kNone;
  std::string source, place;  // place: "h800-2048.yaml:12", "(command line)", "default"
  int line = 0;
};

class Sheet {
 public:
  double number(const std::string& name) const { return at(name).number; }
  bool is_on(const std::string& name) const { return at(name).number != 0; }
  const std::string& text(const std::string& name) const { return at(name).text; }
  const std::vector<std::string>& words(const std::string& name) const { return at(name).words; }
  bool has_word(const std::string& name, const std::string& word) const;
  const Value& at(const std::string& name) const;
  const std::map<std::string, Value>& all() const { return *values_; }
  void set(const std::string& name, Value value);

 private:
  std::shared_ptr<std::map<std::string, Value>> values_ = std::make_shared<std::map<std::string, Value>>();  // copies share it until one is changed
};

// An error with its place: "h800.yaml:7: gpu.bf16 = 3 bananas: expected ...".
using Errors = std::vector<std::string>;
[[noreturn]] void throw_errors(const std::string& name, const Errors& errors);

// Reads the map `root` (null: an empty one) and `overrides` ("key=value", without the sheet's prefix). Errors are appended, with places.
Sheet read_sheet(const std::vector<SheetKey>& schema, const YamlNode& root, const std::string& file, const std::vector<std::string>& overrides, Errors& errors);
// A number with its unit: "50 GB/s", "989 TFLOPS", "80 GB", "90 %". Empty, or what was expected.
std::string parse_number(const std::string& text, Unit unit, double& out);
// As a person writes it: 1.6e9 of kDollars is "$1.60 B".
std::string show(double value, Unit unit);
// A name of `names` that was probably meant; empty: none is near.
std::string nearest_of(const std::string& name, const std::vector<std::string>& names);

// Data files (sheet_files.cpp).
// The whole text of a file; ConfigError where it cannot be read.
std::string read_text(const std::string& path);
// The tree of a file's text; ConfigError with everything that is no YAML.
YamlNode read_tree(const std::string& yaml, const std::string& file);
// The first entry `key` of a map; null: it has none.
const YamlNode* find_entry(const YamlNode& map, const std::string& key);
// "file:3: key: ..." of a part, as "file:3: PREFIXkey: ...".
void add_errors(const Errors& part, const std::string& prefix, Errors& errors);
// map[key], a list with one small sheet an item; `path` is how errors name it. No such key: no sheets.
std::vector<Sheet> read_sheets(const std::vector<SheetKey>& schema, const YamlNode& map, const std::string& key, const std::string& path,
                               const std::string& file, Errors& errors);
bool is_yaml_path(const std::string& what);  // a file.yaml, not the name of one of ours
// The names of FOLDER/NAME.yaml, sorted, with `others`.
std::vector<std::string> yaml_names(const std::string& folder, std::vector<std::string> others = {});
// "TITLE: no such KIND; did you mean X?; there are A, B".
std::string no_such(const std::string& title, const std::string& kind, const std::string& name, const std::vector<std::string>& names);

}  // namespace atoll::plan
