// Counts by module, from the shape. The same modules are listed for the main model and, if it has any, for its MTP modules.
#include "model/flops.h"

namespace atoll {
namespace {

struct AttentionSize {
  int64_t matrices = 0, latent_norms = 0;
};

AttentionSize attention_size(const ModelConfig& c) {
  const int64_t D = c.hidden_size, q_out = c.num_attention_heads * c.qk_head_dim();
  const int64_t q = c.q_lora_rank > 0 ? D * c.q_lora_rank + c.q_lora_rank * q_out : D * q_out;
  const int64_t kv = D * (c.kv_lora_rank + c.qk_rope_head_dim) + c.kv_lora_rank * c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim);
  return {q + kv + c.num_attention_heads * c.v_head_dim * D, c.q_lora_rank + c.kv_lora_rank};
}

int64_t expert_size(const ModelConfig& c) { return 3 * c.hidden_size * c.moe_intermediate_size; }

// The modules of `layers` blocks of which `moe` are MoE; one line a module.
void add_blocks(std::vector<ModuleCount>& out, const ModelConfig& c, int64_t layers, int64_t moe, bool is_mtp) {
  const std::string prefix = is_mtp ? "mtp." : "";
  const auto add = [&](const std::string& module, int64_t instances, int64_t parameters, int64_t active, int64_t matmul, double pair = 0) {
    if (instances > 0 && parameters > 0)
      out.push_back(
          {prefix + module, instances, instances * parameters, instances * active, instances * matmul, static_cast<double>(instances) * pair, is_mtp});
  };
  const AttentionSize attention = attention_size(c);
  const int64_t norms = 2 * c.hidden_size + attention.latent_norms, dense = 3 * c.hidden_size * c.intermediate_size;
  const int64_t router = c.n_routed_experts * c.hidden_size, bias = c.has_router_bias() ? c.n_routed_experts : 0;
  const int64_t shared = c.n_shared_experts * expert_size(c), active_experts = c.num_experts_per_tok * expert_size(c);
  add("attention", layers, attention.matrices, attention.matrices, attention.matrices,
      2.0 * static_cast<double>(c.num_attention_heads * (c.qk_head_dim() + c.v_head_dim)));
  add("norms", layers, norms, norms, 0);
  add("dense_mlp", layers - moe, dense, dense, dense);
  add("router", moe, router + bias, router + bias, 0);
  add("shared_experts", moe, shared, shared, shared);
  add("routed_experts", moe, c.n_routed_experts * expert_size(c), active_experts, active_experts);
}

int64_t count_moe_layers(const ModelConfig& c, int64_t begin, int64_t end) {
  int64_t n = 0;
  for (int64_t layer = begin; layer < end; ++layer) n += c.is_moe_layer(layer);
  return n;
}

}  // namespace

ModelCounts count_model(const ModelConfig& c) {
  ModelCounts counts;
  const int64_t table = c.vocab_size * c.hidden_size, L = c.num_hidden_layers, mtp = c.num_nextn_predict_layers;
  counts.embedding = table;
  counts.head = c.tie_word_embeddings ? 0 : table;
  counts.modules.push_back({"embedding", 1, table, table, 0});
  add_blocks(counts.modules, c, L, count_moe_layers(c, 0, L), false);
  counts.modules.push_back({"final_norm", 1, c.hidden_size, c.hidden_size, 0});
  counts.modules.push_back({"head", 1, counts.head, table, table});
  if (mtp > 0) {
    counts.modules.push_back({"mtp.eh_proj", mtp, mtp * 2 * c.hidden_size * c.hidden_size, mtp * 2 * c.hidden_size * c.hidden_size,
                              mtp * 2 * c.hidden_size * c.hidden_size, 0, true});
    counts.modules.push_back({"mtp.module_norms", mtp, mtp * 3 * c.hidden_size, mtp * 3 * c.hidden_size, 0, 0, true});
    add_blocks(counts.modules, c, mtp, count_moe_layers(c, L, L + mtp), true);
    counts.modules.push_back({"mtp.head (shared)", mtp, 0, mtp * table, mtp * table, 0, true});
  }
  for (const ModuleCount& m : counts.modules) {
    (m.is_mtp ? counts.mtp_parameters : counts.parameters) += m.parameters;
    (m.is_mtp ? counts.mtp_matmul : counts.matmul) += m.matmul;
    if (!m.is_mtp && m.module != "embedding") counts.active += m.active;
  }
  counts.active_with_embedding = counts.active + (c.tie_word_embeddings ? 0 : table);
  counts.router_bias = c.has_router_bias() ? count_moe_layers(c, 0, L) * c.n_routed_experts : 0;
  return counts;
}

double training_flops_per_token(const ModuleCount& module, int64_t seq_len, AttentionCount attention) {
  const double pairs = static_cast<double>(seq_len) * (attention == AttentionCount::kCausal ? 0.5 : 1.0);
  return 6.0 * static_cast<double>(module.matmul) + 3.0 * module.attention_flops_per_pair * pairs;
}

double training_flops_per_token(const ModelConfig& config, int64_t seq_len, AttentionCount attention, MtpCount mtp) {
  double sum = 0;
  for (const ModuleCount& m : count_model(config).modules)
    if (!m.is_mtp || mtp == MtpCount::kInclude) sum += training_flops_per_token(m, seq_len, attention);
  return sum;
}

double block_flops_per_token(const ModelConfig& config, int64_t layer, int64_t seq_len) {
  const bool is_mtp = layer >= config.num_hidden_layers;
  std::vector<ModuleCount> modules;
  add_blocks(modules, config, 1, config.is_moe_layer(layer), is_mtp);
  double sum = 0;
  for (const ModuleCount& m : modules) sum += training_flops_per_token(m, seq_len, AttentionCount::kCausal);
  if (is_mtp) sum += 6.0 * static_cast<double>(2 * config.hidden_size * config.hidden_size);
  return sum;
}

double head_flops_per_token(const ModelConfig& config) { return 6.0 * static_cast<double>(config.vocab_size * config.hidden_size); }

}  // namespace atoll
