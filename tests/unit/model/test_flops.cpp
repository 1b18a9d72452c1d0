// Published figures as oracles: deepseek-v3.md sections 1.2 and 6.3.
#include <catch2/catch.hpp>

#include "model/flops.h"
#include "model/manifest.h"

using namespace atoll;

TEST_CASE("DeepSeek-V3 has 671,026,419,200 parameters and an MTP module of 11,610,068,224", "[model][flops]") {
  const ModelCounts v3 = count_model(*model_preset("deepseek-v3"));
  CHECK(v3.parameters == 671'026'419'200);
  CHECK(v3.router_bias == 14'848);
  CHECK(v3.mtp_parameters == 11'610'068'224);
  CHECK(v3.embedding == 926'679'040);
  CHECK(v3.matmul == 36'624'596'992 - 58ll * 256 * 7168);
  CHECK(static_cast<double>(v3.active_with_embedding) / 1e9 == Approx(37.55).margin(0.005));
  CHECK(static_cast<double>(v3.active) / 1e9 == Approx(36.63).margin(0.005));
}

TEST_CASE("DeepSeek-V2 has 235.74B parameters and V2-Lite 15.706B", "[model][flops]") {
  const ModelCounts v2 = count_model(*model_preset("deepseek-v2")), lite = count_model(*model_preset("deepseek-v2-lite"));
  CHECK(static_cast<double>(v2.parameters) / 1e9 == Approx(235.74).margin(0.005));
  CHECK(static_cast<double>(v2.active_with_embedding) / 1e9 == Approx(21.38).margin(0.015));
  CHECK(static_cast<double>(lite.parameters) / 1e9 == Approx(15.706).margin(0.0005));
  CHECK(static_cast<double>(lite.active_with_embedding) / 1e9 == Approx(2.66).margin(0.005));
  CHECK(static_cast<double>(lite.active) / 1e9 == Approx(2.45).margin(0.005));
}

TEST_CASE("DeepSeek-V3 trains at 280.51 GF a token non-causal and 249.81 causal", "[model][flops]") {
  const ModelConfig v3 = *model_preset("deepseek-v3");
  CHECK(training_flops_per_token(v3, 4096, AttentionCount::kNonCausal) / 1e9 == Approx(280.51).margin(0.005));
  CHECK(training_flops_per_token(v3, 4096, AttentionCount::kCausal) / 1e9 == Approx(249.81).margin(0.005));
  // MTP: 6 (2 D^2 + attention + 9 experts + head) and one layer's attention core.
  const double mtp = 6.0 * (2.0 * 7168 * 7168 + 187'105'280 + 9.0 * 44'040'192 + 926'679'040) + 3.0 * 2 * 128 * 320 * 2048;
  const double with = training_flops_per_token(v3, 4096, AttentionCount::kCausal, MtpCount::kInclude);
  CHECK(with - training_flops_per_token(v3, 4096) == Approx(mtp).epsilon(1e-9));
}

TEST_CASE("Counts equal the sum over the manifest for every preset, tied or not", "[model][flops]") {
  for (const std::string& name : model_preset_names())
    for (bool tied : {false, true}) {
      ModelConfig config = *model_preset(name);
      config.tie_word_embeddings = tied;
      if (name == "debug") config.num_nextn_predict_layers = 2;
      int64_t main = 0, mtp = 0, bias = 0, modules = 0;
      for (const ParameterSpec& p : parameter_manifest(config)) {
        const bool is_mtp = p.layer >= config.num_hidden_layers && p.layer < config.num_blocks();
        (is_mtp ? mtp : main) += p.numel();
        if (p.is_router_bias && !is_mtp) bias += p.numel();
      }
      const ModelCounts counts = count_model(config);
      for (const ModuleCount& m : counts.modules) modules += m.parameters;
      INFO(name << (tied ? " tied" : ""));
      CHECK(counts.parameters == main);
      CHECK(counts.mtp_parameters == mtp);
      CHECK(counts.router_bias == bias);
      CHECK(modules == main + mtp);
    }
}

TEST_CASE("Block costs and the head add up to the model's FLOPs", "[model][flops]") {
  for (const char* name : {"quickstart", "deepseek-v3"}) {
    const ModelConfig config = *model_preset(name);
    double sum = head_flops_per_token(config) * static_cast<double>(1 + config.num_nextn_predict_layers);
    for (int64_t layer = 0; layer < config.num_blocks(); ++layer) sum += block_flops_per_token(config, layer, 512);
    CHECK(sum == Approx(training_flops_per_token(config, 512, AttentionCount::kCausal, MtpCount::kInclude)).epsilon(1e-12));
  }
}

TEST_CASE("The quickstart model has 3 to 4 million active parameters", "[model][flops]") {
  const ModelConfig config = *model_preset("quickstart");
  const ModelCounts counts = count_model(config);
  CHECK(counts.active >= 3'000'000);
  CHECK(counts.active <= 4'000'000);
  CHECK(config.q_lora_rank > 0);
  CHECK(config.num_nextn_predict_layers == 1);
  CHECK(config.num_hidden_layers - config.first_k_dense_replace >= 3);
}
