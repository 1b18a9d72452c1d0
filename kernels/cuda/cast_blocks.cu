// Cast to E4M3 in 128x128 blocks, and the same codes transposed (dgrad reads w^T): one CTA a block, 64 values a thread in registers, so w is read once.
// Roofline: memory; 2 (BF16) + 1 or 2 bytes a value; at 3.35 TB/s 7168 x 4096 take 26 us, with the transpose 35 us.
#include "kernels/cuda/ops.h"
#include "kernels/cuda/sixteen.h"

namespace atoll::cuda {
namespace {

constexpr int kThreads = 256, kPitch = kQuantTile + 16;

template <class In>
__global__ void __launch_bounds__(kThreads) cast_blocks_kernel(const In* w, int64_t w_stride, int rows, int columns, QOut y, QOut yt) {
  __shared__ float warp_amax[kThreads / 32];
  __shared__ __align__(16) uint8_t tile[kQuantTile * kPitch];
  const int row0 = static_cast<int>(blockIdx.y) * kQuantTile, column0 = static_cast<int>(blockIdx.x) * kQuantTile;
  const int r = static_cast<int>(threadIdx.x) / 8, c = static_cast<int>(threadIdx.x) % 8 * 16;

  Sixteen v[4];
  float amax = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = row0 + r + 32 * i;
    v[i] = row < rows && column0 + c < columns ? load16(w + row * w_stride + column0 + c) : zeros16();
    amax = fmaxf(amax, amax16(v[i]));
  }
  amax = max_over<32>(amax);
  if (threadIdx.x % 32 == 0) warp_amax[threadIdx.x / 32] = amax;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) amax = fmaxf(amax, warp_amax[i]);

  const float multiplier = y.multiplier(amax);
  if (threadIdx.x == 0) {
    y.put_scale(row0, blockIdx.x, amax);
    if (yt.codes) yt.put_scale(column0, blockIdx.y, amax);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = row0 + r + 32 * i;
    const uint4 codes = cast16(v[i], multiplier);
    if (row < rows && column0 + c < columns) *reinterpret_cast<uint4*>(y.codes + row * y.stride + column0 + c) = codes;
    if (yt.codes) *reinterpret_cast<uint4*>(tile + (r + 32 * i) * kPitch + c) = codes;
  }
  if (!yt.codes) return;
  __syncthreads();
  const int k = static_cast<int>(threadIdx.x) % kQuantTile, n0 = static_cast<int>(threadIdx.x) / kQuantTile * 64;
  if (column0 + k >= columns) return;
#pragma unroll
  for (int n = n0; n < n0 + 64; n += 16) {
    uint32_t word[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint8_t* from = tile + (n + 4 * i) * kPitch + k;
      word[i] = uint32_t{from[0]} | uint32_t{from[kPitch]} << 8 | uint32_t{from[2 * kPitch]} << 16 | uint32_t{from[3 * kPitch]} << 24;
    }
    if (row0 + n < rows) *reinterpret_cast<uint4*>(yt.codes + (column0 + k) * yt.stride + row0 + n) = make_uint4(word[0], word[1], word[2], word[3]);
  }
}

}  // namespace

void cast_blocks(Context& ctx, const CastBlocks& op) {
  check_rows16("cast_blocks: w", op.w_NK);
  check_rows16("cast_blocks: y", op.y_NK.codes);
  if (op.yt_KN) check_rows16("cast_blocks: yt", op.yt_KN.codes);
  const int rows = static_cast<int>(op.w_NK.dim[0]), columns = static_cast<int>(op.w_NK.dim[1]);
  const dim3 grid(static_cast<unsigned>(blocks_of(columns)), static_cast<unsigned>(blocks_of(rows)));
  cudaStream_t stream = state_of(ctx).compute.get();
  const QOut y(op.y_NK), yt = op.yt_KN ? QOut(op.yt_KN) : QOut();
  if (op.w_NK.dtype == DType::kBF16) cast_blocks_kernel<<<grid, kThreads, 0, stream>>>(op.w_NK.as<bf16>(), op.w_NK.stride[0], rows, columns, y, yt);
  else cast_blocks_kernel<<<grid, kThreads, 0, stream>>>(op.w_NK.as<float>(), op.w_NK.stride[0], rows, columns, y, yt);
  check_launch("cast_blocks");
}

}  // namespace atoll::cuda
