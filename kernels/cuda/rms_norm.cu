// RMSNorm with the residual add before it and the FP8 cast after it: one CTA a row, the row stays in registers, so memory is read once and written once.
// Roofline: memory; x 2 + residual 2 + h 2 + y 2 (+ 1 + 1/32 for the codes) bytes a value; at 3.35 TB/s 4096 x 7168 with residual take 70 us.
#include <algorithm>

#include "kernels/cuda/ops.h"
#include "kernels/cuda/row_sum.h"

namespace atoll::cuda {
namespace {

struct NormArgs {
  const bf16 *x, *residual, *gain;
  bf16 *h, *y;
  float* rstd;
  int64_t x_stride, residual_stride, h_stride, y_stride;
  int columns;
  float eps;
  QOut q;
};

__global__ void __launch_bounds__(kMostRowThreads) rms_norm_kernel(const NormArgs a) {
  __shared__ float sums[kMostRowThreads / 32];
  const int64_t row = blockIdx.x;
  Sixteen h[kMostRounds];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kMostRounds; ++i) {
    const int column = static_cast<int>(threadIdx.x + i * blockDim.x) * 16;
    h[i] = zeros16();
    if (column >= a.columns) continue;
    h[i] = load16(a.x + row * a.x_stride + column);
    if (a.residual) {
      const Sixteen r = load16(a.residual + row * a.residual_stride + column);
#pragma unroll
      for (int j = 0; j < 16; ++j) h[i].v[j] = static_cast<float>(bf16(h[i].v[j] + r.v[j]));  // the mean uses h as stored
      store16(a.h + row * a.h_stride + column, h[i]);
    }
#pragma unroll
    for (int j = 0; j < 16; ++j) squares += h[i].v[j] * h[i].v[j];
  }
  const float rstd = 1.0f / sqrtf(sum_over_cta(squares, sums) / static_cast<float>(a.columns) + a.eps);
  if (threadIdx.x == 0) a.rstd[row] = rstd;
#pragma unroll
  for (int i = 0; i < kMostRounds; ++i) {
    const int column = static_cast<int>(threadIdx.x + i * blockDim.x) * 16;
    if (static_cast<int>(i * blockDim.x) * 16 >= a.columns) break;  // no lane of this CTA has work here
    const bool is_inside = column < a.columns;
    Sixteen y = zeros16();
    if (is_inside) {
      const Sixteen gain = load16(a.gain + column);
#pragma unroll
      for (int j = 0; j < 16; ++j) y.v[j] = static_cast<float>(bf16(h[i].v[j] * rstd * gain.v[j]));
      if (a.y) store16(a.y + row * a.y_stride + column, y);
    }
    if (!a.q.codes) continue;
    const float amax = max_over<8>(amax16(y));
    if (is_inside) *reinterpret_cast<uint4*>(a.q.codes + row * a.q.stride + column) = cast16(y, a.q.multiplier(amax));
    if (is_inside && column % kQuantTile == 0) a.q.put_scale(row, column / kQuantTile, amax);
  }
}

// dx, and this CTA's part of dgain: rows [first, last), summed in order.
struct NormBackwardArgs {
  const bf16 *dy, *h, *gain, *add;
  const float* rstd;
  bf16* dx;
  float* partial;  // [CTA, columns], or null
  int64_t dy_stride, h_stride, add_stride, dx_stride;
  int rows, columns, rows_per_cta;
};

__global__ void __launch_bounds__(kMostRowThreads, 1) rms_norm_backward_kernel(const NormBackwardArgs a) {
  __shared__ float sums[kMostRowThreads / 32];
  const int first = static_cast<int>(blockIdx.x) * a.rows_per_cta, last = min(a.rows, first + a.rows_per_cta);
  Sixteen dgain[kMostRounds];
#pragma unroll
  for (int i = 0; i < kMostRounds; ++i) dgain[i] = zeros16();
  for (int64_t row = first; row < last; ++row) {
    const float rstd = a.rstd[row];
    float dot = 0;
#pragma unroll
    for (int i = 0; i < kMostRounds; ++i) {
      const int column = static_cast<int>(threadIdx.x + i * blockDim.x) * 16;
      if (column >= a.columns) continue;
      const Sixteen dy = load16(a.dy + row * a.dy_stride + column), h = load16(a.h + row * a.h_stride + column), gain = load16(a.gain + column);
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        const float g = dy.v[j] * (h.v[j] * rstd);
        dgain[i].v[j] += g;
        dot += g * gain.v[j];
      }
    }
    const float c = sum_over_cta(dot, sums) / static_cast<float>(a.columns) * rstd;
#pragma unroll
    for (int i = 0; i < kMostRounds; ++i) {  // dy and h once more: they are in L2 now
      const int column = static_cast<int>(threadIdx.x + i * blockDim.x) * 16;
      if (column >= a.columns) continue;
      const Sixteen dy = load16(a.dy + row * a.dy_stride + column), h = load16(a.h + row * a.h_stride + column), gain = load16(a.gain + column);
      const Sixteen add = a.add ? load16(a.add + row * a.add_stride + column) : zeros16();
      Sixteen dx;
#pragma unroll
      for (int j = 0; j < 16; ++j) dx.v[j] = (dy.v[j] * gain.v[j] - h.v[j] * c) * rstd + add.v[j];
      store16(a.dx + row * a.dx_stride + column, dx);
    }
  }
#pragma unroll
  for (int i = 0; i < kMostRounds; ++i) {
    const int column = static_cast<int>(threadIdx.x + i * blockDim.x) * 16;
    if (a.partial && column < a.columns) store16(a.partial + int64_t{blockIdx.x} * a.columns + column, dgain[i]);
  }
}

__global__ void __launch_bounds__(128) add_partial_kernel(const float* partial, int num_parts, int columns, float* dgain) {
  const int column = static_cast<int>(blockIdx.x * 128 + threadIdx.x);
  if (column >= columns) return;
  float sum = 0;
  for (int p = 0; p < num_parts; ++p) sum += partial[int64_t{p} * columns + column];
  dgain[column] += sum;
}

void check_norm(const char* what, const Tensor& t) {
  if (!t) return;
  ATOLL_CHECK(t.dtype == DType::kBF16 && t.dim[1] <= kMostRowColumns, what, " is ", t.shape(), "; on the GPU rows are bf16 of at most ", kMostRowColumns, " columns");
  check_rows16(what, t);
}

void run_norm(Context& ctx, const RmsNorm& op, const QOut& q) {
  check_norm("rms_norm: x", op.x_TD);
  check_norm("rms_norm: residual", op.residual_TD);
  check_norm("rms_norm: h", op.h_TD);
  check_norm("rms_norm: y", op.y_TD);
  const NormArgs args{op.x_TD.as<bf16>(), op.residual_TD.as<bf16>(), op.gain_D.as<bf16>(), op.h_TD.as<bf16>(), op.y_TD.as<bf16>(), op.rstd_T.as<float>(), op.x_TD.stride[0],
                      op.residual_TD.stride[0], op.h_TD.stride[0], op.y_TD.stride[0], static_cast<int>(op.x_TD.dim[1]), static_cast<float>(op.eps), q};
  rms_norm_kernel<<<static_cast<unsigned>(op.x_TD.dim[0]), row_threads(op.x_TD.dim[1]), 0, state_of(ctx).compute.get()>>>(args);
  check_launch("rms_norm");
}

}  // namespace

void rms_norm(Context& ctx, const RmsNorm& op) { run_norm(ctx, op, QOut()); }

void rms_norm_cast(Context& ctx, const RmsNormCast& op) {
  check_rows16("rms_norm_cast: q", op.q_TD.codes);
  run_norm(ctx, op.norm, QOut(op.q_TD));
}

void rms_norm_backward(Context& ctx, const RmsNormBackward& op) {
  check_norm("rms_norm_backward: dy", op.dy_TD);
  check_norm("rms_norm_backward: h", op.h_TD);
  check_norm("rms_norm_backward: add", op.add_TD);
  check_norm("rms_norm_backward: dx", op.dx_TD);
  const int64_t T = op.dy_TD.dim[0], D = op.dy_TD.dim[1], rows_per_cta = std::max<int64_t>(32, (T + 1023) / 1024), num_ctas = (T + rows_per_cta - 1) / rows_per_cta;
  auto* partial = op.dgain_D ? static_cast<float*>(scratch(ctx, num_ctas * D * 4)) : nullptr;
  const NormBackwardArgs args{op.dy_TD.as<bf16>(), op.h_TD.as<bf16>(), op.gain_D.as<bf16>(), op.add_TD.as<bf16>(), op.rstd_T.as<float>(), op.dx_TD.as<bf16>(), partial,
                              op.dy_TD.stride[0], op.h_TD.stride[0], op.add_TD.stride[0], op.dx_TD.stride[0], static_cast<int>(T), static_cast<int>(D), static_cast<int>(rows_per_cta)};
  cudaStream_t stream = state_of(ctx).compute.get();
  rms_norm_backward_kernel<<<static_cast<unsigned>(num_ctas), row_threads(D), 0, stream>>>(args);
  check_launch("rms_norm_backward");
  if (!partial) return;
  add_partial_kernel<<<static_cast<unsigned>((D + 127) / 128), 128, 0, stream>>>(partial, static_cast<int>(num_ctas), static_cast<int>(D), op.dgain_D.as<float>());
  check_launch("rms_norm_backward: dgain");
}

}  // namespace atoll::cuda
