// A stage's ops called for their cost, against the same ops as model/work.h counts them. Scratch is compared with a run's own in tests/unit/trainer/plan_memory_test.cpp.
#include <catch2/catch.hpp>

#include <map>

#include "model/stage_ops.h"
#include "model/work.h"

using namespace atoll;

namespace {
ModelConfig small_model() {
  ModelConfig c = *model_preset("debug");
  c.vocab_size = 200;
  return c;
}
StageOpsShape shape_of(const ModelConfig& c, int64_t tokens, int64_t sequences) {
  StageOpsShape s;
  s.tokens = tokens;
  s.sequences = sequences;
  s.num_experts = c.n_routed_experts;
  s.expert_rows = tokens * c.num_experts_per_tok / c.n_routed_experts;
  return s;
}
}  // namespace

TEST_CASE("The ops that are timed multiply as much as the planner counts, by kind and pass", "[model][plan]") {
  const ModelConfig c = small_model();
  const DType storage = GENERATE(DType::kBF16, DType::kF32, DType::kF64);
  StageOpsShape s = shape_of(c, 64, 2);
  s.storage = storage;
  REQUIRE(s.num_experts * s.expert_rows == s.tokens * c.num_experts_per_tok);
  const StageOpsTimes times = time_stage_ops(c, s, 1e18, 1);
  WorkShape w;
  w.tokens = 64;
  w.seq_len = 32;
  w.routed_rows = static_cast<double>(s.tokens * c.num_experts_per_tok);
  w.local_experts = static_cast<double>(c.n_routed_experts);
  std::map<std::pair<WorkKind, WorkPass>, double> counted, timed;
  double bytes = 0;
  std::vector<Work> all = head_work(c, w);
  bool has[2] = {false, false};
  for (int64_t l = 0; l < c.num_hidden_layers; ++l)
    if (!std::exchange(has[c.is_moe_layer(l)], true))
      for (const Work& x : block_work(c, l, w)) all.push_back(x);
  REQUIRE((has[0] && has[1]));
  for (const Work& x : all) {
    if (x.kind != WorkKind::kGlue) counted[{x.kind, x.pass}] += x.flops;
    bytes += x.bytes;
  }
  for (const TimedOp& op : times.ops) {
    timed[{op.kind, op.pass}] += op.flops;
    CHECK(op.seconds > 0);
  }
  REQUIRE(timed.size() == counted.size());
  for (const auto& [what, flops] : counted) {
    INFO(name_of(what.first) << " " << name_of(what.second));
    CHECK(timed[what] == Approx(flops).epsilon(1e-12));
  }
  CHECK(times.glue_bytes == Approx(bytes));
  CHECK(times.glue_seconds > 0);
  CHECK(times.update_seconds > 0);
}

TEST_CASE("Of a large head and of many experts a part is timed", "[model][plan]") {
  ModelConfig c = small_model();
  c.vocab_size = 4'000'000;
  c.hidden_size = 256;
  c.moe_intermediate_size = 4096;
  c.n_routed_experts = 512;
  StageOpsShape s = shape_of(c, 64, 1);
  s.expert_rows = 2;
  double most = 0, grouped = 0;
  for (const TimedOp& op : time_stage_ops(c, s, 1, 1).ops) {
    if (op.kind == WorkKind::kGemm && op.pass == WorkPass::kForward) most = std::max(most, op.n);
    if (op.kind == WorkKind::kGrouped && op.pass == WorkPass::kForward) grouped = std::max(grouped, op.m);
  }
  CHECK(most * 256 * 6 <= double{512 << 20});
  CHECK(most > 100'000);
  CHECK(grouped <= 43);  // 512 MiB / (2 x 4096 x 256 x 6), a row each
  CHECK(grouped >= 1);
}

TEST_CASE("Where a layer would take too long fewer tokens are timed", "[model][plan]") {
  const ModelConfig c = small_model();
  const auto rows = [&](double flops_per_second) {
    double most = 0;
    for (const TimedOp& op : time_stage_ops(c, shape_of(c, 256, 2), flops_per_second, 1).ops)
      if (op.kind == WorkKind::kGemm && op.pass == WorkPass::kForward) most = std::max(most, op.m);
    return most;
  };
  CHECK(rows(1e18) == 256);
  const double fewer = rows(1e8);
  CHECK(fewer >= 16);
  CHECK(fewer < 256);
  CHECK(rows(1) == 16);
}

TEST_CASE("Sizing writes nothing, so that no op meets another's values", "[model][plan]") {
  ModelConfig c = *model_preset("debug");
  for (const int64_t vocab : {200, 512, 4096})
    for (const int64_t tokens : {16, 64, 256, 512, 1024}) {
      c.vocab_size = vocab;
      StageOpsShape s = shape_of(c, tokens, 2);
      s.bf16_gemm = Bf16Gemm::kWiden;
      CHECK(stage_workspace(c, {0, c.num_hidden_layers}, true, s) > 0);
    }
}

TEST_CASE("Scratch grows with threads, documents and a last stage, and an empty micro-batch needs none", "[model][plan]") {
  const ModelConfig c = small_model();
  const StageOpsShape one = shape_of(c, 256, 2);
  StageOpsShape shape = one;
  const Range layers{0, c.num_hidden_layers};
  const int64_t base = stage_workspace(c, layers, false, one);
  CHECK(base > 0);
  shape.threads = 4;
  CHECK(stage_workspace(c, layers, false, shape) > base);
  shape = one;
  shape.longest_document = 8;
  CHECK(stage_workspace(c, layers, false, shape) < base);
  CHECK(stage_workspace(c, layers, true, one) > base);  // blocks of logits
  shape = one;
  shape.tokens = 0;
  CHECK(stage_workspace(c, layers, true, shape) == 0);
}
