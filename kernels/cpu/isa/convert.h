// Loads and stores of storage types as numbers, for kernels/cpu/isa/*.cpp only. BF16 is handled as its bits: base/dtype.h's inline functions would be shared
// with sources built for a narrower instruction set.
#pragma once
#include <cstdint>

#ifdef ATOLL_ISA
namespace atoll::cpu::ATOLL_ISA {
namespace {

struct bf16_t { uint16_t bits; };  // what a BF16 array is to these sources

inline float to_float(bf16_t value) { return __builtin_bit_cast(float, static_cast<uint32_t>(value.bits) << 16); }
inline float to_float(float value) { return value; }
inline double to_float(double value) { return value; }

// Rounded to nearest even; NaN stays NaN. Branch-free so that loops vectorise.
inline bf16_t to_bf16(float value) {
  const uint32_t u = __builtin_bit_cast(uint32_t, value);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const uint32_t quiet = (u >> 16) | 0x40u;
  return {static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded)};
}
template <class T, class From>
inline T from_float(From value) {
  if constexpr (sizeof(T) == 2) return to_bf16(static_cast<float>(value));
  else return static_cast<T>(value);
}

}  // namespace
}  // namespace atoll::cpu::ATOLL_ISA
#endif
