// Attention on threads: one (document, head) is one piece of work with its own scratch, whichever thread takes it. The shared rope key's gradient is kept per
// head and summed afterwards, heads ascending: bits do not depend on the thread count.
#include "kernels/cpu/attention.h"

#include <omp.h>

#include <algorithm>

#include "kernels/cpu/threads.h"
#include "kernels/ops.h"

namespace atoll::cpu {
namespace {

int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }
int64_t blocks_of(int64_t L) { return (L + kAttentionBlock - 1) / kAttentionBlock; }

HeadRows head_rows(const Tensor& t, int64_t token, int64_t head) {
  if (!t) return {nullptr, 0};
  const int64_t offset = token * t.stride[0] + head * t.stride[1];
  return {static_cast<char*>(t.data) + offset * static_cast<int64_t>(size_of(t.dtype)), t.stride[0]};
}
HeadRows token_rows(const Tensor& t, int64_t token) { return t ? HeadRows{t.rows(token, 0).data, t.stride[0]} : HeadRows{nullptr, 0}; }

int64_t longest(std::span<const int32_t> cu_docs) {
  int32_t longest = 0;
  for (size_t d = 0; d + 1 < cu_docs.size(); ++d) longest = std::max(longest, cu_docs[d + 1] - cu_docs[d]);
  return longest;
}

// body(head of a document, scratch); `make` fills in the pieces of (document, head).
template <class Make, class Body>
void for_each_head(std::span<const int32_t> cu_docs, int64_t H, const Buffer& scratch, const Make& make, const Body& body) {
  const int64_t pieces = (static_cast<int64_t>(cu_docs.size()) - 1) * H;
  const int threads = static_cast<int>(scratch.tensor().dim[0]);
  const int64_t bytes = scratch.tensor().stride[0] * static_cast<int64_t>(size_of(scratch.tensor().dtype));
  const auto run = [&](int64_t piece, int thread) {
    const int32_t* doc = cu_docs.data() + piece / H;
    if (doc[1] > doc[0]) body(make(doc[0], doc[1] - doc[0], piece % H), scratch.tensor().as<char>() + thread * bytes);
  };
  if (threads == 1) {
    for (int64_t piece = 0; piece < pieces; ++piece) run(piece, 0);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t piece = 0; piece < pieces; ++piece) run(piece, omp_get_thread_num());
}

int64_t threads_for(Context& ctx, std::span<const int32_t> cu_docs, int64_t H) {
  return std::max<int64_t>(1, std::min<int64_t>(ctx.num_threads, (static_cast<int64_t>(cu_docs.size()) - 1) * H));
}

}  // namespace

int64_t attention_scratch(int64_t L, int64_t Q, int64_t V) {
  constexpr int64_t B = kAttentionBlock;
  return padded(L * (padded(Q) + padded(V)) + B * (padded(Q) + Q + B + padded(V) + 3));
}
int64_t attention_backward_scratch(int64_t L, int64_t Q, int64_t V) {
  constexpr int64_t B = kAttentionBlock;
  return padded(L * (3 * padded(Q) + 2 * padded(V)) + blocks_of(L) * B * (Q + V + 2) + B * (2 * B + padded(Q) + padded(V)));
}

void attention(Context& ctx, const Attention& op) {
  const Isa isa = isa_of(ctx);
  const int64_t H = op.q_THQ.dim[1], Q = op.q_THQ.dim[2], N = op.k_nope_THN.dim[2], V = op.v_THV.dim[2];
  const Buffer scratch = ctx.memory.workspace.take({threads_for(ctx, op.cu_docs, H), attention_scratch(longest(op.cu_docs), Q, V)}, acc_dtype(op.q_THQ.dtype));
  if (ctx.is_sizing) return;
  const auto make = [&](int64_t begin, int64_t L, int64_t h) {
    AttentionHead a{op.q_THQ.dtype, L, N, Q - N, V, op.scale};
    a.q = head_rows(op.q_THQ, begin, h);
    a.k_nope = head_rows(op.k_nope_THN, begin, h);
    a.k_rope = token_rows(op.k_rope_TR, begin);
    a.v = head_rows(op.v_THV, begin, h);
    a.o = head_rows(op.o_THV, begin, h);
    a.lse = head_rows(op.lse_TH, begin, h);
    return a;
  };
  for_each_head(op.cu_docs, H, scratch, make, [&](const AttentionHead& a, void* memory) { ATOLL_CALL_ISA(isa, attention_head(a, memory)); });
}

void attention_backward(Context& ctx, const AttentionBackward& op) {
  const Isa isa = isa_of(ctx);
  const int64_t T = op.q_THQ.dim[0], H = op.q_THQ.dim[1], Q = op.q_THQ.dim[2], N = op.k_nope_THN.dim[2], R = Q - N, V = op.v_THV.dim[2];
  const DType acc = acc_dtype(op.q_THQ.dtype);
  const Buffer scratch = ctx.memory.workspace.take({threads_for(ctx, op.cu_docs, H), attention_backward_scratch(longest(op.cu_docs), Q, V)}, acc);
  const Buffer rope_parts = ctx.memory.workspace.take({H, T, R}, acc);
  if (ctx.is_sizing) return;
  const auto make = [&](int64_t begin, int64_t L, int64_t h) {
    AttentionHead a{op.q_THQ.dtype, L, N, R, V, op.scale};
    a.q = head_rows(op.q_THQ, begin, h);
    a.k_nope = head_rows(op.k_nope_THN, begin, h);
    a.k_rope = token_rows(op.k_rope_TR, begin);
    a.v = head_rows(op.v_THV, begin, h);
    a.o = head_rows(op.o_THV, begin, h);
    a.lse = head_rows(op.lse_TH, begin, h);
    a.d_o = head_rows(op.do_THV, begin, h);
    a.dq = head_rows(op.dq_THQ, begin, h);
    a.dk_nope = head_rows(op.dk_nope_THN, begin, h);
    a.dk_rope = {rope_parts.tensor().as<char>() + (h * T + begin) * R * static_cast<int64_t>(size_of(acc)), R};
    a.dv = head_rows(op.dv_THV, begin, h);
    return a;
  };
  for_each_head(op.cu_docs, H, scratch, make, [&](const AttentionHead& a, void* memory) { ATOLL_CALL_ISA(isa, attention_backward_head(a, memory)); });
  if (R == 0) return;
  const HeadRows out = token_rows(op.dk_rope_TR, 0);
  parallel_ranges(ctx.num_threads, T, [&](int, int64_t begin, int64_t end) { ATOLL_CALL_ISA(isa, sum_heads(op.q_THQ.dtype, rope_parts.tensor().data, H, T, R, out, begin, end)); });
}

}  // namespace atoll::cpu
