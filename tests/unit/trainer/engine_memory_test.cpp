// The activation high-water mark at 8192 tokens: linear in the sequence, so neither an S x S matrix nor full logits are kept.
#include <catch2/catch.hpp>

#include "engine_fixture.h"
#include "kernels/base/rng.h"

using namespace atoll;
using namespace atoll::test;

namespace {
ModelConfig long_model() {
  ModelConfig c = tiny_model();
  c.vocab_size = 32768;
  c.hidden_size = 16;
  c.intermediate_size = 32;
  c.moe_intermediate_size = 8;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 4;
  c.q_lora_rank = 8;
  c.kv_lora_rank = 8;
  c.qk_nope_head_dim = 8;
  c.qk_rope_head_dim = 4;
  c.v_head_dim = 8;
  c.n_routed_experts = 4;
  c.num_experts_per_tok = 2;
  c.n_group = 1;
  c.topk_group = 1;
  c.max_position_embeddings = 8192;
  return c;
}

struct Peak { int64_t activations = 0, routed = 0, workspace = 0; int64_t sum() const { return activations + routed + workspace; } };

Peak peak_of(int64_t S) {
  Peak peak;
  run_ranks_as_threads(1, [&](Communicator& world) {
    EngineOptions o;
    o.model = long_model();
    o.storage = DType::kF32;
    o.max_sequence = S;
    Engine engine(o, world);
    engine.initialize();
    const Rng rng(3, "long sequence");
    std::vector<int32_t> ids(S), labels(S);
    for (int64_t i = 0; i < S; ++i) ids[i] = static_cast<int32_t>(rng.below(static_cast<uint64_t>(i), o.model.vocab_size));
    for (int64_t i = 0; i < S; ++i) labels[i] = ids[(i + 1) % S];
    std::vector<MicroBatch> batches(1);
    batches[0].clear();
    batches[0].add_sequence(ids, labels, {});
    const StepResult& r = engine.train_step(batches, {.lr = 1e-3, .mtp_lambda = 0.3, .balance_alpha = 0.01, .bias_gamma = 0.001, .step = 1});
    ATOLL_CHECK(r.applied, r.reason);
    Memory& m = engine.ctx().memory;
    peak = {m.activations.high_water(), m.routed.high_water(), m.workspace.high_water()};
  });
  return peak;
}

// Elements that one token of one block can have alive at once if nothing were ever freed between its forward and its W: an upper bound, linear in the tokens.
int64_t elements_per_token_of_block(const ModelConfig& c) {
  const int64_t D = c.hidden_size, H = c.num_attention_heads, Q = c.qk_head_dim(), K = c.num_experts_per_tok, E = c.n_routed_experts, F = c.moe_intermediate_size;
  const int64_t qkv_a = c.q_lora_rank + c.kv_lora_rank + c.qk_rope_head_dim, kv = H * (c.qk_nope_head_dim + c.v_head_dim), o = H * c.v_head_dim;
  const int64_t attention = 2 * (qkv_a + H * Q + kv + o) + c.q_lora_rank + c.kv_lora_rank + H + 2;
  const int64_t residual = 10 * D;
  const int64_t ffn = std::max(3 * c.intermediate_size + D, 4 * E + 6 * K + 3 * c.n_shared_experts * F + 2 * D);
  const int64_t routed = K * (6 * D + 3 * F + 4);
  return attention + residual + ffn + routed;
}
}  // namespace

TEST_CASE("At 8192 tokens neither an S x S matrix nor full logits are kept", "[long]") {
  const ModelConfig c = long_model();
  const int64_t S = 8192;
  const Peak peak = peak_of(S), half = peak_of(S / 2);
  const int64_t attention_matrix = c.num_attention_heads * S * S * 4, logits = S * c.vocab_size * 4;
  const int64_t ends = 8 * c.hidden_size;  // embedding, final norms, MTP's joined input, and their gradients
  const int64_t linear = 4 * S * ((c.num_blocks()) * elements_per_token_of_block(c) + ends * (1 + c.num_nextn_predict_layers));
  const int64_t workspace = 112 << 20;  // 64 MiB of logits at a time and the tiles of GEMMs: not a function of S
  INFO("activations " << peak.activations << ", routed " << peak.routed << ", workspace " << peak.workspace << " bytes; at half the length " << half.activations << ", " << half.routed << ", "
                      << half.workspace << "; bound " << linear + workspace);
  CHECK(peak.sum() < linear + workspace);
  CHECK(linear + workspace < attention_matrix / 5);
  CHECK(linear + workspace < logits / 5);
  CHECK(peak.workspace < workspace);
  CHECK(peak.activations <= 2 * half.activations + 65536);
  CHECK(peak.routed <= 2 * half.routed + 65536);
  CHECK(peak.workspace == half.workspace);
}
