// The ops of a block in the order of its phases. Policy: causal attention counts half of the products; backward of attention is five products of which the
// scores' is a recomputation that MFU does not count (it counts twice the forward).
#include "model/work.h"

#include "model/flops.h"

namespace atoll {
namespace {
class BlockBuilder {
 public:
  BlockBuilder(const ModelConfig& config, const WorkShape& shape) : c_(config), s_(shape) {}
  std::vector<Work> list;

  // out, in: of the whole layer; column: outputs are split over tp, else inputs are.
  void linear(const std::string& op, double out, double in, bool is_column, WorkPhase forward, WorkPhase input, WorkPhase weight, bool is_fp8,
              bool is_recomputed, bool is_extra = false) {
    const double tp = s_.tp, rows = s_.tokens;
    const double o = is_column ? out / tp : out, i = is_column ? in : in / tp, flops = 2 * rows * o * i;
    list.push_back({op, WorkKind::kGemm, WorkPass::kForward, forward, rows, o, i, flops, 0, is_fp8, is_extra});
    if (is_recomputed) list.push_back({op + " again", WorkKind::kGemm, WorkPass::kForward, input, rows, o, i, flops, 0, is_fp8, true});
    list.push_back({op, WorkKind::kGemm, WorkPass::kInput, input, rows, i, o, flops, 0, is_fp8, is_extra});
    list.push_back({op, WorkKind::kGemm, WorkPass::kWeight, weight, o, i, rows, flops, 0, is_fp8, is_extra});
  }
  void grouped(const std::string& op, double out, double in, bool is_recomputed) {
    const double rows = s_.routed_rows, flops = 2 * rows * out * in;
    list.push_back({op, WorkKind::kGrouped, WorkPass::kForward, WorkPhase::kMlpForward, rows, out, in, flops, 0, s_.is_fp8});
    if (is_recomputed)
      list.push_back({op + " again", WorkKind::kGrouped, WorkPass::kForward, WorkPhase::kMlpBackward, rows, out, in, flops, 0, s_.is_fp8, true});
    list.push_back({op, WorkKind::kGrouped, WorkPass::kInput, WorkPhase::kMlpBackward, rows, in, out, flops, 0, s_.is_fp8});
    list.push_back({op, WorkKind::kGrouped, WorkPass::kWeight, WorkPhase::kMlpWeight, out, in, rows, flops, 0, s_.is_fp8});
  }
  void glue(const std::string& op, WorkPhase phase, double bytes, bool is_extra = false) {
    if (bytes > 0) list.push_back({op, WorkKind::kGlue, WorkPass::kForward, phase, 0, 0, 0, 0, bytes, false, is_extra});
  }

  void attention();
  void mlp(const std::string& op, double width, bool is_recomputed);
  void moe();

 private:
  void mla_projections();
  void gqa_projections();
  bool again(bool flag) const { return flag || s_.recompute.full; }
  // Bytes of an element that becomes an operand in forward, of a gradient that becomes one (per token and transposed), and of a saved operand that is
  // transposed for its weight gradient.
  double cast() const { return !s_.is_fp8 ? 0 : s_.is_tensor_scaled ? 2 + 4 : 3; }
  double cast_gradient() const { return s_.is_fp8 ? 6 : 0; }
  double transpose() const { return s_.is_fp8 && !s_.is_tensor_scaled ? 2.5 : 0; }
  double H() const { return static_cast<double>(c_.num_attention_heads) / s_.tp; }

  const ModelConfig& c_;
  const WorkShape& s_;
};

void BlockBuilder::mla_projections() {
  using enum WorkPhase;
  const double D = static_cast<double>(c_.hidden_size), heads = static_cast<double>(c_.num_attention_heads);
  const double q_out = heads * static_cast<double>(c_.qk_head_dim()), q_lora = static_cast<double>(c_.q_lora_rank),
               kv_lora = static_cast<double>(c_.kv_lora_rank);
  const double kv_a = kv_lora + static_cast<double>(c_.qk_rope_head_dim), kv_out = heads * static_cast<double>(c_.qk_nope_head_dim + c_.v_head_dim);
  const bool up_again = again(s_.recompute.mla_up);
  if (q_lora > 0) {
    const double tp = s_.tp;  // the latents are computed by every tensor-parallel rank for its part of the tokens
    WorkShape part = s_;
    part.tokens /= tp;
    part.tp = 1;
    BlockBuilder down(c_, part);
    down.linear("q_a", q_lora, D, true, kAttnForward, kAttnBackward, kAttnWeight, s_.is_fp8, s_.recompute.full);
    down.linear("kv_a", kv_a, D, true, kAttnForward, kAttnBackward, kAttnWeight, s_.is_fp8, s_.recompute.full);
    list.insert(list.end(), down.list.begin(), down.list.end());
    linear("q_b", q_out, q_lora, true, kAttnForward, kAttnBackward, kAttnWeight, s_.is_fp8, up_again);
  } else {
    linear("q", q_out, D, true, kAttnForward, kAttnBackward, kAttnWeight, s_.is_fp8, up_again);
    linear("kv_a", kv_a, D, false, kAttnForward, kAttnBackward, kAttnWeight, s_.is_fp8, s_.recompute.full);
  }
  linear("kv_b", kv_out, kv_lora, true, kAttnForward, kAttnBackward, kAttnWeight, s_.is_fp8, up_again);
}

void BlockBuilder::gqa_projections() {
  using enum WorkPhase;
  const double D = static_cast<double>(c_.hidden_size), heads = static_cast<double>(c_.num_attention_heads), kv = static_cast<double>(s_.kv_heads);
  const double out = heads * static_cast<double>(c_.qk_head_dim()) + kv * static_cast<double>(c_.qk_head_dim() + c_.v_head_dim);
  linear("qkv", out, D, true, kAttnForward, kAttnBackward, kAttnWeight, s_.is_fp8, again(s_.recompute.mla_up));
}

void BlockBuilder::attention() {
  using enum WorkPhase;
  const double D = static_cast<double>(c_.hidden_size), T = s_.tokens, qk = static_cast<double>(c_.qk_head_dim()), v = static_cast<double>(c_.v_head_dim);
  if (s_.kv_heads > 0)
    gqa_projections();
  else
    mla_projections();
  const double pairs = T * s_.seq_len / 2 * H();
  const double forward = 2 * pairs * (qk + v);
  list.push_back({"attention", WorkKind::kAttention, WorkPass::kForward, kAttnForward, s_.seq_len, qk, v, forward});
  if (again(s_.recompute.attention))
    list.push_back({"attention again", WorkKind::kAttention, WorkPass::kForward, kAttnBackward, s_.seq_len, qk, v, forward, 0, false, true});
  list.push_back({"attention", WorkKind::kAttention, WorkPass::kInput, kAttnBackward, s_.seq_len, qk, v, 2 * pairs * (3 * qk + 2 * v)});
  linear("o", D, static_cast<double>(c_.num_attention_heads) * v, false, kAttnForward, kAttnBackward, kAttnWeight, s_.is_fp8, s_.recompute.full);

  // Memory-bound work: each tensor that is read or written once more than the GEMMs do, 2 bytes an element (1 as FP8). Sequence-parallel: a tp-th of the
  // tokens.
  const double Ts = T / s_.tp, q_lora = static_cast<double>(c_.q_lora_rank), kv_lora = static_cast<double>(c_.kv_lora_rank);
  const double q_width = H() * qk, o_width = H() * v;
  const double kv_width = s_.kv_heads > 0 ? static_cast<double>(s_.kv_heads) / s_.tp * (qk + v) : H() * (qk + v);
  const double norms = Ts * D * (4 + 6) + T * (q_lora + (s_.kv_heads > 0 ? 0 : kv_lora)) * 4;  // input norm; residual add with the second norm; latent norms
  const double rope = T * (q_width + kv_width) * 4;                                            // rotation and the joined heads: read and written
  const double cache = s_.is_fp8 && !s_.is_tensor_scaled ? 2.5 : 0;                            // the attention output also to its 12-bit cache
  const double casts = T * ((2 * D + q_lora + kv_lora) * cast() + o_width * (cast() + cache));
  glue("norms", kAttnForward, norms);
  glue("rope and heads", kAttnForward, rope);
  glue("casts", kAttnForward, casts);
  // Backward: the norms' (read dy, x, write dx, twice), rotation back, casts of the gradients both ways (per token, and transposed per channel with the saved
  // operand), what is recomputed.
  glue("norms", kAttnBackward, Ts * D * (8 + 8) + T * (q_lora + (s_.kv_heads > 0 ? 0 : kv_lora)) * 6);
  glue("rope and heads", kAttnBackward, rope);
  glue("casts and transposes", kAttnBackward,
       T * ((D + q_width + kv_width + q_lora + kv_lora) * cast_gradient() + (o_width + D + q_lora + kv_lora) * transpose()));
  if (again(s_.recompute.norms)) glue("norms again", kAttnBackward, norms, true);
  if (again(s_.recompute.mla_up)) glue("rope and heads again", kAttnBackward, rope, true);
}

void BlockBuilder::mlp(const std::string& op, double width, bool is_recomputed) {
  using enum WorkPhase;
  const double D = static_cast<double>(c_.hidden_size), T = s_.tokens, F = width / s_.tp;
  const double late = s_.is_tensor_scaled ? 0 : cast_gradient() / 2;  // the gradients' transposed casts: with W, or with the others
  linear(op + ".gate_up", 2 * width, D, true, kMlpForward, kMlpBackward, kMlpWeight, s_.is_fp8, is_recomputed || s_.recompute.full);
  linear(op + ".down", D, width, false, kMlpForward, kMlpBackward, kMlpWeight, s_.is_fp8, s_.recompute.full);
  glue(op + ".swiglu", kMlpForward, T * F * (4 + 2 + cast()));
  glue(op + ".swiglu", kMlpBackward, T * F * (4 + 2 + 4 + (s_.recompute.swiglu ? 2 : 0)));
  glue(op + ".casts and transposes", kMlpBackward, T * (D + 2 * F) * (cast_gradient() - late));
  glue(op + ".casts and transposes", kMlpWeight, T * ((D + 2 * F) * late + (F + D) * (late > 0 ? 2 : 0)));
}

void BlockBuilder::moe() {
  using enum WorkPhase;
  const double D = static_cast<double>(c_.hidden_size), F = static_cast<double>(c_.moe_intermediate_size), T = s_.tokens / s_.tp, R = s_.routed_rows;
  const double E = static_cast<double>(c_.n_routed_experts);
  WorkShape part = s_;  // the router sees each token once
  part.tokens = T;
  part.tp = 1;
  BlockBuilder router(c_, part);
  router.linear("router", E, D, true, kAttnForward, kAttnBackward, kAttnBackward, false, s_.recompute.full, true);
  list.insert(list.end(), router.list.begin(), router.list.end());
  glue("router", kAttnForward, T * E * 4 * 6);  // logits, scores, bias, groups, top-k
  glue("router", kAttnBackward, T * E * 4 * 4);
  const bool again_ = again(s_.recompute.experts);
  grouped("routed.gate_up", 2 * F, D, again_);
  grouped("routed.down", D, F, s_.recompute.full);
  const bool arrive_cast = s_.is_fp8 && s_.are_rows_fp8, in_blocks = s_.is_fp8 && !s_.is_tensor_scaled;
  const double row = arrive_cast ? 1 : 2;
  glue("permute", kMlpForward, R * D * 2 * row + R * D * 2 + T * D * 2);  // rows to experts; rows summed to tokens
  glue("routed.swiglu", kMlpForward, R * F * (4 + 2 + cast()));
  if (!arrive_cast) glue("routed.casts", kMlpForward, R * D * cast());
  glue("permute", kMlpBackward, R * D * 2 * row + R * D * 2 + T * D * 2);
  glue("routed.swiglu", kMlpBackward, R * F * (4 + 2 + 4 + (again(s_.recompute.swiglu) ? 2 : 0)));
  glue("routed.casts and transposes", kMlpBackward,
       R * (2 * F * (in_blocks ? 3 : cast_gradient()) + (arrive_cast ? 0 : D * (in_blocks ? 3 : cast_gradient()))));
  if (in_blocks) glue("routed.casts and transposes", kMlpWeight, R * (2 * D + 2 * F * 2 + F * 2));  // operands again, along the rows
  if (c_.n_shared_experts > 0) mlp("shared", static_cast<double>(c_.n_shared_experts) * F, again_);
}
}  // namespace

const char* name_of(WorkPhase phase) {
  static constexpr const char* kNames[] = {"attn_forward", "mlp_forward", "mlp_backward", "mlp_weight", "attn_backward", "attn_weight"};
  return kNames[static_cast<size_t>(phase)];
}
const char* name_of(WorkKind kind) {
  static constexpr const char* kNames[] = {"gemm", "grouped", "attention", "glue"};
  return kNames[static_cast<size_t>(kind)];
}
const char* name_of(WorkPass pass) {
  static constexpr const char* kNames[] = {"forward", "input", "weight"};
  return kNames[static_cast<size_t>(pass)];
}

std::vector<Work> block_work(const ModelConfig& config, int64_t layer, const WorkShape& shape) {
  BlockBuilder b(config, shape);
  b.attention();
  if (config.is_moe_layer(layer))
    b.moe();
  else
    b.mlp("mlp", static_cast<double>(config.intermediate_size), shape.recompute.experts);
  return std::move(b.list);
}

std::vector<Work> head_work(const ModelConfig& config, const WorkShape& shape) {
  using enum WorkPhase;
  BlockBuilder b(config, shape);
  const double V = static_cast<double>(config.vocab_size) / shape.tp, D = static_cast<double>(config.hidden_size);
  b.linear("head", static_cast<double>(config.vocab_size), D, true, kMlpForward, kMlpBackward, kMlpWeight, false, false);
  b.glue("loss", kMlpForward, shape.tokens * (V * 4 + D * 4));
  b.glue("loss", kMlpBackward, shape.tokens * (V * 6 + D * 8));
  return std::move(b.list);
}

std::vector<Work> mtp_work(const ModelConfig& config, const WorkShape& shape) {
  using enum WorkPhase;
  BlockBuilder b(config, shape);
  const double D = static_cast<double>(config.hidden_size);
  b.linear("eh_proj", D, 2 * D, true, kAttnForward, kAttnBackward, kAttnWeight, false, false);
  b.glue("norms", kAttnForward, shape.tokens * D * (4 + 4 + 4));
  b.glue("norms", kAttnBackward, shape.tokens * D * (8 + 8 + 8));
  return std::move(b.list);
}

int64_t attention_parameters(const ModelConfig& c, int64_t kv_heads) {
  const int64_t D = c.hidden_size, H = c.num_attention_heads, qk = c.qk_head_dim(), v = c.v_head_dim;
  if (kv_heads > 0) return D * (H * qk + kv_heads * (qk + v)) + H * v * D;
  const int64_t q = c.q_lora_rank > 0 ? D * c.q_lora_rank + c.q_lora_rank * H * qk : D * H * qk;
  return q + D * (c.kv_lora_rank + c.qk_rope_head_dim) + c.kv_lora_rank * H * (c.qk_nope_head_dim + v) + H * v * D;
}

namespace {
int64_t attention_difference(const ModelConfig& c, int64_t kv_heads, int64_t layers) {
  return layers * (attention_parameters(c, kv_heads) - attention_parameters(c, 0));
}
}  // namespace

double counted_flops_per_token(const ModelConfig& c, int64_t kv_heads, int64_t seq_len, bool is_causal) {
  const double own = training_flops_per_token(c, seq_len, is_causal ? AttentionCount::kCausal : AttentionCount::kNonCausal);
  return kv_heads == 0 ? own : own + 6.0 * static_cast<double>(attention_difference(c, kv_heads, c.num_hidden_layers));
}

int64_t total_parameters(const ModelConfig& c, int64_t kv_heads, bool with_mtp) {
  const ModelCounts n = count_model(c);
  return n.parameters + (with_mtp ? n.mtp_parameters : 0) +
         (kv_heads == 0 ? 0 : attention_difference(c, kv_heads, with_mtp ? c.num_blocks() : c.num_hidden_layers));
}

BlockParameters block_parameters(const ModelConfig& c, int64_t layer, int64_t kv_heads) {
  const int64_t D = c.hidden_size, F = c.moe_intermediate_size, latents = kv_heads > 0 ? 0 : c.q_lora_rank + c.kv_lora_rank;
  BlockParameters p;
  p.shared = attention_parameters(c, kv_heads) + 2 * D + latents;
  if (layer >= c.num_hidden_layers) p.shared += 2 * D * D + 3 * D;  // an MTP module's joining projection and its norms
  if (!c.is_moe_layer(layer)) {
    p.shared += 3 * D * c.intermediate_size;
    return p;
  }
  p.shared += c.n_routed_experts * D + c.n_shared_experts * 3 * D * F;
  p.expert = 3 * D * F;
  p.num_experts = c.n_routed_experts;
  return p;
}

double wire_bytes(int64_t hidden, bool is_fp8) {
  const double D = static_cast<double>(hidden);
  return is_fp8 ? D + 4 * D / 128 : 2 * D;
}

}  // namespace atoll
