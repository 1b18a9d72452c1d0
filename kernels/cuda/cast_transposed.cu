// x^T in tiles of 128 tokens of one channel, for weight gradients; and, in the same pass, x in 1x128 tiles. One CTA a 128 x 128 square, which it reads once.
// Roofline: memory; 2 (BF16) + 1 or 2 bytes a value; at 3.35 TB/s 4096 x 7168 take 35 us with both orientations.
#include "kernels/cuda/ops.h"
#include "kernels/cuda/sixteen.h"

namespace atoll::cuda {
namespace {

constexpr int kThreads = 256, kMostGroups = 256;

struct Groups {
  int num = 0;
  int offsets[kMostGroups + 1];
};
template <class In>
constexpr int kPitch = kQuantTile + 16 / static_cast<int>(sizeof(In));
template <class In>
constexpr int kSharedBytes = kQuantTile * kPitch<In> * static_cast<int>(sizeof(In));

__device__ inline float to_float(bf16 x) { return static_cast<float>(x); }
__device__ inline float to_float(float x) { return x; }

template <class In>
__global__ void __launch_bounds__(kThreads)
    cast_transposed_kernel(const In* x, int64_t x_stride, int columns, const __grid_constant__ Groups groups, int64_t yt_column0, QOut y, QOut yt) {
  extern __shared__ __align__(16) uint8_t raw[];
  __shared__ float half_amax[2][kQuantTile];
  In* square = reinterpret_cast<In*>(raw);
  // ---- which tokens: the tile of a group that this CTA has
  int tile = static_cast<int>(blockIdx.y), g = 0;
  for (int tiles; tile >= (tiles = (groups.offsets[g + 1] - groups.offsets[g] + kQuantTile - 1) / kQuantTile); ++g) tile -= tiles;
  const int token0 = groups.offsets[g] + tile * kQuantTile, tokens = min(kQuantTile, groups.offsets[g + 1] - token0);
  const int column0 = static_cast<int>(blockIdx.x) * kQuantTile;

  // ---- rows: load, cast in 1x128 tiles, keep in shared memory
  const int r = static_cast<int>(threadIdx.x) / 8, c = static_cast<int>(threadIdx.x) % 8 * 16;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = r + 32 * i;
    const bool is_inside = row < tokens && column0 + c < columns;
    const Sixteen v = is_inside ? load16(x + (token0 + row) * x_stride + column0 + c) : zeros16();
    store16(square + row * kPitch<In> + c, v);
    if (!y.codes) continue;
    const float amax = max_over<8>(amax16(v));
    if (is_inside) *reinterpret_cast<uint4*>(y.codes + (token0 + row) * y.stride + column0 + c) = cast16(v, y.multiplier(amax));
    if (row < tokens && c == 0) y.put_scale(token0 + row, blockIdx.x, amax);
  }
  __syncthreads();

  // ---- columns: two threads a channel, 64 tokens each
  const int k = static_cast<int>(threadIdx.x) % kQuantTile, half = static_cast<int>(threadIdx.x) / kQuantTile;
  const In* column = square + half * 64 * kPitch<In> + k;
  float amax = 0;
#pragma unroll 16
  for (int i = 0; i < 64; ++i) amax = amax_step(amax, to_float(column[i * kPitch<In>]));
  half_amax[half][k] = amax;
  __syncthreads();
  amax = fmaxf(half_amax[0][k], half_amax[1][k]);
  if (column0 + k >= columns) return;
  const float multiplier = yt.multiplier(amax);
  const int64_t yt_column = yt_column0 + int64_t{blockIdx.y} * kQuantTile;
  if (half == 0) yt.put_scale(column0 + k, yt_column / kQuantTile, amax);
  uint8_t* to = yt.codes + (column0 + k) * yt.stride + yt_column + half * 64;
#pragma unroll
  for (int i = 0; i < 64; i += 16) {
    Sixteen v;
#pragma unroll
    for (int j = 0; j < 16; ++j) v.v[j] = to_float(column[(i + j) * kPitch<In>]);
    *reinterpret_cast<uint4*>(to + i) = cast16(v, multiplier);
  }
}

template <class In>
void launch(Context& ctx, const CastTransposed& op) {
  const auto num_groups = static_cast<int64_t>(op.offsets.size()) - 1;
  int64_t column = 0;
  check(cudaFuncSetAttribute(cast_transposed_kernel<In>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes<In>), "cast_transposed");
  for (int64_t first = 0; first < num_groups; first += kMostGroups) {
    Groups groups;
    groups.num = static_cast<int>(std::min<int64_t>(kMostGroups, num_groups - first));
    int64_t tiles = 0;
    for (int g = 0; g <= groups.num; ++g) {
      groups.offsets[g] = static_cast<int>(op.offsets[static_cast<size_t>(first + g)]);
      if (g > 0) tiles += blocks_of(groups.offsets[g] - groups.offsets[g - 1]);
    }
    if (tiles == 0) continue;
    const dim3 grid(static_cast<unsigned>(blocks_of(op.x_TK.dim[1])), static_cast<unsigned>(tiles));
    cast_transposed_kernel<<<grid, kThreads, kSharedBytes<In>, state_of(ctx).compute.get()>>>(op.x_TK.as<In>(), op.x_TK.stride[0], static_cast<int>(op.x_TK.dim[1]), groups, column,
                                                                                             op.y_TK ? QOut(op.y_TK) : QOut(), QOut(op.yt_KT));
    check_launch("cast_transposed");
    column += tiles * kQuantTile;
  }
}

}  // namespace

void cast_transposed(Context& ctx, const CastTransposed& op) {
  check_rows16("cast_transposed: x", op.x_TK);
  check_rows16("cast_transposed: yt", op.yt_KT.codes);
  if (op.y_TK) check_rows16("cast_transposed: y", op.y_TK.codes);
  if (op.x_TK.dtype == DType::kBF16) launch<bf16>(ctx, op);
  else launch<float>(ctx, op);
}

}  // namespace atoll::cuda
