// Public router ops: checks, then the back end.
#include "kernels/cpu/router.h"

#include "kernels/checks.h"
#include "kernels/op_scope.h"
#include "kernels/round_outputs.h"

namespace atoll {
namespace {

void check_config(const RouterConfig& c, int64_t E) {
  ATOLL_CHECK(c.num_experts == E, "router: num_experts = ", c.num_experts, " but the scores have ", E, " columns");
  ATOLL_CHECK(c.topk >= 1 && c.topk <= c.num_experts, "router: topk = ", c.topk, " of ", c.num_experts, " experts");
  if (c.group_score == GroupScore::kNone) return;
  ATOLL_CHECK(c.num_groups >= 1 && c.num_experts % c.num_groups == 0, "router: num_groups = ", c.num_groups, " does not divide num_experts = ", c.num_experts);
  ATOLL_CHECK(c.topk_groups >= 1 && c.topk_groups <= c.num_groups, "router: topk_groups = ", c.topk_groups, " of ", c.num_groups, " groups");
  const int kept = c.topk_groups * (c.num_experts / c.num_groups);
  ATOLL_CHECK(c.topk <= kept, "router: topk = ", c.topk, " but ", c.topk_groups, " kept groups have only ", kept, " experts; raise topk_groups");
}

void check_acc(const char* what, const Tensor& t) {
  ATOLL_CHECK(t.rank == 2 && (t.dtype == DType::kF32 || t.dtype == DType::kF64), what, " must be fp32 or fp64 [T, E], is ", t.shape());
}

void check_ids(const Tensor& ids, int64_t E) {
  const int32_t* p = ids.as<int32_t>();
  for (int64_t i = 0; i < ids.size(); ++i) ATOLL_CHECK(p[i] >= 0 && p[i] < E, "router: expert id ", p[i], " at ", i, " is not in [0, ", E, ")");
}

void check_sequences(std::span<const int32_t> cu_seqs, int64_t T) {
  ATOLL_CHECK(!cu_seqs.empty() && cu_seqs.front() == 0 && cu_seqs.back() == T, "balance loss: cu_seqs must go from 0 to T = ", T);
  for (size_t b = 0; b + 1 < cu_seqs.size(); ++b) ATOLL_CHECK(cu_seqs[b] <= cu_seqs[b + 1], "balance loss: cu_seqs falls at sequence ", b);
}

}  // namespace

void router(Context& ctx, const Router& op) {
  need_cpu(ctx, Op::kRouter);
  const Tensor& x = op.logits_TE;
  check_acc("router: logits", x);
  const int64_t T = x.dim[0], E = x.dim[1], K = op.config.topk;
  check_config(op.config, E);
  if (T == 0) return;
  check_tensor("router: logits", x, x.dtype, {T, E});
  check_tensor("router: scores", op.scores_TE, x.dtype, {T, E});
  check_tensor("router: topk_idx", op.topk_idx_TK, DType::kI32, {T, K});
  check_tensor("router: weight", op.weight_TK, x.dtype, {T, K});
  if (op.bias_E) check_tensor("router: bias", op.bias_E, x.dtype, {E});
  if (op.forced) check_ids(op.topk_idx_TK, E);
  OpScope scope(ctx, Op::kRouter, 0);
  cpu::router(ctx, op);
}

void router_backward(Context& ctx, const RouterBackward& op) {
  need_cpu(ctx, Op::kRouterBackward);
  const Tensor& s = op.scores_TE;
  check_acc("router_backward: scores", s);
  const int64_t T = s.dim[0], E = s.dim[1], K = op.config.topk;
  check_config(op.config, E);
  if (T == 0) return;
  check_tensor("router_backward: scores", s, s.dtype, {T, E});
  check_tensor("router_backward: topk_idx", op.topk_idx_TK, DType::kI32, {T, K});
  check_tensor("router_backward: dweight", op.dweight_TK, s.dtype, {T, K});
  check_tensor("router_backward: dlogits", op.dlogits_TE, s.dtype, {T, E});
  check_ids(op.topk_idx_TK, E);
  if (op.f_BE) {
    check_sequences(op.cu_seqs, T);
    check_tensor("router_backward: f", op.f_BE, s.dtype, {static_cast<int64_t>(op.cu_seqs.size()) - 1, E});
  }
  OpScope scope(ctx, Op::kRouterBackward, 0);
  cpu::router_backward(ctx, op);
  round_outputs(ctx, {op.dlogits_TE});  // the operand of two products
}

void balance_loss(Context& ctx, const BalanceLoss& op) {
  need_cpu(ctx, Op::kBalanceLoss);
  const Tensor& s = op.scores_TE;
  check_acc("balance_loss: scores", s);
  check_sequences(op.cu_seqs, s.dim[0]);
  ATOLL_CHECK(op.topk >= 1 && op.topk <= s.dim[1], "balance_loss: topk = ", op.topk, " of ", s.dim[1], " experts");
  ATOLL_CHECK(op.loss_sum, "balance_loss: loss_sum is null");
  check_tensor("balance_loss: scores", s, s.dtype, {s.dim[0], s.dim[1]});
  check_tensor("balance_loss: f", op.f_BE, s.dtype, {static_cast<int64_t>(op.cu_seqs.size()) - 1, s.dim[1]});
  OpScope scope(ctx, Op::kBalanceLoss, 0);
  cpu::balance_loss(ctx, op);
}

}  // namespace atoll
