// The three BF16 products as gemm.cu hands them to their kernels. Row offsets as in GroupedLinear; a dense product has one group.
#pragma once
#include <span>

#include "kernels/base/context.h"
#include "kernels/base/tensor.h"

namespace atoll::cuda {

struct Bf16Product { Tensor a, b_GRC, c; std::span<const int64_t> offsets; bool accumulate = false; };  // rows of a and c are grouped; b: one matrix a group
void bf16_linear(Context& ctx, const Bf16Product& p);                // c = a b^T, b [G, N, K]
void bf16_backward_input(Context& ctx, const Bf16Product& p);        // c = a b, b [G, K, N]
struct Bf16WeightGradient { Tensor a_TM, b_TN, c_GMN; std::span<const int64_t> offsets; bool accumulate = true; };
void bf16_weight_gradient(Context& ctx, const Bf16WeightGradient& p);  // c_g (+)= a_g^T b_g, FP32

}  // namespace atoll::cuda
