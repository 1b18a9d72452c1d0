// What the published descriptions say of each schedule: counts, places, promises, and the numbers each admits.
#include <catch2/catch.hpp>

#include "kernels/base/error.h"
#include "tests/unit/parallel/schedule_cases.h"

using namespace atoll;
using enum ActionKind;

namespace {
int count(const Schedule& s, int rank, ActionKind kind) {
  const auto& list = s.actions[static_cast<size_t>(rank)];
  return static_cast<int>(std::count_if(list.begin(), list.end(), [&](const Action& a) { return a.kind == kind; }));
}
std::string text(const Schedule& s, int rank) {
  std::string out;
  for (const Action& a : s.actions[static_cast<size_t>(rank)]) out += (out.empty() ? "" : ", ") + to_string(a);
  return out;
}
}  // namespace

TEST_CASE("DualPipe of 16 ranks and 120 micro-batches has the published counts", "[schedules]") {
  const Schedule s = build_schedule("dualpipe", 16, 120);
  int most_live = 0;
  for (int r = 0; r < 16; ++r) {
    const int depth = std::min(r, 15 - r);  // 0..7
    INFO("rank " << r);
    const int pairs = count(s, r, kPair), forward = count(s, r, kForward), backward = count(s, r, kBackward) + count(s, r, kFullBackward);
    CHECK(pairs + forward == 120);
    CHECK(pairs + backward == 120);
    CHECK(pairs == (depth == 7 ? 103 : 97 + depth));  // the middle ranks run one pair apart
    CHECK(forward == (depth == 7 ? 17 : 23 - depth));
    CHECK(count(s, r, kWeight) == 15 - depth);
    CHECK(s.stages_of(r) == std::vector<int>{depth, 15 - depth});
    most_live = std::max(most_live, peak_live_until_weight(s, r));
  }
  CHECK(most_live == 17);
}

TEST_CASE("DualPipe and DualPipeV hold what they promise and no less", "[schedules]") {
  for (int ranks : {2, 4, 8, 12})
    for (const char* name : {"dualpipe", "dualpipev"}) {
      const Schedule s = build_schedule(name, ranks, 4 * ranks);
      INFO(test::describe(s));
      int most = 0;
      for (int r = 0; r < ranks; ++r) {
        most = std::max(most, peak_live_until_weight(s, r));
        CHECK(s.max_live[static_cast<size_t>(r)] == s.num_stages + 1);
      }
      CHECK(most == s.num_stages + 1);
    }
  const Schedule v = build_schedule("dualpipev", 4, 8);
  CHECK(v.num_stages == 8);
  CHECK(v.rank_of_stage == std::vector<int>{0, 1, 2, 3, 3, 2, 1, 0});
  CHECK(v.stages_of(3) == std::vector<int>{3, 4});
}

TEST_CASE("The mirror image of a DualPipe rank runs the same list on the other half of the micro-batches", "[schedules]") {
  for (int ranks : {2, 4, 6, 16})
    for (int n : {2 * ranks, 2 * ranks + 2, 60}) {
      const Schedule s = dualpipe(ranks, n);
      for (int r = 0; r < ranks; ++r) {
        auto mirrored = s.actions[static_cast<size_t>(ranks - 1 - r)];
        for (Action& a : mirrored) {
          a.microbatch = (a.microbatch + n / 2) % n;
          if (a.kind == kPair) a.pair_microbatch = (a.pair_microbatch + n / 2) % n;
        }
        REQUIRE(mirrored == s.actions[static_cast<size_t>(r)]);
      }
    }
}

TEST_CASE("Small schedules read as they are drawn in the papers", "[schedules]") {
  CHECK(text(one_f_one_b(2, 2), 0) == "F s0 m0, F s0 m1, BW s0 m0, BW s0 m1");
  CHECK(text(with_split_backwards(one_f_one_b(2, 2)), 1) == "F s1 m0, B s1 m0, W s1 m0, F s1 m1, B s1 m1, W s1 m1");
  CHECK(text(zb_h1(3, 3), 2) == "F s2 m0, B s2 m0, F s2 m1, B s2 m1, F s2 m2, B s2 m2, W s2 m0, W s2 m1, W s2 m2");
  CHECK(text(interleaved(2, 2, 2), 0) == "F s0 m0, F s0 m1, F s2 m0, F s2 m1, BW s2 m0, BW s2 m1, BW s0 m0, BW s0 m1");
  CHECK(text(interleaved(2, 4, 2), 1) ==
        "F s1 m0, F s1 m1, F s3 m0, BW s3 m0, F s3 m1, BW s3 m1, F s1 m2, BW s1 m0, F s1 m3, BW s1 m1, F s3 m2, BW s3 m2, F s3 m3, BW s3 m3, BW s1 m2, BW s1 m3");
  CHECK(text(dualpipe(2, 4), 0) == "F s0 m0, F s1 m2, F s0 m1, BW s1 m2, F s1 m3 & BW s0 m0, BW s1 m3, B s0 m1, W s0 m1");
  CHECK(text(dualpipev(2, 4), 0) == "F s0 m0, F s0 m1, F s0 m2, F s3 m0, B s3 m0, W s3 m0, F s3 m1, F s0 m3 & BW s3 m1, F s3 m2 & BW s0 m0, BW s3 m2, F s3 m3 & BW s0 m1, BW s3 m3, B s0 m2, "
                                    "W s0 m2, B s0 m3, W s0 m3");
}

TEST_CASE("ZB-H1 keeps as many weight gradients waiting as a rank's number", "[schedules]") {
  for (int ranks : {2, 4, 8})
    for (int n : {1, 3, 8, 20}) {
      const Schedule s = zb_h1(ranks, n);
      for (int r = 0; r < ranks; ++r) {
        int waiting = 0, most = 0;
        for (const Action& a : s.actions[static_cast<size_t>(r)]) {
          if (a.kind == kBackward) ++waiting;
          if (a.kind == kWeight) --waiting;
          if (a.kind == kForward) most = std::max(most, waiting);
        }
        CHECK(most <= r);
        CHECK(peak_live_until_weight(s, r) <= std::min(ranks, n));
      }
    }
}

TEST_CASE("An evaluation's forward schedule is proven for any number of micro-batches", "[schedules]") {
  int num_proven = 0;
  for (const std::string& name : schedule_names())
    for (int ranks = 1; ranks <= 16; ++ranks)
      for (int n : {1, 2, 3, ranks, ranks + 1, 2 * ranks + 3, 40})
        for (int chunks : {1, 2, 5}) {
          if ((name == "interleaved") != (chunks > 1) || (name == "dualpipe" && ranks % 2 != 0)) continue;
          const Schedule s = forward_schedule(schedule_frame(name, ranks, 2 * ranks, chunks), n);
          INFO(test::describe(s));
          REQUIRE(test::joined(check(s)) == "");
          for (int r = 0; r < ranks; ++r) REQUIRE(count(s, r, kBackward) + count(s, r, kSendBackward) == 0);
          ++num_proven;
        }
  CHECK(num_proven > 900);
  Schedule scattered{.name = "scattered", .num_ranks = 3, .num_stages = 9, .num_microbatches = 1, .rank_of_stage = {2, 0, 1, 1, 0, 2, 0, 2, 1}};
  for (int n : {1, 2, 7, 20}) CHECK(test::joined(check(forward_schedule(scattered, n))) == "");
  const Schedule two = schedule_frame("1f1b", 2, 4);
  Schedule bad = forward_schedule(two, 3);
  bad.actions[0].push_back({kFullBackward, 0, 0});
  CHECK_THAT(test::joined(check(bad)), Catch::Contains("(BW s0 m0): nothing but F belongs in a forward schedule"));
  bad = forward_schedule(two, 3);
  bad.actions[1].pop_back();
  CHECK_THAT(test::joined(check(bad)), Catch::Contains("rank 1: F s1 m2 is missing"));
}

TEST_CASE("Numbers that a schedule does not admit are refused with the reason", "[schedules]") {
  const auto refuses = [](const char* name, int ranks, int n, int chunks, const char* why) { CHECK_THROWS_WITH(build_schedule(name, ranks, n, chunks), Catch::Contains(why)); };
  refuses("dualpipe", 3, 12, 1, "dualpipe needs an even number of ranks");
  refuses("dualpipe", 4, 9, 1, "dualpipe needs an even number of micro-batches (half enter at each end), not 9");
  refuses("dualpipe", 4, 6, 1, "needs at least 2 micro-batches a rank, 8 for 4 ranks, not 6");
  refuses("dualpipev", 4, 7, 1, "dualpipev needs at least 2 micro-batches a rank, 8 for 4 ranks, not 7");
  refuses("interleaved", 4, 10, 2, "interleaved needs micro-batches in whole groups of 4 (one a rank), not 10; nearest: 8 or 12");
  refuses("interleaved", 4, 8, 1, "interleaved needs at least 2 stages a rank (vpp), not 1");
  refuses("1f1b", 4, 8, 2, "1f1b fixes the stages a rank holds itself: vpp must be 1 (unset), not 2; interleaved takes any");
  refuses("zb-h1", 0, 8, 1, "needs at least 1 rank and 1 micro-batch, not 0 and 8");
  for (const std::string& name : schedule_names())
    for (int ranks : {2, 4, 6}) CHECK(schedule_frame(name, ranks, 2 * ranks, name == "interleaved" ? 3 : 1).actions.size() == static_cast<size_t>(ranks));
}
