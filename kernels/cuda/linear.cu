// The linear ops of ops.h on the GPU: BF16 operands, results BF16 or FP32. What the kernels ask beyond ops.h (dims in 8s, 16-byte rows) is checked here.
#include <array>

#include "kernels/cuda/bf16_products.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/state.h"

namespace atoll::cuda {
namespace {

void check_operand(const char* what, const Tensor& t) {
  const int64_t in16 = 16 / static_cast<int64_t>(size_of(t.dtype)), row = t.stride[t.rank - 2], columns = t.dim[t.rank - 1];
  ATOLL_CHECK(t.dtype == DType::kBF16 || t.dtype == DType::kF32, what, " is ", t.shape(), "; products on the GPU take bf16 operands, and bf16 or fp32 results");
  ATOLL_CHECK(columns % 8 == 0 && row % in16 == 0 && reinterpret_cast<uintptr_t>(t.data) % 16 == 0, what, " ", t.shape(), ", row stride ", row,
              ": a GPU wants columns in 8s and rows that begin at multiples of 16 bytes");
}
void check_operands(const char* what, const Tensor& a, const Tensor& b, const Tensor& c) {
  ATOLL_CHECK(a.dtype == DType::kBF16 && b.dtype == DType::kBF16, what, ": operands are ", a.shape(), " and ", b.shape(), "; products on the GPU take bf16");
  check_operand(what, a);
  check_operand(what, b);
  check_operand(what, c);
}
Tensor as_group(const Tensor& t) {  // [R, C] as [1, R, C]
  Tensor g = t;
  g.rank = 3;
  g.dim = {1, t.dim[0], t.dim[1], 0};
  g.stride = {t.dim[0] * t.stride[0], t.stride[0], 1, 0};
  return g;
}
// One row's stride is free; a map wants one that covers the row.
Tensor with_stride(Tensor t) {
  int64_t& row = t.stride[static_cast<size_t>(t.rank) - 2];
  if (row < t.dim[t.rank - 1]) row = t.dim[t.rank - 1];
  return t;
}
void zero(Context& ctx, const Tensor& c) {  // a contraction over nothing
  for (int64_t r = 0; r < c.dim[0]; ++r)
    check(cudaMemsetAsync(c.as<char>() + r * c.stride[0] * static_cast<int64_t>(size_of(c.dtype)), 0, static_cast<size_t>(c.dim[1]) * size_of(c.dtype), state_of(ctx).compute.get()), "zero");
}
void product(Context& ctx, const char* what, void (*run)(Context&, const Bf16Product&), const Bf16Product& p) {
  check_operands(what, p.a, p.b_GRC, p.c);
  if (p.a.dim[1] == 0) return p.accumulate ? void() : zero(ctx, p.c);
  run(ctx, {with_stride(p.a), with_stride(p.b_GRC), with_stride(p.c), p.offsets, p.accumulate});
}

}  // namespace

void linear(Context& ctx, const Linear& op) {
  const std::array<int64_t, 2> all{0, op.x_TK.dim[0]};
  product(ctx, "linear", bf16_linear, {op.x_TK, as_group(op.w_NK), op.y_TN, all, op.accumulate});
}
void linear_backward_input(Context& ctx, const LinearBackwardInput& op) {
  const std::array<int64_t, 2> all{0, op.dy_TN.dim[0]};
  product(ctx, "linear_backward_input", bf16_backward_input, {op.dy_TN, as_group(op.w_NK), op.dx_TK, all, op.accumulate});
}
void linear_backward_weight(Context& ctx, const LinearBackwardWeight& op) {
  const std::array<int64_t, 2> all{0, op.dy_TN.dim[0]};
  check_operands("linear_backward_weight", op.dy_TN, op.x_TK, op.dw_NK);
  bf16_weight_gradient(ctx, {with_stride(op.dy_TN), with_stride(op.x_TK), as_group(with_stride(op.dw_NK)), all, op.accumulate});
}
void grouped_linear(Context& ctx, const GroupedLinear& op) { product(ctx, "grouped_linear", bf16_linear, {op.x_RK, op.w_ENK, op.y_RN, op.offsets, false}); }
void grouped_linear_backward_input(Context& ctx, const GroupedLinearBackwardInput& op) {
  product(ctx, "grouped_linear_backward_input", bf16_backward_input, {op.dy_RN, op.w_ENK, op.dx_RK, op.offsets, false});
}
void grouped_linear_backward_weight(Context& ctx, const GroupedLinearBackwardWeight& op) {
  check_operands("grouped_linear_backward_weight", op.dy_RN, op.x_RK, op.dw_ENK);
  bf16_weight_gradient(ctx, {with_stride(op.dy_RN), with_stride(op.x_RK), with_stride(op.dw_ENK), op.offsets, op.accumulate});
}

}  // namespace atoll::cuda
