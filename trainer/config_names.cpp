// Finding keys by name, and guessing which one was meant.
#include <algorithm>
#include <numeric>

#include "trainer/config_schema.h"

namespace atoll {
namespace {

// Edits (insert, delete, replace, swap of neighbours) from a to b.
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  std::iota(last.begin(), last.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

std::string last_word(const std::string& name) { return name.substr(name.rfind('.') + 1); }

std::vector<std::string> all_names() {
  std::vector<std::string> names{"model.preset", "model.config"};
  for (const ConfigKey& key : config_schema()) {
    names.push_back(key.name);
    for (size_t dot = key.name.find('.'); dot != std::string::npos; dot = key.name.find('.', dot + 1)) names.push_back(key.name.substr(0, dot));
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

}  // namespace

const ConfigKey* find_key(const std::string& name) {
  for (const ConfigKey& key : config_schema())
    if (key.name == name) return &key;
  return nullptr;
}

bool is_section(const std::string& name) {
  for (const ConfigKey& key : config_schema())
    if (key.name.size() > name.size() && key.name[name.size()] == '.' && key.name.compare(0, name.size(), name) == 0) return true;
  return false;
}

std::string nearest_name(const std::string& name) {
  std::string best;
  size_t best_score = 1 + std::max<size_t>(2, name.size() / 4);  // farther than this is no typo
  for (const std::string& candidate : all_names()) {
    size_t score = edit_distance(name, candidate);
    const size_t word = edit_distance(last_word(name), last_word(candidate));  // the right word in the wrong section
    if (word <= last_word(name).size() / 4) score = std::min(score, 2 + word);
    if (score < best_score) {
      best_score = score;
      best = candidate;
    }
  }
  return best;
}

}  // namespace atoll
