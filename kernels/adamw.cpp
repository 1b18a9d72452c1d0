// AdamW over one tensor (or a range of its rows): one fused pass, threads over fixed runs of elements.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/isa/adamw.h"
#include "kernels/cpu/threads.h"
#include "kernels/cuda/ops.h"
#include "kernels/op_scope.h"
#include "kernels/ops.h"

namespace atoll {

void adamw(Context& ctx, const AdamW& op) {
  const DType acc = op.master.dtype, storage = op.weight.dtype;
  const int64_t n = op.master.size();
  for (const Tensor* t : {&op.master, &op.grad, &op.m, &op.v, &op.weight})
    ATOLL_CHECK(t->size() == n && t->is_contiguous(), "adamw: master is ", op.master.shape(), " but another tensor is ", t->shape(),
                "; all are contiguous and of one size");
  ATOLL_CHECK((acc == DType::kF32 || acc == DType::kF64) && op.grad.dtype == acc && (acc == acc_dtype(storage)), "adamw: master ", op.master.shape(), ", grad ",
              op.grad.shape(), ", weight ", op.weight.shape(), "; master and grad have the acc type of weight");
  ATOLL_CHECK(op.m.dtype == op.v.dtype && (op.m.dtype == acc || op.m.dtype == DType::kBF16), "adamw: moments ", op.m.shape(), " and ", op.v.shape(),
              "; expected ", name_of(acc), " or bf16");
  ATOLL_CHECK(op.step >= 1, "adamw: step ", op.step, "; it counts from 1");
  if (n == 0) return;
  const OpScope scope(ctx, Op::kAdamW, 0);
  if (ctx.device == Device::kCuda) return cuda::adamw(ctx, op);
  const auto step = static_cast<double>(op.step);
  const cpu::AdamWRun run{.master = op.master.data,
                          .m = op.m.data,
                          .v = op.v.data,
                          .weight = op.weight.data,
                          .grad = op.grad.data,
                          .acc = acc,
                          .moments = op.m.dtype,
                          .storage = storage,
                          .decay = 1 - op.lr * op.weight_decay,
                          .beta1 = op.beta1,
                          .beta2 = op.beta2,
                          .one_minus_beta1 = 1 - op.beta1,
                          .one_minus_beta2 = 1 - op.beta2,
                          .step_size = op.lr / (1 - std::pow(op.beta1, step)),
                          .inv_sqrt_bias2 = 1 / std::sqrt(1 - std::pow(op.beta2, step)),
                          .eps = op.eps,
                          .grad_scale = op.grad_scale};
  constexpr int64_t kRun = 16384;
  const Isa isa = cpu::isa_of(ctx);
  cpu::parallel_for(ctx.num_threads, (n + kRun - 1) / kRun, [&](int64_t i) { ATOLL_CALL_ISA(isa, adamw_run(run, i * kRun, std::min(n, (i + 1) * kRun))); });
}

}  // namespace atoll
