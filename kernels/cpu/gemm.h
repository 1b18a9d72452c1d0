// Matrix products of the CPU back end: c (+)= op(a) op(b), in FP64 (own loops), FP32 or BF16 (oneDNN). Policy: a product is cut into tiles whose shape depends
// on the problem alone; each tile is computed by one thread with its whole contraction, so bits do not depend on the thread count.
// Contractions of transposed a (weight gradients) are summed in blocks of kRowBlock rows from the first: cutting a problem at a multiple of it keeps the bits.
#pragma once
#include <span>

#include "kernels/base/context.h"
#include "kernels/base/tensor.h"

namespace atoll::cpu {

inline constexpr int64_t kRowBlock = 1024;

// a is stored [M, K], or [K, M] if transpose_a; b is [K, N], or [N, K] if transpose_b. Rows may be strided. a and b: one storage type; c: it or its acc type.
// transpose_a and transpose_b together are not needed by any op and not supported. is_grouped: one of many, so it needs not be cut for parallelism.
struct Gemm {
  Tensor a, b, c;
  bool transpose_a = false, transpose_b = false, accumulate = false, is_grouped = false;
};

// Independent problems of one call; their outputs do not overlap. M, N or K may be 0 (K == 0 without accumulate zeroes c).
void gemm(Context& ctx, std::span<const Gemm> problems);
inline void gemm(Context& ctx, const Gemm& problem) { gemm(ctx, {&problem, 1}); }
// A grouped product whose number of rows (m, or k if transpose_a) will vary: what settle_grouped() makes primitives for and takes the most scratch of.
void note_grouped(Context& ctx, const Gemm& example);
void settle_grouped(Context& ctx, int64_t most_rows);

// GFLOP/s of the best of `repeats` of an n^3 product x w^T with this context's threads and BF16 mode.
double measure_gemm(Context& ctx, DType dtype, int64_t n, int repeats);
bool has_native_bf16_gemm();  // oneDNN has vector code for BF16 here (AVX-512); without, its reference loops would run

}  // namespace atoll::cpu
