// Public RMSNorm ops: checks, then the back end.
#include "kernels/checks.h"
#include "kernels/cpu/norm.h"
#include "kernels/cuda/ops.h"
#include "kernels/op_scope.h"
#include "kernels/round_outputs.h"

namespace atoll {

void rms_norm(Context& ctx, const RmsNorm& op) {
  const Tensor& x = op.x_TD;
  ATOLL_CHECK(x.rank == 2, "rms_norm: x must be [T, D], is ", x.shape());
  check_storage("rms_norm: x", x);
  const int64_t T = x.dim[0], D = x.dim[1];
  check_tensor("rms_norm: gain", op.gain_D, x.dtype, {D});
  if (T == 0) return;
  check_tensor("rms_norm: x", x, x.dtype, {T, D}, true);
  check_tensor("rms_norm: y", op.y_TD, x.dtype, {T, D}, true);
  check_tensor("rms_norm: rstd", op.rstd_T, acc_dtype(x.dtype), {T});
  ATOLL_CHECK(static_cast<bool>(op.residual_TD) == static_cast<bool>(op.h_TD), "rms_norm: h and residual are given together or not at all");
  if (op.h_TD) {
    check_tensor("rms_norm: residual", op.residual_TD, x.dtype, {T, D}, true);
    check_tensor("rms_norm: h", op.h_TD, x.dtype, {T, D}, true);
  }
  OpScope scope(ctx, Op::kRmsNorm, 4.0 * static_cast<double>(T * D));
  if (ctx.device == Device::kCuda) return cuda::rms_norm(ctx, op);
  cpu::rms_norm(ctx, op);
  round_outputs(ctx, {op.h_TD, op.y_TD});
}

void rms_norm_backward(Context& ctx, const RmsNormBackward& op) {
  const Tensor& dy = op.dy_TD;
  ATOLL_CHECK(dy.rank == 2, "rms_norm_backward: dy must be [T, D], is ", dy.shape());
  check_storage("rms_norm_backward: dy", dy);
  const int64_t T = dy.dim[0], D = dy.dim[1];
  check_tensor("rms_norm_backward: gain", op.gain_D, dy.dtype, {D});
  if (op.dgain_D) check_tensor("rms_norm_backward: dgain", op.dgain_D, acc_dtype(dy.dtype), {D});
  if (T == 0) return;
  check_tensor("rms_norm_backward: dy", dy, dy.dtype, {T, D}, true);
  check_tensor("rms_norm_backward: h", op.h_TD, dy.dtype, {T, D}, true);
  check_tensor("rms_norm_backward: rstd", op.rstd_T, acc_dtype(dy.dtype), {T});
  check_tensor("rms_norm_backward: dx", op.dx_TD, dy.dtype, {T, D}, true);
  if (op.add_TD) check_tensor("rms_norm_backward: add", op.add_TD, dy.dtype, {T, D}, true);
  OpScope scope(ctx, Op::kRmsNormBackward, 9.0 * static_cast<double>(T * D));
  if (ctx.device == Device::kCuda) return cuda::rms_norm_backward(ctx, op);
  cpu::rms_norm_backward(ctx, op);
  round_outputs(ctx, {op.dx_TD});
}

}  // namespace atoll
