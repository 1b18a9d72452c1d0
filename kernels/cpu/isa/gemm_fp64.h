// FP64 products: the mode in which layouts are proven equal. Blocks packed for a 4x16 register tile; every element is summed over k ascending.
#pragma once
#include <cstdint>

#include "kernels/cpu/isa.h"

namespace atoll::cpu {
// c[m, n] (+)= op(a) op(b). a: [m, k], or [k, m] if transpose_a; b: [k, n], or [n, k] if transpose_b. scratch: kFp64Scratch doubles.
inline constexpr int64_t kFp64KBlock = 256, kFp64NBlock = 64, kFp64Scratch = kFp64KBlock * (kFp64NBlock + 4);
struct GemmFp64 {
  const double *a, *b;
  double *c, *scratch;
  int64_t m, n, k, lda, ldb, ldc;
  bool transpose_a, transpose_b, accumulate;
};
ATOLL_DECLARE_ISA(void gemm_fp64(const GemmFp64& p))
}  // namespace atoll::cpu
