// The list of parameters against what is published: names, shapes, order. Policy: numbers and names are written out here, not computed by the code under test.
#include <catch2/catch.hpp>
#include <set>

#include "model/manifest.h"

using namespace atoll;

static std::vector<std::string> names(const std::vector<ParameterSpec>& list) {
  std::vector<std::string> out;
  for (const ParameterSpec& p : list) out.push_back(p.name);
  return out;
}

TEST_CASE("The manifest of DeepSeek-V3 has the published tensors and shapes", "[model][manifest]") {
  const auto list = parameter_manifest(*model_preset("deepseek-v3"));
  // Published count without FP8 scales: 2 + 1 outside, 62 x 9 attention and norms, 3 dense x 3, 59 MoE x (2 + 3 + 256 x 3), 4 of the MTP module.
  CHECK(list.size() == 3u + 62 * 9 + 3 * 3 + 59 * (2 + 3 + 256 * 3) + 4);
  std::set<std::string> seen;
  for (const ParameterSpec& p : list) CHECK(seen.insert(p.name).second);
  const auto find = [&](const std::string& name) {
    for (const ParameterSpec& p : list)
      if (p.name == name) return p;
    FAIL("no " << name);
    return list[0];
  };
  const auto shape = [&](const std::string& name) { return std::pair(find(name).rows, find(name).cols); };
  const std::string at = "model.layers.61.";
  CHECK(shape("model.layers.0.self_attn.q_b_proj.weight") == std::pair<int64_t, int64_t>(24576, 1536));
  CHECK(shape("model.layers.0.self_attn.kv_a_proj_with_mqa.weight") == std::pair<int64_t, int64_t>(576, 7168));
  CHECK(shape("model.layers.0.self_attn.kv_b_proj.weight") == std::pair<int64_t, int64_t>(32768, 512));
  CHECK(shape("model.layers.0.self_attn.o_proj.weight") == std::pair<int64_t, int64_t>(7168, 16384));
  CHECK(shape("model.layers.2.mlp.up_proj.weight") == std::pair<int64_t, int64_t>(18432, 7168));
  CHECK(shape("model.layers.60.mlp.experts.255.down_proj.weight") == std::pair<int64_t, int64_t>(7168, 2048));
  CHECK(shape(at + "eh_proj.weight") == std::pair<int64_t, int64_t>(7168, 14336));
  CHECK(find(at + "shared_head.norm.weight").is_norm_gain);
  CHECK(find(at + "mlp.gate.e_score_correction_bias").is_router_bias);
  CHECK(find("model.norm.weight").layer == 62);
  CHECK(find("model.embed_tokens.weight").layer == -1);
}

TEST_CASE("A block's parameters come in the one fixed order", "[model][manifest]") {
  ModelConfig c = *model_preset("debug");
  c.n_routed_experts = 2;
  const std::string at = "model.layers.3.";  // the MTP block
  CHECK(names(block_manifest(c, 3)) == std::vector<std::string>{at + "enorm.weight",
                                                                at + "hnorm.weight",
                                                                at + "eh_proj.weight",
                                                                at + "input_layernorm.weight",
                                                                at + "self_attn.q_a_proj.weight",
                                                                at + "self_attn.kv_a_proj_with_mqa.weight",
                                                                at + "self_attn.q_a_layernorm.weight",
                                                                at + "self_attn.q_b_proj.weight",
                                                                at + "self_attn.kv_a_layernorm.weight",
                                                                at + "self_attn.kv_b_proj.weight",
                                                                at + "self_attn.o_proj.weight",
                                                                at + "post_attention_layernorm.weight",
                                                                at + "mlp.gate.weight",
                                                                at + "mlp.gate.e_score_correction_bias",
                                                                at + "mlp.shared_experts.gate_proj.weight",
                                                                at + "mlp.shared_experts.up_proj.weight",
                                                                at + "mlp.shared_experts.down_proj.weight",
                                                                at + "mlp.experts.0.gate_proj.weight",
                                                                at + "mlp.experts.0.up_proj.weight",
                                                                at + "mlp.experts.1.gate_proj.weight",
                                                                at + "mlp.experts.1.up_proj.weight",
                                                                at + "mlp.experts.0.down_proj.weight",
                                                                at + "mlp.experts.1.down_proj.weight",
                                                                at + "shared_head.norm.weight"});
}

TEST_CASE("Without a q latent one q_proj stands before kv_a_proj_with_mqa", "[model][manifest]") {
  const auto list = names(block_manifest(*model_preset("deepseek-v2-lite"), 0));
  CHECK(list[1] == "model.layers.0.self_attn.q_proj.weight");
  CHECK(list[2] == "model.layers.0.self_attn.kv_a_proj_with_mqa.weight");
  for (const std::string& name : list) CHECK(name.find("q_a_") == std::string::npos);
}

TEST_CASE("Matrices decay, vectors do not, tied models have no lm_head", "[model][manifest]") {
  ModelConfig c = *model_preset("debug");
  for (const ParameterSpec& p : parameter_manifest(c)) {
    CHECK(p.decays == !p.is_vector);
    CHECK(p.is_vector == (p.is_norm_gain || p.is_router_bias));
    CHECK((p.expert >= 0) == (p.name.find(".experts.") != std::string::npos));
  }
  CHECK(parameter_manifest(c).back().name == "lm_head.weight");
  c.tie_word_embeddings = true;
  CHECK(parameter_manifest(c).back().name == "model.norm.weight");
}
