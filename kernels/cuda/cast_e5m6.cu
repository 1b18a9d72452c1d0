// E5M6 casts, both ways: four lanes a 1x128 tile, 32 values a lane (three 16-byte words of codes). One pass; scales are UE8M0 bytes.
// Roofline: memory; 2 (BF16) + 1.5 bytes a value; at 3.35 TB/s 4096 x 16384 take 70 us.
#include "kernels/cuda/ops.h"
#include "kernels/cuda/sixteen.h"

namespace atoll::cuda {
namespace {

constexpr int kThreads = 256, kTilesPerCta = kThreads / 4;

__device__ inline void encode16(const Sixteen& x, float multiplier, uint32_t* words) {
#pragma unroll
  for (int g = 0; g < 2; ++g) {
    uint16_t v[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = atoll::cast_e5m6(x.v[8 * g + i], multiplier);
    pack_e5m6(v, words + 3 * g);
  }
}

template <class In>
__global__ void __launch_bounds__(kThreads) cast_e5m6_kernel(const In* x, int64_t x_stride, int columns, int64_t num_tiles, uint32_t* words, uint8_t* scales) {
  const int64_t tile = int64_t{blockIdx.x} * kTilesPerCta + threadIdx.x / 4, blocks = blocks_of(columns), row = tile / blocks;
  const int column = static_cast<int>(tile % blocks) * kQuantTile + static_cast<int>(threadIdx.x % 4) * 32;
  const bool is_inside = tile < num_tiles && column < columns;
  const Sixteen low = is_inside ? load16(x + row * x_stride + column) : zeros16(), high = is_inside ? load16(x + row * x_stride + column + 16) : zeros16();
  const float amax = max_over<4>(fmaxf(amax16(low), amax16(high)));
  const QuantScale s = pow2_scale(amax, kE5m6Max);
  if (tile < num_tiles && threadIdx.x % 4 == 0) scales[tile] = encode_ue8m0(s.scale);
  if (!is_inside) return;
  uint32_t w[12];
  encode16(low, s.multiplier, w);
  encode16(high, s.multiplier, w + 6);
  auto* to = reinterpret_cast<uint4*>(words + (row * columns + column) / 8 * 3);
#pragma unroll
  for (int i = 0; i < 3; ++i) to[i] = make_uint4(w[4 * i], w[4 * i + 1], w[4 * i + 2], w[4 * i + 3]);
}

template <class Out>
__global__ void __launch_bounds__(kThreads) read_e5m6_kernel(const uint32_t* words, const uint8_t* scales, int columns, int64_t num_parts, Out* y, int64_t y_stride) {
  const int64_t part = int64_t{blockIdx.x} * kThreads + threadIdx.x;  // of 32 values
  if (part >= num_parts) return;
  const int64_t row = part / (columns / 32);
  const int column = static_cast<int>(part % (columns / 32)) * 32;
  const float scale = decode_ue8m0(scales[row * blocks_of(columns) + column / kQuantTile]);
  uint32_t w[12];
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    const uint4 u = ptx::load_once(words + part * 12 + 4 * i);
    w[4 * i] = u.x, w[4 * i + 1] = u.y, w[4 * i + 2] = u.z, w[4 * i + 3] = u.w;
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    Sixteen out;
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      uint16_t v[8];
      unpack_e5m6(w + 6 * half + 3 * g, v);
#pragma unroll
      for (int i = 0; i < 8; ++i) out.v[8 * g + i] = decode_e5m6(v[i]) * scale;
    }
    store16(y + row * y_stride + column + 16 * half, out);
  }
}

}  // namespace

void cast_e5m6(Context& ctx, const CastE5m6& op) {
  check_rows16("cast_e5m6: x", op.x_TK);
  const int columns = static_cast<int>(op.x_TK.dim[1]);
  const int64_t num_tiles = op.x_TK.dim[0] * blocks_of(columns);
  const auto grid = static_cast<unsigned>((num_tiles + kTilesPerCta - 1) / kTilesPerCta);
  cudaStream_t stream = state_of(ctx).compute.get();
  auto* words = op.words_TW.as<uint32_t>();
  auto* scales = op.scales_TB.as<uint8_t>();
  if (op.x_TK.dtype == DType::kBF16) cast_e5m6_kernel<<<grid, kThreads, 0, stream>>>(op.x_TK.as<bf16>(), op.x_TK.stride[0], columns, num_tiles, words, scales);
  else cast_e5m6_kernel<<<grid, kThreads, 0, stream>>>(op.x_TK.as<float>(), op.x_TK.stride[0], columns, num_tiles, words, scales);
  check_launch("cast_e5m6");
}

void read_e5m6(Context& ctx, const ReadE5m6& op) {
  check_rows16("read_e5m6: y", op.y_TK);
  const int columns = static_cast<int>(op.y_TK.dim[1]);
  const int64_t num_parts = op.y_TK.dim[0] * columns / 32;
  const auto grid = static_cast<unsigned>((num_parts + kThreads - 1) / kThreads);
  cudaStream_t stream = state_of(ctx).compute.get();
  const auto* words = op.words_TW.as<uint32_t>();
  const auto* scales = op.scales_TB.as<uint8_t>();
  if (op.y_TK.dtype == DType::kBF16) read_e5m6_kernel<<<grid, kThreads, 0, stream>>>(words, scales, columns, num_parts, op.y_TK.as<bf16>(), op.y_TK.stride[0]);
  else read_e5m6_kernel<<<grid, kThreads, 0, stream>>>(words, scales, columns, num_parts, op.y_TK.as<float>(), op.y_TK.stride[0]);
  check_launch("read_e5m6");
}

}  // namespace atoll::cuda
