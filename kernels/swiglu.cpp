// Public SwiGLU ops: checks, then the back end.
#include "kernels/checks.h"
#include "kernels/cpu/swiglu.h"
#include "kernels/cuda/ops.h"
#include "kernels/op_scope.h"
#include "kernels/round_outputs.h"

namespace atoll {

void swiglu(Context& ctx, const Swiglu& op) {
  const Tensor& y = op.y_RF;
  ATOLL_CHECK(y.rank == 2, "swiglu: y must be [R, F], is ", y.shape());
  check_storage("swiglu: y", y);
  const int64_t R = y.dim[0], F = y.dim[1];
  if (y.size() == 0) return;
  check_tensor("swiglu: y", y, y.dtype, {R, F});
  check_tensor("swiglu: gate_up", op.gate_up_R2F, y.dtype, {R, 2 * F});
  if (op.weight_R) check_tensor("swiglu: weight", op.weight_R, acc_dtype(y.dtype), {R});
  OpScope scope(ctx, Op::kSwiglu, 6.0 * static_cast<double>(R * F));
  if (ctx.device == Device::kCuda) return cuda::swiglu(ctx, op);
  cpu::swiglu(ctx, op);
  round_outputs(ctx, {op.y_RF});
}

void swiglu_backward(Context& ctx, const SwigluBackward& op) {
  const Tensor& dy = op.dy_RF;
  ATOLL_CHECK(dy.rank == 2, "swiglu_backward: dy must be [R, F], is ", dy.shape());
  check_storage("swiglu_backward: dy", dy);
  const int64_t R = dy.dim[0], F = dy.dim[1];
  if (dy.size() == 0) return;
  check_tensor("swiglu_backward: dy", dy, dy.dtype, {R, F});
  check_tensor("swiglu_backward: gate_up", op.gate_up_R2F, dy.dtype, {R, 2 * F});
  check_tensor("swiglu_backward: dgate_up", op.dgate_up_R2F, dy.dtype, {R, 2 * F});
  if (op.weight_R) check_tensor("swiglu_backward: weight", op.weight_R, acc_dtype(dy.dtype), {R});
  ATOLL_CHECK(!op.dweight_R || op.weight_R, "swiglu_backward: dweight is asked for without weight");
  if (op.dweight_R) check_tensor("swiglu_backward: dweight", op.dweight_R, acc_dtype(dy.dtype), {R});
  OpScope scope(ctx, Op::kSwigluBackward, 14.0 * static_cast<double>(R * F));
  if (ctx.device == Device::kCuda) return cuda::swiglu_backward(ctx, op);
  cpu::swiglu_backward(ctx, op);
  round_outputs(ctx, {op.dgate_up_R2F});
}

}  // namespace atoll
