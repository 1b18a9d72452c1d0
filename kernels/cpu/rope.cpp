// RoPE on threads: tokens.
#include "kernels/cpu/rope.h"

#include "kernels/cpu/threads.h"
#include "kernels/ops.h"

namespace atoll::cpu {

void rope(Context& ctx, const Rope& op) {
  const Isa isa = isa_of(ctx);
  const Tensor& x = op.x_THR;
  const RopeRows a{x.dtype, x.data, x.stride[0], x.stride[1], x.dim[1], x.dim[2], op.position_T.data(), op.table_PR.data, op.inverse};
  parallel_ranges(ctx.num_threads, x.dim[0], [&](int, int64_t begin, int64_t end) { ATOLL_CALL_ISA(isa, rope_rows(a, begin, end)); });
}

}  // namespace atoll::cpu
