// FP8 weight gradient: dw_e (+)= dy_e^T x_e over the tokens of each expert, both operands transposed (K-major along tokens) with scales of 128 tokens, added into FP32.
// Roofline (H100): 2NKT FLOP against NT + KT + 8NK bytes: at 4096 tokens the read-modify-write of dw is about a third of the tensor cores' time.
#include "kernels/cuda/gemm_launch.h"
#include "kernels/cuda/ops.h"

namespace atoll::cuda {
namespace {
using Traits = GemmTraits<true, false, false, Scales::kTilesByTiles, GroupedBy::kDepth, false>;
}

void fp8_weight_gradient(Context& ctx, const Fp8WeightGradient& op) {
  const auto num_groups = static_cast<int64_t>(op.offsets.size()) - 1;
  const int64_t N = op.dw_ENK.dim[1], K = op.dw_ENK.dim[2], columns = op.dy_NT.cols();
  GemmMaps<1> maps{};
  if (columns > 0) {
    maps.a[0] = operand_map(ctx, "fp8_weight_gradient: dy", op.dy_NT.codes.data, true, N, columns, op.dy_NT.codes.stride[0], 1);
    maps.b[0] = operand_map(ctx, "fp8_weight_gradient: x", op.x_KT.codes.data, true, K, columns, op.x_KT.codes.stride[0], 1);
    maps.a_scales = scale_map(ctx, "fp8_weight_gradient: scales of dy", op.dy_NT.scales.data, N, blocks_of(columns));
    maps.b_scales = scale_map(ctx, "fp8_weight_gradient: scales of x", op.x_KT.scales.data, K, blocks_of(columns));
  }
  int64_t column = 0;  // groups begin at multiples of 128 tokens
  for (int64_t first = 0; first < num_groups; first += kMostRowGroups) {
    GemmArgs args;
    args.num_groups = static_cast<int>(std::min<int64_t>(kMostRowGroups, num_groups - first));
    args.offsets[0] = static_cast<int>(column);
    for (int g = 0; g < args.num_groups; ++g) {
      const auto e = static_cast<size_t>(first + g);
      column += blocks_of(op.offsets[e + 1] - op.offsets[e]) * kQuantTile;
      args.offsets[g + 1] = static_cast<int>(column);
    }
    write_groups(args, op.dw_ENK, first, op.accumulate);
    launch_gemm<Traits>(ctx, "fp8_weight_gradient", args, maps);
  }
}

}  // namespace atoll::cuda
