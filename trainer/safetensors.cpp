// u64 LE N | N bytes of JSON | data. Header rules: reference in docs/formats; each `bad` below is one of them.
#include "trainer/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "kernels/base/error.h"
#include "trainer/checkpoint_files.h"

namespace atoll {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;

struct FormatType { const char* name; int bits; };
// In the order of the format's own enum: the writer sorts by it, last first.
constexpr std::array kTypes = {FormatType{"BOOL", 8}, FormatType{"F4", 4}, FormatType{"F6_E2M3", 6}, FormatType{"F6_E3M2", 6}, FormatType{"U8", 8}, FormatType{"I8", 8},
                               FormatType{"F8_E5M2", 8}, FormatType{"F8_E4M3", 8}, FormatType{"F8_E8M0", 8}, FormatType{"F8_E4M3FNUZ", 8}, FormatType{"F8_E5M2FNUZ", 8},
                               FormatType{"I16", 16}, FormatType{"U16", 16}, FormatType{"F16", 16}, FormatType{"BF16", 16}, FormatType{"I32", 32}, FormatType{"U32", 32},
                               FormatType{"F32", 32}, FormatType{"C64", 64}, FormatType{"F64", 64}, FormatType{"I64", 64}, FormatType{"U64", 64}};

int index_of_type(const std::string& name) {
  for (size_t i = 0; i < kTypes.size(); ++i) if (name == kTypes[i].name) return static_cast<int>(i);
  return -1;
}
const char* format_name(DType dtype) {
  switch (dtype) {
    case DType::kF64: return "F64";
    case DType::kF32: return "F32";
    case DType::kBF16: return "BF16";
    case DType::kI32: return "I32";
    case DType::kI64: return "I64";
    case DType::kU8: return "U8";
  }
  return "?";
}
std::optional<DType> our_dtype(const std::string& name) {
  for (DType dtype : {DType::kF64, DType::kF32, DType::kBF16, DType::kI32, DType::kI64, DType::kU8}) if (name == format_name(dtype)) return dtype;
  return std::nullopt;
}

using Json = nlohmann::json;

// The header as JSON: UTF-8 (the parser refuses anything else), no key twice in an object, nesting as the format has it.
Json parse_json(const char* begin, const char* end) {
  std::vector<std::set<std::string>> keys;
  const auto guard = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth > 3) throw DataError("the header is nested too deeply");
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second)
      throw DataError("the header has the key '" + value.get<std::string>() + "' twice");
    return true;
  };
  return Json::parse(begin, end, guard);
}

int64_t whole_number(const Json& value, const std::string& what) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{INT64_MAX}) throw DataError(what + " is not a whole number in range");
  return static_cast<int64_t>(value.get<uint64_t>());
}

struct Extent { SafetensorsEntry entry; int64_t begin = 0, end = 0; };

Extent extent_of(const std::string& name, const Json& json) {
  const std::string tensor = "tensor '" + name + "'";
  if (!json.is_object()) throw DataError(tensor + " is not an object");
  for (const char* key : {"dtype", "shape", "data_offsets"}) if (!json.contains(key)) throw DataError(tensor + " has no " + key);
  Extent extent;
  extent.entry.name = name;
  if (!json["dtype"].is_string() || index_of_type(json["dtype"].get<std::string>()) < 0) throw DataError(tensor + " has an unknown dtype " + json["dtype"].dump());
  extent.entry.dtype_name = json["dtype"].get<std::string>();
  extent.entry.dtype = our_dtype(extent.entry.dtype_name);
  if (!json["shape"].is_array()) throw DataError(tensor + ": shape is not an array");
  uint64_t bits = static_cast<uint64_t>(kTypes[static_cast<size_t>(index_of_type(extent.entry.dtype_name))].bits);
  bool overflows = false;
  for (const Json& dim : json["shape"]) {
    extent.entry.shape.push_back(whole_number(dim, tensor + ": a dim"));
    overflows = __builtin_mul_overflow(bits, static_cast<uint64_t>(extent.entry.shape.back()), &bits) || overflows;
  }
  if (overflows) throw DataError(tensor + ": its shape overflows");
  if (bits % 8 != 0) throw DataError(tensor + ": its elements do not fill whole bytes");
  const Json& offsets = json["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2) throw DataError(tensor + ": data_offsets is not [begin, end]");
  extent.begin = whole_number(offsets[0], tensor + ": data_offsets[0]");
  extent.end = whole_number(offsets[1], tensor + ": data_offsets[1]");
  if (extent.end < extent.begin) throw DataError(tensor + ": data_offsets end before they begin");
  extent.entry.bytes = extent.end - extent.begin;
  if (static_cast<uint64_t>(extent.entry.bytes) != bits / 8)
    throw DataError(tensor + ": has " + std::to_string(extent.entry.bytes) + " bytes of data, dtype and shape ask for " + std::to_string(bits / 8));
  return extent;
}

void write_all(int fd, const void* data, size_t bytes, const std::string& path) {
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = ::write(fd, static_cast<const char*>(data) + done, std::min<size_t>(bytes - done, size_t{1} << 30));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw Error(path + ": cannot be written: " + std::strerror(errno));
    done += static_cast<size_t>(n);
  }
}

int64_t bytes_of(const SafetensorsItem& item) {
  int64_t bytes = static_cast<int64_t>(size_of(item.dtype));
  for (int64_t dim : item.shape) ATOLL_CHECK(dim >= 0 && !__builtin_mul_overflow(bytes, dim, &bytes), "tensor '", item.name, "': impossible shape");
  return bytes;
}

// Length and JSON, padded with spaces so that the data begin at a multiple of 8.
std::string header_of(std::span<const SafetensorsItem* const> order, const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (!metadata.empty()) json["__metadata__"] = metadata;
  int64_t begin = 0;
  for (const SafetensorsItem* item : order) {
    ATOLL_CHECK(item->name != "__metadata__" && !json.contains(item->name), "tensor '", item->name, "' twice, or a reserved name");
    const int64_t end = begin + bytes_of(*item);
    json[item->name] = {{"dtype", format_name(item->dtype)}, {"shape", item->shape}, {"data_offsets", {begin, end}}};
    begin = end;
  }
  std::string text = json.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  ATOLL_CHECK(text.size() <= kMaxHeader, "the header of a safetensors file would have ", text.size(), " bytes; split the tensors over several files");
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text;
}

}  // namespace

int64_t SafetensorsEntry::size() const {
  int64_t n = 1;
  for (int64_t dim : shape) n *= dim;
  return n;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw DataError(path + ": cannot be opened: " + std::strerror(errno));
  struct stat status {};
  const bool is_file = ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
  if (is_file && status.st_size >= 8) {
    map_bytes_ = static_cast<size_t>(status.st_size);
    map_ = ::mmap(nullptr, map_bytes_, PROT_READ, MAP_PRIVATE, fd, 0);
  }
  const int error = errno;
  ::close(fd);
  if (!is_file) throw DataError(path + ": is not a file");
  if (map_bytes_ == 0) throw DataError(path + ": is no safetensors file: " + std::to_string(status.st_size) + " bytes are too few");
  if (map_ == MAP_FAILED) throw DataError(path + ": cannot be mapped: " + std::strerror(error));
  try {
    parse_header();
  } catch (const std::exception& why) {  // ours without the path, or the JSON parser's
    ::munmap(map_, map_bytes_);
    throw DataError(path + ": is no valid safetensors file: " + why.what());
  }
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept
    : path_(std::move(other.path_)), map_(std::exchange(other.map_, nullptr)), map_bytes_(std::exchange(other.map_bytes_, 0)), entries_(std::move(other.entries_)),
      index_(std::move(other.index_)), metadata_(std::move(other.metadata_)) {}

SafetensorsFile::~SafetensorsFile() {
  if (map_) ::munmap(map_, map_bytes_);
}

void SafetensorsFile::parse_header() {
  const char* bytes = static_cast<const char*>(map_);
  uint64_t length = 0;
  std::memcpy(&length, bytes, sizeof length);
  if (length > kMaxHeader) throw DataError("its header claims " + std::to_string(length) + " bytes; at most 100000000 are allowed");
  if (length > map_bytes_ - 8) throw DataError("its header claims " + std::to_string(length) + " bytes, the file has " + std::to_string(map_bytes_));
  if (length == 0 || bytes[8] != '{') throw DataError("its header does not begin with '{'");
  const Json json = parse_json(bytes + 8, bytes + 8 + length);
  if (!json.is_object()) throw DataError("its header is not an object");
  std::vector<Extent> extents;
  for (const auto& [name, value] : json.items()) {
    if (name != "__metadata__") {
      extents.push_back(extent_of(name, value));
      continue;
    }
    if (!value.is_object()) throw DataError("__metadata__ is not an object");
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) throw DataError("__metadata__ '" + key + "' is not a string");
      metadata_[key] = text.get<std::string>();
    }
  }
  std::stable_sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  const int64_t data_bytes = static_cast<int64_t>(map_bytes_ - 8 - length);
  int64_t next = 0;
  for (Extent& extent : extents) {
    if (extent.begin != next) throw DataError("tensor '" + extent.entry.name + "' begins at " + std::to_string(extent.begin) + (extent.begin < next ? ", inside another" : ", after a hole") +
                                              "; expected " + std::to_string(next));
    if (extent.end > data_bytes) throw DataError("tensor '" + extent.entry.name + "' ends at " + std::to_string(extent.end) + " of " + std::to_string(data_bytes) + " bytes of data: truncated?");
    next = extent.end;
    extent.entry.data = reinterpret_cast<const std::byte*>(bytes) + 8 + length + extent.begin;
    index_[extent.entry.name] = entries_.size();
    entries_.push_back(std::move(extent.entry));
  }
  if (next != data_bytes) throw DataError("it has " + std::to_string(data_bytes - next) + " bytes after the last tensor");
}

const SafetensorsEntry* SafetensorsFile::find(const std::string& name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &entries_[it->second];
}

const SafetensorsEntry& SafetensorsFile::at(const std::string& name) const {
  const SafetensorsEntry* entry = find(name);
  if (!entry) throw DataError(path_ + ": holds no tensor '" + name + "'");
  return *entry;
}

Tensor SafetensorsFile::tensor(const std::string& name) const {
  const SafetensorsEntry& entry = at(name);
  if (!entry.dtype) throw DataError(path_ + ": tensor '" + name + "' is " + entry.dtype_name + ", which is not supported here");
  if (entry.shape.size() > 4) throw DataError(path_ + ": tensor '" + name + "' has more than 4 dims");
  if (reinterpret_cast<uintptr_t>(entry.data) % size_of(*entry.dtype) != 0) throw DataError(path_ + ": tensor '" + name + "' is not aligned; write the file again with a current writer");
  Tensor tensor(const_cast<std::byte*>(entry.data), *entry.dtype, {1});
  if (entry.shape.empty()) return tensor;
  tensor.rank = static_cast<int>(entry.shape.size());
  int64_t stride = 1;
  for (size_t k = entry.shape.size(); k-- > 0;) {
    tensor.dim[k] = entry.shape[k];
    tensor.stride[k] = stride;
    stride *= entry.shape[k];
  }
  return tensor;
}

void write_safetensors(const std::string& path, std::span<const SafetensorsItem> items, const std::map<std::string, std::string>& metadata) {
  std::vector<const SafetensorsItem*> order;
  for (const SafetensorsItem& item : items) order.push_back(&item);
  std::stable_sort(order.begin(), order.end(), [](const SafetensorsItem* a, const SafetensorsItem* b) {
    const int type_a = index_of_type(format_name(a->dtype)), type_b = index_of_type(format_name(b->dtype));
    return type_a != type_b ? type_a > type_b : a->name < b->name;
  });
  std::string header;
  try {
    header = header_of(order, metadata);
  } catch (const Json::exception& error) {  // a name that is not UTF-8
    throw DataError(path + ": " + error.what());
  }
  const std::string temporary = path + ".tmp-" + random_suffix();
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) throw Error(temporary + ": cannot be created: " + std::strerror(errno));
  try {
    write_all(fd, header.data(), header.size(), temporary);
    for (const SafetensorsItem* item : order) write_all(fd, item->data, static_cast<size_t>(bytes_of(*item)), temporary);
    if (::fsync(fd) != 0) throw Error(temporary + ": cannot be synced to disk: " + std::strerror(errno));
  } catch (...) {
    ::close(fd);
    ::unlink(temporary.c_str());
    throw;
  }
  if (::close(fd) != 0) throw Error(temporary + ": cannot be closed: " + std::strerror(errno));
  rename_synced(temporary, path);
}

}  // namespace atoll
