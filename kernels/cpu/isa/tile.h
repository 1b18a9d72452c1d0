// Small dense products for attention: C (+)= A B out of registers. A is read one element at a time (broadcast), B and C by rows of whole vectors.
#pragma once
#include "kernels/cpu/isa/vector.h"

namespace atoll::cpu::ATOLL_ISA {

#if defined(__AVX512F__)
#define ATOLL_TILE_ROWS 8  // 8 x 3 accumulators of 32 registers
#else
#define ATOLL_TILE_ROWS 4  // 4 x 3 of 16
#endif

// MR rows, NR vectors of columns. kByColumn: A's rows lie side by side (element (i, k) at a[k * lda + i]), else a[i * lda + k].
template <class A, int MR, int NR, bool kByColumn>
ATOLL_INLINE void tile(int64_t K, const A* a, int64_t lda, const A* b, int64_t ldb, A* c, int64_t ldc, bool accumulate) {
  typedef typename VecOf<A>::type V;
  constexpr int W = kWidth<A>;
  V acc[MR][NR];
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) acc[i][j] = accumulate ? load(c + i * ldc + j * W) : V{};
  for (int64_t k = 0; k < K; ++k) {
    V row[NR];
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) row[j] = load(b + k * ldb + j * W);
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
      const V x = splat(kByColumn ? a[k * lda + i] : a[i * lda + k]);
#pragma GCC unroll 4
      for (int j = 0; j < NR; ++j) acc[i][j] = fma(x, row[j], acc[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NR; ++j) store(c + i * ldc + j * W, acc[i][j]);
}

template <class A, int NR, bool kByColumn>
static void panel(int64_t M, int64_t K, const A* a, int64_t lda, const A* b, int64_t ldb, A* c, int64_t ldc, bool accumulate) {
  const int64_t step = kByColumn ? 1 : lda;
  int64_t i = 0;
  for (; i + ATOLL_TILE_ROWS <= M; i += ATOLL_TILE_ROWS) tile<A, ATOLL_TILE_ROWS, NR, kByColumn>(K, a + i * step, lda, b, ldb, c + i * ldc, ldc, accumulate);
#if ATOLL_TILE_ROWS == 8
  if (i + 4 <= M) {
    tile<A, 4, NR, kByColumn>(K, a + i * step, lda, b, ldb, c + i * ldc, ldc, accumulate);
    i += 4;
  }
#endif
  for (; i < M; ++i) tile<A, 1, NR, kByColumn>(K, a + i * step, lda, b, ldb, c + i * ldc, ldc, accumulate);
}

// M x N x K; N elements are rounded up to whole vectors (B and C have them).
template <class A, bool kByColumn>
static void multiply(int64_t M, int64_t N, int64_t K, const A* a, int64_t lda, const A* b, int64_t ldb, A* c, int64_t ldc, bool accumulate) {
  constexpr int W = kWidth<A>;
  int64_t left = (N + W - 1) / W;
  while (left > 0) {
    const int64_t take = left == 4 ? 2 : left >= 3 ? 3 : left;
    if (take == 3) panel<A, 3, kByColumn>(M, K, a, lda, b, ldb, c, ldc, accumulate);
    else if (take == 2) panel<A, 2, kByColumn>(M, K, a, lda, b, ldb, c, ldc, accumulate);
    else panel<A, 1, kByColumn>(M, K, a, lda, b, ldb, c, ldc, accumulate);
    b += take * W;
    c += take * W;
    left -= take;
  }
}

// dst[d][i] = src[i][d] for rows i < n (the others, up to 64, are zeroed) and columns d < D; dst rows have 64 elements. src rows: ld elements.
template <class A>
static void transpose_block(const A* src, int64_t ld, int64_t n, int64_t D, A* dst) {
  int64_t i = 0;
  if constexpr (sizeof(A) == 4) {
    for (; i + 4 <= n; i += 4) {
      int64_t d = 0;
      for (; d + 4 <= D; d += 4) {
        __m128 r0 = _mm_loadu_ps(src + i * ld + d), r1 = _mm_loadu_ps(src + (i + 1) * ld + d), r2 = _mm_loadu_ps(src + (i + 2) * ld + d), r3 = _mm_loadu_ps(src + (i + 3) * ld + d);
        _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
        _mm_storeu_ps(dst + d * 64 + i, r0);
        _mm_storeu_ps(dst + (d + 1) * 64 + i, r1);
        _mm_storeu_ps(dst + (d + 2) * 64 + i, r2);
        _mm_storeu_ps(dst + (d + 3) * 64 + i, r3);
      }
      for (; d < D; ++d)
        for (int64_t j = i; j < i + 4; ++j) dst[d * 64 + j] = src[j * ld + d];
    }
  }
  for (; i < n; ++i)
    for (int64_t d = 0; d < D; ++d) dst[d * 64 + i] = src[i * ld + d];
  for (int64_t d = 0; d < D && n < 64; ++d)
    for (int64_t j = n; j < 64; ++j) dst[d * 64 + j] = 0;
}

}  // namespace atoll::cpu::ATOLL_ISA
