// RMSNorm on the CPU: what kernels/norm.cpp calls, and the row loops built for each instruction set.
#pragma once
#include "kernels/cpu/isa.h"
#include "kernels/cpu/rows.h"

namespace atoll {
struct RmsNorm;
struct RmsNormBackward;
}

namespace atoll::cpu {

void rms_norm(Context& ctx, const RmsNorm& op);
void rms_norm_backward(Context& ctx, const RmsNormBackward& op);

struct RmsNormRows {
  DType dtype;
  int64_t D;
  Rows x, residual, h, y;  // residual.data null: h = x
  const void* gain;
  void* rstd;
  double eps;
};
struct RmsNormBackwardRows {
  DType dtype;
  int64_t D;
  Rows dy, h, add, dx;  // add.data may be null
  const void *gain, *rstd;
};
// Rows [begin, end). dgain: this block's own sum (acc, D elements, overwritten) or null.
ATOLL_DECLARE_ISA(void rms_norm_rows(const RmsNormRows& a, int64_t begin, int64_t end))
ATOLL_DECLARE_ISA(void rms_norm_backward_rows(const RmsNormBackwardRows& a, int64_t begin, int64_t end, void* dgain))
// dgain[c] += sum of partial[b][c], blocks ascending, for columns [begin, end).
ATOLL_DECLARE_ISA(void add_blocks(DType acc, const void* partial, int64_t num_blocks, int64_t D, void* dgain, int64_t begin, int64_t end))

}  // namespace atoll::cpu
