// One rank's NaN or infinity skips the update on every rank, says why, and changes nothing.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine_fixture.h"

using namespace atoll;
using namespace atoll::test;

namespace {
EngineOptions options_of(DType type) {
  EngineOptions o;
  o.model = tiny_model();
  o.mesh = {.pp = 2, .ep = 2};
  o.storage = type;
  o.max_sequence = 64;
  return o;
}

void set(const Tensor& t, int64_t i, double value) {
  if (t.dtype == DType::kF64) t.as<double>()[i] = value;
  else if (t.dtype == DType::kF32) t.as<float>()[i] = static_cast<float>(value);
  else t.as<bf16>()[i] = bf16(static_cast<float>(value));
}

std::string bytes_of(Engine& engine) {  // weights, masters, moments and biases
  std::string out;
  const auto append = [&](const Tensor& t) { out.append(static_cast<const char*>(t.data), static_cast<size_t>(t.bytes())); };
  for (const LocalParameter& p : engine.parameters().all()) append(p.weight);
  for (const ShardedAdamW::Owned& o : engine.optimizer().owned())
    for (const Tensor& t : {o.master, o.m, o.v}) append(t);
  for (const ParameterStore::Bias& b : engine.parameters().router_biases()) append(b.value);
  return out;
}

struct Outcome {
  bool applied = true, unchanged = false, next_applied = false, same_as_without = false;
  std::string reason;
};
enum class Plant { kWeight, kTokenGradient };

// Steps 1 and 3 are sound, in step 2 rank 1 or 3 holds a bad number. A second engine runs steps 1 and 3 alone.
std::vector<Outcome> skip_one(DType type, double value, Plant plant) {
  std::vector<Outcome> outcomes(4);
  run_ranks_as_threads(4, [&](Communicator& world) {
    RunSpec spec;
    Outcome& out = outcomes[world.rank()];
    Engine engine(options_of(type), world), without(options_of(type), world);
    const auto step = [&](Engine& e, int number, int update) {
      std::vector<MicroBatch> batches = batches_of(e.options().model, number, 2, e.groups().dp->rank());
      return e.train_step(batches, spec.plan(update));
    };
    for (Engine* e : {&engine, &without}) {
      e->initialize();
      ATOLL_CHECK(step(*e, 1, 1).applied, "step 1 was skipped");
    }
    const LocalParameter* weight = world.rank() == 3 ? engine.parameters().find("model.layers.4.self_attn.o_proj.weight") : nullptr;
    std::string saved;
    if (plant == Plant::kWeight && weight) {
      saved.assign(static_cast<const char*>(weight->weight.data), static_cast<size_t>(weight->weight.bytes()));
      set(weight->weight, 7, value);
    }
    if (plant == Plant::kTokenGradient && world.rank() == 1)
      engine.stage().probe.observe = [&](const std::string& name, const Tensor&) {
        if (name == "hidden.0") set(engine.parameters().embedding_grad(EmbeddingUse::kInput), 5 * engine.options().model.hidden_size + 3, value);
      };
    const std::string before = bytes_of(engine);
    const StepResult bad = step(engine, 2, 2);
    out.applied = bad.applied;
    out.reason = bad.reason;
    out.unchanged = bytes_of(engine) == before;
    engine.stage().probe.observe = nullptr;
    if (!saved.empty()) std::memcpy(weight->weight.data, saved.data(), saved.size());
    const StepResult good = step(engine, 3, 2);
    out.next_applied = good.applied && good.reason.empty() && std::isfinite(good.grad_norm);
    step(without, 3, 2);
    out.same_as_without = bytes_of(engine) == bytes_of(without);
  });
  return outcomes;
}
}  // namespace

TEST_CASE("A non-finite number on one rank skips the step on all ranks and leaves no trace", "[nonfinite]") {
  for (DType type : {DType::kBF16, DType::kF32})
    for (double value : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()})
      for (Plant plant : {Plant::kWeight, Plant::kTokenGradient}) {
        const std::vector<Outcome> outcomes = skip_one(type, value, plant);
        for (size_t rank = 0; rank < outcomes.size(); ++rank) {
          INFO(name_of(type) << ' ' << value << (plant == Plant::kWeight ? " in a weight" : " in a token's gradient") << ", rank " << rank);
          CHECK_FALSE(outcomes[rank].applied);
          CHECK(outcomes[rank].reason == (plant == Plant::kWeight ? "non-finite loss" : "non-finite gradient norm"));
          CHECK(outcomes[rank].unchanged);
          CHECK(outcomes[rank].next_applied);
          CHECK(outcomes[rank].same_as_without);
        }
      }
}
