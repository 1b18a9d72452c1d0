// A step allocates nothing on the heap once one step of its shape has run, whatever the routing does and whether or not an evaluation ran in between; and its segments do not
// grow. A matrix product of a new shape counts too: its primitive is kept in our map.
#include <barrier>
#include <catch2/catch.hpp>

#include "tests/unit/kernels/allocations.h"
#include "engine_fixture.h"

using namespace atoll;
using namespace atoll::test;

namespace {
struct Watched {
  std::vector<long> allocations;                     // [step], of all ranks together
  std::vector<std::vector<int64_t>> high_water;      // [step][segment], of rank 0, all but routed rows
  std::vector<int64_t> routed, workspace;            // [step] high-water marks of rank 0 that follow the routing
  std::vector<std::vector<int64_t>> counts;          // [step] rank 0's expert counts: proof that routing changed
};

// Equal shapes, other tokens: what a training run feeds. Written in place, as the trainer's feed does.
void refill(std::vector<MicroBatch>& batches, const std::vector<MicroBatch>& shapes, int vocab, int step) {
  for (size_t m = 0; m < batches.size(); ++m) {
    const TokenRows& from = shapes[m].main;
    TokenRows& to = batches[m].main;
    for (size_t i = 0; i < from.ids.size(); ++i) {
      to.ids[i] = (from.ids[i] * 7 + step * 13 + static_cast<int>(i % 5)) % vocab;
      if (from.labels[i] >= 0) to.labels[i] = (from.labels[i] + step) % vocab;
    }
  }
}

Watched watch(const EngineOptions& options, int world_size, int steps) {
  Watched w;
  std::barrier together(world_size);
  long before = 0;
  w.allocations.reserve(steps);
  run_ranks_as_threads(world_size, [&](Communicator& world) {
    Engine engine(options, world);
    engine.initialize();
    const std::vector<MicroBatch> shapes = batches_of(options.model, 1, engine.groups().dp->size(), engine.groups().dp->rank());
    std::vector<MicroBatch> batches = shapes;
    std::vector<MicroBatch> held_out = batches_of(options.model, 2, engine.groups().dp->size(), engine.groups().dp->rank());  // other shapes, another number of micro-batches
    std::swap(held_out[0], held_out[2]);
    held_out.resize(3);
    for (int step = 1; step <= steps; ++step) {
      refill(batches, shapes, static_cast<int>(options.model.vocab_size), step);
      if (step % 3 == 0) {
        engine.evaluate(held_out);
        for (Segment* s : engine.ctx().memory.all()) s->reset_high_water();
      }
      const StepPlan plan{.lr = 3e-2, .mtp_lambda = 0.3, .balance_alpha = 0.01, .bias_gamma = 0.05, .step = step};  // routing moves fast
      together.arrive_and_wait();
      if (world.rank() == 0) before = num_own_allocations();
      together.arrive_and_wait();
      const StepResult& r = engine.train_step(batches, plan);
      together.arrive_and_wait();
      if (world.rank() == 0) w.allocations.push_back(num_own_allocations() - before);
      together.arrive_and_wait();
      ATOLL_CHECK(r.applied, r.reason);
      if (world.rank() != 0) continue;
      w.counts.push_back(r.expert_counts);
      Memory& m = engine.ctx().memory;
      std::vector<int64_t> marks;
      for (const Segment* s : m.all())
        if (s != &m.routed && s != &m.workspace) marks.push_back(s->high_water());
      w.high_water.push_back(marks);
      w.routed.push_back(m.routed.high_water());
      w.workspace.push_back(m.workspace.high_water());
      for (Segment* s : m.all()) s->reset_high_water();
    }
  });
  return w;
}

void check_steady(const EngineOptions& options, int world, int steps) {
  const Watched w = watch(options, world, steps);
  CHECK(w.counts.front() != w.counts.back());
  CHECK(w.allocations[0] > 0);  // the counter counts
  for (int step = 2; step <= steps; ++step) {
    INFO("step " << step << " on " << world << " ranks, pp " << options.mesh.pp << " ep " << options.mesh.ep << ' ' << name_of(options.storage));
    CHECK(w.allocations[step - 1] == 0);
    CHECK(w.high_water[step - 1] == w.high_water[0]);
    const double ep = options.mesh.ep;  // alone, all rows are here whatever the routing; else at most all rows of the group instead of about one part in ep
    CHECK(static_cast<double>(w.routed[step - 1]) <= (ep == 1 ? 1.0 : 1.25 * ep) * static_cast<double>(w.routed[0]));
    CHECK(w.workspace[step - 1] <= 2 * w.workspace[1]);  // the first step also probes the BF16 product
  }
}
}  // namespace

TEST_CASE("After the first step a step allocates nothing, whatever the schedule", "[allocations]") {
  struct Pipeline { const char* schedule; int vpp, grad_halves, ep; };
  for (const Pipeline& p : {Pipeline{"interleaved", 2, 1, 1}, {"zb-h1", 1, 1, 2}, {"dualpipe", 1, 1, 1}, {"dualpipe", 1, 1, 2}, {"dualpipev", 1, 1, 2}, {"1f1b", 1, 2, 1}}) {
    INFO(p.schedule << " vpp " << p.vpp << " halves " << p.grad_halves);
    EngineOptions o;
    o.model = tiny_model();
    o.mesh = {.pp = 2, .ep = p.ep};
    o.schedule = p.schedule;
    o.vpp = p.vpp;
    o.grad_halves = p.grad_halves;
    o.max_sequence = 64;
    check_steady(o, 2 * p.ep, 8);
  }
}

TEST_CASE("After the first step a step allocates nothing", "[allocations]") {
  for (DType type : {DType::kBF16, DType::kF32})
    for (const auto& [world, mesh] : {std::pair{1, MeshSizes{}}, {2, MeshSizes{.pp = 2}}, {2, MeshSizes{.ep = 2}}, {4, MeshSizes{.pp = 2, .ep = 2}}}) {
      EngineOptions o;
      o.model = tiny_model();
      o.mesh = mesh;
      o.storage = type;
      o.max_sequence = 64;
      check_steady(o, world, 12);
    }
}

TEST_CASE("After the first step a step of several threads allocates nothing", "[allocations][openmp]") {
  EngineOptions threaded;
  threaded.model = tiny_model();
  threaded.threads = 2;
  threaded.max_sequence = 64;
  check_steady(threaded, 1, 4);
}
