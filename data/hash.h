// Content hashes: XXH3-128 as 32 hex digits (canonical byte order). Used to name content (tokenizers, files, stores), not against an adversary.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace atoll {

struct Hash128 {
  uint64_t high = 0, low = 0;
  bool operator==(const Hash128&) const = default;
  auto operator<=>(const Hash128&) const = default;
  std::string hex() const;
};

Hash128 xxh3_128(std::string_view bytes);
inline std::string xxh3_hex(std::string_view bytes) { return xxh3_128(bytes).hex(); }
uint64_t xxh3_64(std::string_view bytes);

// The same hash over pieces: the result depends on the bytes alone, not on how they were cut.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;
  void update(const void* bytes, size_t size);
  Hash128 digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace atoll
