// x^T in tiles of 128 tokens of one channel, for weight gradients; and, in the same pass, x in 1x128 tiles. Or from x in 1x128 tiles that were kept, cast again.
// One CTA a 128 x 128 square, which it reads once.
// Roofline: memory; 2 (BF16) + 1 or 2 bytes a value; at 3.35 TB/s 4096 x 7168 take 35 us with both orientations, 18 us from codes.
#include <cuda_fp16.h>

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

// Where the square comes from, and what of it is kept in shared memory.
template <class In>
struct Plain {
  using Kept = In;
  const In* x;
  int64_t stride;
  __device__ Sixteen load(int64_t row, int column) const { return load16(x + row * stride + column); }
};
struct Codes {
  using Kept = float;
  const uint8_t* codes;
  const void* scales;
  int64_t stride, rows, blocks;
  bool is_byte, is_mn_major;
  __device__ Sixteen load(int64_t row, int column) const {
    const int64_t block = column / kQuantTile, i = is_mn_major ? block * padded_scale_rows(rows) + row : row * blocks + block;
    const float scale = is_byte ? decode_ue8m0(static_cast<const uint8_t*>(scales)[i]) : static_cast<const float*>(scales)[i];
    const uint4 u = ptx::load_once(codes + row * stride + column);
    const uint32_t word[4] = {u.x, u.y, u.z, u.w};
    Sixteen x;
#pragma unroll
    for (int j = 0; j < 16; j += 2) {
      const uint32_t two = word[j / 4] >> (j % 4 * 8) & 0xffffu, halves = ptx::cvt_f16x2(two);
      const float2 pair = __half22float2(reinterpret_cast<const __half2&>(halves));
      x.v[j] = with_sign_of(pair.x * scale, static_cast<uint8_t>(two));
      x.v[j + 1] = with_sign_of(pair.y * scale, static_cast<uint8_t>(two >> 8));
    }
    return x;
  }
};

template <class Source>
__global__ void __launch_bounds__(kThreads)
    cast_transposed_kernel(const Source x, int columns, const __grid_constant__ Groups groups, int64_t yt_column0, QOut y, QOut yt) {
  using In = typename Source::Kept;
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
    const Sixteen v = is_inside ? x.load(token0 + row, column0 + c) : zeros16();
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

template <class Source>
void launch(Context& ctx, const Source& x, int64_t columns, std::span<const int64_t> offsets, const QOut& y, const QTensor& yt) {
  const auto num_groups = static_cast<int64_t>(offsets.size()) - 1;
  constexpr int kBytes = kSharedBytes<typename Source::Kept>;
  int64_t column = 0;
  check_rows16("transposed codes", yt.codes);
  check(cudaFuncSetAttribute(cast_transposed_kernel<Source>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes), "cast_transposed");
  for (int64_t first = 0; first < num_groups; first += kMostGroups) {
    Groups groups;
    groups.num = static_cast<int>(std::min<int64_t>(kMostGroups, num_groups - first));
    int64_t tiles = 0;
    for (int g = 0; g <= groups.num; ++g) {
      groups.offsets[g] = static_cast<int>(offsets[static_cast<size_t>(first + g)]);
      if (g > 0) tiles += blocks_of(groups.offsets[g] - groups.offsets[g - 1]);
    }
    if (tiles == 0) continue;
    const dim3 grid(static_cast<unsigned>(blocks_of(columns)), static_cast<unsigned>(tiles));
    cast_transposed_kernel<<<grid, kThreads, kBytes, state_of(ctx).compute.get()>>>(x, static_cast<int>(columns), groups, column, y, QOut(yt));
    check_launch("cast_transposed");
    column += tiles * kQuantTile;
  }
}

}  // namespace

void cast_transposed(Context& ctx, const CastTransposed& op) {
  const Tensor& x = op.x_TK;
  check_rows16("cast_transposed: x", x);
  if (op.y_TK) check_rows16("cast_transposed: y", op.y_TK.codes);
  const QOut y = op.y_TK ? QOut(op.y_TK) : QOut();
  if (x.dtype == DType::kBF16) launch(ctx, Plain<bf16>{x.as<bf16>(), x.stride[0]}, x.dim[1], op.offsets, y, op.yt_KT);
  else launch(ctx, Plain<float>{x.as<float>(), x.stride[0]}, x.dim[1], op.offsets, y, op.yt_KT);
}

void recast_transposed(Context& ctx, const RecastTransposed& op) {
  const QTensor& x = op.x_TK;
  check_rows16("recast_transposed: x", x.codes);
  const Codes codes{x.codes.as<uint8_t>(), x.scales.data, x.codes.stride[0], x.rows(), blocks_of(x.cols()), x.format == ScaleFormat::kUE8M0, x.layout == ScaleLayout::kMnMajor};
  launch(ctx, codes, x.cols(), op.offsets, QOut(), op.yt_KT);
}

}  // namespace atoll::cuda
