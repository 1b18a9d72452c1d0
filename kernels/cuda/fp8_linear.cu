// FP8 GEMM, NT: y = x w^T with 1x128 scales of x and 128x128 scales of w, FP32 promotion every 128 of K; dense, or grouped over experts' rows.
// Roofline (H100: 1979 TFLOP/s FP8, 3.35 TB/s): 2MNK FLOP against MK + NK + 2MN bytes; from about M = 600 on, for V3's shapes, the tensor cores are the bound.
#include <array>

#include "kernels/cuda/gemm_launch.h"
#include "kernels/cuda/ops.h"

namespace atoll::cuda {
namespace {
using Traits = GemmTraits<true, false, false, Scales::kTilesByBlocks, GroupedBy::kRows, false>;
}

void fp8_linear(Context& ctx, const Fp8Linear& op) {
  const int64_t T = op.x_TK.rows(), K = op.x_TK.cols(), N = op.y_TN.dim[1];
  const std::array<int64_t, 2> one_group{0, T};
  const std::span<const int64_t> offsets = op.offsets.empty() ? std::span<const int64_t>(one_group) : op.offsets;
  const auto num_groups = static_cast<int64_t>(offsets.size()) - 1;
  GemmMaps<1> maps{};
  maps.a[0] = operand_map(ctx, "fp8_linear: x", op.x_TK.codes.data, true, T, K, op.x_TK.codes.stride[0], 1);
  maps.a_scales = scale_map(ctx, "fp8_linear: scales of x", op.x_TK.scales.data, T, blocks_of(K));
  for (int64_t first = 0; first < num_groups; first += kMostRowGroups) {
    GemmArgs args;
    args.num_groups = static_cast<int>(std::min<int64_t>(kMostRowGroups, num_groups - first));
    for (int g = 0; g <= args.num_groups; ++g) args.offsets[g] = static_cast<int>(offsets[static_cast<size_t>(first + g)]);
    args.n = static_cast<int>(N);
    args.k = static_cast<int>(K);
    args.c = op.y_TN.data;
    args.c_stride = op.y_TN.stride[0];
    args.c_is_fp32 = op.y_TN.dtype == DType::kF32;
    args.b_scale_rows = static_cast<int>(blocks_of(N));
    args.b_scale_stride = static_cast<int>(blocks_of(K));
    args.b_scales = op.w_NK.scales.as<float>() + first * blocks_of(N) * blocks_of(K);
    const int64_t w_stride = op.w_NK.codes.stride[0];
    maps.b[0] = operand_map(ctx, "fp8_linear: w", op.w_NK.codes.as<uint8_t>() + first * N * w_stride, true, N, K, w_stride, args.num_groups);
    launch_gemm<Traits>(ctx, "fp8_linear", args, maps);
  }
}

}  // namespace atoll::cuda
