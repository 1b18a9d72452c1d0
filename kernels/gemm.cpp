// The linear ops and their grouped forms: arguments are checked here once, then the back end multiplies.
#include <array>

#include "kernels/cpu/gemm.h"
#include "kernels/cuda/ops.h"
#include "kernels/op_scope.h"
#include "kernels/round_outputs.h"
#include "kernels/ops.h"

namespace atoll {
namespace {

bool is_float(DType type) { return type == DType::kF64 || type == DType::kF32 || type == DType::kBF16; }

// c[m, n] = a x b over k; what the caller names them goes into the message.
void check_operands(const char* op, const Tensor& a, const Tensor& b) {
  ATOLL_CHECK(is_float(a.dtype) && a.dtype == b.dtype, op, ": operands of one storage type (bf16, fp32, fp64) are needed, got ", a.shape(), " and ", b.shape());
}
void check_matrix(const char* op, const char* name, const Tensor& t, int64_t rows, int64_t cols) {
  ATOLL_CHECK(t.rank == 2 && t.dim[0] == rows && t.dim[1] == cols, op, ": ", name, " is ", t.shape(), ", expected [", rows, ", ", cols, "]");
  ATOLL_CHECK(t.size() == 0 || (t.stride[1] == 1 && (t.dim[0] == 1 || t.stride[0] >= t.dim[1])), op, ": ", name, " ", t.shape(), " has row stride ",
              t.stride[0], " and inner stride ", t.stride[1], "; rows may be strided, elements not");
}
void check_result(const char* op, const char* name, const Tensor& c, DType storage, bool acc_only) {
  ATOLL_CHECK(c.dtype == acc_dtype(storage) || (!acc_only && c.dtype == storage), op, ": ", name, " is ", c.shape(), ", expected ", name_of(acc_dtype(storage)),
              acc_only ? "" : " or ", acc_only ? "" : name_of(storage));
}
double flops(int64_t m, int64_t n, int64_t k) { return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k); }

// A view of one row's stride: oneDNN wants a leading dim of at least the width even where one row makes it irrelevant.
Tensor with_stride(Tensor t) {
  if (t.dim[0] <= 1 && t.stride[0] < t.dim[1]) t.stride[0] = t.dim[1];
  return t;
}
Tensor expert(const Tensor& w_ENK, int64_t e) {
  Tensor t = w_ENK;
  t.data = t.as<char>() + e * w_ENK.stride[0] * static_cast<int64_t>(size_of(t.dtype));
  t.rank = 2;
  t.dim = {w_ENK.dim[1], w_ENK.dim[2], 0, 0};
  t.stride = {w_ENK.stride[1], 1, 0, 0};
  return t;
}

void check_groups(const char* op, const char* name, const Tensor& w_ENK, std::span<const int64_t> offsets, int64_t rows) {
  ATOLL_CHECK(w_ENK.rank == 3 && offsets.size() == static_cast<size_t>(w_ENK.dim[0]) + 1, op, ": ", name, " is ", w_ENK.shape(), " and there are ",
              offsets.size(), " offsets; expected [E, N, K] and E + 1");
  ATOLL_CHECK(w_ENK.size() == 0 || (w_ENK.stride[2] == 1 && w_ENK.stride[1] >= w_ENK.dim[2]), op, ": ", name, " ", w_ENK.shape(), " has inner stride ",
              w_ENK.stride[2]);
  ATOLL_CHECK(offsets.front() == 0 && offsets.back() == rows, op, ": offsets run from ", offsets.front(), " to ", offsets.back(), ", expected 0 to ", rows,
              " rows");
  for (size_t e = 0; e + 1 < offsets.size(); ++e)
    ATOLL_CHECK(offsets[e] <= offsets[e + 1], op, ": offsets descend at expert ", e, ": ", offsets[e], " > ", offsets[e + 1]);
}

// The problems of a grouped op, handed to the back end a fixed number at a time: no allocation.
class Problems {
 public:
  explicit Problems(Context& ctx) : ctx_(ctx) {}
  void add(const cpu::Gemm& problem) {
    if (problem.c.size() == 0) return;
    problems_[static_cast<size_t>(count_++)] = problem;
    if (count_ == kMost) run();
  }
  void run() {
    cpu::gemm(ctx_, {problems_.data(), static_cast<size_t>(count_)});
    count_ = 0;
  }

 private:
  static constexpr int kMost = 64;
  Context& ctx_;
  std::array<cpu::Gemm, kMost> problems_;
  int count_ = 0;
};

}  // namespace

void linear(Context& ctx, const Linear& op) {
  const int64_t T = op.x_TK.dim[0], K = op.x_TK.dim[1], N = op.w_NK.dim[0];
  check_operands("linear", op.x_TK, op.w_NK);
  check_matrix("linear", "x", op.x_TK, T, K);
  check_matrix("linear", "w", op.w_NK, N, K);
  check_matrix("linear", "y", op.y_TN, T, N);
  check_result("linear", "y", op.y_TN, op.x_TK.dtype, false);
  if (op.y_TN.size() == 0) return;
  const OpScope scope(ctx, Op::kLinear, flops(T, N, K));
  if (ctx.device == Device::kCuda) return cuda::linear(ctx, op);
  cpu::gemm(ctx, {.a = with_stride(op.x_TK), .b = with_stride(op.w_NK), .c = with_stride(op.y_TN), .transpose_b = true, .accumulate = op.accumulate});
  if (!op.keeps_acc) round_outputs(ctx, {op.y_TN});
}

void linear_backward_input(Context& ctx, const LinearBackwardInput& op) {
  const int64_t T = op.dy_TN.dim[0], N = op.dy_TN.dim[1], K = op.w_NK.dim[1];
  check_operands("linear_backward_input", op.dy_TN, op.w_NK);
  check_matrix("linear_backward_input", "dy", op.dy_TN, T, N);
  check_matrix("linear_backward_input", "w", op.w_NK, N, K);
  check_matrix("linear_backward_input", "dx", op.dx_TK, T, K);
  check_result("linear_backward_input", "dx", op.dx_TK, op.dy_TN.dtype, false);
  if (op.dx_TK.size() == 0) return;
  const OpScope scope(ctx, Op::kLinearBackwardInput, flops(T, N, K));
  if (ctx.device == Device::kCuda) return cuda::linear_backward_input(ctx, op);
  cpu::gemm(ctx, {.a = with_stride(op.dy_TN), .b = with_stride(op.w_NK), .c = with_stride(op.dx_TK), .accumulate = op.accumulate});
  round_outputs(ctx, {op.dx_TK});
}

void linear_backward_weight(Context& ctx, const LinearBackwardWeight& op) {
  const int64_t T = op.dy_TN.dim[0], N = op.dy_TN.dim[1], K = op.x_TK.dim[1];
  check_operands("linear_backward_weight", op.dy_TN, op.x_TK);
  check_matrix("linear_backward_weight", "dy", op.dy_TN, T, N);
  check_matrix("linear_backward_weight", "x", op.x_TK, T, K);
  check_matrix("linear_backward_weight", "dw", op.dw_NK, N, K);
  check_result("linear_backward_weight", "dw", op.dw_NK, op.dy_TN.dtype, true);
  if (op.dw_NK.size() == 0) return;
  const OpScope scope(ctx, Op::kLinearBackwardWeight, flops(T, N, K));
  ++ctx.num_weight_gradient_gemms;
  if (ctx.device == Device::kCuda) return cuda::linear_backward_weight(ctx, op);
  cpu::gemm(ctx, {.a = with_stride(op.dy_TN), .b = with_stride(op.x_TK), .c = with_stride(op.dw_NK), .transpose_a = true, .accumulate = op.accumulate});
}

void grouped_linear(Context& ctx, const GroupedLinear& op) {
  const int64_t R = op.x_RK.dim[0], N = op.w_ENK.dim[1], K = op.w_ENK.dim[2];
  check_operands("grouped_linear", op.x_RK, op.w_ENK);
  check_groups("grouped_linear", "w", op.w_ENK, op.offsets, R);
  check_matrix("grouped_linear", "x", op.x_RK, R, K);
  check_matrix("grouped_linear", "y", op.y_RN, R, N);
  check_result("grouped_linear", "y", op.y_RN, op.x_RK.dtype, false);
  if (ctx.device == Device::kCuda && op.y_RN.size() > 0) {
    const OpScope scope(ctx, Op::kGroupedLinear, flops(R, N, K));
    return cuda::grouped_linear(ctx, op);
  }
  if (op.w_ENK.size() > 0 && ctx.device == Device::kCpu) cpu::note_grouped(ctx, {.a = op.x_RK, .b = expert(op.w_ENK, 0), .c = op.y_RN, .transpose_b = true, .is_grouped = true});
  if (op.y_RN.size() == 0) return;
  const OpScope scope(ctx, Op::kGroupedLinear, flops(R, N, K));
  Problems problems(ctx);
  for (int64_t e = 0; e < op.w_ENK.dim[0]; ++e) {
    const int64_t begin = op.offsets[static_cast<size_t>(e)], count = op.offsets[static_cast<size_t>(e) + 1] - begin;
    problems.add({.a = with_stride(op.x_RK.rows(begin, count)),
                  .b = with_stride(expert(op.w_ENK, e)),
                  .c = with_stride(op.y_RN.rows(begin, count)),
                  .transpose_b = true,
                  .is_grouped = true});
  }
  problems.run();
  round_outputs(ctx, {op.y_RN});
}

void grouped_linear_backward_input(Context& ctx, const GroupedLinearBackwardInput& op) {
  const int64_t R = op.dy_RN.dim[0], N = op.w_ENK.dim[1], K = op.w_ENK.dim[2];
  check_operands("grouped_linear_backward_input", op.dy_RN, op.w_ENK);
  check_groups("grouped_linear_backward_input", "w", op.w_ENK, op.offsets, R);
  check_matrix("grouped_linear_backward_input", "dy", op.dy_RN, R, N);
  check_matrix("grouped_linear_backward_input", "dx", op.dx_RK, R, K);
  check_result("grouped_linear_backward_input", "dx", op.dx_RK, op.dy_RN.dtype, false);
  if (ctx.device == Device::kCuda && op.dx_RK.size() > 0) {
    const OpScope scope(ctx, Op::kGroupedLinearBackwardInput, flops(R, N, K));
    return cuda::grouped_linear_backward_input(ctx, op);
  }
  if (op.w_ENK.size() > 0 && ctx.device == Device::kCpu) cpu::note_grouped(ctx, {.a = op.dy_RN, .b = expert(op.w_ENK, 0), .c = op.dx_RK, .is_grouped = true});
  if (op.dx_RK.size() == 0) return;
  const OpScope scope(ctx, Op::kGroupedLinearBackwardInput, flops(R, N, K));
  Problems problems(ctx);
  for (int64_t e = 0; e < op.w_ENK.dim[0]; ++e) {
    const int64_t begin = op.offsets[static_cast<size_t>(e)], count = op.offsets[static_cast<size_t>(e) + 1] - begin;
    problems.add({.a = with_stride(op.dy_RN.rows(begin, count)),
                  .b = with_stride(expert(op.w_ENK, e)),
                  .c = with_stride(op.dx_RK.rows(begin, count)),
                  .is_grouped = true});
  }
  problems.run();
  round_outputs(ctx, {op.dx_RK});
}

void grouped_linear_backward_weight(Context& ctx, const GroupedLinearBackwardWeight& op) {
  const int64_t R = op.dy_RN.dim[0], N = op.dw_ENK.dim[1], K = op.dw_ENK.dim[2];
  check_operands("grouped_linear_backward_weight", op.dy_RN, op.x_RK);
  check_groups("grouped_linear_backward_weight", "dw", op.dw_ENK, op.offsets, R);
  check_matrix("grouped_linear_backward_weight", "dy", op.dy_RN, R, N);
  check_matrix("grouped_linear_backward_weight", "x", op.x_RK, R, K);
  check_result("grouped_linear_backward_weight", "dw", op.dw_ENK, op.dy_RN.dtype, true);
  if (op.dw_ENK.size() == 0) return;
  if (ctx.device == Device::kCuda && op.dw_ENK.size() > 0) {
    const OpScope scope(ctx, Op::kGroupedLinearBackwardWeight, flops(R, N, K));
    ++ctx.num_weight_gradient_gemms;
    return cuda::grouped_linear_backward_weight(ctx, op);
  }
  cpu::note_grouped(ctx, {.a = op.dy_RN, .b = op.x_RK, .c = expert(op.dw_ENK, 0), .transpose_a = true, .accumulate = op.accumulate, .is_grouped = true});
  const OpScope scope(ctx, Op::kGroupedLinearBackwardWeight, flops(R, N, K));
  ++ctx.num_weight_gradient_gemms;
  Problems problems(ctx);
  for (int64_t e = 0; e < op.dw_ENK.dim[0]; ++e) {
    const int64_t begin = op.offsets[static_cast<size_t>(e)], count = op.offsets[static_cast<size_t>(e) + 1] - begin;
    problems.add({.a = with_stride(op.dy_RN.rows(begin, count)),
                  .b = with_stride(op.x_RK.rows(begin, count)),
                  .c = with_stride(expert(op.dw_ENK, e)),
                  .transpose_a = true,
                  .accumulate = op.accumulate,
                  .is_grouped = true});
  }
  problems.run();
}

void settle_grouped(Context& ctx, int64_t most_rows) {
  if (ctx.device == Device::kCpu) cpu::settle_grouped(ctx, most_rows);
}

}  // namespace atoll
