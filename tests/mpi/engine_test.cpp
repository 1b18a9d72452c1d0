// The engine over MPI: any number of ranks trains what one rank trains, and a reference model's results hold with its experts on all ranks.
#include <catch2/catch.hpp>
#include <mutex>

#include "tests/unit/kernels/allocations.h"
#include "tests/unit/trainer/engine_fixture.h"
#include "trainer/verify_golden.h"

using namespace atoll;
using namespace atoll::test;

namespace {
// Whole tensors from the parts that the ranks recorded: every row is one rank's, the others add zeros.
void merge(std::map<std::string, std::vector<double>>& mine, const std::map<std::string, std::vector<double>>& names, Communicator& world) {
  for (const auto& [name, whole] : names) {
    std::vector<double>& values = mine[name];
    values.resize(whole.size());
    world.sum_in_rank_order(std::span<double>(values));
  }
}

RunSpec spec_of(int world, int pp, int ep, DType type) {
  RunSpec s;
  s.options.model = tiny_model();
  s.options.mesh = {.pp = pp, .ep = ep};
  s.options.storage = type;
  s.options.max_sequence = 64;
  s.world = world;
  s.steps = 3;
  return s;
}

// A router bias is held by all dp ranks of its stage and recorded by the first: sums are whole.
std::string difference_from_one_rank(Communicator& world, int pp, int ep, DType type, double bound) {
  const Record one = run(spec_of(1, 1, 1, type));
  const RunSpec spec = spec_of(world.size(), pp, ep, type);
  Record mine = empty_record(spec);
  std::mutex mutex;
  run_rank(spec, world, mine, mutex);
  for (auto kind : {&Record::first_gradients, &Record::first_biases, &Record::parameters, &Record::moments, &Record::second_moments}) merge(mine.*kind, one.*kind, world);
  for (std::vector<int64_t>& counts : mine.counts) world.sum_in_rank_order(std::span<int64_t>(counts));
  for (auto series : {&Record::loss, &Record::mtp, &Record::balance, &Record::norm}) {
    (mine.*series).resize((one.*series).size());  // recorded by rank 0 alone
    world.sum_in_rank_order(std::span<double>(mine.*series));
  }
  CHECK(mine.dispatch_bytes[world.rank()] == mine.expected_dispatch_bytes[world.rank()]);
  return first_difference(mine, one, bound);
}
}  // namespace

TEST_CASE("The engine on MPI ranks equals one rank in FP64") {
  const auto world = mpi_world();
  for (int pp : {1, 2, 4})
    for (int ep : {1, 2, 4}) {
      if (world->size() % pp != 0 || (world->size() / pp) % ep != 0) continue;
      INFO("world " << world->size() << " pp " << pp << " ep " << ep);
      CHECK(difference_from_one_rank(*world, pp, ep, DType::kF64, 1e-9) == "");
    }
}

TEST_CASE("A pipeline of MPI ranks equals one rank bit for bit in BF16") {
  const auto world = mpi_world();
  CHECK(difference_from_one_rank(*world, world->size(), 1, DType::kBF16, 0.0) == "");
}

TEST_CASE("Reference results hold on MPI ranks, experts and stages spread") {
  const auto world = mpi_world();
  for (const char* name : {"deepseek_v3_tiny", "deepseek_v3_yarn_tiny", "deepseek_v2_lite_tiny", "deepseek_v2_group_tiny", "mtp_tiny/depth1", "mtp_tiny/depth2", "train_v3_tiny"})
    for (DType type : {DType::kF64, DType::kF32})
      for (int pp : {1, 2}) {
        if (world->size() % pp != 0) continue;
        GoldenOptions options;
        options.dtype = type;
        options.mesh = {.pp = pp, .ep = world->size() / pp};
        options.world = world->size();
        const GoldenReport report = verify_golden(std::string(ATOLL_SOURCE_DIR) + "/tests/golden/" + name, options, *world);
        INFO(report.text(false));
        CHECK(report.rows.size() > 50);
        CHECK(report.ok());
      }
}

TEST_CASE("After the first step a step over MPI allocates nothing") {
  const auto world = mpi_world();
  for (const MeshSizes& mesh : {MeshSizes{.pp = world->size()}, MeshSizes{.ep = world->size()}, MeshSizes{.pp = std::max(1, world->size() / 2), .ep = std::min(2, world->size())}}) {
    const RunSpec spec = spec_of(world->size(), mesh.pp, mesh.ep, DType::kBF16);
    Engine engine(spec.options, *world);
    engine.initialize();
    std::vector<MicroBatch> batches = batches_of(spec.options.model, 1, engine.groups().dp->size(), engine.groups().dp->rank());
    std::string allocations;
    for (int step = 1; step <= 12; ++step) {
      for (MicroBatch& b : batches)
        for (int32_t& id : b.main.ids) id = (id * 7 + step) % static_cast<int32_t>(spec.options.model.vocab_size);
      StepPlan plan = spec.plan(step);
      plan.bias_gamma = 0.05;  // routing moves fast
      const long before = num_own_allocations();
      ATOLL_CHECK(engine.train_step(batches, plan).applied, "step ", step, " was skipped");
      const long count = num_own_allocations() - before;
      if (step == 1) CHECK(count > 0);
      else if (count > 0) allocations.append(" step ").append(std::to_string(step)).append(": ").append(std::to_string(count));
    }
    INFO("rank " << world->rank() << " pp " << mesh.pp << " ep " << mesh.ep);
    CHECK(allocations == "");
  }
}
