// Cast to E4M3 in 1x128 tiles: eight lanes a tile, sixteen values a lane. One pass.
// Roofline: memory; 2 (BF16) + 1 bytes a value + 4/128; at 3.35 TB/s 4096 x 7168 take 26 us.
#include "kernels/cuda/ops.h"
#include "kernels/cuda/sixteen.h"

namespace atoll::cuda {
namespace {

constexpr int kThreads = 256, kTilesPerCta = kThreads / 8;

template <class In>
__global__ void __launch_bounds__(kThreads) cast_tiles_kernel(const In* x, int64_t x_stride, int columns, int64_t num_tiles, QOut y) {
  const int64_t tile = int64_t{blockIdx.x} * kTilesPerCta + threadIdx.x / 8;
  const int64_t row = tile / y.blocks, block = tile % y.blocks;
  const int column = static_cast<int>(block) * kQuantTile + static_cast<int>(threadIdx.x % 8) * 16;
  const bool is_inside = tile < num_tiles && column < columns;
  const Sixteen v = is_inside ? load16(x + row * x_stride + column) : zeros16();
  const float amax = max_over<8>(amax16(v));
  if (is_inside) *reinterpret_cast<uint4*>(y.codes + row * y.stride + column) = cast16(v, y.multiplier(amax));
  if (tile < num_tiles && threadIdx.x % 8 == 0) y.put_scale(row, block, amax);
}

}  // namespace

void cast_tiles(Context& ctx, const CastTiles& op) {
  check_rows16("cast_tiles: x", op.x_TK);
  check_rows16("cast_tiles: y", op.y_TK.codes);
  const QOut y(op.y_TK);
  const int columns = static_cast<int>(op.x_TK.dim[1]);
  const int64_t num_tiles = y.rows * y.blocks;
  const auto grid = static_cast<unsigned>((num_tiles + kTilesPerCta - 1) / kTilesPerCta);
  cudaStream_t stream = state_of(ctx).compute.get();
  if (op.x_TK.dtype == DType::kBF16) cast_tiles_kernel<<<grid, kThreads, 0, stream>>>(op.x_TK.as<bf16>(), op.x_TK.stride[0], columns, num_tiles, y);
  else cast_tiles_kernel<<<grid, kThreads, 0, stream>>>(op.x_TK.as<float>(), op.x_TK.stride[0], columns, num_tiles, y);
  check_launch("cast_tiles");
}

}  // namespace atoll::cuda
