// SwiGLU x routing weight, with the FP8 cast of its result, and its backward. Forward: eight lanes a 1x128 tile. Backward: one CTA a row, for the weight's gradient.
// Roofline: memory; forward 4 + 2 (+ 1) bytes a result, backward 2 + 4 + 4; at 3.35 TB/s 32768 x 2048 take 120 us forward with y, 200 us backward.
#include <algorithm>

#include "kernels/cuda/ops.h"
#include "kernels/cuda/row_sum.h"

namespace atoll::cuda {
namespace {

constexpr int kThreads = 256, kTilesPerCta = kThreads / 8;

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__global__ void __launch_bounds__(kThreads) swiglu_kernel(const bf16* gate_up, const float* weight, int columns, int64_t num_tiles, bf16* y, QOut q) {
  const int64_t tile = int64_t{blockIdx.x} * kTilesPerCta + threadIdx.x / 8, blocks = blocks_of(columns), row = tile / blocks;
  const int column = static_cast<int>(tile % blocks) * kQuantTile + static_cast<int>(threadIdx.x % 8) * 16;
  const bool is_inside = tile < num_tiles && column < columns;
  Sixteen out = zeros16();
  if (is_inside) {
    const Sixteen gate = load16(gate_up + row * 2 * columns + column), up = load16(gate_up + (row * 2 + 1) * columns + column);
    const float w = weight ? weight[row] : 1.0f;
#pragma unroll
    for (int j = 0; j < 16; ++j) out.v[j] = static_cast<float>(bf16(gate.v[j] * sigmoid(gate.v[j]) * up.v[j] * w));
    if (y) store16(y + row * columns + column, out);
  }
  if (!q.codes) return;
  const float amax = max_over<8>(amax16(out));
  if (is_inside) *reinterpret_cast<uint4*>(q.codes + row * q.stride + column) = cast16(out, q.multiplier(amax));
  if (tile < num_tiles && threadIdx.x % 8 == 0) q.put_scale(row, tile % blocks, amax);
}

__global__ void __launch_bounds__(kMostRowThreads) swiglu_backward_kernel(const bf16* dy, const bf16* gate_up, const float* weight, int columns, bf16* dgate_up, float* dweight) {
  __shared__ float sums[kMostRowThreads / 32];
  const int64_t row = blockIdx.x;
  const float w = weight ? weight[row] : 1.0f;
  float dot = 0;
  for (int column = static_cast<int>(threadIdx.x) * 16; column < columns; column += static_cast<int>(blockDim.x) * 16) {
    const Sixteen gate = load16(gate_up + row * 2 * columns + column), up = load16(gate_up + (row * 2 + 1) * columns + column), d = load16(dy + row * columns + column);
    Sixteen dgate, dup;
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      const float s = sigmoid(gate.v[j]), silu = gate.v[j] * s, dw = d.v[j] * w;
      dgate.v[j] = dw * s * up.v[j] * (1.0f + gate.v[j] * (1.0f - s));
      dup.v[j] = dw * silu;
      dot += d.v[j] * silu * up.v[j];
    }
    store16(dgate_up + row * 2 * columns + column, dgate);
    store16(dgate_up + (row * 2 + 1) * columns + column, dup);
  }
  if (!dweight) return;
  dot = sum_over_cta(dot, sums);
  if (threadIdx.x == 0) dweight[row] = dot;
}

void run_swiglu(Context& ctx, const Swiglu& op, const QOut& q) {
  ATOLL_CHECK(op.gate_up_R2F.dtype == DType::kBF16 && op.gate_up_R2F.dim[1] % 32 == 0, "swiglu: gate_up is ", op.gate_up_R2F.shape(), "; on the GPU it is bf16, F a multiple of 16");
  const int columns = static_cast<int>(op.gate_up_R2F.dim[1] / 2);
  const int64_t num_tiles = op.gate_up_R2F.dim[0] * blocks_of(columns);
  swiglu_kernel<<<static_cast<unsigned>((num_tiles + kTilesPerCta - 1) / kTilesPerCta), kThreads, 0, state_of(ctx).compute.get()>>>(
      op.gate_up_R2F.as<bf16>(), op.weight_R.as<float>(), columns, num_tiles, op.y_RF.as<bf16>(), q);
  check_launch("swiglu");
}

}  // namespace

void swiglu(Context& ctx, const Swiglu& op) { run_swiglu(ctx, op, QOut()); }

void swiglu_cast(Context& ctx, const SwigluCast& op) {
  check_rows16("swiglu_cast: q", op.q_RF.codes);
  run_swiglu(ctx, op.act, QOut(op.q_RF));
}

void swiglu_backward(Context& ctx, const SwigluBackward& op) {
  ATOLL_CHECK(op.dy_RF.dtype == DType::kBF16 && op.dy_RF.dim[1] % 16 == 0, "swiglu_backward: dy is ", op.dy_RF.shape(), "; on the GPU it is bf16, F a multiple of 16");
  const int64_t columns = op.dy_RF.dim[1];
  swiglu_backward_kernel<<<static_cast<unsigned>(op.dy_RF.dim[0]), row_threads(columns), 0, state_of(ctx).compute.get()>>>(
      op.dy_RF.as<bf16>(), op.gate_up_R2F.as<bf16>(), op.weight_R.as<float>(), static_cast<int>(columns), op.dgate_up_R2F.as<bf16>(), op.dweight_R.as<float>());
  check_launch("swiglu_backward");
}

}  // namespace atoll::cuda
