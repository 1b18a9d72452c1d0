// The ops of model/{stage,block,mla,moe,mlp,mtp}.cpp that take scratch, by their shapes. Policy: one call here is one call there, with operands of the same dims and
// dtype; when a phase changes, its calls change with it (a test runs both).
#include "model/workspace.h"

#include <algorithm>
#include <vector>

#include "kernels/ops.h"

namespace atoll {
namespace {

class Sizing {
 public:
  Sizing(const ModelConfig& config, const WorkspaceShape& shape) : c_(config), s_(shape), ctx_(shape.threads) {
    ctx_.is_sizing = true;
    ctx_.bf16_gemm = shape.bf16_gemm;
  }
  int64_t found() const { return ctx_.memory.workspace.high_water(); }

  void block(int64_t layer, int64_t T, int64_t sequences) {
    norm_gradient(T, c_.hidden_size);
    attention_layer(T);
    if (c_.is_moe_layer(layer))
      moe(T, sequences);
    else
      mlp(T, c_.intermediate_size);
  }

  void head(int64_t T) {
    const int64_t D = c_.hidden_size, V = c_.vocab_size;
    const Buffer x = take(T, D), w = take(V, D), dx = take(T, D), dw = take_acc(V, D), labels = ctx_.memory.activations.take({T}, DType::kI32);
    double loss = 0;
    head_loss(ctx_, {.x_TD = x, .w_VD = w, .labels_T = labels, .loss_sum = &loss, .dx_TD = dx, .dw_VD = dw});
    norm_gradient(T, D);
  }

  void mtp(int64_t layer, int64_t T, int64_t sequences) {
    product(T, 2 * c_.hidden_size, c_.hidden_size);  // eh_proj
    block(layer, T, sequences);
    head(T);
  }

 private:
  Buffer take(int64_t rows, int64_t cols) { return ctx_.memory.activations.take({rows, cols}, s_.storage); }
  Buffer take_acc(int64_t rows, int64_t cols) { return ctx_.memory.activations.take({rows, cols}, acc_dtype(s_.storage)); }

  // y = x w^T and its gradients; is_gate: the router's, whose logits are acc and whose input gradient adds to what is there.
  void product(int64_t T, int64_t K, int64_t N, bool is_gate = false) {
    const Buffer x = take(T, K), w = take(N, K), dy = take(T, N), dw = take_acc(N, K), y = is_gate ? take_acc(T, N) : Buffer();
    linear(ctx_, {.x_TK = x, .w_NK = w, .y_TN = is_gate ? y : dy, .keeps_acc = is_gate});
    linear_backward_input(ctx_, {.dy_TN = dy, .w_NK = w, .dx_TK = x, .accumulate = is_gate});
    for (const bool accumulate : {false, true}) linear_backward_weight(ctx_, {.dy_TN = dy, .x_TK = x, .dw_NK = dw, .accumulate = accumulate});
  }

  // As many experts as there are threads show how much they take together. Tiles that are cut off need most (kernels/cpu/gemm.cpp pads them), so the longest of these is tried, too.
  void grouped_product(int64_t K, int64_t N) {
    const int64_t E = std::min<int64_t>(s_.num_experts, s_.threads);
    for (const int64_t most : {int64_t{255}, int64_t{1023}, s_.expert_rows}) {
      const int64_t rows = std::min(most, s_.expert_rows), R = E * rows;
      std::vector<int64_t> offsets;
      for (int64_t e = 0; e <= E; ++e) offsets.push_back(e * rows);
      const Buffer x = take(R, K), dy = take(R, N);
      const Buffer w = ctx_.memory.activations.take({E, N, K}, s_.storage), dw = ctx_.memory.activations.take({E, N, K}, acc_dtype(s_.storage));
      grouped_linear(ctx_, {.x_RK = x, .w_ENK = w, .y_RN = dy, .offsets = offsets});
      grouped_linear_backward_input(ctx_, {.dy_RN = dy, .w_ENK = w, .dx_RK = x, .offsets = offsets});
      for (const bool accumulate : {false, true})
        grouped_linear_backward_weight(ctx_, {.dy_RN = dy, .x_RK = x, .dw_ENK = dw, .offsets = offsets, .accumulate = accumulate});
    }
  }

  void norm_gradient(int64_t T, int64_t D) {
    const Buffer dy = take(T, D), h = take(T, D), gain = take(1, D), rstd = take_acc(1, T), dgain = take_acc(1, D);
    rms_norm_backward(ctx_, {.dy_TD = dy, .h_TD = h, .gain_D = gain.tensor().view({D}), .rstd_T = rstd.tensor().view({T}), .dx_TD = dy, .dgain_D = dgain.tensor().view({D})});
  }

  void attention_layer(int64_t T) {
    const int64_t D = c_.hidden_size, H = c_.num_attention_heads, N = c_.qk_nope_head_dim, R = c_.qk_rope_head_dim, V = c_.v_head_dim, L = c_.q_lora_rank, KV = c_.kv_lora_rank;
    product(T, D, (L > 0 ? L : H * (N + R)) + KV + R);
    if (L > 0) {
      norm_gradient(T, L);
      product(T, L, H * (N + R));
    }
    norm_gradient(T, KV);
    product(T, KV, H * (N + V));
    product(T, H * V, D);
    const Buffer q = take(T, H * (N + R)), kv = take(T, H * (N + V)), k_rope = take(T, R), o = take(T, H * V), lse = take_acc(T, H);
    const Tensor q_heads = q.tensor().heads(H), kv_heads = kv.tensor().heads(H), o_heads = o.tensor().heads(H);
    const std::vector<int32_t> cu_docs = documents(T);
    attention(ctx_, {.q_THQ = q_heads, .k_nope_THN = kv_heads.cols(0, N), .k_rope_TR = k_rope, .v_THV = kv_heads.cols(N, V), .o_THV = o_heads, .lse_TH = lse, .cu_docs = cu_docs});
    attention_backward(ctx_, {.do_THV = o_heads, .q_THQ = q_heads, .k_nope_THN = kv_heads.cols(0, N), .k_rope_TR = k_rope, .v_THV = kv_heads.cols(N, V), .o_THV = o_heads, .lse_TH = lse,
                              .cu_docs = cu_docs, .dq_THQ = q_heads, .dk_nope_THN = kv_heads.cols(0, N), .dk_rope_TR = k_rope, .dv_THV = kv_heads.cols(N, V)});
  }

  // Documents of the longest length, one after the other.
  std::vector<int32_t> documents(int64_t T) const {
    const int64_t whole = std::max<int64_t>(1, s_.tokens / s_.sequences), length = s_.longest_document > 0 ? s_.longest_document : whole;
    std::vector<int32_t> cu_docs{0};
    while (cu_docs.back() < T) cu_docs.push_back(static_cast<int32_t>(std::min(T, cu_docs.back() + length)));
    return cu_docs;
  }

  void mlp(int64_t T, int64_t width) {
    product(T, c_.hidden_size, 2 * width);
    product(T, width, c_.hidden_size);
  }

  void moe(int64_t T, int64_t sequences) {
    const int64_t D = c_.hidden_size, E = c_.n_routed_experts, K = c_.num_experts_per_tok, F = c_.moe_intermediate_size;
    product(T, D, E, true);
    const Buffer logits = take_acc(T, E), weight = take_acc(T, K), ids = ctx_.memory.activations.take({T, K}, DType::kI32);
    router(ctx_, {.logits_TE = logits, .scores_TE = logits, .topk_idx_TK = ids, .weight_TK = weight, .config = c_.router()});
    if (s_.has_balance_loss) {
      std::vector<int32_t> cu_seqs;
      for (int64_t b = 0; b <= sequences; ++b) cu_seqs.push_back(static_cast<int32_t>(T * b / sequences));
      const Buffer f = take_acc(sequences, E);
      double sum = 0;
      balance_loss(ctx_, {.scores_TE = logits, .cu_seqs = cu_seqs, .topk = static_cast<int>(K), .f_BE = f, .loss_sum = &sum});
    }
    if (c_.n_shared_experts > 0) mlp(T, c_.n_shared_experts * F);
    if (s_.expert_rows == 0 || s_.num_experts == 0) return;
    grouped_product(D, 2 * F);
    grouped_product(F, D);
  }

  const ModelConfig& c_;
  const WorkspaceShape& s_;
  Context ctx_;
};

}  // namespace

int64_t stage_workspace(const ModelConfig& config, Range layers, bool is_last, const WorkspaceShape& shape) {
  if (shape.tokens <= 0) return 0;
  Sizing sizing(config, shape);
  std::vector<bool> seen(2, false);  // layers of a kind are alike
  for (int64_t l = layers.begin; l < layers.end; ++l) {
    const bool is_moe = config.is_moe_layer(l);
    if (!seen[is_moe]) sizing.block(l, shape.tokens, shape.sequences);
    seen[is_moe] = true;
  }
  if (!is_last) return sizing.found();
  sizing.head(shape.tokens);
  for (int64_t k = 0; k < config.num_nextn_predict_layers; ++k)
    if (const int64_t T = shape.tokens - shape.sequences * (k + 1); T > 0) sizing.mtp(config.num_hidden_layers + k, T, shape.sequences);
  return sizing.found();
}

int64_t gradient_norm_workspace(int64_t most_elements) {
  if (most_elements == 0) return 0;
  Context ctx;
  ctx.is_sizing = true;
  const Buffer grads = ctx.memory.activations.take({most_elements}, DType::kF32);
  sum_of_squares(ctx, grads);
  return ctx.memory.workspace.high_water();
}

}  // namespace atoll
