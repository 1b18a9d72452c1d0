// The yardstick of BF16 runs: the FP64 path with each op's storage-typed outputs rounded to BF16 values (and so the next op's inputs). Off unless ctx.round_outputs_to_bf16.
#pragma once
#include <initializer_list>

#include "kernels/base/context.h"

namespace atoll {

void round_to_bf16(const Tensor& t);  // FP64 values in place; rows may be strided
inline void round_outputs(const Context& ctx, std::initializer_list<Tensor> outputs) {
  if (!ctx.round_outputs_to_bf16) return;
  for (const Tensor& t : outputs)
    if (t && t.dtype == DType::kF64) round_to_bf16(t);
}

}  // namespace atoll
