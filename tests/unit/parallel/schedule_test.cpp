// Schedules: the builders' orders are proven by the checker, and the checker is proven by planted faults, each of which it must name.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>

#include "kernels/base/error.h"
#include "kernels/base/rng.h"
#include "parallel/schedule.h"

using namespace atoll;

namespace {
const char* const kNames[] = {"gpipe", "1f1b", "1f1b-split", "gpipe-w-last", "1f1b-w-last"};  // one stage a rank, any numbers
std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const auto& line : lines) text += line + "\n";
  return text;
}
size_t find(const Schedule& s, int rank, ActionKind kind, int microbatch) {
  const auto& actions = s.actions[static_cast<size_t>(rank)];
  for (size_t i = 0; i < actions.size(); ++i)
    if (actions[i].kind == kind && actions[i].microbatch == microbatch) return i;
  FAIL("no such action");
  return 0;
}
}  // namespace

TEST_CASE("Every built schedule is proven, for random sizes") {
  const Rng rng(1, "schedules");
  uint64_t at = 0;
  for (int i = 0; i < 120; ++i) {
    const int ranks = 1 + static_cast<int>(rng.below(at++, 16)), microbatches = 1 + static_cast<int>(rng.below(at++, 64));
    for (const char* name : kNames) {
      INFO(name << " ranks " << ranks << " micro-batches " << microbatches);
      const Schedule s = build_schedule(name, ranks, microbatches);
      REQUIRE(joined(check(s)) == "");
      REQUIRE(s.name == name);
      for (int r = 0; r < ranks; ++r) {
        const bool one_f_one_b = std::string(name).starts_with("1f1b");
        REQUIRE(peak_live(s, r) == (one_f_one_b ? std::min(ranks - r, microbatches) : microbatches));
        const bool last = std::string(name).ends_with("w-last");
        REQUIRE(peak_live_until_weight(s, r) == (last ? microbatches : peak_live(s, r)));
      }
    }
  }
}

TEST_CASE("Any dropped, doubled, swapped or misplaced action is rejected") {
  const Rng rng(2, "faults");
  uint64_t at = 0;
  int num_swaps = 0;
  for (int i = 0; i < 400; ++i) {
    const int ranks = 2 + static_cast<int>(rng.below(at++, 5)), microbatches = 2 + static_cast<int>(rng.below(at++, 6));
    const Schedule good = build_schedule(kNames[rng.below(at++, 5)], ranks, microbatches);
    const size_t rank = rng.below(at++, static_cast<uint64_t>(ranks));
    const size_t n = good.actions[rank].size(), a = rng.below(at++, n), b = rng.below(at++, n);
    const Action action = good.actions[rank][a];
    INFO(good.name << " ranks " << ranks << " micro-batches " << microbatches << " rank " << rank << " position " << a << " " << to_string(action));
    Schedule dropped = good;
    dropped.actions[rank].erase(dropped.actions[rank].begin() + static_cast<ptrdiff_t>(a));
    Action missing = action;
    if (missing.kind == ActionKind::kFullBackward) missing.kind = ActionKind::kBackward;
    CHECK_THAT(joined(check(dropped)), Catch::Contains(detail::concat("rank ", rank, ": ", to_string(missing), " is missing")));
    Schedule doubled = good;
    doubled.actions[rank].insert(doubled.actions[rank].begin() + static_cast<ptrdiff_t>(b), action);
    CHECK_THAT(joined(check(doubled)), Catch::Contains(detail::concat("(", to_string(action), "): duplicate")));
    Schedule misplaced = dropped;
    const size_t other = (rank + 1) % static_cast<size_t>(ranks);
    misplaced.actions[other].push_back(action);
    CHECK_THAT(joined(check(misplaced)), Catch::Contains(detail::concat("stage ", action.stage, " lies on rank ", rank)));
    // Exchanging two actions of one kind always breaks an order that gradients or channels rely on (F alone may run in any order where nothing is received or sent).
    if (a == b || good.actions[rank][a].kind != good.actions[rank][b].kind) continue;
    Schedule swapped = good;
    std::swap(swapped.actions[rank][a], swapped.actions[rank][b]);
    CHECK_FALSE(check(swapped).empty());
    ++num_swaps;
  }
  CHECK(num_swaps > 20);
}

TEST_CASE("The checker names the reason") {
  const Schedule good = build_schedule("1f1b-split", 3, 4);
  const auto swapped = [&](int rank, ActionKind kind_a, int m_a, ActionKind kind_b, int m_b) {
    Schedule s = good;
    auto& actions = s.actions[static_cast<size_t>(rank)];
    std::swap(actions[find(good, rank, kind_a, m_a)], actions[find(good, rank, kind_b, m_b)]);
    return joined(check(s));
  };
  using enum ActionKind;
  CHECK_THAT(swapped(1, kBackward, 0, kWeight, 0), Catch::Contains("rank 1") && Catch::Contains("(W s1 m0): runs before B s1 m0"));
  CHECK_THAT(swapped(2, kForward, 0, kBackward, 0), Catch::Contains("(B s2 m0): runs before F s2 m0"));
  CHECK_THAT(swapped(1, kRecvForward, 0, kForward, 0), Catch::Contains("(F s1 m0): runs before recvF s1 m0"));
  CHECK_THAT(swapped(0, kForward, 3, kSendForward, 3), Catch::Contains("(sendF s0 m3): runs before F s0 m3"));
  CHECK_THAT(swapped(0, kWeight, 1, kWeight, 2), Catch::Contains("out of order, W s0 m"));
  CHECK_THAT(swapped(2, kBackward, 1, kBackward, 2), Catch::Contains("out of order, B s2 m"));
  CHECK_THAT(swapped(2, kRecvForward, 1, kRecvForward, 2), Catch::Contains("channel 1 -> 2 F, message 1: sent by rank 1") && Catch::Contains("(recvF s2 m2)"));
  // Rank 0 waits for the gradient of micro-batch 0 before it sends what rank 1 needs for it: nobody can go on.
  CHECK_THAT(swapped(0, kRecvBackward, 0, kSendForward, 0), Catch::Contains("rank 0") && Catch::Contains("deadlock"));
  Schedule no_frame = good;
  no_frame.actions.pop_back();
  CHECK_FALSE(check(no_frame).empty());
  Schedule foreign = good;
  foreign.actions[0].push_back({kForward, 7, 0});
  CHECK_THAT(joined(check(foreign)), Catch::Contains("(F s7 m0): no such stage"));
}

TEST_CASE("A send blocks behind one untaken message") {
  // Rank 0 sends two messages before it takes the gradient that rank 1 sends after its first forward: one in flight is not enough when rank 1 takes the second only later.
  Schedule s = build_schedule("1f1b", 2, 2);
  using enum ActionKind;
  s.actions[0] = {{kForward, 0, 0}, {kSendForward, 0, 0}, {kForward, 0, 1}, {kSendForward, 0, 1}, {kRecvBackward, 0, 0}, {kFullBackward, 0, 0},
                  {kRecvBackward, 0, 1}, {kBackward, 0, 1}, {kWeight, 0, 1}};
  CHECK(joined(check(s)) == "");
  // Three stages on two ranks, as a chain that turns back: rank 1 must send twice on one channel before rank 0 takes anything, and rank 0 waits for the third.
  Schedule blocked = build_schedule("gpipe", 2, 3);
  auto& first = blocked.actions[0];
  auto& second = blocked.actions[1];
  CHECK(joined(check(blocked)) == "");
  // Rank 1 receives all inputs, then runs everything; rank 0 demands the first gradient after its second send. Legal only if gradients come before input 2 is required.
  std::stable_partition(second.begin(), second.end(), [](const Action& a) { return a.kind == kRecvForward; });
  CHECK(joined(check(blocked)) == "");
  const auto third_send = first.begin() + static_cast<ptrdiff_t>(find(blocked, 0, kSendForward, 2));
  const Action late = *third_send;
  first.erase(third_send);
  first.insert(first.begin() + static_cast<ptrdiff_t>(find(blocked, 0, kRecvBackward, 0)) + 1, late);
  CHECK_THAT(joined(check(blocked)), Catch::Contains("rank 0") && Catch::Contains("(recvB s0 m0): blocked for ever") && Catch::Contains("(recvF s1 m2): blocked for ever"));
  // Nobody takes the first message before the second is sent: the capacity of one is exceeded for ever.
  Schedule full = build_schedule("1f1b", 2, 3);
  full.actions[1].insert(full.actions[1].begin(), {kRecvBackward, 1, 0});
  CHECK_FALSE(check(full).empty());
  Schedule capacity = build_schedule("gpipe", 2, 3);
  auto& taker = capacity.actions[1];
  taker.erase(std::remove_if(taker.begin(), taker.end(), [](const Action& a) { return a.kind == kRecvForward && a.microbatch > 0; }), taker.end());
  CHECK_THAT(joined(check(capacity)), Catch::Contains("(sendF s0 m2): blocked for ever"));
}

TEST_CASE("Stages that share a rank exchange no messages") {
  Schedule s{.name = "two chunks", .num_ranks = 2, .num_stages = 4, .num_microbatches = 2, .rank_of_stage = {0, 1, 1, 0}, .actions = {{}, {}}};
  using enum ActionKind;
  for (int m = 0; m < 2; ++m)
    for (auto [kind, order] : {std::pair{kForward, std::array{0, 1, 2, 3}}, {kBackward, std::array{3, 2, 1, 0}}})
      for (int stage : order) {
        auto& actions = s.actions[static_cast<size_t>(s.rank_of_stage[static_cast<size_t>(stage)])];
        actions.push_back({kind, stage, m});
        if (kind == kBackward) actions.push_back({kWeight, stage, m});
      }
  const Schedule with = with_communication(s);
  CHECK(joined(check(with)) == "");
  for (const Action& a : with.actions[1]) CHECK_FALSE(((a.kind == kSendForward && a.stage == 1) || (a.kind == kRecvForward && a.stage == 2)));
  CHECK(with.stages_of(1) == std::vector<int>{1, 2});
  Schedule needless = with;
  needless.actions[1].push_back({kSendForward, 1, 0});
  CHECK_THAT(joined(check(needless)), Catch::Contains("handed over without a message"));
  std::swap(s.actions[1][0], s.actions[1][1]);
  CHECK_THAT(joined(check(with_communication(s))), Catch::Contains("(F s2 m0): runs before F s1 m0"));
}

TEST_CASE("Unknown or empty schedules are refused") {
  CHECK_THROWS_WITH(build_schedule("zigzag", 2, 2), Catch::Contains("known: gpipe, 1f1b, interleaved, zb-h1, dualpipe, dualpipev, 1f1b-split, gpipe-w-last, 1f1b-w-last"));
  CHECK_THROWS_AS(build_schedule("1f1b", 2, 0), ConfigError);
  CHECK(to_string({ActionKind::kPair, 1, 3, 0, 2}) == "F s1 m3 & BW s0 m2");
}
