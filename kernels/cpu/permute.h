// Movement of whole rows on the CPU: permutation and embedding. Gathers are copies; sums are built for each instruction set.
#pragma once
#include "kernels/cpu/isa.h"

namespace atoll {
struct Permute;
struct Unpermute;
}

namespace atoll::cpu {

void permute(Context& ctx, const Permute& op);
void unpermute(Context& ctx, const Unpermute& op);
// y[r] = x[index[r]], rows of `bytes` bytes; on threads.
void gather_rows(Context& ctx, const void* x, const int32_t* index, int64_t num_rows, int64_t bytes, void* y);

struct UnpermuteRows {
  DType dtype;
  int64_t D, K;
  const void* y;
  const int32_t* row_of;
  const void* add;  // null: 0
  void* out;
};
ATOLL_DECLARE_ISA(void unpermute_rows(const UnpermuteRows& a, int64_t begin, int64_t end))

}  // namespace atoll::cpu
