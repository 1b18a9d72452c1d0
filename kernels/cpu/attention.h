// Attention on the CPU: what kernels/attention.cpp calls, and the work on one (document, head) built for each instruction set.
#pragma once
#include "kernels/cpu/isa.h"

namespace atoll {
struct Attention;
struct AttentionBackward;
}

namespace atoll::cpu {

void attention(Context& ctx, const Attention& op);
void attention_backward(Context& ctx, const AttentionBackward& op);

// One head of one document: rows from the document's first token, strides in elements.
struct HeadRows {
  void* data;
  int64_t stride;
};
struct AttentionHead {
  DType dtype;
  int64_t L, N, R, V;                        // tokens, nope, rope and value dims
  double scale;
  HeadRows q, k_nope, k_rope, v, o, lse;     // lse: acc
  HeadRows d_o, dq, dk_nope, dk_rope, dv;    // backward only; dk_rope: this head's own part, acc
};
constexpr int64_t kAttentionBlock = 64;      // queries and keys in a tile
// Scratch elements (acc) of one thread for documents of up to L tokens.
int64_t attention_scratch(int64_t L, int64_t Q, int64_t V);
int64_t attention_backward_scratch(int64_t L, int64_t Q, int64_t V);
ATOLL_DECLARE_ISA(void attention_head(const AttentionHead& a, void* scratch))
ATOLL_DECLARE_ISA(void attention_backward_head(const AttentionHead& a, void* scratch))
// dk_rope[t] = sum over heads, ascending, of partial[h][t]; rows [begin, end).
ATOLL_DECLARE_ISA(void sum_heads(DType dtype, const void* partial, int64_t H, int64_t T, int64_t R, HeadRows dk_rope, int64_t begin, int64_t end))

}  // namespace atoll::cpu
