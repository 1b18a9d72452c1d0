// How Hopper's tensor cores add FP8 products: a model from published measurements (arXiv 2511.10909; DeepSeek-V3's ISCA paper tells the same
// story), never checked on a card by us. One function for the simulator of wgmma and for a CPU back end that wants the same bits.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

namespace atoll {

// One wgmma step of the accumulator c: the products of K <= 32 pairs and c are aligned to the largest exponent, cut to 13 fraction bits
// towards zero, added exactly, and the sum is cut to 13 fraction bits. a and b hold E4M3 or E5M2 values, widened to float.
// A product's exponent is the sum of its factors' exponents, not normalised; a subnormal factor has the smallest exponent of its type
// (E4M3: -6, E5M2: -14). Infinities and NaN give what an ordinary sum gives.
inline constexpr int kE4M3MinExponent = -6, kE5M2MinExponent = -14;

inline int fp8_exponent(float x, int min_exponent) {
  const int e = (int)(std::bit_cast<uint32_t>(x) >> 23 & 255) - 127;
  return x == 0 ? -120 : e < min_exponent ? min_exponent : e;
}
inline float fp8_accumulate(float c, const float* a, const float* b, int K, int a_min_exponent = kE4M3MinExponent, int b_min_exponent = kE4M3MinExponent) {
  constexpr int kFraction = 13;
  int top = fp8_exponent(c, -126);
  float plain = c;
  for (int k = 0; k < K; ++k) {
    const int e = fp8_exponent(a[k], a_min_exponent) + fp8_exponent(b[k], b_min_exponent);
    top = e > top ? e : top;
    plain += a[k] * b[k];
  }
  if (top >= 127 || !std::isfinite(plain)) return std::isnan(plain) ? std::bit_cast<float>(0x7fffffffu) : plain;
  if (top < -100) top = -100;  // nothing below can matter: the smallest product of two E5M2 subnormals is 2^-32
  const float scale = std::bit_cast<float>((uint32_t)(kFraction - top + 127) << 23);
  float sum = std::trunc(c * scale);  // integers below 2^24: sums of floats are exact
  for (int k = 0; k < K; ++k) sum += std::trunc(a[k] * b[k] * scale);
  const float value = sum * std::bit_cast<float>((uint32_t)(top - kFraction + 127) << 23);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) & ~((1u << 10) - 1));  // 23 - 13 bits are cut
}

}  // namespace atoll
