// What the executor really ran: the schedule's order, the promised number of live activations, and no weight-gradient GEMM inside B.
#include <catch2/catch.hpp>
#include <cstring>

#include "engine_fixture.h"

using namespace atoll;
using namespace atoll::test;

namespace {
struct RankTrace {
  std::vector<Action> executed, planned;
  int peak_live = 0;
  int64_t peak_slots = 0;  // of the stage: from the first tensor received until nothing of the micro-batch is left
  int64_t gemms_in_forward = 0, gemms_in_backward = 0, gemms_in_weight = 0;
  std::vector<char> gradients;  // all bytes of this rank's main gradients
};

EngineOptions options_of(const std::string& schedule, int pp, DType type) {
  EngineOptions o;
  o.model = tiny_model();
  o.mesh = {.pp = pp};
  o.schedule = schedule;
  o.storage = type;
  o.max_sequence = 64;
  return o;
}

std::vector<MicroBatch> first_batches(const ModelConfig& model, int n) {
  std::vector<MicroBatch> batches;
  for (int step = 1; static_cast<int>(batches.size()) < n; ++step)
    for (MicroBatch& b : batches_of(model, step, 1, 0))
      if (static_cast<int>(batches.size()) < n) batches.push_back(std::move(b));
  for (MicroBatch& b : batches) b.derive_mtp(static_cast<int>(model.num_nextn_predict_layers));
  return batches;
}

// Runs the engine's own stage under its schedule, looking at it after every action.
std::vector<RankTrace> trace(const std::string& name, int pp, int n, DType type = DType::kF32) {
  std::vector<RankTrace> traces(pp);
  run_ranks_as_threads(pp, [&](Communicator& world) {
    Engine engine(options_of(name, pp, type), world);
    engine.initialize();
    RankTrace& t = traces[world.rank()];
    Stage& stage = engine.stage();
    Context& ctx = engine.ctx();
    StageFunctions f = engine.functions();
    const auto watched = [&](std::function<void(int, int)> run, int64_t& gemms) {
      return [&, run](int s, int m) {
        t.peak_slots = std::max(t.peak_slots, stage.num_live_slots());
        const int64_t before = ctx.num_weight_gradient_gemms;
        run(s, m);
        gemms += ctx.num_weight_gradient_gemms - before;
        t.peak_slots = std::max(t.peak_slots, stage.num_live_slots());
      };
    };
    f.forward = watched(f.forward, t.gemms_in_forward);
    f.backward_input = watched(f.backward_input, t.gemms_in_backward);
    f.backward_weight = watched(f.backward_weight, t.gemms_in_weight);
    const std::vector<MicroBatch> batches = first_batches(engine.options().model, n);
    const Schedule schedule = build_schedule(name, pp, n);
    Executor executor(schedule, *engine.groups().pp, f);
    engine.parameters().zero_grads(true);
    stage.begin(batches, {.loss = 0.01, .mtp = 0.003, .balance = 0.001}, true);
    executor.run();
    ATOLL_CHECK(stage.num_live_slots() == 0, stage.num_live_slots(), " slots are still live");
    t.executed = executor.executed();
    t.planned = schedule.actions[world.rank()];
    t.peak_live = executor.peak_live();
    for (const LocalParameter& p : engine.parameters().all()) {
      if (p.is_replica) continue;
      const auto* bytes = static_cast<const char*>(p.grad.data);
      t.gradients.insert(t.gradients.end(), bytes, bytes + p.grad.bytes());
    }
  });
  return traces;
}
}  // namespace

TEST_CASE("The executed order equals the schedule's, and live activations peak where it says", "[schedule]") {
  for (int pp : {1, 2, 4})
    for (int n : {1, 3, 6})
      for (const char* name : {"gpipe", "1f1b", "gpipe-w-last", "1f1b-w-last"}) {
        const std::vector<RankTrace> traces = trace(name, pp, n);
        const bool is_1f1b = std::string(name).rfind("1f1b", 0) == 0, is_w_last = std::string(name).find("w-last") != std::string::npos;
        for (int r = 0; r < pp; ++r) {
          INFO(name << " pp " << pp << " n " << n << " rank " << r);
          const int expected = is_1f1b ? std::min(pp - r, n) : n;
          CHECK(traces[r].executed == traces[r].planned);
          CHECK(traces[r].peak_live == expected);
          CHECK(traces[r].peak_slots == (is_w_last ? n : expected));  // the operands of W stay until W
        }
      }
}

TEST_CASE("The engine's own step records the schedule's order", "[schedule]") {
  for (int pp : {1, 2, 4})
    for (const char* name : {"gpipe", "1f1b", "gpipe-w-last", "1f1b-w-last"}) {
      RunSpec s;
      s.options = options_of(name, pp, DType::kF32);
      s.world = pp;
      s.steps = 1;
      const Record r = run(s);
      const Schedule schedule = build_schedule(name, pp, 4);
      for (int rank = 0; rank < pp; ++rank) {
        INFO(name << " pp " << pp << " rank " << rank);
        CHECK(r.executed[rank] == schedule.actions[rank]);
        CHECK(r.peak_live[rank] == (schedule.name.rfind("1f1b", 0) == 0 ? std::min(pp - rank, 4) : 4));
        CHECK(r.weight_gradient_gemms[rank] > 0);
      }
    }
}

TEST_CASE("No weight-gradient GEMM runs inside B; with every W last the gradients have the same bits", "[schedule]") {
  for (DType type : {DType::kBF16, DType::kF32, DType::kF64})
    for (int pp : {1, 2, 4}) {
      const std::vector<RankTrace> at_once = trace("1f1b", pp, 4, type);
      for (const char* name : {"1f1b-w-last", "gpipe", "gpipe-w-last"}) {
        const std::vector<RankTrace> other = trace(name, pp, 4, type);
        for (int r = 0; r < pp; ++r) {
          INFO(name << ' ' << name_of(type) << " pp " << pp << " rank " << r);
          CHECK(other[r].gradients.size() == at_once[r].gradients.size());
          CHECK(other[r].gradients == at_once[r].gradients);
          for (const RankTrace* t : {&at_once[r], &other[r]}) {
            CHECK(t->gemms_in_forward == (r == pp - 1 ? 4 * (1 + tiny_model().num_nextn_predict_layers) : 0));  // the loss heads': fused with their forward pass
            CHECK(t->gemms_in_backward == 0);
            CHECK(t->gemms_in_weight > 0);
          }
          CHECK(other[r].gemms_in_weight == at_once[r].gemms_in_weight);
        }
      }
    }
}
