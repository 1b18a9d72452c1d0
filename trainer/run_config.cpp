// Recipe + overrides -> RunConfig. Steps: read, flatten to key -> value with its place, choose the model's base, parse every key by the table, check the rules
// between keys; all errors are collected and thrown once.
#include "trainer/run_config.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "kernels/base/error.h"
#include "trainer/config_schema.h"
#include "trainer/hf_config.h"
#include "trainer/plan/settings.h"
#include "trainer/yaml_reader.h"

namespace atoll {
namespace {

constexpr const char* kPreset = "model.preset";
constexpr const char* kFile = "model.config";

struct Setting {
  YamlNode value;
  int line = 0;          // of the recipe; 0: an override
  std::string argument;  // the override as typed
};

class Assembly {
 public:
  Assembly(std::string name, std::string folder) : name_(std::move(name)), folder_(std::move(folder)) {}

  void read_recipe(const std::string& yaml);
  void read_override(const std::string& argument);
  RunConfig finish(size_t num_overrides);

 private:
  void fail(const Setting& at, const std::string& key, const std::string& what);
  void flatten(const std::string& path, const Setting& at);
  void set(const std::string& path, const Setting& at);
  void set_model_word(const Setting& at);
  void choose_model(RunConfig& config);
  const Setting* find(const std::string& key) const {
    const auto found = settings_.find(key);
    return found == settings_.end() ? nullptr : &found->second;
  }

  std::string name_, folder_;
  std::map<std::string, Setting> settings_;
  std::vector<std::string> errors_;
};

void Assembly::fail(const Setting& at, const std::string& key, const std::string& what) {
  if (at.line > 0)
    errors_.push_back(name_ + ":" + std::to_string(at.line) + ": " + key + what);
  else
    errors_.push_back(at.argument + " (command line)" + what);
}

// `model: NAME` is short for model.preset, or for model.config when it names a file.
void Assembly::set_model_word(const Setting& at) {
  const std::string& word = at.value.text;
  const bool is_file = word.size() > 5 && word.substr(word.size() - 5) == ".json";
  set(is_file ? kFile : kPreset, at);
}

void Assembly::set(const std::string& path, const Setting& at) {
  const Setting* old = find(path);
  if (old != nullptr && old->line > 0 && at.line > 0) return fail(at, path, ": duplicate key, first given at line " + std::to_string(old->line));
  if (at.line == 0 && (path == kPreset || path == kFile))  // another model on the command line replaces the recipe's
    for (auto it = settings_.begin(); it != settings_.end();)
      it = it->first.compare(0, 6, "model.") == 0 && it->second.line > 0 ? settings_.erase(it) : std::next(it);
  settings_[path] = at;
}

void Assembly::flatten(const std::string& path, const Setting& at) {
  if (find_key(path) != nullptr || path == kPreset || path == kFile) return set(path, at);
  const YamlNode& value = at.value;
  if (!is_section(path)) {
    const std::string near = nearest_name(path);
    return fail(at, path, ": no such key" + (near.empty() ? "" : "; did you mean " + near + "?"));
  }
  if (path == "model" && value.kind == YamlNode::Kind::kScalar) return set_model_word(at);
  if (value.kind == YamlNode::Kind::kNull && at.line > 0) return;
  if (value.kind != YamlNode::Kind::kMap) return fail(at, path, ": is a section: expected keys below it");
  std::map<std::string, int> seen;
  for (const auto& [key, child] : value.entries) {
    const std::string below = path + "." + key;
    if (const auto [it, is_new] = seen.emplace(key, child.line); !is_new && find_key(below) == nullptr)
      fail({child, at.line > 0 ? child.line : 0, at.argument}, below, ": duplicate key, first given at line " + std::to_string(it->second));
    else
      flatten(below, {child, at.line > 0 ? child.line : 0, at.argument});
  }
}

void Assembly::read_recipe(const std::string& yaml) {
  std::vector<YamlProblem> problems;
  const YamlNode root = read_yaml(yaml, problems);
  for (const YamlProblem& problem : problems) errors_.push_back(name_ + ":" + std::to_string(problem.line) + ": " + problem.what);
  if (!problems.empty()) return;
  if (root.kind == YamlNode::Kind::kNull) return;
  if (root.kind != YamlNode::Kind::kMap) {
    errors_.push_back(name_ + ":1: expected sections (model, data, train, ...), found " + to_string(root));
    return;
  }
  std::map<std::string, int> seen;
  for (const auto& [key, value] : root.entries) {
    const Setting at{value, value.line, ""};
    if (key == "plan" && seen.count(key) == 0) {  // of `atoll plan` alone; a mistake in it is one here too
      seen.emplace(key, value.line);
      const plan::Errors wrong = plan::plan_section_errors(value, name_);
      errors_.insert(errors_.end(), wrong.begin(), wrong.end());
      continue;
    }
    if (const auto [it, is_new] = seen.emplace(key, value.line); !is_new)
      fail(at, key, ": duplicate section, first given at line " + std::to_string(it->second));
    else
      flatten(key, at);
  }
}

void Assembly::read_override(const std::string& argument) {
  Setting at{{}, 0, argument};
  const size_t equals = argument.find('=');
  if (equals == std::string::npos || equals == 0) return fail(at, "", ": expected key=value, such as train.steps=100");
  const std::string key = argument.substr(0, equals), value = argument.substr(equals + 1);
  const ConfigKey* known = find_key(key);
  const bool is_raw_text = known != nullptr && known->type == "text" && !value.empty() && value[0] != '"' && value[0] != '\'';
  if (is_raw_text) {  // a path may hold what YAML would take for its own signs
    at.value.kind = YamlNode::Kind::kScalar;
    at.value.text = value;
    return set(key, at);
  }
  std::vector<YamlProblem> problems;
  at.value = read_yaml(value, problems);
  if (!problems.empty()) return fail(at, "", ": " + problems[0].what);
  flatten(key, at);
}

void Assembly::choose_model(RunConfig& config) {
  const Setting *preset = find(kPreset), *file = find(kFile);
  if (preset != nullptr && file != nullptr) return fail(*file, kFile, ": model.preset is given too; give one of them");
  try {
    if (preset != nullptr) {
      if (const auto model = model_preset(preset->value.text)) {
        config.model = *model;
        return;
      }
      std::string names;
      for (const std::string& name : model_preset_names()) names += (names.empty() ? "" : ", ") + name;
      fail(*preset, "model", (preset->line > 0 ? " = " + to_string(preset->value) : "") + ": no such preset; there are " + names + "; or name a config.json");
    } else if (file != nullptr) {
      const std::filesystem::path beside = std::filesystem::path(folder_) / file->value.text;
      std::error_code ignored;
      config.model = load_hf_config(file->line > 0 && std::filesystem::exists(beside, ignored) ? beside.string() : file->value.text);
    } else if (std::none_of(settings_.begin(), settings_.end(), [](const auto& s) { return s.first.compare(0, 6, "model.") == 0; })) {
      errors_.push_back(name_ + ": no model: give a preset (model: quickstart), a config.json, or the fields");
    }
  } catch (const ConfigError& error) { fail(*file, kFile, ": " + std::string(error.what())); }
}

RunConfig Assembly::finish(size_t num_overrides) {
  RunConfig config;
  std::vector<std::string> misread;
  const bool was_read = errors_.empty() || !settings_.empty();
  const size_t before = errors_.size();
  if (was_read) choose_model(config);
  const bool has_model = was_read && errors_.size() == before;
  for (const ConfigKey& key : config_schema()) {
    const Setting* setting = find(key.name);
    if (setting == nullptr) continue;
    const std::string error = key.parse(setting->value, config);
    if (!error.empty()) misread.push_back(key.name);
    if (!error.empty()) fail(*setting, key.name, (setting->line > 0 ? " = " + to_string(setting->value) : "") + ": " + error);
  }
  if (has_model) {
    std::vector<ConfigProblem> problems = config_problems(config);
    for (ConfigProblem& problem : length_problems(config)) problems.push_back(std::move(problem));
    for (const ConfigProblem& problem : problems) {
      if (std::find(misread.begin(), misread.end(), problem.key) != misread.end()) continue;  // its default is not what the user meant
      const Setting* setting = find(problem.key);
      if (setting == nullptr && problem.key.compare(0, 6, "model.") == 0) setting = find(kPreset) != nullptr ? find(kPreset) : find(kFile);
      if (setting == nullptr)
        errors_.push_back(name_ + ": " + problem.text);
      else
        errors_.push_back((setting->line > 0 ? name_ + ":" + std::to_string(setting->line) : setting->argument + " (command line)") + ": " + problem.text);
    }
  }
  if (errors_.empty()) return config;
  std::string message = name_;
  if (num_overrides > 0) message += " + " + std::to_string(num_overrides) + (num_overrides == 1 ? " override" : " overrides");
  message += ": " + std::to_string(errors_.size()) + (errors_.size() == 1 ? " error" : " errors");
  for (const std::string& error : errors_) message += "\n  " + error;
  throw ConfigError(message);
}

// Opens and closes sections so that `a.b.c: value` nests.
class Writer {
 public:
  void line(const std::string& name, const std::string& value) {
    std::vector<std::string> parts;
    std::istringstream stream(name);
    for (std::string part; std::getline(stream, part, '.');) parts.push_back(part);
    size_t common = 0;
    while (common + 1 < parts.size() && common < open_.size() && open_[common] == parts[common]) ++common;
    open_.resize(common);
    for (; common + 1 < parts.size(); ++common) {
      text_ += std::string(2 * common, ' ') + parts[common] + ":\n";
      open_.push_back(parts[common]);
    }
    text_ += std::string(2 * common, ' ') + parts.back() + ": " + value + "\n";
  }
  std::string take() { return std::move(text_); }

 private:
  std::vector<std::string> open_;
  std::string text_;
};

}  // namespace

RunConfig parse_run_config(const std::string& yaml, const std::string& name, const std::vector<std::string>& overrides, const std::string& folder) {
  Assembly assembly(name, folder);
  assembly.read_recipe(yaml);
  for (const std::string& argument : overrides) assembly.read_override(argument);
  return assembly.finish(overrides.size());
}

RunConfig load_run_config(const std::string& recipe_path, const std::vector<std::string>& overrides) {
  std::error_code failed;
  if (!std::filesystem::exists(recipe_path, failed)) throw ConfigError(recipe_path + ": no such recipe" + (recipe_path.find_first_of("/.") == std::string::npos ? "; give its file, for example launch/recipes/" + recipe_path + ".yaml" : ""));
  if (!std::filesystem::is_regular_file(recipe_path, failed)) throw ConfigError(recipe_path + ": not a file; a recipe is a YAML file");
  if (std::filesystem::file_size(recipe_path, failed) > (1u << 20)) throw ConfigError(recipe_path + ": larger than 1 MiB: not a recipe");
  std::ifstream file(recipe_path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) throw ConfigError(recipe_path + ": cannot be read");
  const std::string folder = std::filesystem::path(recipe_path).parent_path().string();
  return parse_run_config(text.str(), recipe_path, overrides, folder.empty() ? "." : folder);
}

std::string resolved_yaml(const RunConfig& config) {
  Writer writer;
  for (const ConfigKey& key : config_schema()) writer.line(key.name, key.print(config));
  return writer.take();
}

std::vector<std::string> forbidden_changes(const std::string& old_resolved_yaml, const RunConfig& now) {
  const RunConfig before = parse_run_config(old_resolved_yaml, "the checkpoint's config.yaml");
  std::vector<std::string> changes;
  for (const ConfigKey& key : config_schema()) {
    const std::string was = key.print(before), is = key.print(now);
    if (!key.why_fixed.empty() && was != is) changes.push_back(key.name + ": was " + was + ", is " + is + "; " + key.why_fixed);
  }
  return changes;
}

}  // namespace atoll
