// RMSNorm on threads: rows forward; backward in fixed blocks of rows whose dgain sums are added in order, so that bits do not depend on the thread count.
#include "kernels/cpu/norm.h"

#include <algorithm>

#include "kernels/cpu/rows_of.h"
#include "kernels/cpu/threads.h"
#include "kernels/ops.h"

namespace atoll::cpu {
namespace {
constexpr int64_t kBlockRows = 64;
constexpr int64_t kBlockColumns = 256;
}  // namespace

void rms_norm(Context& ctx, const RmsNorm& op) {
  const Isa isa = isa_of(ctx);
  const RmsNormRows a{op.x_TD.dtype, op.x_TD.dim[1], rows_of(op.x_TD), op.residual_TD ? rows_of(op.residual_TD) : Rows{nullptr, 0}, rows_of(op.h_TD), rows_of(op.y_TD),
                      op.gain_D.data, op.rstd_T.data, op.eps};
  parallel_ranges(ctx.num_threads, op.x_TD.dim[0], [&](int, int64_t begin, int64_t end) { ATOLL_CALL_ISA(isa, rms_norm_rows(a, begin, end)); });
}

void rms_norm_backward(Context& ctx, const RmsNormBackward& op) {
  const Isa isa = isa_of(ctx);
  const int64_t T = op.dy_TD.dim[0], D = op.dy_TD.dim[1];
  const RmsNormBackwardRows a{op.dy_TD.dtype, D, rows_of(op.dy_TD), rows_of(op.h_TD), op.add_TD ? rows_of(op.add_TD) : Rows{nullptr, 0}, rows_of(op.dx_TD), op.gain_D.data, op.rstd_T.data};
  const int64_t num_blocks = (T + kBlockRows - 1) / kBlockRows;
  const DType acc = acc_dtype(a.dtype);
  const bool has_dgain = static_cast<bool>(op.dgain_D);
  Buffer partial;
  if (has_dgain) partial = ctx.memory.workspace.take({num_blocks, D}, acc);
  if (ctx.is_sizing) return;
  if (ctx.is_sizing) return;
  parallel_for(ctx.num_threads, num_blocks, [&](int64_t b) {
    void* dgain = has_dgain ? partial.tensor().as<char>() + b * D * static_cast<int64_t>(size_of(acc)) : nullptr;
    ATOLL_CALL_ISA(isa, rms_norm_backward_rows(a, b * kBlockRows, std::min(T, (b + 1) * kBlockRows), dgain));
  });
  if (!has_dgain) return;
  parallel_for(ctx.num_threads, (D + kBlockColumns - 1) / kBlockColumns, [&](int64_t c) {
    ATOLL_CALL_ISA(isa, add_blocks(acc, partial.tensor().data, num_blocks, D, op.dgain_D.data, c * kBlockColumns, std::min(D, (c + 1) * kBlockColumns)));
  });
}

}  // namespace atoll::cpu
