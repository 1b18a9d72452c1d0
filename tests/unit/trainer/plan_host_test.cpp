// The host's part of a plan: launches counted by phase, what a host that is behind costs, and that it is not behind where devices have enough to do.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>

#include "plan_fixture.h"
#include "trainer/plan/host_time.h"
#include "trainer/plan/report.h"

using namespace atoll;
using namespace atoll::plan;

namespace {
StepPrediction step_of(const PlanInput& in) { return predict_step(in, pretraining(in), nullptr); }
}  // namespace

TEST_CASE("DeepSeek-V3's devices never wait for the host that its trace shows, and do for one ten times slower", "[plan]") {
  const StepPrediction none = step_of(v3({"plan.host.launch=0 s"})), traced = step_of(v3());
  CHECK(none.host == 0);
  CHECK(traced.host == 0);
  CHECK(traced.step == none.step);
  const StepPrediction slow = step_of(v3({"plan.host.launch=440 us"}));
  CHECK(slow.host > 0);
  CHECK(slow.step > traced.step);
  // 94 launches forward, 135 + 17 backward of a layer, as the trace has them
  const PlanInput in = v3();
  double launches = 0;
  for (size_t p = 0; p < static_cast<size_t>(WorkPhase::kNumPhases); ++p) launches += host_launches(in, static_cast<WorkPhase>(p), true, 4);
  CHECK(launches == 246);
}

TEST_CASE("Launches grow with the experts of a device and with recomputation, and graphs take them away", "[plan]") {
  const auto of = [](const std::vector<std::string>& more, WorkPhase phase, double experts) { return host_launches(v3(more), phase, true, experts); };
  const std::vector<std::string> loops = {"plan.host.expert_forward=10", "plan.host.expert_backward=12"};
  CHECK(of(loops, WorkPhase::kMlpForward, 16) - of(loops, WorkPhase::kMlpForward, 8) == 80);
  CHECK(of(loops, WorkPhase::kMlpBackward, 16) - of(loops, WorkPhase::kMlpBackward, 8) == 96);
  CHECK(host_launches(v3(loops), WorkPhase::kMlpForward, false, 16) == 25);  // a dense layer has no experts
  CHECK(of({"plan.recompute=[full]"}, WorkPhase::kAttnBackward, 4) == 101 + 69);
  CHECK(of({"plan.recompute=[experts]"}, WorkPhase::kMlpBackward, 4) == 34 + 4 * 2 + 25);
  CHECK(of({"plan.host.graphs=0.5"}, WorkPhase::kAttnForward, 4) == 34.5);
}

TEST_CASE("A host that waits for counts adds its launches to the dispatch, never less than the device's own time", "[plan]") {
  LayerTimes l;
  l.phase[static_cast<size_t>(WorkPhase::kAttnForward)] = 3;
  l.phase[static_cast<size_t>(WorkPhase::kMlpForward)] = 4;
  l.dispatch.seconds = 1;
  l.combine.seconds = 2;
  CHECK(waiting_forward(l) == 10);  // no host: the device's own
  l.host[static_cast<size_t>(WorkPhase::kMlpForward)] = 4;
  l.host[static_cast<size_t>(WorkPhase::kAttnForward)] = 3;
  CHECK(waiting_forward(l) == 10);  // as fast as the device
  l.host[static_cast<size_t>(WorkPhase::kMlpForward)] = 20;
  CHECK(waiting_forward(l) == 20 + 2 + 3 + 1);  // experts as they are launched; attention is queued by then
  l.host[static_cast<size_t>(WorkPhase::kAttnForward)] = 30;
  CHECK(waiting_forward(l) == 20 + 30 + 1);  // the dispatch is launched last
}

TEST_CASE("Training refuses a mistake in a recipe's plan section, with its line and the key that was meant", "[plan]") {
  const auto error = [](const std::string& section) -> std::string {
    try {
      parse_run_config("model: debug\ntrain: {steps: 1}\ndata: {store: x}\nplan:\n" + section, "r.yaml", {});
    } catch (const Error& e) { return e.what(); }
    return "";
  };
  CHECK(error("  precision: fp8\n  host: {launch: 13.5 us}\n  cluster: h800-2048\n").empty());
  CHECK_THAT(error("  precison: fp8\n"), Catch::Contains("r.yaml:5: plan.precison: no such key; did you mean precision?"));
  CHECK_THAT(error("  host: {lanch: 1 us}\n"), Catch::Contains("plan.host.lanch: no such key; did you mean host.launch?"));
  CHECK_THAT(error("  published:\n    - {item: step_time, value: 3}\n"), Catch::Contains("plan.published: source is missing"));
}

TEST_CASE("Interleaved 1F1B in pairs is proven, and all but its warm-up and cool-down is paired", "[plan]") {
  for (const auto& [pp, chunks, n] : {std::array{2, 2, 8}, {4, 2, 8}, {4, 4, 24}, {8, 3, 16}, {1, 1, 5}}) {
    Priced p;
    p.global_batch = n;
    p.pp = pp;
    p.chunks = chunks;
    p.schedule = pp == 1 ? "1f1b" : "interleaved";
    p.is_paired = true;
    const Schedule s = schedule_of(p);
    INFO(pp << " ranks, " << chunks << " chunks, " << n << " micro-batches");
    CHECK(check(s).empty());
    for (int r = 0; r < pp; ++r) {
      const auto& list = s.actions[static_cast<size_t>(r)];
      const auto pairs = std::count_if(list.begin(), list.end(), [](const Action& a) { return a.kind == ActionKind::kPair; });
      CHECK(pairs == std::max(0, n * chunks - (2 * (pp - 1 - r) + (chunks - 1) * pp) - 1));
    }
  }
}
