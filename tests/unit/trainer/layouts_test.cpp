// Every layout computes the same number; planted faults do not.
#include <catch2/catch.hpp>

#include "engine_fixture.h"
#include "kernels/cpu/gemm.h"
#include "trainer/run_config.h"
#include "trainer/trainer.h"

using namespace atoll;
using namespace atoll::test;

namespace {
RunSpec spec_of(int pp, int dp, int ep, DType type = DType::kF64) {
  RunSpec s;
  s.options.model = tiny_model();
  s.options.mesh = {.pp = pp, .ep = ep};
  s.options.storage = type;
  s.options.max_sequence = 64;
  s.world = pp * dp;
  return s;
}
}  // namespace

TEST_CASE("All 15 layouts equal one rank in FP64 over 8 steps", "[layouts]") {
  const Record one = run(spec_of(1, 1, 1));
  REQUIRE(one.loss.size() == 8);
  REQUIRE(one.loss.back() < one.loss.front());
  int layouts = 0;
  for (int pp : {1, 2, 4})
    for (int dp : {1, 2, 4})
      for (int ep : {1, 2, 4}) {
        if (pp * dp > 8 || dp % ep != 0) continue;
        ++layouts;
        const Record r = run(spec_of(pp, dp, ep));
        INFO("pp " << pp << " dp " << dp << " ep " << ep);
        CHECK(first_difference(r, one, 1e-9) == "");
        for (size_t rank = 0; rank < r.dispatch_bytes.size(); ++rank) CHECK(r.dispatch_bytes[rank] == r.expected_dispatch_bytes[rank]);
      }
  CHECK(layouts == 15);
}

TEST_CASE("The thread count does not change a bit", "[layouts][openmp]") {
  // Each way of multiplying BF16 by name: which one is faster is measured for each number of threads, and beside other work it can come out differently.
  const auto run_with = [](DType type, Bf16Gemm mode, int threads) {
    RunSpec spec = spec_of(1, 1, 1, type);
    spec.options.bf16_gemm = mode;
    spec.options.threads = threads;
    return run(spec);
  };
  std::vector<std::pair<DType, Bf16Gemm>> ways = {{DType::kF32, Bf16Gemm::kAuto}, {DType::kF64, Bf16Gemm::kAuto}, {DType::kBF16, Bf16Gemm::kWiden}};
  if (cpu::has_native_bf16_gemm()) ways.emplace_back(DType::kBF16, Bf16Gemm::kNative);
  for (const auto& [type, mode] : ways) {
    INFO(name_of(type) << ", BF16 mode " << static_cast<int>(mode));
    CHECK(first_difference(run_with(type, mode, 2), run_with(type, mode, 1), 0.0) == "");
  }
  if (ways.size() > 3) CHECK(first_difference(run_with(DType::kBF16, Bf16Gemm::kNative, 1), run_with(DType::kBF16, Bf16Gemm::kWiden, 1), 0.0) != "");
}

TEST_CASE("Pipeline depth does not change a bit", "[layouts]") {
  for (DType type : {DType::kBF16, DType::kF32, DType::kF64}) {
    const Record one = run(spec_of(1, 1, 1, type));
    INFO(name_of(type));
    CHECK(first_difference(run(spec_of(2, 1, 1, type)), one, 0.0) == "");
    CHECK(first_difference(run(spec_of(4, 1, 1, type)), one, 0.0) == "");
    RunSpec gpipe = spec_of(2, 1, 1, type), last = spec_of(2, 1, 1, type);
    gpipe.options.schedule = "gpipe";
    last.options.schedule = "1f1b-w-last";
    CHECK(first_difference(run(gpipe), one, 0.0) == "");
    CHECK(first_difference(run(last), one, 0.0) == "");
  }
}

TEST_CASE("Stages by list and a tied embedding equal one rank", "[layouts]") {
  RunSpec one = spec_of(1, 1, 1), two = spec_of(2, 2, 2);
  one.options.model.tie_word_embeddings = two.options.model.tie_word_embeddings = true;
  one.options.model.num_nextn_predict_layers = two.options.model.num_nextn_predict_layers = 2;
  two.options.stage_layers = {4, 1};
  CHECK(first_difference(run(two), run(one), 1e-9) == "");
}

TEST_CASE("A model without routed experts trains, and its layouts equal one rank", "[layouts]") {
  const auto dense = [](RunSpec s) {
    s.options.model.n_routed_experts = 0;
    s.options.model.num_experts_per_tok = 0;
    return s;
  };
  const Record one = run(dense(spec_of(1, 1, 1)));
  REQUIRE(one.loss.size() == 8);
  CHECK(one.loss.back() < one.loss.front());
  CHECK(one.balance.back() == 0);
  for (const auto& [pp, dp] : {std::pair{2, 1}, {1, 2}, {2, 2}, {4, 2}}) {
    INFO("pp " << pp << " dp " << dp);
    CHECK(first_difference(run(dense(spec_of(pp, dp, 1))), one, 1e-9) == "");
  }
}

TEST_CASE("parallel.stage_layers of a recipe places the layers of a model with MTP", "[layouts]") {
  const std::string recipe = "model: debug\ntrain: {steps: 1, dtype: fp64}\ndata: {seq_len: 64}\n";
  std::vector<double> losses;
  for (const std::vector<int64_t>& counts : {std::vector<int64_t>{3}, {2, 1}, {1, 2}, {1, 1, 1}}) {
    const int64_t pp = std::ssize(counts);
    std::string list;
    for (int64_t n : counts) list += (list.empty() ? "" : ", ") + std::to_string(n);
    const RunConfig config = parse_run_config(recipe, "recipe", {"parallel.pp=" + std::to_string(pp), "parallel.stage_layers=[" + list + "]"});
    REQUIRE(config.model.num_nextn_predict_layers == 1);
    RunSpec spec;
    spec.options = engine_options(config, 1);
    spec.world = static_cast<int>(pp);
    spec.steps = 1;
    std::mutex mutex;
    std::vector<int64_t> placed(counts.size());
    spec.end = [&](Engine& engine, Communicator& world) {
      const std::lock_guard lock(mutex);
      placed[static_cast<size_t>(world.rank())] = engine.placement().layers(engine.stage().number()).size();
    };
    const Record r = run(spec);
    INFO("stages [" << list << "]");
    CHECK(placed == counts);
    losses.push_back(r.loss.at(0));
    CHECK(losses.back() == losses.front());
  }
}

TEST_CASE("Experts and optimizer state are sharded as promised, and the bytes sent equal the routing tables", "[shares]") {
  RunSpec full = spec_of(1, 1, 1), quarter = spec_of(1, 4, 4);
  full.options.model.n_routed_experts = quarter.options.model.n_routed_experts = 20;
  full.steps = quarter.steps = 1;
  const Record a = run(full), b = run(quarter);
  int64_t optimizer = 0;
  for (int rank = 0; rank < 4; ++rank) {
    CHECK(b.expert_elements[rank] * 4 == a.expert_elements[0]);
    CHECK(std::abs(static_cast<double>(b.optimizer_bytes[rank]) / static_cast<double>(a.optimizer_bytes[0]) - 0.25) < 0.02);  // whole rows: not exactly a quarter each
    optimizer += b.optimizer_bytes[rank];
    CHECK(b.dispatch_bytes[rank] > 0);
    CHECK(b.dispatch_bytes[rank] == b.expected_dispatch_bytes[rank]);
  }
  CHECK(optimizer == a.optimizer_bytes[0]);
}

TEST_CASE("Planted faults are caught, with the first wrong tensor named", "[planted]") {
  const Record one = run(spec_of(1, 1, 1));
  for (PlantedFault fault : {PlantedFault::kLossScaledOnOneRank, PlantedFault::kBiasUpdatedOnOneStage, PlantedFault::kGradientCountedTwice}) {
    RunSpec s = spec_of(2, 2, 1);
    s.options.fault = fault;
    const std::string difference = first_difference(run(s), one, 1e-9);
    INFO(static_cast<int>(fault) << ": " << difference);
    const char* expected = fault == PlantedFault::kBiasUpdatedOnOneStage  ? "first biases: model.layers.3.mlp.gate.e_score_correction_bias"  // the first MoE layer of the second stage, by name
                           : fault == PlantedFault::kGradientCountedTwice ? "first gradients: model.embed_tokens.weight"
                                                                          : "first gradients: lm_head.weight";
    CHECK(difference.find(expected) == 0);
  }
}
