// Presets, the router's view of the shape, and the rules a shape must obey. Policy: presets carry the values of training, not those of the released config.json
// (whose initializer_range and YaRN belong to later phases).
#include "model/config.h"

#include <sstream>

namespace atoll {
namespace {

ModelConfig deepseek_v3() { return {}; }

ModelConfig deepseek_v2() {
  ModelConfig c;
  c.model_type = "deepseek_v2";
  c.vocab_size = 102400;
  c.hidden_size = 5120;
  c.intermediate_size = 12288;
  c.moe_intermediate_size = 1536;
  c.num_hidden_layers = 60;
  c.n_routed_experts = 160;
  c.n_shared_experts = 2;
  c.num_experts_per_tok = 6;
  c.n_group = 8;
  c.topk_group = 3;
  c.first_k_dense_replace = 1;
  c.scoring_func = ScoreFunction::kSoftmax;
  c.topk_method = "group_limited_greedy";
  c.norm_topk_prob = false;
  c.routed_scaling_factor = 16.0;
  c.num_nextn_predict_layers = 0;
  return c;
}

ModelConfig deepseek_v2_lite() {
  ModelConfig c = deepseek_v2();
  c.hidden_size = 2048;
  c.intermediate_size = 10944;
  c.moe_intermediate_size = 1408;
  c.num_hidden_layers = 27;
  c.num_attention_heads = 16;
  c.q_lora_rank = 0;
  c.n_routed_experts = 64;
  c.n_group = c.topk_group = 1;
  c.topk_method = "greedy";
  c.routed_scaling_factor = 1.0;
  return c;
}

// 3.15 M active parameters (head included, embedding excluded), every GEMM dimension a multiple of 16.
ModelConfig quickstart() {
  ModelConfig c;
  c.vocab_size = 4096;
  c.hidden_size = 256;
  c.intermediate_size = 512;
  c.moe_intermediate_size = 96;
  c.num_hidden_layers = 4;
  c.num_attention_heads = 6;
  c.q_lora_rank = 96;
  c.kv_lora_rank = 64;
  c.qk_nope_head_dim = 32;
  c.qk_rope_head_dim = 16;
  c.v_head_dim = 32;
  c.n_routed_experts = 16;
  c.num_experts_per_tok = 4;
  c.n_group = 4;
  c.topk_group = 2;
  c.first_k_dense_replace = 1;
  c.max_position_embeddings = 2048;
  c.initializer_range = 0.02;
  return c;
}

ModelConfig debug() {
  ModelConfig c = quickstart();
  c.vocab_size = 512;
  c.hidden_size = 64;
  c.intermediate_size = 128;
  c.moe_intermediate_size = 32;
  c.num_hidden_layers = 3;
  c.num_attention_heads = 2;
  c.q_lora_rank = 32;
  c.kv_lora_rank = 32;
  c.qk_nope_head_dim = 16;
  c.v_head_dim = 16;
  c.n_routed_experts = 8;
  c.num_experts_per_tok = 2;
  c.max_position_embeddings = 1024;
  c.initializer_range = 0.05;
  return c;
}

struct Preset {
  const char* name;
  ModelConfig (*make)();
};
constexpr Preset kPresets[] = {
    {"deepseek-v3", deepseek_v3}, {"deepseek-v2", deepseek_v2}, {"deepseek-v2-lite", deepseek_v2_lite}, {"quickstart", quickstart}, {"debug", debug}};

// Collects "key = value: why".
class Rules {
 public:
  template <class T>
  void require(bool holds, const char* key, const T& value, const std::string& why) {
    if (holds) return;
    std::ostringstream line;
    line << key << " = " << value << ": " << why;
    broken_.push_back(line.str());
  }
  // The upper bound keeps every product of dimensions far from overflow.
  void at_least(int64_t least, const char* key, int64_t value, int64_t most = 1 << 20) {
    require(value >= least && value <= most, key, value, "must lie in " + std::to_string(least) + ".." + std::to_string(most));
  }
  std::vector<std::string> take() { return std::move(broken_); }

 private:
  std::vector<std::string> broken_;
};

void check_router(const ModelConfig& c, Rules& rules) {
  const int64_t experts = c.n_routed_experts, groups = c.n_group;
  const bool grouped = c.topk_method != "greedy";
  rules.at_least(1, "moe_intermediate_size", c.moe_intermediate_size);
  rules.at_least(0, "n_shared_experts", c.n_shared_experts);
  rules.require(c.topk_method == "greedy" || c.topk_method == "group_limited_greedy" || c.topk_method == "noaux_tc", "topk_method", c.topk_method,
                "must be greedy, group_limited_greedy or noaux_tc");
  rules.require(c.num_experts_per_tok >= 1 && c.num_experts_per_tok <= experts, "num_experts_per_tok", c.num_experts_per_tok,
                "must lie in 1.." + std::to_string(experts) + " (n_routed_experts)");
  rules.require(c.routed_scaling_factor > 0, "routed_scaling_factor", c.routed_scaling_factor, "must be positive");
  if (!grouped) return;
  if (groups < 1 || experts % groups != 0) {
    rules.require(false, "n_group", groups, "does not divide n_routed_experts = " + std::to_string(experts));
    return;
  }
  const int64_t per_group = experts / groups;
  rules.require(c.topk_group >= 1 && c.topk_group <= groups, "topk_group", c.topk_group, "must lie in 1.." + std::to_string(groups) + " (n_group)");
  rules.require(c.num_experts_per_tok <= c.topk_group * per_group, "num_experts_per_tok", c.num_experts_per_tok,
                "the " + std::to_string(c.topk_group) + " groups kept hold only " + std::to_string(c.topk_group * per_group) + " experts");
  rules.require(c.topk_method != "noaux_tc" || per_group >= 2, "n_group", groups,
                "noaux_tc scores a group by its two best experts, so a group needs at least 2");
}

void check_rope(const ModelConfig& c, Rules& rules) {
  rules.require(c.rope_theta > 1, "rope_theta", c.rope_theta, "must be greater than 1");
  rules.require(c.qk_rope_head_dim >= 2 && c.qk_rope_head_dim % 2 == 0, "qk_rope_head_dim", c.qk_rope_head_dim,
                "must be even and at least 2 (pairs are rotated)");
  if (!c.rope_scaling.is_yarn) return;
  rules.require(c.rope_scaling.factor >= 1, "rope_scaling.factor", c.rope_scaling.factor, "must be at least 1");
  rules.require(c.rope_scaling.beta_fast > c.rope_scaling.beta_slow, "rope_scaling.beta_fast", c.rope_scaling.beta_fast, "must be greater than beta_slow");
  rules.require(c.rope_scaling.beta_slow > 0, "rope_scaling.beta_slow", c.rope_scaling.beta_slow, "must be positive");
  rules.at_least(1, "rope_scaling.original_max_position_embeddings", c.rope_scaling.original_max_position, 1ll << 31);
}

}  // namespace

RouterConfig ModelConfig::router() const {
  RouterConfig r;
  r.score = scoring_func;
  r.group_score = topk_method == "noaux_tc" ? GroupScore::kTop2Sum : topk_method == "group_limited_greedy" ? GroupScore::kMax : GroupScore::kNone;
  r.num_experts = static_cast<int>(n_routed_experts);
  r.topk = static_cast<int>(num_experts_per_tok);
  r.num_groups = r.group_score == GroupScore::kNone ? 1 : static_cast<int>(n_group);
  r.topk_groups = r.group_score == GroupScore::kNone ? 1 : static_cast<int>(topk_group);
  r.normalize = norm_topk_prob && model_type != "deepseek_v2";
  r.scaling = routed_scaling_factor;
  return r;
}

std::vector<std::string> ModelConfig::problems() const {
  Rules rules;
  rules.require(model_type == "deepseek_v3" || model_type == "deepseek_v2", "model_type", model_type, "must be deepseek_v3 or deepseek_v2");
  rules.at_least(2, "vocab_size", vocab_size);
  rules.at_least(1, "hidden_size", hidden_size);
  rules.at_least(1, "num_hidden_layers", num_hidden_layers, 10000);
  rules.at_least(1, "num_attention_heads", num_attention_heads);
  rules.at_least(0, "q_lora_rank", q_lora_rank);
  rules.at_least(1, "kv_lora_rank", kv_lora_rank);
  rules.at_least(1, "qk_nope_head_dim", qk_nope_head_dim);
  rules.at_least(1, "v_head_dim", v_head_dim);
  rules.at_least(1, "max_position_embeddings", max_position_embeddings, 1ll << 31);
  rules.at_least(0, "num_nextn_predict_layers", num_nextn_predict_layers, 1000);
  rules.at_least(0, "n_routed_experts", n_routed_experts, 10000);
  rules.at_least(0, "first_k_dense_replace", first_k_dense_replace);
  const bool has_dense = n_routed_experts == 0 || first_k_dense_replace > 0;
  rules.at_least(has_dense ? 1 : 0, "intermediate_size", intermediate_size);
  rules.require(rms_norm_eps > 0, "rms_norm_eps", rms_norm_eps, "must be positive");
  rules.require(initializer_range > 0, "initializer_range", initializer_range, "must be positive");
  check_rope(*this, rules);
  if (n_routed_experts > 0) check_router(*this, rules);
  return rules.take();
}

std::optional<ModelConfig> model_preset(const std::string& name) {
  for (const Preset& preset : kPresets)
    if (name == preset.name) return preset.make();
  return std::nullopt;
}

std::vector<std::string> model_preset_names() {
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) names.push_back(preset.name);
  return names;
}

}  // namespace atoll
