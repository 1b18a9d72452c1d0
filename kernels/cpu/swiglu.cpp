// SwiGLU on threads: rows.
#include "kernels/cpu/swiglu.h"

#include "kernels/cpu/threads.h"
#include "kernels/ops.h"

namespace atoll::cpu {

void swiglu(Context& ctx, const Swiglu& op) {
  const Isa isa = isa_of(ctx);
  const SwigluRows a{op.y_RF.dtype, op.y_RF.dim[1], op.gate_up_R2F.data, op.weight_R.data, nullptr, op.y_RF.data, nullptr, nullptr};
  parallel_ranges(ctx.num_threads, op.y_RF.dim[0], [&](int, int64_t begin, int64_t end) { ATOLL_CALL_ISA(isa, swiglu_rows(a, begin, end)); });
}

void swiglu_backward(Context& ctx, const SwigluBackward& op) {
  const Isa isa = isa_of(ctx);
  const SwigluRows a{op.dy_RF.dtype, op.dy_RF.dim[1], op.gate_up_R2F.data, op.weight_R.data, op.dy_RF.data, nullptr, op.dgate_up_R2F.data, op.dweight_R.data};
  parallel_ranges(ctx.num_threads, op.dy_RF.dim[0], [&](int, int64_t begin, int64_t end) { ATOLL_CALL_ISA(isa, swiglu_backward_rows(a, begin, end)); });
}

}  // namespace atoll::cpu
