// Hashes of bytes and files: XXH3-128 as 32 hex digits, the text `xxhsum -H2` prints. Policy: it finds accidents (bit rot, torn writes), not forgeries.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace atoll {

std::string hash_of(const void* data, size_t bytes);
inline std::string hash_of(const std::string& text) { return hash_of(text.data(), text.size()); }

struct FileHash { std::string hash; int64_t bytes = 0; };
// Reads the file once. DataError (naming the file) if it cannot be read.
FileHash hash_of_file(const std::string& path);

}  // namespace atoll
