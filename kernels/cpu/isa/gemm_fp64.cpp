// FP64 products by packed panels and a register tile. Policy: every element is summed over k ascending, one product at a time, whatever the tile: layouts are proven
// equal in these numbers. No std container here: the source is built once for each instruction set.
#include "kernels/cpu/isa/gemm_fp64.h"

namespace atoll::cpu::ATOLL_ISA {
namespace {

constexpr int64_t kMr = 4, kNr = 16;

// packed_b[strip][k][kNr] of columns [n0, n0+nb), rows [k0, k0+kb); zeros beyond the edge.
void pack_b(const GemmFp64& p, int64_t k0, int64_t kb, int64_t n0, int64_t nb, double* packed) {
  for (int64_t j0 = 0; j0 < nb; j0 += kNr)
    for (int64_t k = 0; k < kb; ++k)
      for (int64_t j = 0; j < kNr; ++j)
        *packed++ = j0 + j < nb ? (p.transpose_b ? p.b[(n0 + j0 + j) * p.ldb + k0 + k] : p.b[(k0 + k) * p.ldb + n0 + j0 + j]) : 0.0;
}

void pack_a(const GemmFp64& p, int64_t k0, int64_t kb, int64_t m0, int64_t mb, double* packed) {
  for (int64_t k = 0; k < kb; ++k)
    for (int64_t i = 0; i < kMr; ++i) *packed++ = i < mb ? (p.transpose_a ? p.a[(k0 + k) * p.lda + m0 + i] : p.a[(m0 + i) * p.lda + k0 + k]) : 0.0;
}

void tile(const double* __restrict a, const double* __restrict b, int64_t kb, double* c, int64_t ldc, int64_t mb, int64_t nb, bool overwrite) {
  double sum[kMr][kNr] = {};
  if (!overwrite)
    for (int64_t i = 0; i < mb; ++i)
      for (int64_t j = 0; j < nb; ++j) sum[i][j] = c[i * ldc + j];
  for (int64_t k = 0; k < kb; ++k)
    for (int64_t i = 0; i < kMr; ++i)
      for (int64_t j = 0; j < kNr; ++j) sum[i][j] += a[k * kMr + i] * b[k * kNr + j];
  for (int64_t i = 0; i < mb; ++i)
    for (int64_t j = 0; j < nb; ++j) c[i * ldc + j] = sum[i][j];
}

}  // namespace

void gemm_fp64(const GemmFp64& p) {
  double* packed_b = p.scratch;
  double* packed_a = p.scratch + kFp64KBlock * kFp64NBlock;
  for (int64_t k0 = 0; k0 < p.k; k0 += kFp64KBlock) {
    const int64_t kb = p.k - k0 < kFp64KBlock ? p.k - k0 : kFp64KBlock;
    for (int64_t n0 = 0; n0 < p.n; n0 += kFp64NBlock) {
      const int64_t nb = p.n - n0 < kFp64NBlock ? p.n - n0 : kFp64NBlock;
      pack_b(p, k0, kb, n0, nb, packed_b);
      for (int64_t m0 = 0; m0 < p.m; m0 += kMr) {
        const int64_t mb = p.m - m0 < kMr ? p.m - m0 : kMr;
        pack_a(p, k0, kb, m0, mb, packed_a);
        for (int64_t j0 = 0; j0 < nb; j0 += kNr)
          tile(packed_a, packed_b + j0 * kb, kb, p.c + m0 * p.ldc + n0 + j0, p.ldc, mb, nb - j0 < kNr ? nb - j0 : kNr, k0 == 0 && !p.accumulate);
      }
    }
  }
}

}  // namespace atoll::cpu::ATOLL_ISA
