// Every pipeline schedule trains the same model, bit for bit: losses, gradients, norms, parameters, moments and router biases over 10 steps equal those of 1F1B; DualPipe's equal
// those of 1F1B whose gradients are summed in halves.
#include <catch2/catch.hpp>
#include <fstream>
#include <iostream>

#include "checkpoint_fixture.h"
#include "engine_fixture.h"
#include "kernels/base/error.h"
#include "kernels/ops.h"
#include "trainer/schedule_rules.h"
#include "trainer/trainer.h"

using namespace atoll;
using namespace atoll::test;

namespace {
struct Pipeline { const char* schedule; int vpp = 1, grad_halves = 1; };

RunSpec spec_of(const Pipeline& p, int pp, int dp, int ep, DType type) {
  RunSpec s;
  s.options.model = tiny_model();
  s.options.model.num_hidden_layers = 8;  // of 4 ranks with 2 stages
  s.options.mesh = {.pp = pp, .ep = ep};
  s.options.storage = type;
  s.options.moments = type == DType::kBF16 ? DType::kBF16 : DType::kF32;
  s.options.max_sequence = 64;
  s.options.bf16_gemm = Bf16Gemm::kWiden;  // one way of multiplying for all runs that are compared
  s.options.schedule = p.schedule;
  s.options.vpp = p.vpp;
  s.options.grad_halves = p.grad_halves;
  s.world = pp * dp;
  s.steps = 10;
  s.microbatches = 2 * pp;
  return s;
}
const Pipeline kWhole[] = {{"gpipe"}, {"1f1b-split"}, {"zb-h1"}, {"interleaved", 2}, {"dualpipev"}, {"gpipe-w-last"}, {"1f1b-w-last"}};

int num_equal = 0;
void compare_all(int pp, int dp, int ep, DType type, const std::function<void(ModelConfig&)>& change = {}) {
  const auto run_of = [&](const Pipeline& p) {
    RunSpec s = spec_of(p, pp, dp, ep, type);
    if (change) change(s.options.model);
    return run(s);
  };
  INFO("pp " << pp << " dp " << dp << " ep " << ep << ' ' << name_of(type));
  const Record whole = run_of({"1f1b"}), halves = run_of({"1f1b", 1, 2});
  REQUIRE(whole.loss.size() == 10);
  CHECK(whole.loss.back() < whole.loss.front());
  for (const Pipeline& p : kWhole) {
    INFO(p.schedule);
    CHECK(first_difference(run_of(p), whole, 0.0) == "");
    ++num_equal;
  }
  CHECK(first_difference(run_of({"dualpipe"}), halves, 0.0) == "");
  CHECK(first_difference(run_of({"zb-h1", 1, 2}), halves, 0.0) == "");
  num_equal += 2;
  if (type != DType::kF64) CHECK(first_difference(halves, whole, 0.0) != "");  // the halves are a sum of their own: the comparison can fail
  if (type == DType::kF64) CHECK(first_difference(halves, whole, 1e-9) == "");
}
}  // namespace

TEST_CASE("On 2 ranks every schedule trains to the bits of 1F1B", "[pipelines]") {
  for (DType type : {DType::kBF16, DType::kF32, DType::kF64}) compare_all(2, 1, 1, type);
  std::cout << "figure: " << num_equal << " runs of 10 steps equal to the bit\n";
}

TEST_CASE("On 4 ranks every schedule trains to the bits of 1F1B", "[pipelines]") {
  compare_all(4, 1, 1, DType::kF32);
  compare_all(2, 2, 2, DType::kBF16);
  compare_all(2, 2, 1, DType::kF32);
  std::cout << "figure: " << num_equal << " runs of 10 steps equal to the bit\n";
}

TEST_CASE("A tied embedding, MTP of depth 2 and no MTP train to the same bits under every schedule", "[pipelines]") {
  compare_all(2, 1, 1, DType::kF32, [](ModelConfig& c) { c.tie_word_embeddings = true; });
  compare_all(2, 2, 2, DType::kF32, [](ModelConfig& c) { c.tie_word_embeddings = true; c.num_nextn_predict_layers = 2; });
  compare_all(2, 1, 1, DType::kF32, [](ModelConfig& c) { c.num_nextn_predict_layers = 0; });
}

TEST_CASE("The engine executes each schedule as planned and keeps as many activations as promised", "[pipelines]") {
  for (int pp : {2, 4})
    for (const Pipeline& p : {Pipeline{"zb-h1"}, {"interleaved", 2}, {"dualpipe"}, {"dualpipev"}, {"1f1b"}}) {
      RunSpec s = spec_of(p, pp, 1, 1, DType::kF32);
      s.steps = 1;
      const Record r = run(s);
      const Schedule schedule = build_schedule(p.schedule, pp, 2 * pp, p.vpp);
      for (int rank = 0; rank < pp; ++rank) {
        INFO(p.schedule << " pp " << pp << " rank " << rank);
        CHECK(r.executed[rank] == schedule.actions[rank]);
        CHECK(r.peak_live[rank] == peak_live(schedule, rank));
        CHECK(r.peak_live[rank] <= schedule.max_live[rank]);
      }
    }
}

TEST_CASE("Mirror ranks share their optimizer's rows and hold equal weights", "[pipelines]") {
  std::vector<std::vector<double>> sums(4);
  RunSpec s = spec_of({"dualpipe"}, 4, 1, 1, DType::kF32);
  s.steps = 3;
  std::mutex mutex;
  s.end = [&](Engine& engine, Communicator& world) {
    const std::lock_guard lock(mutex);
    for (const LocalParameter& p : engine.parameters().all()) {
      CHECK_FALSE(p.is_replica);
      sums[world.rank()].push_back(sum_of_squares(engine.ctx(), p.weight));
    }
    CHECK(engine.placement().stages == std::vector<int>{std::min(world.rank(), 3 - world.rank()), std::max(world.rank(), 3 - world.rank())});
  };
  const Record r = run(s);
  CHECK(sums[0] == sums[3]);
  CHECK(sums[1] == sums[2]);
  CHECK(sums[0] != sums[1]);
  RunSpec plain = spec_of({"1f1b"}, 2, 1, 1, DType::kF32);
  plain.steps = 1;
  const Record one = run(plain);
  const int64_t all = one.optimizer_bytes[0] + one.optimizer_bytes[1];
  CHECK(r.optimizer_bytes[0] + r.optimizer_bytes[1] + r.optimizer_bytes[2] + r.optimizer_bytes[3] == all);  // no row is held twice
}

TEST_CASE("An evaluation is the same under every schedule", "[pipelines]") {
  const auto evaluate = [](const Pipeline& p, int pp, int n) {
    EvalResult result;
    RunSpec s = spec_of(p, pp, 1, 1, DType::kF32);
    run_ranks_as_threads(pp, [&](Communicator& world) {
      Engine engine(s.options, world);
      engine.initialize();
      std::vector<MicroBatch> batches = batches_of(s.options.model, 1, 1, 0, 3, 15, n);
      const EvalResult r = engine.evaluate(batches);
      if (world.rank() == 0) result = r;
    });
    return result;
  };
  for (int pp : {2, 4})
    for (int n : {1, 3, 8}) {
      const EvalResult expected = evaluate({"1f1b"}, pp, n);
      CHECK(expected.loss_sum > 0);
      for (const Pipeline& p : {Pipeline{"interleaved", 2}, {"zb-h1"}, {"dualpipe"}, {"dualpipev"}}) {
        INFO(p.schedule << " pp " << pp << " n " << n);
        const EvalResult got = evaluate(p, pp, n);
        CHECK(got.loss_sum == expected.loss_sum);
        CHECK(got.mtp_loss_sum == expected.mtp_loss_sum);
        CHECK(got.labels == expected.labels);
      }
    }
}

TEST_CASE("A checkpoint of one schedule goes on under every other", "[pipelines]") {
  const auto state_of = [](const Record& r) {
    Record state;
    state.parameters = r.parameters;
    state.moments = r.moments;
    state.second_moments = r.second_moments;
    return state;
  };
  for (const Pipeline& from : {Pipeline{"dualpipe"}, {"interleaved", 2}}) {
    const TempDir dir;
    RunSpec s = spec_of(from, 2, 2, 2, DType::kF32);
    s.steps = 3;
    s.end = [&](Engine& engine, Communicator& world) {
      std::vector<ShardView> shards = engine_shards(engine);
      if (!answers_for_biases(engine)) std::erase_if(shards, [](const ShardView& v) { return v.kind == "bias"; });
      const SaveResult saved = CheckpointWriter().save(world, dir.path(), meta_of(3), shards, {}, 0);
      if (!saved.ok) throw Error(saved.error);
    };
    const Record at_save = run(s);
    RunSpec six = spec_of(from, 2, 2, 2, DType::kF32);
    six.steps = 6;
    const Record whole = run(six);
    for (const Pipeline& to : {from, Pipeline{"1f1b", 1, 2}, {"dualpipe"}, {"dualpipev"}, {"interleaved", 3}}) {
      INFO(from.schedule << " to " << to.schedule);
      RunSpec rest = spec_of(to, 2, 2, 2, DType::kF32);
      if (to.vpp == 3) rest.options.mesh = {.pp = 2, .ep = 1};
      rest.steps = 3;
      rest.first_step = 4;
      Record loaded;
      std::mutex mutex;
      rest.begin = [&](Engine& engine, Communicator& world) {
        const auto reader = CheckpointReader::open_newest(world, dir.path());
        if (!reader) throw Error("nothing was saved");
        reader->load(engine_shards(engine));
        engine.publish_weights();
        record_state(engine, loaded, mutex);
      };
      const Record r = run(rest);
      CHECK(first_difference(state_of(loaded), state_of(at_save), 0.0) == "");
      const bool has_its_sums = std::string(from.schedule) == "dualpipe" ? to.grad_halves == 2 || std::string(to.schedule) == "dualpipe"
                                                                         : to.vpp == 2 || std::string(to.schedule) == "dualpipev";
      if (has_its_sums) CHECK(first_difference(state_of(r), state_of(whole), 0.0) == "");
    }
  }
}

TEST_CASE("Micro-batches that a schedule does not admit are refused before anything runs", "[pipelines]") {
  const char* recipe = "model: debug\ndata: {store: s, seq_len: 32}\ntrain: {steps: 20, global_batch: 8, micro_batch: 1, lr: {max: 1e-3, min: 1e-4}}\n";
  const auto config = [&](std::vector<std::string> overrides) { return parse_run_config(recipe, "recipe", overrides); };
  const auto refuses = [&](const std::vector<std::string>& overrides, int dp, const char* why) {
    CHECK_THROWS_AS(check_microbatches(config(overrides), dp), ConfigError);
    CHECK_THROWS_WITH(check_microbatches(config(overrides), dp), Catch::Contains(why));
  };
  check_microbatches(config({"parallel.pp=2", "parallel.schedule=dualpipe"}), 2);
  refuses({"parallel.pp=2", "parallel.schedule=dualpipe"}, 4, "a step of 8 sequences (train.global_batch) makes 2 micro-batches of train.micro_batch = 1 on dp = 4 ranks: schedule dualpipe needs at least 2");
  refuses({"parallel.pp=2", "parallel.schedule=dualpipe", "train.global_batch=10"}, 2, "schedule dualpipe needs an even number of micro-batches");
  refuses({"parallel.grad_halves=2", "train.global_batch=7"}, 1, "parallel.grad_halves = 2 needs an even number");
  // The ramp goes 4, 6, 8: 6 micro-batches are no whole number of groups of 4.
  const std::vector<std::string> ramp{"train.batch_ramp={start: 4, until_tokens: 1000, multiple: 2}"};
  check_microbatches(config({"parallel.pp=2", "parallel.schedule=dualpipe", ramp[0]}), 1);
  refuses({"parallel.pp=2", "parallel.schedule=dualpipe", ramp[0]}, 2, "a step of 4 sequences (train.batch_ramp) makes 2 micro-batches");
}

TEST_CASE("A schedule from a file trains to the bits of 1F1B, and one that does not fit is refused", "[pipelines]") {
  const TempDir dir;
  const auto write = [&](const std::string& name, const std::string& text) {
    std::ofstream(dir.path() + "/" + name) << text;
    return dir.path() + "/" + name;
  };
  // Four stages in a zigzag of two ranks, each micro-batch through all of them before the next one: nobody's builder.
  std::string csv = "rank,action\n";
  const int rank_of[] = {0, 1, 1, 0};
  for (int m = 0; m < 4; ++m) {
    for (int s = 0; s < 4; ++s) csv += detail::concat(rank_of[s], ",F s", s, " m", m, "\n");
    for (int s = 3; s >= 0; --s) csv += detail::concat(rank_of[s], s % 2 ? ",BW s" : ",B s", s, " m", m, "\n", s % 2 ? "" : detail::concat(rank_of[s], ",W s", s, " m", m, "\n"));
  }
  const char* recipe = "model: debug\ndata: {store: s, seq_len: 32}\ntrain: {steps: 20, global_batch: 4, micro_batch: 1, lr: {max: 1e-3, min: 1e-4}}\nparallel: {pp: 2}\n";
  const auto config = [&](std::vector<std::string> overrides) {
    overrides.push_back("model.num_hidden_layers=8");
    return parse_run_config(recipe, "recipe", overrides);
  };
  const std::string path = write("zigzag.csv", csv);
  RunSpec s = spec_of({"1f1b"}, 2, 1, 1, DType::kF32);
  const Record expected = run(s);
  s.options.custom = custom_schedule(config({"parallel.schedule=" + path}));
  REQUIRE(s.options.custom);
  const Record r = run(s);
  CHECK(first_difference(r, expected, 0.0) == "");
  CHECK(r.executed[1] == s.options.custom->actions[1]);
  check_microbatches(config({"parallel.schedule=" + path}), 1, s.options.custom.get());

  const auto refuses = [&](const std::vector<std::string>& overrides, const std::string& why) {
    CHECK_THROWS_AS(custom_schedule(config(overrides)), ConfigError);
    CHECK_THROWS_WITH(custom_schedule(config(overrides)), Catch::Contains(why));
  };
  CHECK(custom_schedule(config({"parallel.schedule=zb-h1"})) == nullptr);
  refuses({"parallel.schedule=" + path, "parallel.pp=4"}, "zigzag.csv: for 2 ranks, parallel.pp is 4");
  refuses({"parallel.schedule=" + path, "parallel.stage_layers=[4, 4]"}, "4 stages, parallel.stage_layers has 2 entries");
  refuses({"parallel.schedule=" + path, "parallel.grad_halves=2"}, "parallel.grad_halves must be 1");
  refuses({"parallel.schedule=" + write("broken.csv", csv.substr(0, csv.size() - 10))}, "not sound: ");
  refuses({"parallel.schedule=nowhere.yaml"}, "nowhere.yaml: cannot be read");
  CHECK_THROWS_WITH(check_microbatches(config({"parallel.schedule=" + path, "train.global_batch=6"}), 1, s.options.custom.get()),
                    Catch::Contains("makes 6 micro-batches") && Catch::Contains("zigzag.csv is for 4"));
  CHECK_THROWS_WITH(config({"parallel.schedule=zigzag"}), Catch::Contains("expected one of: gpipe | 1f1b"));
  CHECK_THROWS_WITH(config({"parallel.schedule=" + path, "parallel.vpp=2"}), Catch::Contains("the stages of a rank are in the schedule's file"));
}

TEST_CASE("Data-parallel ranks of one pipeline position post the same collectives in the same order", "[pipelines]") {
  for (const Pipeline& p : {Pipeline{"1f1b"}, {"interleaved", 2}, {"dualpipe"}, {"dualpipev"}, {"zb-h1"}}) {
    RunSpec s = spec_of(p, 2, 2, 2, DType::kF32);
    s.steps = 1;
    const Record r = run(s);
    INFO(p.schedule);
    CHECK(check_collectives({r.executed[0], r.executed[1]}).empty());  // what was executed, not what was planned
    CHECK(check_collectives({r.executed[2], r.executed[3]}).empty());
    CHECK_FALSE(check_collectives({r.executed[0], r.executed[2]}).empty());
  }
}
