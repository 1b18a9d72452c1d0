// Shapes of models that no published one has together, each on one rank against two stages and against two expert ranks (which halve the data too), in FP64.
#include <catch2/catch.hpp>
#include <algorithm>
#include <cmath>

#include "engine_fixture.h"

using namespace atoll;
using namespace atoll::test;

namespace {
struct Variant {
  const char* name;
  std::function<void(RunSpec&)> change;
  double noise = 0;  // moments below are zero but for rounding: a module whose sequences all have one position has one key, and its scores no gradient
};

const std::vector<Variant>& variants() {
  static const std::vector<Variant> all = {
      {"no shared experts", [](RunSpec& s) { s.options.model.n_shared_experts = 0; }},
      {"two shared experts, no dense layer", [](RunSpec& s) { s.options.model.n_shared_experts = 2, s.options.model.first_k_dense_replace = 0; }},
      {"dense layers and an MTP block with experts", [](RunSpec& s) { s.options.model.first_k_dense_replace = s.options.model.num_hidden_layers; }},
      {"softmax scores, normalised", [](RunSpec& s) { s.options.model.scoring_func = ScoreFunction::kSoftmax; }},
      {"sigmoid scores, not normalised", [](RunSpec& s) { s.options.model.norm_topk_prob = false; }},
      {"no balance loss", [](RunSpec& s) { s.balance_alpha = 0; }},
      {"V2-Lite: greedy, no query latent, no MTP",
       [](RunSpec& s) {
         ModelConfig& m = s.options.model;
         m.model_type = "deepseek_v2", m.topk_method = "greedy", m.scoring_func = ScoreFunction::kSoftmax, m.q_lora_rank = 0, m.num_nextn_predict_layers = 0, m.routed_scaling_factor = 1;
       }},
      {"V2: group limited",
       [](RunSpec& s) {
         ModelConfig& m = s.options.model;
         m.model_type = "deepseek_v2", m.topk_method = "group_limited_greedy", m.scoring_func = ScoreFunction::kSoftmax, m.num_nextn_predict_layers = 0;
       }},
      {"tied embedding without MTP", [](RunSpec& s) { s.options.model.tie_word_embeddings = true, s.options.model.num_nextn_predict_layers = 0; }},
      {"tied embedding, no query latent", [](RunSpec& s) { s.options.model.tie_word_embeddings = true, s.options.model.q_lora_rank = 0; }},
      {"sequences no longer than the MTP depth", [](RunSpec& s) { s.options.model.num_nextn_predict_layers = 3, s.shortest = 1, s.spread = 4; }, 1e-20},
      {"no sequence reaches the last MTP module", [](RunSpec& s) { s.options.model.num_nextn_predict_layers = 2, s.shortest = 2, s.spread = 1; }, 1e-20},
      {"all experts chosen", [](RunSpec& s) { s.options.model.num_experts_per_tok = 10, s.options.model.topk_group = 5; }}};
  return all;
}

Record run_on(const Variant& v, MeshSizes mesh, int world) {
  RunSpec s;
  s.options.model = tiny_model();
  s.options.mesh = mesh;
  s.options.storage = DType::kF64;
  s.options.max_sequence = 64;
  s.world = world;
  s.steps = 4;
  v.change(s);
  const std::vector<std::string> problems = s.options.model.problems();
  ATOLL_CHECK(problems.empty(), v.name, ": ", problems.front());
  Record record = run(s);
  for (auto* kind : {&record.moments, &record.second_moments})
    for (auto& [name, values] : *kind)
      if (std::all_of(values.begin(), values.end(), [&](double m) { return std::abs(m) < v.noise; })) std::fill(values.begin(), values.end(), 0.0);
  return record;
}
}  // namespace

TEST_CASE("Every shape of a model computes the same on one rank, two stages and two expert ranks", "[layouts]") {
  for (const Variant& v : variants()) {
    INFO(v.name);
    const Record one = run_on(v, {}, 1);
    REQUIRE(one.loss.size() == 4);
    for (double loss : one.loss) CHECK((std::isfinite(loss) && loss > 0));
    CHECK(first_difference(run_on(v, {.pp = 2}, 2), one, 1e-9) == "");
    CHECK(first_difference(run_on(v, {.ep = 2}, 2), one, 1e-9) == "");
    CHECK(first_difference(run_on(v, {.pp = 2, .ep = 2}, 4), one, 1e-9) == "");
  }
}
