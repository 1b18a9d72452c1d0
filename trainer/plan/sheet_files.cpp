// What all data files of the planner share: their text, their tree, lists of small sheets, and names that do not exist. Policy: who reads a cluster, a recipe's
// plan section or a calibration reads it through here, so that all of them refuse the same things in the same words.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "kernels/base/error.h"
#include "trainer/plan/sheet.h"

namespace atoll::plan {
std::string read_text(const std::string& path) {
  std::error_code failed;
  if (!std::filesystem::is_regular_file(path, failed)) throw ConfigError(path + ": no such file");
  if (std::filesystem::file_size(path, failed) > (1u << 20)) throw ConfigError(path + ": larger than 1 MiB: not one of ours");
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) throw ConfigError(path + ": cannot be read");
  return text.str();
}

YamlNode read_tree(const std::string& yaml, const std::string& file) {
  std::vector<YamlProblem> problems;
  YamlNode root = read_yaml(yaml, problems);
  Errors errors;
  for (const YamlProblem& p : problems) errors.push_back(file + ":" + std::to_string(p.line) + ": " + p.what);
  if (!errors.empty()) throw_errors(file, errors);
  return root;
}

const YamlNode* find_entry(const YamlNode& map, const std::string& key) {
  for (const auto& [name, node] : map.entries)
    if (name == key) return &node;
  return nullptr;
}

void add_errors(const Errors& part, const std::string& prefix, Errors& errors) {
  for (std::string e : part) {
    const size_t place = e.find(": ");
    if (place != std::string::npos) e.insert(place + 2, prefix);
    errors.push_back(std::move(e));
  }
}

std::vector<Sheet> read_sheets(const std::vector<SheetKey>& schema, const YamlNode& map, const std::string& key, const std::string& path,
                               const std::string& file, Errors& errors) {
  std::vector<Sheet> sheets;
  const YamlNode* list = find_entry(map, key);
  if (list == nullptr) return sheets;
  if (list->kind != YamlNode::Kind::kList) errors.push_back(file + ":" + std::to_string(list->line) + ": " + path + ": expected a list");
  Errors of_items;
  for (const YamlNode& item : list->items)
    if (item.kind == YamlNode::Kind::kMap)
      sheets.push_back(read_sheet(schema, item, file, {}, of_items));
    else
      errors.push_back(file + ":" + std::to_string(item.line) + ": " + path + ": expected {...}, found " + to_string(item));
  add_errors(of_items, path + ": ", errors);
  return sheets;
}

bool is_yaml_path(const std::string& what) { return what.size() > 5 && what.substr(what.size() - 5) == ".yaml"; }

std::vector<std::string> yaml_names(const std::string& folder, std::vector<std::string> names) {
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator(folder, failed))
    if (entry.path().extension() == ".yaml") names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

std::string no_such(const std::string& title, const std::string& kind, const std::string& name, const std::vector<std::string>& names) {
  std::string list;
  for (const std::string& n : names) list += (list.empty() ? "" : ", ") + n;
  const std::string near = nearest_of(name, names);
  return title + ": no such " + kind + (near.empty() ? "" : "; did you mean " + near + "?") + "; there are " + list;
}

}  // namespace atoll::plan
