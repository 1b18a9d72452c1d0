// Small floating-point formats of PTX: f16, bf16, e4m3, e5m2, tf32 to and from f32, with every rounding mode of cvt.
#pragma once
#ifdef __F16C__
#include <immintrin.h>
#endif
#include <cmath>
#include <cstdint>
#include <cstring>

namespace atoll::gpusim {

inline float bf16f(uint16_t h) {
  uint32_t u = (uint32_t)h << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
inline uint32_t fbits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}
inline float bitsf(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
#ifdef __F16C__
inline float f16f(uint16_t h) { return _cvtsh_ss(h); }
inline uint16_t half_of(float f) { return _cvtss_sh(f, 0); }
#else
inline float f16f(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 0x3ff;
  if (exponent == 0) return bitsf(fbits(fraction * 0x1p-24f) | sign);
  return bitsf(sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13);
}
inline uint16_t half_of(float f) {  // round to nearest even; NaN is the caller's affair
  const uint32_t u = fbits(f), magnitude = u & 0x7fffffff;
  const uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
  if (magnitude >= 0x47800000) return sign | 0x7c00;
  if (magnitude < 0x38800000) return sign | (uint16_t)std::nearbyint(bitsf(magnitude) * 0x1p24f);
  return sign | (uint16_t)((magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13);
}
#endif
inline uint16_t f2h(float f) { return std::isnan(f) ? 0x7fff : half_of(f); }
inline uint16_t f2bf(float f) {
  uint32_t u = fbits(f);
  if ((u & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

enum class Rnd : uint8_t { RN, RZ, RM, RP, RNA };

// Rounds x to a format with `mant` fraction bits and exponent bias `bias`; `max_finite` bounds it. Returns the value
// (still a double) or +-inf on overflow.
inline double round_to(double x, int mant, int min_exp, Rnd r) {
  if (x == 0 || !std::isfinite(x)) return x;
  int e;
  std::frexp(x, &e);
  e -= 1;  // x = 1.f * 2^e
  if (e < min_exp) e = min_exp;
  double ulp = std::ldexp(1.0, e - mant);
  double q = x / ulp;
  double t;
  switch (r) {
    case Rnd::RZ: t = std::trunc(q); break;
    case Rnd::RM: t = std::floor(q); break;
    case Rnd::RP: t = std::ceil(q); break;
    case Rnd::RNA: t = std::round(q); break;
    default: t = std::nearbyint(q);
  }
  return t * ulp;
}

inline uint16_t pack_f16(double x, Rnd r, bool sat = false) {
  if (std::isnan(x)) return 0x7fff;
  double y = round_to(x, 10, -14, r);
  bool s = std::signbit(x);
  if (std::fabs(y) > 65504.0) {
    bool to_inf = !(sat || r == Rnd::RZ || (r == Rnd::RM && !s) || (r == Rnd::RP && s)) || (std::isinf(x) && !sat);
    return (s ? 0x8000 : 0) | (to_inf ? 0x7c00 : 0x7bff);
  }
  uint16_t h = half_of((float)y);
  return h | (s ? 0x8000 : 0);
}
inline uint16_t pack_bf16(double x, Rnd r, bool sat = false) {
  if (std::isnan(x)) return 0x7fff;
  double y = round_to(x, 7, -126, r);
  bool s = std::signbit(x);
  const double mx = 3.3895313892515355e38;
  if (std::fabs(y) > mx) {
    bool to_inf = !(sat || r == Rnd::RZ || (r == Rnd::RM && !s) || (r == Rnd::RP && s)) || (std::isinf(x) && !sat);
    return (s ? 0x8000 : 0) | (to_inf ? 0x7f80 : 0x7f7f);
  }
  return (uint16_t)(fbits((float)y) >> 16) | (s ? 0x8000 : 0);
}
inline uint8_t pack_e4m3(double x) {  // rn.satfinite
  if (std::isnan(x)) return 0x7f;
  uint8_t s = std::signbit(x) ? 0x80 : 0;
  double y = std::fabs(round_to(x, 3, -6, Rnd::RN));
  if (y > 448) return s | 0x7e;
  if (y == 0) return s;
  int e;
  double m = std::frexp(y, &e);
  e -= 1;
  m *= 2;
  if (e < -6) return s | (uint8_t)std::lrint(y * 512);  // subnormal: units of 2^-9
  return s | (uint8_t)((e + 7) << 3) | (uint8_t)std::lrint((m - 1) * 8);
}
inline uint8_t pack_e5m2(double x, bool sat = true) {
  if (std::isnan(x)) return 0x7f;
  uint8_t s = std::signbit(x) ? 0x80 : 0;
  double y = std::fabs(round_to(x, 2, -14, Rnd::RN));
  if (y > 57344) return s | (sat ? 0x7b : 0x7c);
  if (y == 0) return s;
  int e;
  double m = std::frexp(y, &e);
  e -= 1;
  m *= 2;
  if (e < -14) return s | (uint8_t)std::lrint(y * 65536);  // units of 2^-16
  return s | (uint8_t)((e + 15) << 2) | (uint8_t)std::lrint((m - 1) * 4);
}
inline float e4m3f(uint8_t v) {
  int e = (v >> 3) & 15, m = v & 7;
  float f;
  if (e == 15 && m == 7)
    f = NAN;
  else if (e == 0)
    f = m / 512.0f;
  else
    f = std::ldexp(1.0f + m / 8.0f, e - 7);
  return (v & 0x80) ? -f : f;
}
inline float e5m2f(uint8_t v) { return f16f((uint16_t)v << 8); }
inline float tf32f(uint32_t u) { return bitsf(u & 0xffffe000u); }

inline float flush(float x) { return (fbits(x) & 0x7f800000) == 0 ? bitsf(fbits(x) & 0x80000000u) : x; }

extern float kE4M3[256], kE5M2[256];  // tables, filled at start-up (tensor_product.cpp)

}  // namespace atoll::gpusim
