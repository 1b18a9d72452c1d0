// Vectors of the instruction set that a source of kernels/cpu/isa is being built for: GCC vector types, a few intrinsics where GCC finds no instruction.
// Everything is static and inside the build's own namespace: nothing here may be shared between builds (sources.cmake says why).
#pragma once
#include <immintrin.h>
#include <stdint.h>

#include "kernels/base/dtype.h"

#define ATOLL_INLINE static inline __attribute__((always_inline))
// Calls f<storage>(...) for a DType.
#define ATOLL_BY_STORAGE(dtype, f, ...)                  \
  do {                                                   \
    if ((dtype) == DType::kBF16) f<Bf16>(__VA_ARGS__);   \
    else if ((dtype) == DType::kF32) f<float>(__VA_ARGS__); \
    else f<double>(__VA_ARGS__);                         \
  } while (0)

namespace atoll::cpu::ATOLL_ISA {

#if defined(__AVX512F__)
#define ATOLL_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define ATOLL_VECTOR_BYTES 32
#else
#define ATOLL_VECTOR_BYTES 16
#endif

typedef uint16_t Bf16;
typedef float VecF __attribute__((vector_size(ATOLL_VECTOR_BYTES)));
typedef double VecD __attribute__((vector_size(ATOLL_VECTOR_BYTES)));
typedef int32_t IntF __attribute__((vector_size(ATOLL_VECTOR_BYTES)));
typedef uint32_t UintF __attribute__((vector_size(ATOLL_VECTOR_BYTES)));
typedef int64_t IntD __attribute__((vector_size(ATOLL_VECTOR_BYTES)));
typedef uint16_t HalfF __attribute__((vector_size(ATOLL_VECTOR_BYTES / 2)));
// As they lie in memory: not aligned, of any effective type.
typedef float MemF __attribute__((vector_size(ATOLL_VECTOR_BYTES), aligned(4), may_alias));
typedef double MemD __attribute__((vector_size(ATOLL_VECTOR_BYTES), aligned(8), may_alias));
typedef uint16_t MemH __attribute__((vector_size(ATOLL_VECTOR_BYTES / 2), aligned(2), may_alias));

template <class S> struct AccOf { typedef float type; };
template <> struct AccOf<double> { typedef double type; };
template <class A> struct VecOf { typedef VecF type; typedef IntF index; };
template <> struct VecOf<double> { typedef VecD type; typedef IntD index; };
template <class A> constexpr int kWidth = ATOLL_VECTOR_BYTES / static_cast<int>(sizeof(A));

ATOLL_INLINE VecF splat(float x) { return x - VecF{}; }
ATOLL_INLINE VecD splat(double x) { return x - VecD{}; }

ATOLL_INLINE VecF load(const float* p) { return *reinterpret_cast<const MemF*>(p); }
ATOLL_INLINE VecD load(const double* p) { return *reinterpret_cast<const MemD*>(p); }
ATOLL_INLINE VecF load(const Bf16* p) {
  const HalfF h = *reinterpret_cast<const MemH*>(p);
  return reinterpret_cast<VecF>(__builtin_convertvector(h, UintF) << 16);
}
ATOLL_INLINE void store(float* p, VecF v) { *reinterpret_cast<MemF*>(p) = v; }
ATOLL_INLINE void store(double* p, VecD v) { *reinterpret_cast<MemD*>(p) = v; }
ATOLL_INLINE UintF bf16_bits(VecF v) {  // to nearest even, NaN stays NaN: as struct bf16 does
  const UintF u = reinterpret_cast<UintF>(v);
  const UintF rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return v == v ? rounded : ((u >> 16) | 0x40u);
}
ATOLL_INLINE void store(Bf16* p, VecF v) { *reinterpret_cast<MemH*>(p) = __builtin_convertvector(bf16_bits(v), HalfF); }
ATOLL_INLINE VecF round_to(Bf16*, VecF v) { return reinterpret_cast<VecF>(bf16_bits(v) << 16); }  // the value that store() leaves
ATOLL_INLINE VecF round_to(float*, VecF v) { return v; }
ATOLL_INLINE VecD round_to(double*, VecD v) { return v; }

// The first n lanes (the others are 0); rows whose length is no multiple of the width end this way.
template <class S>
ATOLL_INLINE typename VecOf<typename AccOf<S>::type>::type load_part(const S* p, int64_t n) {
  S tmp[kWidth<typename AccOf<S>::type>] = {};
  for (int64_t i = 0; i < n; ++i) tmp[i] = p[i];
  return load(tmp);
}
template <class S, class V>
ATOLL_INLINE void store_part(S* p, V v, int64_t n) {
  S tmp[kWidth<typename AccOf<S>::type>];
  store(tmp, v);
  for (int64_t i = 0; i < n; ++i) p[i] = tmp[i];
}

// body(offset, load, store) over n elements: whole vectors, then the part that is left. `load(p)` and `store(p, v)` act on p[offset...].
#define ATOLL_FOR_VECTORS(A, i, n, whole, part)                                 \
  do {                                                                          \
    int64_t i = 0;                                                              \
    for (; i + kWidth<A> <= (n); i += kWidth<A>) { whole; }                     \
    if (i < (n)) { part; }                                                      \
  } while (0)

ATOLL_INLINE VecF fma(VecF a, VecF b, VecF c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}
ATOLL_INLINE VecD fma(VecD a, VecD b, VecD c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_pd(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_pd(a, b, c);
#else
  return a * b + c;
#endif
}
// NaN in b comes through (as in the instruction).
ATOLL_INLINE VecF max(VecF a, VecF b) {
#if defined(__AVX512F__)
  return _mm512_maskz_max_ps(0xffff, a, b);  // maskz: g++ 12 warns of its own header otherwise
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return _mm_max_ps(a, b);
#endif
}
ATOLL_INLINE VecF min(VecF a, VecF b) {
#if defined(__AVX512F__)
  return _mm512_maskz_min_ps(0xffff, a, b);
#elif defined(__AVX2__)
  return _mm256_min_ps(a, b);
#else
  return _mm_min_ps(a, b);
#endif
}
ATOLL_INLINE VecD max(VecD a, VecD b) { return a > b ? a : b; }

// Horizontal: a fixed tree, halves first.
template <class A, class V>
ATOLL_INLINE A sum_lanes(V v) {
  A t[kWidth<A>];
  store(t, v);
  for (int s = kWidth<A> / 2; s > 0; s /= 2)
    for (int i = 0; i < s; ++i) t[i] += t[i + s];
  return t[0];
}
template <class A, class V>
ATOLL_INLINE A max_lanes(V v) {
  A t[kWidth<A>], m;
  store(t, v);
  m = t[0];
  for (int i = 1; i < kWidth<A>; ++i) m = t[i] > m || t[i] != t[i] ? t[i] : m;
  return m;
}

// e^x, about 1 ulp: x = n ln 2 + r, |r| <= ln 2 / 2; Taylor to r^7 (remainder 5e-9, below half an ulp); 2^n in two exact steps, so that small results round once.
ATOLL_INLINE VecF exp(VecF x) {
  x = min(splat(89.0f), max(splat(-105.0f), x));
  const VecF shifted = fma(x, splat(1.44269504f), splat(12582912.0f));  // 1.5 2^23: the integer is in the low bits
  const VecF n = shifted - splat(12582912.0f);
  VecF r = fma(n, splat(-0.693359375f), x);          // ln 2 = 0.693359375 - 2.12194440e-4: the first product is exact
  r = fma(n, splat(2.12194440e-4f), r);
  VecF p = splat(1.0f / 5040);
  p = fma(p, r, splat(1.0f / 720));
  p = fma(p, r, splat(1.0f / 120));
  p = fma(p, r, splat(1.0f / 24));
  p = fma(p, r, splat(1.0f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(p * r, r, r) + 1.0f;
#if defined(__AVX512F__)
  return _mm512_maskz_scalef_ps(0xffff, p, n);
#else
  const IntF k = reinterpret_cast<IntF>(shifted) - 0x4B400000;
  const IntF half = k >> 1;
  return p * reinterpret_cast<VecF>((half + 127) << 23) * reinterpret_cast<VecF>((k - half + 127) << 23);
#endif
}
ATOLL_INLINE VecD exp(VecD x) {  // libm's: FP64 is the mode in which layouts are proven equal
  VecD y;
  for (int i = 0; i < kWidth<double>; ++i) y[i] = __builtin_exp(x[i]);
  return y;
}

}  // namespace atoll::cpu::ATOLL_ISA
