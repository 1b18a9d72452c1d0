// The one table that parses, documents, prints and compares a configuration: a key's name, type, range, default, meaning, and whether it may change when a run
// goes on.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "trainer/run_config.h"
#include "trainer/yaml_reader.h"

namespace atoll {

struct ConfigKey {
  std::string name;  // "train.lr.max"
  std::string type;  // for the reader: "whole number >= 1", "1f1b | gpipe"
  std::string doc;
  std::string why_fixed;                                          // why it may not change on resume; empty: it may
  std::function<std::string(const YamlNode&, RunConfig&)> parse;  // empty, or what was expected; the RunConfig is then unchanged
  std::function<std::string(const RunConfig&)> print;             // YAML that parses back to the same value
};

const std::vector<ConfigKey>& config_schema();
const ConfigKey* find_key(const std::string& name);
bool is_section(const std::string& name);           // "train", "train.lr"
std::string nearest_name(const std::string& name);  // the valid key or section that was probably meant; empty: none is near

// What no single key can see: the model's rules, mesh against model, schedules. Each problem names its key.
struct ConfigProblem {
  std::string key, text;
};  // text: "key = value: why"
std::vector<ConfigProblem> config_problems(const RunConfig& config);
std::vector<ConfigProblem> length_problems(const RunConfig& config);  // counts along the run that would not fit

// docs/configuration.md.
std::string configuration_reference();

}  // namespace atoll
