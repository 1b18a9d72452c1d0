// Counter-based random numbers: a value is a pure function of (seed, purpose, index), equal on every back end and layout.
// Philox4x32-10 (Salmon et al., SC'11).
#pragma once
#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

namespace atoll {

constexpr uint64_t fnv1a(std::string_view text) {  // stable name -> purpose key
  uint64_t h = 0xcbf29ce484222325ull;
  for (char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return h;
}

class Rng {
 public:
  Rng(uint64_t seed, uint64_t purpose) : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}, purpose_(purpose) {}
  Rng(uint64_t seed, std::string_view purpose) : Rng(seed, fnv1a(purpose)) {}

  std::array<uint32_t, 4> block(uint64_t index) const {
    std::array<uint32_t, 4> c{static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), static_cast<uint32_t>(purpose_), static_cast<uint32_t>(purpose_ >> 32)};
    uint32_t k0 = key_[0], k1 = key_[1];
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = 0xD2511F53ull * c[0], p1 = 0xCD9E8D57ull * c[2];
      c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1), static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return c;
  }
  uint64_t bits(uint64_t index) const {
    const auto b = block(index);
    return (static_cast<uint64_t>(b[1]) << 32) | b[0];
  }
  double uniform(uint64_t index) const { return static_cast<double>(bits(index) >> 11) * 0x1p-53; }  // [0, 1)
  uint64_t below(uint64_t index, uint64_t n) const {                                                   // [0, n), bias < 2^-64 n
    return static_cast<uint64_t>((static_cast<unsigned __int128>(bits(index)) * n) >> 64);
  }
  double normal(uint64_t index) const {  // Box-Muller, one value an index
    const auto b = block(index);
    const double u = (static_cast<double>((static_cast<uint64_t>(b[1]) << 32 | b[0]) >> 11) + 0.5) * 0x1p-53;
    const double v = static_cast<double>((static_cast<uint64_t>(b[3]) << 32 | b[2]) >> 11) * 0x1p-53;
    return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586477 * v);
  }

 private:
  std::array<uint32_t, 2> key_;
  uint64_t purpose_;
};

}  // namespace atoll
