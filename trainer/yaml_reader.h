// YAML text to a plain tree with line numbers. Policy: the small, safe part of YAML: one document of maps, lists and scalars. Anchors, aliases, tags, non-text
// bytes, files over 1 MiB or 100,000 nodes are refused. Scalars stay text: what a type means is decided by the key that reads it (config_values.h).
#pragma once
#include <string>
#include <utility>
#include <vector>

namespace atoll {

struct YamlNode {
  enum class Kind { kNull, kScalar, kList, kMap };
  Kind kind = Kind::kNull;
  std::string text;        // kScalar
  bool is_quoted = false;  // kScalar: written in quotes, so it is text and no number
  int line = 0;            // 1-based; of the key where there is one
  std::vector<YamlNode> items;
  std::vector<std::pair<std::string, YamlNode>> entries;  // kMap, in file order; duplicates are kept, the reader of the map must refuse them
};
std::string to_string(const YamlNode& node);  // on one line, for messages: "[[0, 0.3], [10T, 0.1]]", cut at 60 characters

struct YamlProblem {
  int line = 0;
  std::string what;
};

// The tree, or null and the problems found.
YamlNode read_yaml(const std::string& text, std::vector<YamlProblem>& problems);

}  // namespace atoll
