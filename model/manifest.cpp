// The parameter list of a shape; see manifest.h for the order's meaning.
#include "model/manifest.h"

namespace atoll {
namespace {

class Builder {
 public:
  void matrix(const std::string& name, int64_t out, int64_t in, int64_t layer, int64_t expert = -1) {
    ParameterSpec p{.name = name, .rows = out, .cols = in, .layer = layer, .expert = expert, .decays = true};
    list.push_back(std::move(p));
  }
  void gain(const std::string& name, int64_t size, int64_t layer) {
    ParameterSpec p{.name = name, .rows = size, .is_vector = true, .layer = layer, .is_norm_gain = true};
    list.push_back(std::move(p));
  }
  void router_bias(const std::string& name, int64_t size, int64_t layer) {
    ParameterSpec p{.name = name, .rows = size, .is_vector = true, .layer = layer, .is_router_bias = true};
    list.push_back(std::move(p));
  }
  std::vector<ParameterSpec> list;
};

void add_attention(Builder& b, const ModelConfig& c, int64_t layer, const std::string& at) {
  const std::string attn = at + "self_attn.";
  const int64_t heads = c.num_attention_heads;
  if (c.q_lora_rank > 0)
    b.matrix(attn + "q_a_proj.weight", c.q_lora_rank, c.hidden_size, layer);
  else
    b.matrix(attn + "q_proj.weight", heads * c.qk_head_dim(), c.hidden_size, layer);
  b.matrix(attn + "kv_a_proj_with_mqa.weight", c.kv_lora_rank + c.qk_rope_head_dim, c.hidden_size, layer);
  if (c.q_lora_rank > 0) {
    b.gain(attn + "q_a_layernorm.weight", c.q_lora_rank, layer);
    b.matrix(attn + "q_b_proj.weight", heads * c.qk_head_dim(), c.q_lora_rank, layer);
  }
  b.gain(attn + "kv_a_layernorm.weight", c.kv_lora_rank, layer);
  b.matrix(attn + "kv_b_proj.weight", heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank, layer);
  b.matrix(attn + "o_proj.weight", c.hidden_size, heads * c.v_head_dim, layer);
}

void add_gate_up(Builder& b, const ModelConfig& c, int64_t layer, const std::string& at, int64_t width, int64_t expert = -1) {
  b.matrix(at + "gate_proj.weight", width, c.hidden_size, layer, expert);
  b.matrix(at + "up_proj.weight", width, c.hidden_size, layer, expert);
}
void add_down(Builder& b, const ModelConfig& c, int64_t layer, const std::string& at, int64_t width, int64_t expert = -1) {
  b.matrix(at + "down_proj.weight", c.hidden_size, width, layer, expert);
}

void add_mlp(Builder& b, const ModelConfig& c, int64_t layer, const std::string& at) {
  const std::string mlp = at + "mlp.";
  if (!c.is_moe_layer(layer)) {
    add_gate_up(b, c, layer, mlp, c.intermediate_size);
    add_down(b, c, layer, mlp, c.intermediate_size);
    return;
  }
  b.matrix(mlp + "gate.weight", c.n_routed_experts, c.hidden_size, layer);
  if (c.has_router_bias()) b.router_bias(mlp + "gate.e_score_correction_bias", c.n_routed_experts, layer);
  if (c.n_shared_experts > 0) {
    const int64_t width = c.n_shared_experts * c.moe_intermediate_size;
    add_gate_up(b, c, layer, mlp + "shared_experts.", width);
    add_down(b, c, layer, mlp + "shared_experts.", width);
  }
  const auto expert = [&](int64_t e) { return mlp + "experts." + std::to_string(e) + "."; };
  for (int64_t e = 0; e < c.n_routed_experts; ++e) add_gate_up(b, c, layer, expert(e), c.moe_intermediate_size, e);
  for (int64_t e = 0; e < c.n_routed_experts; ++e) add_down(b, c, layer, expert(e), c.moe_intermediate_size, e);
}

void add_block(Builder& b, const ModelConfig& c, int64_t layer) {
  const std::string at = "model.layers." + std::to_string(layer) + ".";
  const bool is_mtp = layer >= c.num_hidden_layers;
  if (is_mtp) {
    b.gain(at + "enorm.weight", c.hidden_size, layer);
    b.gain(at + "hnorm.weight", c.hidden_size, layer);
    b.matrix(at + "eh_proj.weight", c.hidden_size, 2 * c.hidden_size, layer);
  }
  b.gain(at + "input_layernorm.weight", c.hidden_size, layer);
  add_attention(b, c, layer, at);
  b.gain(at + "post_attention_layernorm.weight", c.hidden_size, layer);
  add_mlp(b, c, layer, at);
  if (is_mtp) b.gain(at + "shared_head.norm.weight", c.hidden_size, layer);
}

}  // namespace

std::vector<ParameterSpec> block_manifest(const ModelConfig& config, int64_t layer) {
  Builder b;
  add_block(b, config, layer);
  return std::move(b.list);
}

std::vector<ParameterSpec> parameter_manifest(const ModelConfig& config) {
  Builder b;
  b.matrix("model.embed_tokens.weight", config.vocab_size, config.hidden_size, -1);
  for (int64_t layer = 0; layer < config.num_blocks(); ++layer) add_block(b, config, layer);
  b.gain("model.norm.weight", config.hidden_size, config.num_blocks());
  if (!config.tie_word_embeddings) b.matrix("lm_head.weight", config.vocab_size, config.hidden_size, config.num_blocks());
  return std::move(b.list);
}

}  // namespace atoll
