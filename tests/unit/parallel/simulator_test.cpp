// The simulator against a second event model written for it, against the closed formulas of the published table where those hold, and on what it must refuse.
#include <catch2/catch.hpp>
#include <cmath>
#include <iostream>

#include "kernels/base/error.h"
#include "parallel/simulator.h"
#include "tests/unit/parallel/event_model.h"
#include "tests/unit/parallel/schedule_cases.h"

using namespace atoll;
using test::Dice;

namespace {
// B is the full backward, W its weight part, FB an overlapped pair, as in the published table.
SimulationCosts equal_stages(int stages, double F, double B, double W, double FB) {
  const auto n = static_cast<size_t>(stages);
  SimulationCosts c{.forward = std::vector<double>(n, F), .backward = std::vector<double>(n, B - W), .weight = std::vector<double>(n, W)};
  c.pair.assign(n, std::vector<double>(n, FB));
  return c;
}
SimulationCosts random_costs(Dice& dice, const Schedule& s) {
  SimulationCosts c;
  const bool is_whole = dice.below(3) == 0, has_zeros = dice.below(4) == 0;  // whole numbers: ties everywhere
  const auto cost = [&] { return has_zeros && dice.below(4) == 0 ? 0.0 : is_whole ? static_cast<double>(dice.between(1, 3)) : 0.01 + dice.real(3); };
  const auto fill = [&](std::vector<double>& row, int n) { for (int i = 0; i < n; ++i) row.push_back(cost()); };
  for (auto* row : {&c.forward, &c.backward, &c.weight}) fill(*row, s.num_stages);
  if (dice.below(2)) {
    c.pair.resize(static_cast<size_t>(s.num_stages));
    for (auto& row : c.pair) fill(row, s.num_stages);
  }
  if (dice.below(3)) {
    c.send.resize(static_cast<size_t>(s.num_ranks));
    for (auto& row : c.send) fill(row, s.num_ranks);
  }
  if (dice.below(2))
    for (int i = 0; i < s.num_stages; ++i) c.activation_bytes.push_back(dice.between(1, 1000));
  return c;
}
// Peak of live bytes and its time from a timeline, by counting for every F what is alive.
std::pair<double, double> peak_of(const std::vector<TimedAction>& timeline, const SimulationCosts& c) {
  double peak = 0, when = 0;
  for (size_t i = 0; i < timeline.size(); ++i) {
    if (forward_of(timeline[i].action).stage < 0) continue;
    double live = 0;
    for (size_t j = 0; j <= i; ++j) {
      const auto bytes = [&](int stage) { return stage < 0 ? 0 : c.activation_bytes.empty() ? 1 : c.activation_bytes[static_cast<size_t>(stage)]; };
      live += bytes(forward_of(timeline[j].action).stage);
      if (j < i) live -= bytes(weight_of(timeline[j].action).stage);
    }
    if (live > peak) {
      peak = live;
      when = timeline[i].begin;
    }
  }
  return {peak, when};
}
double largest(const std::vector<double>& v) { return *std::max_element(v.begin(), v.end()); }
}  // namespace

TEST_CASE("The simulator equals an event model written by another algorithm", "[schedules]") {
  Dice dice(21, "timelines");
  int num_cases = 0;
  int64_t num_actions = 0;
  for (; num_cases < 600; ++num_cases) {
    const Schedule s = test::random_schedule(dice, 32, num_cases % 4 == 0 ? 256 : 40);
    const SimulationCosts costs = random_costs(dice, s);
    INFO(test::describe(s));
    const Simulation got = simulate(s, costs);
    const test::EventModel expected(s, costs);
    REQUIRE(expected.completed);
    double begin = 1e300, end = 0;
    for (size_t r = 0; r < got.timeline.size(); ++r) {
      REQUIRE(got.timeline[r].size() == expected.timeline[r].size());
      bool is_equal = true;
      double busy = 0;
      for (size_t i = 0; i < got.timeline[r].size(); ++i) {
        const TimedAction &a = got.timeline[r][i], &b = expected.timeline[r][i];
        is_equal = is_equal && a.action == b.action && a.begin == b.begin && a.end == b.end;
        begin = std::min(begin, b.begin);
        end = std::max(end, b.end);
        busy += b.end - b.begin;
        ++num_actions;
      }
      REQUIRE(is_equal);
      CHECK(got.busy[r] == Approx(busy));
      const auto [peak, when] = peak_of(expected.timeline[r], costs);
      CHECK(got.peak_activation[r] == peak);
      CHECK(got.peak_time[r] == when);
    }
    CHECK(got.step_time == end - begin);
    for (size_t r = 0; r < got.timeline.size(); ++r) CHECK(got.bubble[r] == got.step_time - got.busy[r]);
  }
  std::cout << "figure: " << num_cases << " random cases, " << num_actions << " actions: begin and end equal the event model's to the bit\n";
}

TEST_CASE("Bubbles equal the closed formulas where those hold", "[schedules]") {
  Dice dice(22, "formulas");
  int num_equal = 0;
  const auto expect = [&](const Schedule& s, const SimulationCosts& c, double formula, bool on_every_rank) {
    INFO(test::describe(s));
    const Simulation sim = simulate(s, c);
    CHECK(largest(sim.bubble) == Approx(formula).epsilon(1e-9).margin(1e-9));
    if (on_every_rank) CHECK(*std::min_element(sim.bubble.begin(), sim.bubble.end()) == Approx(formula).epsilon(1e-9).margin(1e-9));
    ++num_equal;
  };
  for (int i = 0; i < 200; ++i) {
    const int P = dice.between(2, 16), n = dice.between(P, 4 * P), v = dice.between(2, 4);
    const double F = 0.5 + dice.real(2), W = 0.5 + dice.real(2), B = W + 0.5 + dice.real(2);
    // Any F, B, W: full backwards, n >= P (GPipe: any n).
    expect(build_schedule("gpipe", P, n), equal_stages(P, F, B, W, 0), (P - 1) * (F + B), true);
    expect(build_schedule("1f1b", P, n), equal_stages(P, F, B, W, 0), (P - 1) * (F + B), true);
    // F, B, W of a stage are 1 / v of the rank's.
    expect(build_schedule("interleaved", P, P * dice.between(1, 4), v), equal_stages(P * v, F / v, B / v, W / v, 0), (P - 1) * (F + B) / v, true);
    // W <= B - W and W <= F: ZB-H1's queue fills the drain exactly; 1F1B whose gradients leave before W begins has one W less on the path back.
    const double w = 0.6 + 0.4 * dice.real(1);
    expect(build_schedule("zb-h1", P, n), equal_stages(P, 1, 2, w, 0), (P - 1) * (1 + 2 - 2 * w), true);
    expect(build_schedule("1f1b-split", P, n), equal_stages(P, 1, 2, w, 0), (P - 1) * (1 + 2 - w), true);
    // DualPipe: an input gradient costs a forward, B = F + W, and W <= F: a weight gradient is no longer than the gap it fills.
    const int even = 2 * dice.between(1, 8), pairs = 2 * even + 2 * dice.between(0, 20);
    const double small = F * (0.3 + dice.real(0.7)), full = F + small, overlapped = std::max(F, full) + dice.real(std::min(F, full));
    expect(build_schedule("dualpipe", even, pairs), equal_stages(even, F, full, small, overlapped), (even / 2 - 1) * (overlapped + full - 3 * small), false);
    const int half = dice.between(1, 8), in_v = 2 * half + dice.between(0, 20);
    expect(build_schedule("dualpipev", half, in_v), equal_stages(2 * half, F, full, small, overlapped), (half - 1) * (overlapped + full - 3 * small), false);
  }
  std::cout << "figure: " << num_equal << " random cases equal the closed formulas\n";
}

TEST_CASE("Where DualPipe's formula does not hold the published event simulation does", "[schedules]") {
  const auto bubble = [](int P, int n, double F, double B, double W, double FB) { return largest(simulate(build_schedule("dualpipe", P, n), equal_stages(P, F, B, W, FB)).bubble); };
  CHECK(bubble(8, 20, 1, 2, 1, 3) == Approx(6));
  CHECK(bubble(8, 20, 1, 2, 1, 2.5) == Approx(4.5));
  CHECK(bubble(8, 20, 1, 2, 0.8, 2.6) == Approx(6.0));   // formula: 6.6
  CHECK(bubble(8, 20, 1, 2, 0.6, 2.6) == Approx(7.4));   // formula: 8.4
  CHECK(bubble(16, 120, 1, 2, 0.8, 2.6) == Approx(14.4));  // formula: 15.4
}

TEST_CASE("Bubbles of a full pipeline do not grow with the number of micro-batches", "[schedules]") {
  for (const std::string& name : schedule_names()) {
    if (name.ends_with("w-last")) continue;  // those leave W out of every gap
    const int v = name == "interleaved" ? 2 : 1;
    const auto bubble = [&](int n) {
      const Schedule s = build_schedule(name, 8, n, v);
      return largest(simulate(s, equal_stages(s.num_stages, 1, 2, 0.9, 2.5)).bubble);
    };
    INFO(name);
    CHECK(bubble(128) == Approx(bubble(32)));
  }
}

TEST_CASE("A message's time lies beside computation and messages of one channel follow one another", "[schedules]") {
  // Two ranks, two micro-batches, a link slower than a forward: the second message waits for the first.
  const Schedule s = build_schedule("gpipe", 2, 2);
  SimulationCosts c = equal_stages(2, 1, 2, 1, 0);
  c.send = {{0, 3}, {5, 0}};
  const Simulation sim = simulate(s, c);
  CHECK(sim.timeline[0][1].begin == 1);  // not stalled by the message under way
  CHECK(sim.timeline[1][0].begin == 4);  // 1 + 3
  CHECK(sim.timeline[1][1].begin == 7);  // the link is free at 4
  CHECK(sim.timeline[1][2].begin == 8);
  CHECK(sim.timeline[0][2].begin == 15);  // 10 + 5
  CHECK(sim.timeline[0][3].begin == 20);  // 12, but the link is free at 15
  CHECK(sim.step_time == 22);
  CHECK(sim.bubble == std::vector<double>{22 - 6, 22 - 6});
  CHECK(sim.peak_activation == std::vector<double>{2, 2});
  CHECK(sim.peak_time == std::vector<double>{1, 7});
}

TEST_CASE("Costs of the wrong size and schedules that cannot complete are refused", "[schedules]") {
  const Schedule s = build_schedule("1f1b", 3, 4);
  const SimulationCosts good = equal_stages(3, 1, 2, 1, 2);
  const auto refuses = [&](const Schedule& schedule, const SimulationCosts& costs, const char* why) {
    CHECK_THROWS_AS(simulate(schedule, costs), ConfigError);
    CHECK_THROWS_WITH(simulate(schedule, costs), Catch::Contains(why));
  };
  SimulationCosts bad = good;
  bad.forward.pop_back();
  refuses(s, bad, "forward has 2 entries, the schedule needs 3");
  bad = good;
  bad.weight[1] = -1;
  refuses(s, bad, "weight[1] = -1 must be a finite number");
  bad = good;
  bad.backward[2] = NAN;
  refuses(s, bad, "backward[2]");
  bad = good;
  bad.pair[1].push_back(1);
  refuses(s, bad, "pair has 4 entries");
  bad = good;
  bad.send = {{0, 1}, {1, 0}};
  refuses(s, bad, "send has 2 rows, the schedule needs 3");
  bad = good;
  bad.activation_bytes = {1};
  refuses(s, bad, "activation_bytes has 1");
  Schedule broken = s;
  broken.actions[0].pop_back();
  broken.actions[1].erase(broken.actions[1].begin(), broken.actions[1].begin() + 2);
  refuses(broken, good, "cannot complete: rank 1 position 0 (sendF s1 m0) runs before its F");
  broken = s;
  broken.actions[2].erase(broken.actions[2].begin());  // its input is never received
  refuses(broken, good, "cannot complete: rank 2 position 0 (F s2 m0) runs before its input is there");
  broken = s;
  broken.actions[0].resize(2);  // the sender stops, the receiver waits
  refuses(broken, good, "waits for ever");
  broken = s;
  broken.actions[1].erase(broken.actions[1].begin() + 2);  // a send
  refuses(broken, good, "would take the message for stage 2 micro-batch 1");
}
