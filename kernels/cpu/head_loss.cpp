// Output head + cross-entropy in blocks of rows, so that scratch is bounded whatever the batch: as many rows as have 64 MiB of logits (129 of a vocabulary of
// 129280 in FP32), but at least 16 and at most 1024. The block size is a function of the vocabulary and the type alone: bits do not depend on the machine.
#include "kernels/cpu/head_loss.h"

#include <algorithm>

#include "kernels/cpu/threads.h"
#include "kernels/ops.h"

namespace atoll::cpu {
namespace {

int64_t block_rows(int64_t V, DType acc) { return std::clamp<int64_t>((int64_t{64} << 20) / (V * static_cast<int64_t>(size_of(acc))), 16, 1024); }

double sum_of(const Tensor& loss) {
  double sum = 0;
  for (int64_t t = 0; t < loss.dim[0]; ++t) sum += loss.dtype == DType::kF64 ? loss.as<double>()[t] : static_cast<double>(loss.as<float>()[t]);
  return sum;
}

}  // namespace

void head_loss(Context& ctx, const HeadLoss& op) {
  const Isa isa = isa_of(ctx);
  const int64_t T = op.x_TD.dim[0], V = op.w_VD.dim[0];
  const DType storage = op.x_TD.dtype, acc = acc_dtype(storage);
  const int64_t rows = std::min(T, block_rows(V, acc));
  const Buffer logits = ctx.memory.workspace.take({rows, V}, acc), losses = ctx.memory.workspace.take({rows}, acc);
  for (int64_t begin = 0; begin < T; begin += rows) {
    const int64_t n = std::min(rows, T - begin);
    const Tensor block = logits.tensor().rows(0, n), x = op.x_TD.rows(begin, n);
    const Tensor loss = op.loss_T ? op.loss_T.rows(begin, n) : losses.tensor().rows(0, n);
    linear(ctx, {.x_TK = x, .w_NK = op.w_VD, .y_TN = block});
    const LossRows a{storage, V, block.data, op.labels_T.as<int32_t>() + begin, loss.data, op.scale, static_cast<bool>(op.dx_TD)};
    if (!ctx.is_sizing) {
      parallel_ranges(ctx.num_threads, n, [&](int, int64_t first, int64_t last) { ATOLL_CALL_ISA(isa, loss_rows(a, first, last)); });
      *op.loss_sum += sum_of(loss);
    }
    if (!op.dx_TD) continue;
    Tensor dlogits(block.data, storage, {n, V});
    dlogits.stride[0] = V * static_cast<int64_t>(size_of(acc) / size_of(storage));  // a row lies where its logits were
    linear_backward_input(ctx, {.dy_TN = dlogits, .w_NK = op.w_VD, .dx_TK = op.dx_TD.rows(begin, n)});
    linear_backward_weight(ctx, {.dy_TN = dlogits, .x_TK = x, .dw_NK = op.dw_VD});
  }
}

}  // namespace atoll::cpu
