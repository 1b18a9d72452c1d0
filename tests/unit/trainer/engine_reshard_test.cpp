// A checkpoint of one layout goes on in another: bit-equal at load, the same training afterwards.
#include <catch2/catch.hpp>

#include "checkpoint_fixture.h"
#include "engine_fixture.h"
#include "trainer/trainer.h"

using namespace atoll;
using namespace atoll::test;

namespace {
struct Layout { int pp, dp, ep; };

RunSpec spec_of(const Layout& l, DType type) {
  RunSpec s;
  s.options.model = tiny_model();
  s.options.mesh = {.pp = l.pp, .ep = l.ep};
  s.options.storage = type;
  s.options.moments = type == DType::kBF16 ? DType::kBF16 : DType::kF32;
  s.options.max_sequence = 64;
  s.world = l.pp * l.dp;
  s.steps = 3;
  return s;
}

void save(Engine& engine, Communicator& world, const std::string& dir) {
  std::vector<ShardView> shards = engine_shards(engine);
  if (!answers_for_biases(engine)) std::erase_if(shards, [](const ShardView& s) { return s.kind == "bias"; });
  const SaveResult r = CheckpointWriter().save(world, dir, meta_of(3), shards, {}, 0);
  if (!r.ok) throw Error(r.error);
}

// Runs three steps from the checkpoint in `dir`; `loaded` receives the state right after loading.
Record go_on(const Layout& layout, DType type, const std::string& dir, Record& loaded) {
  RunSpec s = spec_of(layout, type);
  std::mutex mutex;
  s.first_step = 4;
  s.begin = [&](Engine& engine, Communicator& world) {
    const auto reader = CheckpointReader::open_newest(world, dir);
    if (!reader) throw Error("nothing was saved");
    reader->load(engine_shards(engine));
    engine.publish_weights();
    record_state(engine, loaded, mutex);
  };
  return run(s);
}

struct Saved {
  TempDir dir;
  Record at_save, whole;  // after 3 steps; the uninterrupted steps 4..6 (with their start)
};
void train_and_save(const Layout& layout, DType type, Saved& saved) {
  RunSpec s = spec_of(layout, type);
  s.end = [&](Engine& engine, Communicator& world) { save(engine, world, saved.dir.path()); };
  saved.at_save = run(s);
  RunSpec six = spec_of(layout, type);
  six.steps = 6;
  saved.whole = run(six);
}

std::string state_difference(const Record& a, const Record& b, double bound) {
  Record x, y;
  for (auto kind : {&Record::parameters, &Record::moments, &Record::second_moments}) {
    x.*kind = a.*kind;
    y.*kind = b.*kind;
  }
  return first_difference(x, y, bound);
}
}  // namespace

TEST_CASE("A checkpoint of one layout loads bit-equal in others, and training goes on as if never interrupted", "[reshard]") {
  for (const Layout& from : {Layout{2, 2, 2}, Layout{1, 4, 2}}) {
    Saved saved;
    train_and_save(from, DType::kF64, saved);
    REQUIRE(saved.at_save.parameters.size() > 20);
    for (const Layout& to : {Layout{1, 1, 1}, Layout{4, 1, 1}, Layout{1, 4, 4}, Layout{1, 2, 1}, Layout{2, 4, 2}}) {
      INFO("from pp " << from.pp << " dp " << from.dp << " ep " << from.ep << " to pp " << to.pp << " dp " << to.dp << " ep " << to.ep);
      Record loaded;
      const Record rest = go_on(to, DType::kF64, saved.dir.path(), loaded);
      CHECK(state_difference(loaded, saved.at_save, 0.0) == "");
      CHECK(state_difference(rest, saved.whole, 1e-9) == "");
      CHECK(std::vector(saved.whole.counts.begin() + 3, saved.whole.counts.end()) == rest.counts);
      CHECK(relative_difference(rest.loss, {saved.whole.loss.begin() + 3, saved.whole.loss.end()}) <= 1e-9);
    }
  }
}

TEST_CASE("Resuming in the same layout is bit for bit, and so is the load in another", "[reshard]") {
  for (DType type : {DType::kBF16, DType::kF32}) {
    INFO(name_of(type));
    Saved saved;
    train_and_save({2, 2, 2}, type, saved);
    Record loaded;
    const Record rest = go_on({2, 2, 2}, type, saved.dir.path(), loaded);
    CHECK(state_difference(loaded, saved.at_save, 0.0) == "");
    CHECK(state_difference(rest, saved.whole, 0.0) == "");
    CHECK(std::vector(saved.whole.loss.begin() + 3, saved.whole.loss.end()) == rest.loss);
    Record elsewhere;
    go_on({1, 4, 4}, type, saved.dir.path(), elsewhere);
    CHECK(state_difference(elsewhere, saved.at_save, 0.0) == "");
  }
}
