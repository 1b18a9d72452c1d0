// The model's shape, in the words of a Hugging Face config.json of deepseek_v3. A value; parsing is the trainer's, presets are here.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/ops.h"

namespace atoll {

struct ModelConfig {
  std::string model_type = "deepseek_v3";
  int64_t vocab_size = 129280, hidden_size = 7168, intermediate_size = 18432, moe_intermediate_size = 2048;
  int64_t num_hidden_layers = 61, num_attention_heads = 128;
  int64_t q_lora_rank = 1536;  // 0 (config.json: null): no q latent, one q_proj
  int64_t kv_lora_rank = 512, qk_nope_head_dim = 128, qk_rope_head_dim = 64, v_head_dim = 128;
  int64_t n_routed_experts = 256, n_shared_experts = 1, num_experts_per_tok = 8, n_group = 8, topk_group = 4;
  int64_t first_k_dense_replace = 3;
  ScoreFunction scoring_func = ScoreFunction::kSigmoid;
  std::string topk_method = "noaux_tc";  // greedy | group_limited_greedy | noaux_tc
  bool norm_topk_prob = true;            // ignored by V2 (model_type deepseek_v2): never normalised there
  double routed_scaling_factor = 2.5;
  int64_t num_nextn_predict_layers = 1;  // MTP depth
  int64_t max_position_embeddings = 4096;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  double rms_norm_eps = 1e-6;  // block norms and final norms; the two latent norms always have 1e-6
  bool tie_word_embeddings = false;
  double initializer_range = 0.006;

  int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  int64_t num_blocks() const { return num_hidden_layers + num_nextn_predict_layers; }  // MTP blocks are layers L, L+1, ...
  bool is_moe_layer(int64_t layer) const { return n_routed_experts > 0 && layer >= first_k_dense_replace; }
  bool has_router_bias() const { return topk_method == "noaux_tc"; }
  RouterConfig router() const;
  // All broken rules at once, each "key = value: why"; empty when the shape can be built.
  std::vector<std::string> problems() const;
};

// deepseek-v3, deepseek-v2, deepseek-v2-lite, quickstart, debug.
std::optional<ModelConfig> model_preset(const std::string& name);
std::vector<std::string> model_preset_names();

}  // namespace atoll
