// Scales of 1x128 tiles from rows (as they cross a wire, FP32 or exponent bytes) into the column layout that TMA loads for a GEMM. A thread a scale; 1/32 of the codes' bytes.
#include "kernels/cuda/ops.h"
#include "kernels/cuda/sixteen.h"

namespace atoll::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) scales_kernel(const void* from, bool is_byte, int64_t rows, int64_t blocks, float* to) {
  const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x, block = blockIdx.y;
  if (row >= rows) return;
  const int64_t i = row * blocks + block;
  to[block * padded_scale_rows(rows) + row] = is_byte ? decode_ue8m0(static_cast<const uint8_t*>(from)[i]) : static_cast<const float*>(from)[i];
}

}  // namespace

void scales_to_mn_major(Context& ctx, const ScalesToMnMajor& op) {
  const int64_t rows = op.from_TK.rows(), blocks = blocks_of(op.from_TK.cols());
  const dim3 grid(static_cast<unsigned>((rows + kThreads - 1) / kThreads), static_cast<unsigned>(blocks));
  scales_kernel<<<grid, kThreads, 0, state_of(ctx).compute.get()>>>(op.from_TK.scales.data, op.from_TK.format == ScaleFormat::kUE8M0, rows, blocks, op.to.as<float>());
  check_launch("scales_to_mn_major");
}

}  // namespace atoll::cuda
