// safetensors: the exchange format of weights. The file is mapped, never copied; every rule of the format is checked before a tensor is handed out.
// Policy: the file is foreign input. Whatever is wrong is a DataError that names file and reason; nothing is read past what the header proved to be there.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/base/tensor.h"

namespace atoll {

struct SafetensorsEntry {
  std::string name;
  std::string dtype_name;      // as in the file: "BF16", "F8_E4M3", ...
  std::optional<DType> dtype;  // none: a type of the format that Atoll does not compute with; its bytes are there all the same
  std::vector<int64_t> shape;  // {} is a scalar
  const std::byte* data = nullptr;  // into the mapped file; little endian, C order; aligned to the dtype only if the writer aligned it
  int64_t bytes = 0;
  int64_t size() const;  // elements
};

class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&& other) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) = delete;

  const std::string& path() const { return path_; }
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }  // in the order of their data
  const SafetensorsEntry* find(const std::string& name) const;
  const SafetensorsEntry& at(const std::string& name) const;  // DataError if missing
  // A read-only view (writing to it is a fault): rank 1..4 (a scalar: [1]), a dtype of ours, aligned; else DataError.
  Tensor tensor(const std::string& name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  void parse_header();
  std::string path_;
  void* map_ = nullptr;
  size_t map_bytes_ = 0;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, size_t> index_;
  std::map<std::string, std::string> metadata_;
};

struct SafetensorsItem {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;  // contiguous
};
// Writes beside, syncs, renames: `path` is the whole file or what it was before. Data lie by dtype (widest first), then name, as Hugging Face's writer orders them.
void write_safetensors(const std::string& path, std::span<const SafetensorsItem> items, const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace atoll
