// Text made from a seed: words of a small language with sentences, code and numbers. Tests must not depend on the files of a machine.
#pragma once
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "kernels/base/rng.h"

namespace atoll {

inline std::string sample_word(const Rng& rng, uint64_t number) {
  static const char* const parts[] = {"ka", "lo", "mi", "ren", "tu", "sha", "ver", "qu", "in", "ost", "el", "par", "d", "y", "zan", "gri"};
  std::string word;
  for (uint64_t i = 0; i < 1 + rng.below(number * 8, 3); ++i) word += parts[rng.below(number * 8 + 1 + i, 16)];
  return word;
}

inline std::string sample_text(uint64_t number, int words = 400) {
  const Rng rng(number, "sample text"), language(1, "sample language");
  std::string text;
  for (int i = 0; i < words; ++i) {
    const auto k = static_cast<uint64_t>(i) * 4;
    const double u = rng.uniform(k);
    text += sample_word(language, static_cast<uint64_t>(u * u * 400));  // a few words are common
    const uint64_t what = rng.below(k + 1, 20);
    if (what == 0) text += ".\n";
    else if (what == 1) text += "\n\tif (" + std::to_string(rng.below(k + 2, 1000)) + ") {\r\n    ";
    else if (what == 2) text += ", ";
    else if (what == 3) text += " é日 ";
    else text += " ";
  }
  return text;
}

inline std::vector<std::string> sample_texts(int count) {
  std::vector<std::string> texts;
  for (int i = 0; i < count; ++i) texts.push_back(sample_text(static_cast<uint64_t>(i)));
  return texts;
}

// A folder of this test, removed at its end.
class TestFolder {
 public:
  TestFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "atoll_data_XXXXXX").native();
    if (!::mkdtemp(name.data())) throw std::runtime_error("no temporary folder");
    path_ = name;
  }
  ~TestFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  TestFolder(const TestFolder&) = delete;
  std::string operator/(const std::string& name) const { return (path_ / name).native(); }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << bytes;
    return *this / name;
  }

 private:
  std::filesystem::path path_;
};

inline std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace atoll
