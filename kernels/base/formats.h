// Number formats below FP32, one source for host and device: BF16 (dtype.h), E4M3, E5M6, UE8M0. Encoders take FP32 and round once, to nearest even.
// Policy: E4M3 and E5M6 saturate (infinities too) and keep the sign of a NaN; every back end gives these bits (reference: DeepSeek-V3 technical report, section 3.3).
#pragma once
#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/host_device.h"

namespace atoll {

constexpr float kE4m3Max = 448.0f, kE5m6Max = 65024.0f;
constexpr int kQuantTile = 128;           // 1x128 tiles and 128x128 blocks
constexpr float kQuantFloor = 1e-4f;      // amax is never taken below this

ATOLL_HD constexpr uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
ATOLL_HD constexpr float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }

// E4M3: sign, exponent 4 (bias 7), mantissa 3; no infinity; 0x7F and 0xFF are NaN; quantum of the subnormals 2^-9.
ATOLL_HD constexpr uint8_t encode_e4m3(float x) {
  const uint32_t u = bits_of(x), sign = (u >> 24) & 0x80u, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return static_cast<uint8_t>(sign | 0x7fu);
  if (a >= bits_of(kE4m3Max)) return static_cast<uint8_t>(sign | 0x7eu);
  if (a < 0x3c800000u)  // below 2^-6: adding 2^14 leaves the multiple of 2^-9 in the low bits, rounded to even
    return static_cast<uint8_t>(sign | (bits_of(float_of(a) + 16384.0f) - bits_of(16384.0f)));
  return static_cast<uint8_t>(sign | (((a + 0x7ffffu + ((a >> 20) & 1u)) >> 20) - (120u << 3)));
}
ATOLL_HD constexpr float decode_e4m3(uint8_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x80u) << 24, a = code & 0x7fu;
  if (a == 0x7fu) return float_of(sign | 0x7fc00000u);
  if (a < 8u) return float_of(sign | bits_of(static_cast<float>(a) * 0x1p-9f));
  return float_of(sign | ((a + (120u << 3)) << 20));
}

// E5M6, 12 bits: the upper 12 bits of an FP16 pattern. Saturates at 65024 (0x7BF); quantum of the subnormals 2^-20.
ATOLL_HD constexpr uint16_t encode_e5m6(float x) {
  const uint32_t u = bits_of(x), sign = (u >> 20) & 0x800u, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e0u);
  if (a >= bits_of(kE5m6Max)) return static_cast<uint16_t>(sign | 0x7bfu);
  if (a < 0x38800000u)  // below 2^-14
    return static_cast<uint16_t>(sign | (bits_of(float_of(a) + 8.0f) - bits_of(8.0f)));
  return static_cast<uint16_t>(sign | (((a + 0xffffu + ((a >> 17) & 1u)) >> 17) - (112u << 6)));
}
ATOLL_HD constexpr float decode_e5m6(uint16_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x800u) << 20, a = code & 0x7ffu;
  if (a >= 0x7c0u) return float_of(sign | 0x7f800000u | (a & 0x3fu) << 17);
  if (a < 64u) return float_of(sign | bits_of(static_cast<float>(a) * 0x1p-20f));
  return float_of(sign | ((a + (112u << 6)) << 17));
}

// Eight E5M6 codes as one 96-bit big-endian string in three words, the first value in the highest bits.
ATOLL_HD constexpr void pack_e5m6(const uint16_t* v, uint32_t* w) {
  w[0] = uint32_t{v[0]} << 20 | uint32_t{v[1]} << 8 | uint32_t{v[2]} >> 4;
  w[1] = uint32_t{v[2]} << 28 | uint32_t{v[3]} << 16 | uint32_t{v[4]} << 4 | uint32_t{v[5]} >> 8;
  w[2] = uint32_t{v[5]} << 24 | uint32_t{v[6]} << 12 | uint32_t{v[7]};
}
ATOLL_HD constexpr void unpack_e5m6(const uint32_t* w, uint16_t* v) {
  v[0] = w[0] >> 20;
  v[1] = w[0] >> 8 & 0xfffu;
  v[2] = (w[0] << 4 | w[1] >> 28) & 0xfffu;
  v[3] = w[1] >> 16 & 0xfffu;
  v[4] = w[1] >> 4 & 0xfffu;
  v[5] = (w[1] << 8 | w[2] >> 24) & 0xfffu;
  v[6] = w[2] >> 12 & 0xfffu;
  v[7] = w[2] & 0xfffu;
}

// UE8M0: a biased exponent; 255 is NaN. encode: the smallest power of two >= x (x > 0; infinity and NaN give 255).
ATOLL_HD constexpr uint8_t encode_ue8m0(float x) {
  const uint32_t u = bits_of(x);
  return u > 0x7f800000u ? uint8_t{255} : static_cast<uint8_t>(((u - 1u) >> 23) + 1u);
}
ATOLL_HD constexpr float decode_ue8m0(uint8_t byte) {
  if (byte == 255) return float_of(0x7fc00000u);
  return byte == 0 ? 0x1p-127f : float_of(uint32_t{byte} << 23);
}
// 1 / decode, which is again a power of two: 2^(127 - byte).
ATOLL_HD constexpr float inverse_ue8m0(uint8_t byte) {
  if (byte == 255) return float_of(0x7fc00000u);
  return decode_ue8m0(static_cast<uint8_t>(254 - byte));
}

// What a cast multiplies by and what dequantising multiplies by, of a tile with this amax. Two IEEE divisions; the product, not a quotient, is rounded to a code.
struct QuantScale { float multiplier, scale; };
ATOLL_HD constexpr float floored(float amax) { return amax > kQuantFloor ? amax : kQuantFloor; }
ATOLL_HD constexpr QuantScale e4m3_scale(float amax) { return {kE4m3Max / floored(amax), floored(amax) / kE4m3Max}; }
// The scale rounded up to a power of two: multiplying by its inverse is exact.
ATOLL_HD constexpr QuantScale pow2_scale(float amax, float largest) {
  const uint8_t byte = encode_ue8m0(floored(amax) / largest);
  return {inverse_ue8m0(byte), decode_ue8m0(byte)};
}
// The code of x in a tile: the product is rounded; the sign is x's even where the product is a NaN (whose sign differs between processors).
ATOLL_HD constexpr uint8_t cast_e4m3(float x, float multiplier) {
  return static_cast<uint8_t>((encode_e4m3(x * multiplier) & 0x7fu) | ((bits_of(x) >> 24) & 0x80u));
}
// The value of a code in a tile. A NaN (of the code, or zero times an infinite scale) has the code's sign on every processor.
ATOLL_HD constexpr float with_sign_of(float x, uint8_t code) { return float_of((bits_of(x) & 0x7fffffffu) | static_cast<uint32_t>(code & 0x80u) << 24); }
ATOLL_HD constexpr float read_e4m3(uint8_t code, float scale) { return with_sign_of(decode_e4m3(code) * scale, code); }
ATOLL_HD constexpr uint16_t cast_e5m6(float x, float multiplier) {
  return static_cast<uint16_t>((encode_e5m6(x * multiplier) & 0x7ffu) | ((bits_of(x) >> 20) & 0x800u));
}
// max(a, |x|) where a NaN never wins: its element becomes a NaN code and its neighbours keep theirs.
ATOLL_HD constexpr float amax_step(float a, float x) {
  const float m = float_of(bits_of(x) & 0x7fffffffu);
  return m > a ? m : a;
}

}  // namespace atoll
