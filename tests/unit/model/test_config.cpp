// Shapes of models: presets, and the rules that a shape must keep. Policy: a rule is tested by the words of its message, since that is what a user sees.
#include <catch2/catch.hpp>

#include "model/config.h"

using namespace atoll;

static bool mentions(const std::vector<std::string>& lines, const std::string& text) {
  for (const std::string& line : lines)
    if (line.find(text) != std::string::npos) return true;
  return false;
}

TEST_CASE("Every preset is a legal shape and unknown names are none", "[model][config]") {
  CHECK(model_preset_names() == std::vector<std::string>{"deepseek-v3", "deepseek-v2", "deepseek-v2-lite", "quickstart", "debug"});
  for (const std::string& name : model_preset_names()) {
    INFO(name);
    CHECK(model_preset(name)->problems().empty());
  }
  CHECK_FALSE(model_preset("deepseek").has_value());
}

TEST_CASE("All broken rules of a shape are reported at once", "[model][config]") {
  ModelConfig c = *model_preset("debug");
  c.n_group = 3;
  c.qk_rope_head_dim = 7;
  c.hidden_size = 0;
  c.num_experts_per_tok = 9;
  const auto problems = c.problems();
  CHECK(problems.size() == 4);
  CHECK(mentions(problems, "n_group = 3: does not divide n_routed_experts = 8"));
  CHECK(mentions(problems, "qk_rope_head_dim = 7"));
  CHECK(mentions(problems, "hidden_size = 0"));
  CHECK(mentions(problems, "num_experts_per_tok = 9"));
}

TEST_CASE("A group must hold two experts for noaux_tc and enough for top-k", "[model][config]") {
  ModelConfig c = *model_preset("debug");
  c.n_group = 8;
  c.topk_group = 1;
  CHECK(mentions(c.problems(), "n_group = 8"));
  CHECK(mentions(c.problems(), "num_experts_per_tok = 2"));
  c.topk_method = "greedy";  // has no groups
  CHECK(c.problems().empty());
}

TEST_CASE("The router of V3, V2 and V2-Lite differs as published", "[model][config]") {
  const RouterConfig v3 = model_preset("deepseek-v3")->router(), v2 = model_preset("deepseek-v2")->router(), lite = model_preset("deepseek-v2-lite")->router();
  CHECK(v3.score == ScoreFunction::kSigmoid);
  CHECK(v3.group_score == GroupScore::kTop2Sum);
  CHECK(v3.normalize);
  CHECK(v3.num_groups == 8);
  CHECK(v3.topk_groups == 4);
  CHECK(v3.scaling == 2.5);
  CHECK(v2.score == ScoreFunction::kSoftmax);
  CHECK(v2.group_score == GroupScore::kMax);
  CHECK(v2.topk_groups == 3);
  CHECK(v2.scaling == 16.0);
  CHECK(lite.group_score == GroupScore::kNone);
  ModelConfig normalising = *model_preset("deepseek-v2");
  normalising.norm_topk_prob = true;
  CHECK_FALSE(normalising.router().normalize);
}

TEST_CASE("A dimension whose products would overflow is no shape", "[model][config]") {
  ModelConfig c = *model_preset("debug");
  c.hidden_size = 1ll << 40;
  CHECK(mentions(c.problems(), "hidden_size = 1099511627776: must lie in 1..1048576"));
}
