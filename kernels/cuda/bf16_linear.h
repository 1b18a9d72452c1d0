// What the two BF16 products with grouped rows share: c (+)= a b^T with b either [N, K] (forward) or [K, N] (input gradients) of each expert.
#pragma once
#include <algorithm>

#include "kernels/cuda/gemm_launch.h"
#include "kernels/cuda/bf16_products.h"

namespace atoll::cuda {

template <class Traits>
void bf16_product(Context& ctx, const char* what, const Bf16Product& p) {
  const auto num_groups = static_cast<int64_t>(p.offsets.size()) - 1;
  GemmMaps<1> maps{};
  maps.a[0] = operand_map(ctx, what, p.a.data, false, p.a.dim[0], p.a.dim[1], p.a.stride[0], 1);
  for (int64_t first = 0; first < num_groups; first += kMostRowGroups) {
    GemmArgs args;
    args.num_groups = static_cast<int>(std::min<int64_t>(kMostRowGroups, num_groups - first));
    for (int g = 0; g <= args.num_groups; ++g) args.offsets[g] = static_cast<int>(p.offsets[static_cast<size_t>(first + g)]);
    args.n = static_cast<int>(p.c.dim[1]);
    args.k = static_cast<int>(p.a.dim[1]);
    args.c = p.c.data;
    args.c_stride = p.c.stride[0];
    args.c_is_fp32 = p.c.dtype == DType::kF32;
    args.accumulate = p.accumulate;
    maps.b[0] = operand_map(ctx, what, p.b_GRC.as<bf16>() + first * p.b_GRC.stride[0], false, p.b_GRC.dim[1], p.b_GRC.dim[2], p.b_GRC.stride[1], args.num_groups, p.b_GRC.stride[0]);
    launch_gemm<Traits>(ctx, what, args, maps);
  }
}

}  // namespace atoll::cuda
