// The memory model against the engine's own segments, and the counted messages against what the communicators sent.
#include <catch2/catch.hpp>
#include <cstdio>

#include "engine_fixture.h"
#include "trainer/plan/memory_walk.h"

using namespace atoll;
using namespace atoll::test;

namespace {
ModelConfig planned_model() {
  ModelConfig c = tiny_model();
  c.vocab_size = 256;
  c.hidden_size = 64;
  c.intermediate_size = 96;
  c.moe_intermediate_size = 32;
  c.q_lora_rank = 48;
  c.kv_lora_rank = 32;
  c.qk_nope_head_dim = 16;
  c.qk_rope_head_dim = 8;
  c.v_head_dim = 16;
  c.n_routed_experts = 8;
  c.num_experts_per_tok = 2;
  c.n_group = 1;
  c.topk_group = 1;
  return c;
}

// Every rank's batches: num micro-batches of one sequence of S tokens.
std::vector<MicroBatch> even_batches(const ModelConfig& model, int num, int64_t S, int dp_rank) {
  std::vector<MicroBatch> batches(static_cast<size_t>(num));
  for (int m = 0; m < num; ++m) {
    std::vector<int32_t> ids(static_cast<size_t>(S)), labels(static_cast<size_t>(S));
    for (int64_t i = 0; i < S; ++i) ids[static_cast<size_t>(i)] = static_cast<int32_t>((i * 7 + m * 13 + dp_rank * 29 + i * i) % model.vocab_size);
    for (int64_t i = 0; i < S; ++i) labels[static_cast<size_t>(i)] = ids[static_cast<size_t>((i + 1) % S)];
    batches[static_cast<size_t>(m)].clear();
    batches[static_cast<size_t>(m)].add_sequence(ids, labels, {});
  }
  return batches;
}

struct Layout {
  int world, pp, ep;
  std::string schedule;
  DType storage;
  int vpp = 1, halves = 1;
};

// Rows are dealt evenly by hand, so that what each rank receives is known before: expert (t + k) mod E of token t.
void deal_rows(Engine& engine) {
  const int64_t E = engine.options().model.n_routed_experts;
  const auto deal = [E](int64_t, const Tensor& topk_TK) {
    for (int64_t t = 0; t < topk_TK.dim[0]; ++t)
      for (int64_t k = 0; k < topk_TK.dim[1]; ++k) topk_TK.as<int32_t>()[t * topk_TK.dim[1] + k] = static_cast<int32_t>((t + k * (E / 2)) % E);
    return true;
  };
  for (const auto& stage : engine.stages()) stage->probe.force_routing = deal;
}
}  // namespace

TEST_CASE("The memory model says what every segment of every rank holds, to the byte where timing has no part", "[plan]") {
  const Layout layout =
      GENERATE(Layout{1, 1, 1, "1f1b", DType::kBF16}, Layout{1, 1, 1, "gpipe", DType::kF32}, Layout{2, 2, 1, "1f1b", DType::kBF16},
               Layout{2, 1, 2, "1f1b", DType::kBF16}, Layout{4, 2, 2, "1f1b", DType::kBF16}, Layout{4, 2, 1, "gpipe", DType::kF64},
               Layout{4, 4, 1, "1f1b-w-last", DType::kF32}, Layout{2, 2, 1, "dualpipe", DType::kBF16}, Layout{4, 2, 2, "dualpipev", DType::kBF16},
               Layout{2, 2, 1, "interleaved", DType::kBF16, 2}, Layout{4, 2, 2, "zb-h1", DType::kF32}, Layout{2, 2, 1, "1f1b", DType::kBF16, 1, 2});
  const int64_t S = 64;
  const int num = 4;
  EngineOptions o;
  o.model = planned_model();
  o.mesh.pp = layout.pp;
  o.mesh.ep = layout.ep;
  o.schedule = layout.schedule;
  o.vpp = layout.vpp;
  o.grad_halves = layout.halves;
  o.storage = layout.storage;
  o.max_sequence = S;
  const std::vector<ParameterSpec> manifest = parameter_manifest(o.model);
  const Schedule schedule = build_schedule(o.schedule, layout.pp, num / layout.halves, layout.vpp);
  run_ranks_as_threads(layout.world, [&](Communicator& world) {
    Engine engine(o, world);
    engine.initialize();
    deal_rows(engine);
    std::vector<MicroBatch> batches = even_batches(o.model, num, S, engine.groups().dp->rank());
    const StepPlan plan{.lr = 1e-3, .mtp_lambda = 0.3, .balance_alpha = 0.01, .bias_gamma = 0.001, .step = 1};
    const StepResult r = engine.train_step(batches, plan);
    ATOLL_CHECK(r.applied, r.reason);
    const double rows = static_cast<double>(S * o.model.num_experts_per_tok);
    const plan::RunShape shape = {.tokens = S, .sequences = 1, .num_microbatches = num, .rows_received = rows};
    EngineOptions as_run = o;
    as_run.bf16_gemm = engine.ctx().bf16_gemm;
    const plan::RankForecast f = plan::forecast_rank(as_run, schedule, manifest, world.size(), world.rank(), shape);
    Memory& m = engine.ctx().memory;
    const double message = static_cast<double>(S * o.model.hidden_size) * static_cast<double>(size_of(o.storage));
    const auto close = [&](const char* what, double predicted, int64_t measured, double slack) {
      ATOLL_CHECK(predicted - slack <= static_cast<double>(measured) && static_cast<double>(measured) <= predicted + slack, what, " of rank ", world.rank(),
                  ": predicted ", predicted, ", measured ", measured);
    };
    close("weights", static_cast<double>(f.persistent.weights), m.weights.high_water(), 0);
    close("main grads", static_cast<double>(f.persistent.grads), m.grads.high_water(), 0);
    close("optimizer", static_cast<double>(f.persistent.optimizer), m.optimizer.high_water(), 0);
    close("workspace", static_cast<double>(f.workspace), m.workspace.high_water(), 0);
    close("comm", static_cast<double>(f.persistent.comm), m.comm.high_water(), 0);
    close("activations", f.peaks.activations.bytes, m.activations.high_water(),
          layout.pp > 1 ? 2 * message : 0);  // a sent boundary is let go when its receiver has it
    close("routed", f.peaks.routed.bytes, m.routed.high_water(),
          layout.ep > 1 ? 0.03 * f.peaks.routed.bytes : 0);  // MTP's rows are one fewer: not dealt quite evenly
    const int64_t wire = r.bytes_sent - r.dispatch_bytes - r.combine_bytes;
    ATOLL_CHECK(f.wire_fixed == wire, "rank ", world.rank(), " sent ", wire, " bytes beside the routed rows, predicted ", f.wire_fixed, ": boundary ",
                f.wire_boundary, ", reduce ", f.wire_reduce, ", gather ", f.wire_gather, ", counts ", f.wire_counts, ", small ", f.wire_small, ", embedding ",
                f.wire_embedding);
    const int64_t row = o.model.hidden_size * static_cast<int64_t>(size_of(o.storage)), weight = static_cast<int64_t>(size_of(acc_dtype(o.storage)));
    ATOLL_CHECK(r.dispatch_bytes % (2 * row + weight) == 0, "dispatched ", r.dispatch_bytes, " bytes: no whole number of rows of ", 2 * row + weight);
  });
  SUCCEED();
}

TEST_CASE("A full backward, layer by layer, ends where B and W end, and needs less on the way the more layers a stage has", "[plan]") {
  const ModelConfig c = *model_preset("deepseek-v2-lite");
  MemoryShape shape;
  shape.tokens = 4096;
  shape.rows_sent = shape.rows_received = 4096.0 * static_cast<double>(c.num_experts_per_tok);
  for (const bool is_full : {false, true})
    for (const bool is_last : {false, true}) {
      INFO("recomputed " << is_full << ", last stage " << is_last);
      shape.recompute.full = is_full;
      const auto excess = [&](int64_t end) {
        const StageMemory m = stage_memory(c, {2, end}, false, is_last, shape);
        CHECK(m.full_backward.net.activations == m.backward.net.activations + m.weight.net.activations);
        CHECK(m.full_backward.net.routed == m.backward.net.routed + m.weight.net.routed);
        const double fused = m.full_backward.peak.activations + m.full_backward.peak.routed, split = m.backward.peak.activations + m.backward.peak.routed;
        CHECK(fused <= split);
        return split - fused;
      };
      CHECK(excess(4) > 0);
      CHECK(excess(12) > 3 * excess(4));
    }
}
