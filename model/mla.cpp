// Latent attention, written in the order of its equations. Policy: the fused first projection q_a|kv_a is one product whose columns are taken as views; nothing is copied to
// be split. The latent norms have their own epsilon, as the published models do.
#include "model/mla.h"

namespace atoll {
namespace {
constexpr double kLatentEps = 1e-6;  // whatever rms_norm_eps says
}

MlaTensors mla_tensors(const ParameterStore& parameters, const ModelConfig& config, const std::string& prefix, bool grads) {
  const int64_t q_rows = config.q_lora_rank > 0 ? config.q_lora_rank : config.num_attention_heads * config.qk_head_dim();
  auto get = [&](const char* name) {
    const LocalParameter& p = parameters.get(prefix + name);
    return grads ? p.grad : p.weight;
  };
  MlaTensors t;
  t.qkv_a = parameters.fused(prefix + (config.q_lora_rank > 0 ? "q_a_proj.weight" : "q_proj.weight"), q_rows + config.kv_lora_rank + config.qk_rope_head_dim, grads);
  if (config.q_lora_rank > 0) {
    t.q_norm = get("q_a_layernorm.weight");
    t.q_b = get("q_b_proj.weight");
  }
  t.kv_norm = get("kv_a_layernorm.weight");
  t.kv_b = get("kv_b_proj.weight");
  t.o = get("o_proj.weight");
  return t;
}

Mla::Mla(Context& ctx, const ModelConfig& config, const MlaTensors& weights, const MlaTensors& grads, const Tensor& rope_table_PR)
    : ctx_(ctx), config_(config), w_(weights), g_(grads), rope_table_(rope_table_PR), scale_(attention_scale(config.qk_head_dim(), config.rope_scaling)) {}

Tensor Mla::q_part(const Tensor& a) const { return a.cols(0, a.dim[1] - config_.kv_lora_rank - config_.qk_rope_head_dim); }
Tensor Mla::kv_part(const Tensor& a) const { return a.cols(a.dim[1] - config_.kv_lora_rank - config_.qk_rope_head_dim, config_.kv_lora_rank); }
Tensor Mla::key_rope(const Tensor& a) const { return a.cols(a.dim[1] - config_.qk_rope_head_dim, config_.qk_rope_head_dim); }
Tensor Mla::q_rope(const Tensor& q_TQ) const { return q_TQ.heads(H()).cols(config_.qk_nope_head_dim, config_.qk_rope_head_dim); }

Buffer Mla::forward(MlaState& s, const TokenRows& rows) const {
  const int64_t T = s.x.tensor().dim[0];
  const DType type = s.x.tensor().dtype, acc = acc_dtype(type);
  Segment& memory = ctx_.memory.activations;

  s.qkv_a = memory.take({T, w_.qkv_a.dim[0]}, type);
  linear(ctx_, {.x_TK = s.x, .w_NK = w_.qkv_a, .y_TN = s.qkv_a});
  Tensor q = q_part(s.qkv_a);
  if (has_q_latent()) {
    s.q_latent = memory.take({T, config_.q_lora_rank}, type);
    s.q_rstd = memory.take({T}, acc);
    rms_norm(ctx_, {.x_TD = q, .gain_D = w_.q_norm, .y_TD = s.q_latent, .rstd_T = s.q_rstd, .eps = kLatentEps});
    s.q = memory.take({T, w_.q_b.dim[0]}, type);
    linear(ctx_, {.x_TK = s.q_latent, .w_NK = w_.q_b, .y_TN = s.q});
    q = s.q;
  }
  s.kv_latent = memory.take({T, config_.kv_lora_rank}, type);
  s.kv_rstd = memory.take({T}, acc);
  rms_norm(ctx_, {.x_TD = kv_part(s.qkv_a), .gain_D = w_.kv_norm, .y_TD = s.kv_latent, .rstd_T = s.kv_rstd, .eps = kLatentEps});
  s.kv = memory.take({T, w_.kv_b.dim[0]}, type);
  linear(ctx_, {.x_TK = s.kv_latent, .w_NK = w_.kv_b, .y_TN = s.kv});

  rope(ctx_, {.x_THR = q_rope(q), .position_T = rows.position, .table_PR = rope_table_});
  const Tensor k_rope = key_rope(s.qkv_a);  // one head for all, not normed
  rope(ctx_, {.x_THR = k_rope.heads(1), .position_T = rows.position, .table_PR = rope_table_});

  const int64_t V = config_.v_head_dim, N = config_.qk_nope_head_dim;
  const Tensor kv_heads = s.kv.tensor().heads(H());
  s.o = memory.take({T, H() * V}, type);
  s.lse = memory.take({T, H()}, acc);
  attention(ctx_, {.q_THQ = q.heads(H()), .k_nope_THN = kv_heads.cols(0, N), .k_rope_TR = k_rope, .v_THV = kv_heads.cols(N, V), .o_THV = s.o.tensor().heads(H()), .lse_TH = s.lse,
                   .cu_docs = rows.cu_docs, .scale = scale_});
  Buffer y = memory.take({T, w_.o.dim[0]}, type);
  linear(ctx_, {.x_TK = s.o, .w_NK = w_.o, .y_TN = y});
  return y;
}

Buffer Mla::backward_input(MlaState& s, const TokenRows& rows, Buffer d_out) const {
  const int64_t T = s.x.tensor().dim[0], V = config_.v_head_dim, N = config_.qk_nope_head_dim;
  const DType type = s.x.tensor().dtype;
  Segment& memory = ctx_.memory.activations;
  s.d_out = std::move(d_out);
  Buffer d_o = memory.take({T, H() * V}, type);
  linear_backward_input(ctx_, {.dy_TN = s.d_out, .w_NK = w_.o, .dx_TK = d_o});

  s.d_qkv_a = memory.take({T, w_.qkv_a.dim[0]}, type);
  s.d_kv = memory.take({T, w_.kv_b.dim[0]}, type);
  if (has_q_latent()) s.d_q = memory.take({T, w_.q_b.dim[0]}, type);
  const Tensor q = has_q_latent() ? s.q.tensor() : q_part(s.qkv_a);
  const Tensor d_q = has_q_latent() ? s.d_q.tensor() : q_part(s.d_qkv_a);
  const Tensor kv_heads = s.kv.tensor().heads(H()), d_kv_heads = s.d_kv.tensor().heads(H());
  const Tensor d_k_rope = key_rope(s.d_qkv_a);
  attention_backward(ctx_, {.do_THV = d_o.tensor().heads(H()), .q_THQ = q.heads(H()), .k_nope_THN = kv_heads.cols(0, N), .k_rope_TR = key_rope(s.qkv_a), .v_THV = kv_heads.cols(N, V),
                            .o_THV = s.o.tensor().heads(H()), .lse_TH = s.lse, .cu_docs = rows.cu_docs, .scale = scale_, .dq_THQ = d_q.heads(H()),
                            .dk_nope_THN = d_kv_heads.cols(0, N), .dk_rope_TR = d_k_rope, .dv_THV = d_kv_heads.cols(N, V)});
  d_o.reset();
  s.q.reset();
  s.kv.reset();
  s.lse.reset();
  rope(ctx_, {.x_THR = q_rope(d_q), .position_T = rows.position, .table_PR = rope_table_, .inverse = true});
  rope(ctx_, {.x_THR = d_k_rope.heads(1), .position_T = rows.position, .table_PR = rope_table_, .inverse = true});

  {
    Buffer d_latent = memory.take({T, config_.kv_lora_rank}, type);
    linear_backward_input(ctx_, {.dy_TN = s.d_kv, .w_NK = w_.kv_b, .dx_TK = d_latent});
    rms_norm_backward(ctx_, {.dy_TD = d_latent, .h_TD = kv_part(s.qkv_a), .gain_D = w_.kv_norm, .rstd_T = s.kv_rstd, .dx_TD = kv_part(s.d_qkv_a), .dgain_D = g_.kv_norm});
  }
  if (has_q_latent()) {
    Buffer d_latent = memory.take({T, config_.q_lora_rank}, type);
    linear_backward_input(ctx_, {.dy_TN = s.d_q, .w_NK = w_.q_b, .dx_TK = d_latent});
    rms_norm_backward(ctx_, {.dy_TD = d_latent, .h_TD = q_part(s.qkv_a), .gain_D = w_.q_norm, .rstd_T = s.q_rstd, .dx_TD = q_part(s.d_qkv_a), .dgain_D = g_.q_norm});
  }
  s.qkv_a.reset();
  Buffer d_x = memory.take({T, w_.qkv_a.dim[1]}, type);
  linear_backward_input(ctx_, {.dy_TN = s.d_qkv_a, .w_NK = w_.qkv_a, .dx_TK = d_x});
  return d_x;
}

void Mla::backward_weight(MlaState& s, bool accumulate) const {
  linear_backward_weight(ctx_, {.dy_TN = s.d_out, .x_TK = s.o, .dw_NK = g_.o, .accumulate = accumulate});
  linear_backward_weight(ctx_, {.dy_TN = s.d_kv, .x_TK = s.kv_latent, .dw_NK = g_.kv_b, .accumulate = accumulate});
  if (has_q_latent()) linear_backward_weight(ctx_, {.dy_TN = s.d_q, .x_TK = s.q_latent, .dw_NK = g_.q_b, .accumulate = accumulate});
  linear_backward_weight(ctx_, {.dy_TN = s.d_qkv_a, .x_TK = s.x, .dw_NK = g_.qkv_a, .accumulate = accumulate});
  s = MlaState{};
}

}  // namespace atoll
