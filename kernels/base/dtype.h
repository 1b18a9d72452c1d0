// Element types. Policy: storage is BF16, FP32 or FP64; sums are kept in acc_dtype(storage): FP64 for FP64, else FP32.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/base/host_device.h"

namespace atoll {

enum class DType : uint8_t { kF64, kF32, kBF16, kI32, kI64, kU8 };

constexpr size_t size_of(DType type) {
  switch (type) {
    case DType::kF64: case DType::kI64: return 8;
    case DType::kF32: case DType::kI32: return 4;
    case DType::kBF16: return 2;
    case DType::kU8: return 1;
  }
  return 0;
}
constexpr const char* name_of(DType type) {
  switch (type) {
    case DType::kF64: return "fp64";
    case DType::kF32: return "fp32";
    case DType::kBF16: return "bf16";
    case DType::kI32: return "i32";
    case DType::kI64: return "i64";
    case DType::kU8: return "u8";
  }
  return "?";
}
constexpr DType acc_dtype(DType storage) { return storage == DType::kF64 ? DType::kF64 : DType::kF32; }

// BF16: the upper half of an FP32 pattern. Rounded to nearest even; NaN stays NaN (quiet, sign kept).
struct bf16 {
  uint16_t bits = 0;
  bf16() = default;
  ATOLL_HD constexpr explicit bf16(float value) {
    const uint32_t u = __builtin_bit_cast(uint32_t, value);
    bits = (u & 0x7fffffffu) > 0x7f800000u ? static_cast<uint16_t>((u >> 16) | 0x40u)
                                            : static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  ATOLL_HD constexpr explicit operator float() const { return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16); }
};
static_assert(sizeof(bf16) == 2);

}  // namespace atoll
