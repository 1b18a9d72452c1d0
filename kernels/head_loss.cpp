// Public head + loss op. Its three products are ops of their own in the table of times; what is booked here is the rest (softmax, loss, gradient of the logits).
#include <utility>

#include "kernels/checks.h"
#include "kernels/cpu/head_loss.h"
#include "kernels/op_scope.h"
#include "kernels/round_outputs.h"

namespace atoll {
namespace {

double seconds_of_products(const Context& ctx) {
  double seconds = 0;
  for (Op op : {Op::kLinear, Op::kLinearBackwardInput, Op::kLinearBackwardWeight}) seconds += ctx.op_stats[static_cast<size_t>(op)].seconds;
  return seconds;
}

}  // namespace

void head_loss(Context& ctx, const HeadLoss& op) {
  need_cpu(ctx, Op::kHeadLoss);
  const Tensor &x = op.x_TD, &w = op.w_VD;
  ATOLL_CHECK(x.rank == 2 && w.rank == 2, "head_loss: x and w must be [T, D] and [V, D], are ", x.shape(), " and ", w.shape());
  check_storage("head_loss: x", x);
  ATOLL_CHECK(op.loss_sum, "head_loss: loss_sum is null");
  ATOLL_CHECK(static_cast<bool>(op.dx_TD) == static_cast<bool>(op.dw_VD), "head_loss: dx and dw are given together or not at all");
  const int64_t T = x.dim[0], D = x.dim[1], V = w.dim[0];
  if (T == 0) return;
  check_tensor("head_loss: x", x, x.dtype, {T, D}, true);
  check_tensor("head_loss: w", w, x.dtype, {V, D}, true);
  check_tensor("head_loss: labels", op.labels_T, DType::kI32, {T});
  if (op.loss_T) check_tensor("head_loss: loss", op.loss_T, acc_dtype(x.dtype), {T});
  if (op.dx_TD) {
    check_tensor("head_loss: dx", op.dx_TD, x.dtype, {T, D}, true);
    check_tensor("head_loss: dw", op.dw_VD, acc_dtype(x.dtype), {V, D}, true);
  }
  for (int64_t t = 0; t < T; ++t) ATOLL_CHECK(op.labels_T.as<int32_t>()[t] < V, "head_loss: label ", op.labels_T.as<int32_t>()[t], " at ", t, " is not in the vocabulary of ", V);
  const double before = seconds_of_products(ctx);
  {
    OpScope scope(ctx, Op::kHeadLoss, 6.0 * static_cast<double>(T * V));
    const bool is_rounding = std::exchange(ctx.round_outputs_to_bf16, false);  // the products inside are not ops of the caller's
    cpu::head_loss(ctx, op);
    ctx.round_outputs_to_bf16 = is_rounding;
  }
  round_outputs(ctx, {op.dx_TD});
  ctx.op_stats[static_cast<size_t>(Op::kHeadLoss)].seconds -= seconds_of_products(ctx) - before;
}

}  // namespace atoll
