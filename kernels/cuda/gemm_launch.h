// Host side of every GEMM: the maps of its operands and the persistent, clustered launch. Policy: one wave; the grid is what the SM budget and the tiles allow.
#pragma once
#include <algorithm>

#include "kernels/base/qtensor.h"
#include "kernels/cuda/gemm_kernel.h"
#include "kernels/cuda/state.h"

namespace atoll::cuda {

// An operand of `groups` matrices one under another. K-major: rows of K elements; MN-major (BF16): rows of K, elements along m or n. A box is 64 rows (or columns) x 128 bytes.
inline CUtensorMap operand_map(Context& ctx, const char* what, void* data, bool is_fp8, int64_t rows, int64_t columns, int64_t row_stride, int64_t groups, int64_t group_stride = 0) {
  const int64_t size = is_fp8 ? 1 : 2;
  if (group_stride == 0) group_stride = rows * row_stride;
  return make_map(ctx, what, data, is_fp8 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, CU_TENSOR_MAP_SWIZZLE_128B,
                  {3, {columns, rows, groups}, {row_stride * size, group_stride * size}, {static_cast<int>(128 / size), 64, 1}});
}
// MN-major FP32 scales of an operand: [blocks, rows], rows padded in memory.
inline CUtensorMap scale_map(Context& ctx, const char* what, void* data, int64_t rows, int64_t blocks) {
  return make_map(ctx, what, data, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, CU_TENSOR_MAP_SWIZZLE_NONE, {2, {rows, blocks}, {padded_scale_rows(rows) * 4}, {kTile, 1}});
}

// The results of a weight gradient: FP32 matrices c_GMN[first], c_GMN[first + 1], ...
inline void write_groups(GemmArgs& args, const Tensor& c_GMN, int64_t first, bool accumulate) {
  args.m = static_cast<int>(c_GMN.dim[1]);
  args.n = static_cast<int>(c_GMN.dim[2]);
  args.c = c_GMN.as<float>() + first * c_GMN.stride[0];
  args.c_stride = c_GMN.stride[1];
  args.c_group_stride = c_GMN.stride[0];
  args.c_is_fp32 = true;
  args.accumulate = accumulate;
}

inline int64_t tiles_of(const GemmArgs& args, GroupedBy grouping, int cluster) {
  int64_t tiles = 0;
  for (int g = 0; g < args.num_groups; ++g) {
    const int64_t rows = grouping == GroupedBy::kRows ? args.offsets[g + 1] - args.offsets[g] : args.m, span = int64_t{kTile} * cluster;
    tiles += (rows + span - 1) / span * ((args.n + kTile - 1) / kTile);
  }
  return tiles;
}

template <class Traits>
void launch_gemm(Context& ctx, const char* what, const GemmArgs& args, const GemmMaps<Traits::kMaps>& maps) {
  CudaState& state = state_of(ctx);
  int64_t rows = args.m;
  for (int g = 0; Traits::kGroups == GroupedBy::kRows && g < args.num_groups; ++g) rows = std::max<int64_t>(g == 0 ? 0 : rows, args.offsets[g + 1] - args.offsets[g]);
  const int cluster = rows > kTile && state.num_sms >= 2 ? 2 : 1;
  const int64_t clusters = std::min<int64_t>(tiles_of(args, Traits::kGroups, cluster), state.num_sms / cluster);
  if (clusters == 0) return;
  check(cudaFuncSetAttribute(gemm_kernel<Traits>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(GemmShared)), what);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(cluster);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(clusters * cluster));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = sizeof(GemmShared);
  config.stream = state.compute.get();
  config.attrs = &attribute;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, gemm_kernel<Traits>, args, maps), what);
}

}  // namespace atoll::cuda
