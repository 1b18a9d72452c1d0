// The executor on a toy model whose activations are exact integers: what it ran equals the schedule, the slots it kept alive are as promised, and every schedule gives the
// same numbers. A slot is taken at F and given back by B; a buffer that is sent must stay as it is until its release: the toy overwrites it there, and a communicator that
// leaves messages in the sender's buffer until they are received shows a release that comes too early.
#include <atomic>
#include <catch2/catch.hpp>

#include "kernels/base/error.h"
#include "parallel/executor.h"
#include "tests/unit/parallel/rendezvous_communicator.h"

using namespace atoll;

namespace {
// Stage s maps x to 3x + s; the gradient maps d to 2d + s. weight[s] is order-sensitive: w = 5w + x + d.
struct Toy {
  explicit Toy(int stages, int microbatches) : num_microbatches(microbatches), slots(static_cast<size_t>(stages * microbatches)), weight(static_cast<size_t>(stages), 0) {}
  struct Slot { uint64_t in[3], out[3], d_out[3], d_in[3], d_for_weight; bool out_kept = false, d_in_kept = false; };
  Slot& slot(int s, int m) { return slots[static_cast<size_t>(s * num_microbatches + m)]; }
  StageFunctions functions(int last) {
    StageFunctions f;
    f.forward = [this](int s, int m) {
      Slot& x = slot(s, m);
      for (uint64_t i = 0; i < 3; ++i) {
        if (s == 0) x.in[i] = static_cast<uint64_t>(m) * 10 + i;
        x.out[i] = 3 * x.in[i] + static_cast<uint64_t>(s);
      }
      x.out_kept = true;
    };
    f.backward_input = [this, last](int s, int m) {
      Slot& x = slot(s, m);
      for (uint64_t i = 0; i < 3; ++i) x.d_in[i] = 2 * (s == last ? x.out[i] : x.d_out[i]) + static_cast<uint64_t>(s);
      x.d_for_weight = x.d_in[1];
      x.d_in_kept = true;
    };
    f.backward_weight = [this](int s, int m) { weight[static_cast<size_t>(s)] = 5 * weight[static_cast<size_t>(s)] + slot(s, m).in[0] + slot(s, m).d_for_weight; };
    f.forward_output = [this](int s, int m) { return StageFunctions::Span{slot(s, m).out, 24}; };
    f.forward_input = [this](int s, int m) { return StageFunctions::Span{slot(s, m).in, 24}; };
    f.backward_output = [this](int s, int m) { return StageFunctions::Span{slot(s, m).d_out, 24}; };
    f.backward_input_gradient = [this](int s, int m) { return StageFunctions::Span{slot(s, m).d_in, 24}; };
    f.release_forward_output = [this](int s, int m) {
      ATOLL_CHECK(std::exchange(slot(s, m).out_kept, false), "output of stage ", s, " micro-batch ", m, " released twice or before F");
      std::fill_n(slot(s, m).out, 3, kReleased);
    };
    f.release_backward_input_gradient = [this](int s, int m) {
      ATOLL_CHECK(std::exchange(slot(s, m).d_in_kept, false), "gradient released twice or before B");
      std::fill_n(slot(s, m).d_in, 3, kReleased);
    };
    return f;
  }
  static constexpr uint64_t kReleased = 0xdeaddeaddeaddead;
  int num_microbatches;
  std::vector<Slot> slots;
  std::vector<uint64_t> weight;
};

std::vector<uint64_t> run_toy(const Schedule& schedule, bool at_rendezvous = false) {
  REQUIRE(check(schedule).empty());
  // [half of the micro-batches that a rank runs of a stage, stage]
  std::vector<uint64_t> weights(static_cast<size_t>(schedule.num_stages) * (schedule.is_mirrored ? 2 : 1));
  const auto run_rank = [&](Communicator& pp) {
    Toy toy(schedule.num_stages, schedule.num_microbatches);
    Executor executor(schedule, pp, toy.functions(schedule.num_stages - 1));
    for (int step = 0; step < 2; ++step) {
      for (auto& w : toy.weight) w = 0;
      executor.run();
      ATOLL_CHECK(executor.executed() == schedule.actions[static_cast<size_t>(pp.rank())], "what was executed is not the schedule");
      ATOLL_CHECK(executor.peak_live() == peak_live(schedule, pp.rank()), "peak of ", executor.peak_live(), " slots, promised ", peak_live(schedule, pp.rank()));
      for (int s : schedule.stages_of(pp.rank()))
        for (int m = 0; m < schedule.num_microbatches; ++m) {
          if (schedule.rank_of(s, m) != pp.rank()) continue;
          ATOLL_CHECK(toy.slot(s, m).out_kept == (s == schedule.num_stages - 1), "output of stage ", s, " was not released");
          ATOLL_CHECK(toy.slot(s, m).d_in_kept == (s == 0), "gradient of stage ", s, " was not released");
          toy.slot(s, m).out_kept = toy.slot(s, m).d_in_kept = false;
        }
    }
    for (int s : schedule.stages_of(pp.rank())) {
      const int half = schedule.rank_of(s, 0) == pp.rank() ? 0 : 1;
      weights[static_cast<size_t>(half * schedule.num_stages + s)] = toy.weight[static_cast<size_t>(s)];
    }
  };
  test::Rendezvous meeting;
  run_ranks_as_threads(schedule.num_ranks, [&](Communicator& world) {
    if (!at_rendezvous) return run_rank(world);
    test::RendezvousCommunicator pp(meeting, world.rank(), world.size());
    try {
      run_rank(pp);
    } catch (...) {
      meeting.fail();
      throw;
    }
  });
  return weights;
}
std::vector<uint64_t> one_rank_result(int stages, int end, int begin = 0) {  // the toy written out once more, without the executor
  std::vector<uint64_t> weights(static_cast<size_t>(stages), 0);
  for (int m = begin; m < end; ++m) {
    std::vector<uint64_t> in0(static_cast<size_t>(stages));
    uint64_t x0 = static_cast<uint64_t>(m) * 10, x1 = x0 + 1;
    for (int s = 0; s < stages; ++s) {
      in0[static_cast<size_t>(s)] = x0;
      x0 = 3 * x0 + static_cast<uint64_t>(s);
      x1 = 3 * x1 + static_cast<uint64_t>(s);
    }
    uint64_t d1 = x1;
    for (int s = stages - 1; s >= 0; --s) {
      d1 = 2 * d1 + static_cast<uint64_t>(s);
      weights[static_cast<size_t>(s)] = 5 * weights[static_cast<size_t>(s)] + in0[static_cast<size_t>(s)] + d1;
    }
  }
  return weights;
}
}  // namespace

TEST_CASE("The executed order is the schedule's and every schedule gives the same numbers") {
  for (int ranks : {1, 2, 3, 5})
    for (int microbatches : {1, 2, 7})
      for (const char* name : {"gpipe", "1f1b", "gpipe-w-last", "1f1b-w-last"}) {
        INFO(name << " ranks " << ranks << " micro-batches " << microbatches);
        CHECK(run_toy(build_schedule(name, ranks, microbatches)) == one_rank_result(ranks, microbatches));
      }
}

TEST_CASE("A buffer is not released before its message has been received") {
  for (int ranks : {2, 3, 5})
    for (int microbatches : {1, 2, 7})
      for (const char* name : {"gpipe", "1f1b", "gpipe-w-last", "1f1b-w-last"}) {
        INFO(name << " ranks " << ranks << " micro-batches " << microbatches);
        CHECK(run_toy(build_schedule(name, ranks, microbatches), true) == one_rank_result(ranks, microbatches));
      }
}

TEST_CASE("Every kind of schedule gives the same numbers, DualPipe by halves", "[schedules]") {
  struct Case { const char* name; int ranks, microbatches, chunks; };
  for (const Case& c : {Case{"interleaved", 1, 3, 3}, {"interleaved", 2, 4, 2}, {"interleaved", 4, 8, 2}, {"interleaved", 3, 6, 4}, {"zb-h1", 2, 5, 1}, {"zb-h1", 4, 3, 1}, {"zb-h1", 5, 9, 1},
                        {"1f1b-split", 3, 5, 1}, {"dualpipev", 1, 2, 1}, {"dualpipev", 2, 5, 1}, {"dualpipev", 3, 8, 1}, {"dualpipev", 4, 8, 1}, {"dualpipe", 2, 4, 1}, {"dualpipe", 4, 8, 1},
                        {"dualpipe", 4, 14, 1}, {"dualpipe", 6, 12, 1}})
    for (bool at_rendezvous : {false, true}) {
      INFO(c.name << " ranks " << c.ranks << " micro-batches " << c.microbatches << " chunks " << c.chunks << (at_rendezvous ? " at rendezvous" : ""));
      const Schedule s = build_schedule(c.name, c.ranks, c.microbatches, c.chunks);
      const int half = s.is_mirrored ? c.microbatches / 2 : c.microbatches;
      std::vector<uint64_t> expected = one_rank_result(s.num_stages, half);
      if (s.is_mirrored) {
        const std::vector<uint64_t> second = one_rank_result(s.num_stages, c.microbatches, half);
        expected.insert(expected.end(), second.begin(), second.end());
      }
      CHECK(run_toy(s, at_rendezvous) == expected);
    }
}

TEST_CASE("Stages on one rank are handed over by copy") {
  Schedule s{.name = "v", .num_ranks = 2, .num_stages = 4, .num_microbatches = 3, .rank_of_stage = {0, 1, 1, 0}, .actions = {{}, {}}};
  using enum ActionKind;
  for (int m = 0; m < 3; ++m) {
    for (int stage : {0, 1, 2, 3}) s.actions[static_cast<size_t>(s.rank_of_stage[static_cast<size_t>(stage)])].push_back({kForward, stage, m});
    for (int stage : {3, 2, 1, 0})
      for (ActionKind kind : {kBackward, kWeight}) s.actions[static_cast<size_t>(s.rank_of_stage[static_cast<size_t>(stage)])].push_back({kind, stage, m});
  }
  CHECK(run_toy(with_communication(s)) == one_rank_result(4, 3));
  CHECK(run_toy(with_communication(s), true) == one_rank_result(4, 3));
}

TEST_CASE("A pair runs its forward, then its full backward") {
  Schedule s{.name = "pairs", .num_ranks = 1, .num_stages = 1, .num_microbatches = 2, .rank_of_stage = {0}, .actions = {{}}};
  using enum ActionKind;
  s.actions[0] = {{kForward, 0, 0}, {kPair, 0, 1, 0, 0}, {kBackward, 0, 1}, {kWeight, 0, 1}};
  CHECK(run_toy(s) == one_rank_result(1, 2));
}

TEST_CASE("An error in a stage ends the run on all ranks and leaves the executor destructible") {
  const Schedule schedule = build_schedule("1f1b", 3, 6);
  CHECK_THROWS_AS(run_ranks_as_threads(3,
                                       [&](Communicator& pp) {
                                         Toy toy(3, 6);
                                         StageFunctions f = toy.functions(2);
                                         f.backward_input = [](int s, int m) { if (s == 1 && m == 2) throw DataError("planted"); };
                                         f.release_forward_output = f.release_backward_input_gradient = [](int, int) {};
                                         Executor(schedule, pp, f).run();
                                       }),
                  DataError);
}
