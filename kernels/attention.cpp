// Public attention ops: checks, then the back end.
#include "kernels/checks.h"
#include "kernels/cpu/attention.h"
#include "kernels/op_scope.h"
#include "kernels/round_outputs.h"

namespace atoll {
namespace {

void check_documents(std::span<const int32_t> cu_docs, int64_t T) {
  ATOLL_CHECK(cu_docs.size() >= 2 && cu_docs.front() == 0 && cu_docs.back() == T, "attention: cu_docs must go from 0 to T = ", T);
  for (size_t d = 0; d + 1 < cu_docs.size(); ++d)
    ATOLL_CHECK(cu_docs[d] <= cu_docs[d + 1], "attention: cu_docs falls from ", cu_docs[d], " to ", cu_docs[d + 1], " at document ", d);
}

// Pairs (query, key) that are computed, over all documents.
double num_pairs(std::span<const int32_t> cu_docs) {
  double pairs = 0;
  for (size_t d = 0; d + 1 < cu_docs.size(); ++d) {
    const double L = cu_docs[d + 1] - cu_docs[d];
    pairs += L * (L + 1) / 2;
  }
  return pairs;
}

struct Dims { int64_t T, H, Q, N, R, V; };
Dims check_inputs(const Tensor& q, const Tensor& k_nope, const Tensor& k_rope, const Tensor& v, std::span<const int32_t> cu_docs) {
  ATOLL_CHECK(q.rank == 3 && k_nope.rank == 3 && v.rank == 3, "attention: q, k_nope, v must be [T, H, dim], are ", q.shape(), ", ", k_nope.shape(), ", ", v.shape());
  check_storage("attention: q", q);
  const Dims s{q.dim[0], q.dim[1], q.dim[2], k_nope.dim[2], q.dim[2] - k_nope.dim[2], v.dim[2]};
  ATOLL_CHECK(s.R >= 0 && s.Q > 0 && s.V > 0, "attention: q has ", s.Q, " dims a head, fewer than k_nope's ", s.N);
  if (s.T == 0) return s;
  check_documents(cu_docs, s.T);
  check_tensor("attention: q", q, q.dtype, {s.T, s.H, s.Q}, true);
  check_tensor("attention: k_nope", k_nope, q.dtype, {s.T, s.H, s.N}, true);
  check_tensor("attention: v", v, q.dtype, {s.T, s.H, s.V}, true);
  if (s.R > 0) check_tensor("attention: k_rope", k_rope, q.dtype, {s.T, s.R}, true);
  return s;
}

}  // namespace

void attention(Context& ctx, const Attention& op) {
  need_cpu(ctx, Op::kAttention);
  const Dims s = check_inputs(op.q_THQ, op.k_nope_THN, op.k_rope_TR, op.v_THV, op.cu_docs);
  if (s.T == 0 || s.H == 0) return;
  check_tensor("attention: o", op.o_THV, op.q_THQ.dtype, {s.T, s.H, s.V}, true);
  check_tensor("attention: lse", op.lse_TH, acc_dtype(op.q_THQ.dtype), {s.T, s.H}, true);
  OpScope scope(ctx, Op::kAttention, 2.0 * num_pairs(op.cu_docs) * static_cast<double>(s.H * (s.Q + s.V)));
  cpu::attention(ctx, op);
  round_outputs(ctx, {op.o_THV});
}

void attention_backward(Context& ctx, const AttentionBackward& op) {
  need_cpu(ctx, Op::kAttentionBackward);
  const Dims s = check_inputs(op.q_THQ, op.k_nope_THN, op.k_rope_TR, op.v_THV, op.cu_docs);
  if (s.T == 0 || s.H == 0) return;
  const DType dtype = op.q_THQ.dtype;
  check_tensor("attention_backward: do", op.do_THV, dtype, {s.T, s.H, s.V}, true);
  check_tensor("attention_backward: o", op.o_THV, dtype, {s.T, s.H, s.V}, true);
  check_tensor("attention_backward: lse", op.lse_TH, acc_dtype(dtype), {s.T, s.H}, true);
  check_tensor("attention_backward: dq", op.dq_THQ, dtype, {s.T, s.H, s.Q}, true);
  check_tensor("attention_backward: dk_nope", op.dk_nope_THN, dtype, {s.T, s.H, s.N}, true);
  check_tensor("attention_backward: dv", op.dv_THV, dtype, {s.T, s.H, s.V}, true);
  if (s.R > 0) check_tensor("attention_backward: dk_rope", op.dk_rope_TR, dtype, {s.T, s.R}, true);
  OpScope scope(ctx, Op::kAttentionBackward, 2.0 * num_pairs(op.cu_docs) * static_cast<double>(s.H * (3 * s.Q + 2 * s.V)));  // scores are computed again
  cpu::attention_backward(ctx, op);
  round_outputs(ctx, {op.dq_THQ, op.dk_nope_THN, op.dk_rope_TR, op.dv_THV});
}

}  // namespace atoll
