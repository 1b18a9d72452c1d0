// BF16 weight gradients: dw_e (+)= dy_e^T x_e over the tokens of each expert, added into FP32. Both operands lie token by token: wgmma transposes both.
// A group ends between two stages, so each has maps of its own, whose bounds make the rows past its end zeros; eight groups a launch.
// Roofline (H100): 2NKT FLOP against 2(N + K)T + 8NK bytes: at 4096 tokens the read-modify-write of dw is a sixth of the tensor cores' time.
#include <algorithm>

#include "kernels/cuda/bf16_products.h"
#include "kernels/cuda/gemm_launch.h"

namespace atoll::cuda {

using Traits = GemmTraits<false, true, true, Scales::kNone, GroupedBy::kDepth, true>;

void bf16_weight_gradient(Context& ctx, const Bf16WeightGradient& p) {
  const auto num_groups = static_cast<int64_t>(p.offsets.size()) - 1;
  for (int64_t first = 0; first < num_groups; first += kMostMappedGroups) {
    GemmArgs args;
    GemmMaps<kMostMappedGroups> maps{};
    args.num_groups = static_cast<int>(std::min<int64_t>(kMostMappedGroups, num_groups - first));
    for (int g = 0; g < args.num_groups; ++g) {
      const int64_t begin = p.offsets[static_cast<size_t>(first + g)], tokens = p.offsets[static_cast<size_t>(first + g) + 1] - begin;
      args.offsets[g + 1] = args.offsets[g] + static_cast<int>(tokens);  // only differences count: coordinates begin at 0 in each map
      if (tokens == 0) continue;
      maps.a[g] = operand_map(ctx, "weight gradient: dy", p.a_TM.as<bf16>() + begin * p.a_TM.stride[0], false, tokens, p.a_TM.dim[1], p.a_TM.stride[0], 1);
      maps.b[g] = operand_map(ctx, "weight gradient: x", p.b_TN.as<bf16>() + begin * p.b_TN.stride[0], false, tokens, p.b_TN.dim[1], p.b_TN.stride[0], 1);
    }
    write_groups(args, p.c_GMN, first, p.accumulate);
    launch_gemm<Traits>(ctx, "weight gradient", args, maps);
  }
}

}  // namespace atoll::cuda
