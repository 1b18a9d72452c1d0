// What a run saves and when: never a state that is not finite, never in place of a good one; and what a failed save does.
#include <sys/resource.h>

#include <catch2/catch.hpp>

#include "trainer_fixture.h"

using namespace atoll;
using namespace atoll::test;
using Catch::Contains;

TEST_CASE("Weights that a finite gradient made infinite are never saved, and no good checkpoint gives way to them", "[trainer]") {
  TempDir dir;
  const RunConfig good = tiny_run(dir.path(), {"train.steps=3"});
  REQUIRE(run_alone(good).code == 0);
  const std::vector<std::string> kept = {"step-00000001", "step-00000002", "step-00000003"};
  REQUIRE(checkpoints_of(good) == kept);
  SECTION("at a periodic save") {
    const RunConfig poisoned = tiny_run(dir.path(), {"train.steps=20", "train.lr.max=1e300"});
    CHECK(run_alone(poisoned).code == 93);
    CHECK(story_of(poisoned).back() == "4");
    CHECK_THAT(log_of(poisoned), Contains("after step 4 the state is not finite (master of "));
  }
  SECTION("at the end of the run, within the budget of skipped steps") {
    const RunConfig poisoned = tiny_run(dir.path(), {"train.steps=6", "train.lr.max=1e300", "checkpoint.every=0"});
    CHECK(run_alone(poisoned).code == 93);
    CHECK(story_of(poisoned).back() == "6");
    CHECK_THAT(log_of(poisoned), Contains("after step 6 the state is not finite"));
  }
  SECTION("on a signal") { CHECK(run_alone(tiny_run(dir.path(), {"train.steps=6", "train.lr.max=1e300"}), SIGUSR1).code == 93); }
  CHECK(checkpoints_of(good) == kept);
  CHECK(run_alone(tiny_run(dir.path(), {"train.steps=4"})).code == 0);  // goes on from step 3 with a sound rate
}

TEST_CASE("A skipped step is not saved by the clock, but the run's end is", "[trainer]") {
  TempDir dir;
  const std::string bad_fourth = "train.mtp_lambda=[[0, 0.3], [3 steps, 1e308], [4 steps, 0.3]]";
  const RunConfig config = tiny_run(dir.path(), {"train.steps=5", bad_fourth});
  CHECK(run_alone(config).code == 0);
  CHECK(story_of(config) == std::vector<std::string>{"1", "checkpoint@1", "2", "checkpoint@2", "3", "checkpoint@3", "4", "5", "checkpoint@5", "evaluation@5"});
  CHECK_THAT(log_of(config), Contains("step 4: non-finite loss; the update is skipped on every rank (1 of 10 allowed)"));
  const RunConfig last = tiny_run(dir.path(), {"run.name=last", "train.steps=4", bad_fourth});
  CHECK(run_alone(last).code == 0);
  CHECK(checkpoints_of(last) == std::vector<std::string>{"step-00000002", "step-00000003", "step-00000004"});
}

TEST_CASE("A state is found not finite wherever the number is", "[nonfinite]") {
  const auto world = one_rank_world();
  for (DType type : {DType::kBF16, DType::kF32, DType::kF64})
    for (DType moments : {DType::kF32, DType::kBF16}) {
      TempDir dir;
      RunConfig config = tiny_run(dir.path());
      config.train.dtype = type;
      config.train.adam.moments = moments;
      config.train.bf16_gemm = Bf16Gemm::kWiden;
      Engine engine(engine_options(config, 1), *world);
      engine.initialize();
      CHECK(engine.nonfinite_state().empty());
      for (double value : {std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()})
        for (const ShardView& s : engine_shards(engine)) {
          std::byte was[8];
          const size_t n = size_of(s.dtype), at = static_cast<size_t>(s.row_count * s.global_cols - 1) * n;
          std::byte* last = static_cast<std::byte*>(s.data) + at;
          std::memcpy(was, last, n);
          const float narrow = static_cast<float>(value);
          const bf16 narrowest(narrow);
          std::memcpy(last, n == 8 ? static_cast<const void*>(&value) : n == 4 ? static_cast<const void*>(&narrow) : &narrowest, n);
          INFO(s.kind << ' ' << s.tensor);
          CHECK_THAT(engine.nonfinite_state(), Contains(s.tensor));
          std::memcpy(last, was, n);
        }
      if (type == DType::kF64) {  // large is not infinite
        *engine.optimizer().owned()[0].master.as<double>() = 1e300;
        CHECK(engine.nonfinite_state().empty());
      }
    }
}

TEST_CASE("A step is saved before it is evaluated, and evaluated once, whenever the run stops", "[trainer]") {
  TempDir dir;
  const auto with = [&](const std::string& name, int steps) { return tiny_run(dir.path(), {"run.name=" + name, "checkpoint.every=2", "eval.every=2", "train.steps=" + std::to_string(steps)}); };
  const RunConfig whole = with("whole", 5);
  REQUIRE(run_alone(whole).code == 0);
  CHECK(story_of(whole) == std::vector<std::string>{"1", "2", "checkpoint@2", "evaluation@2", "3", "4", "checkpoint@4", "evaluation@4", "5", "checkpoint@5", "evaluation@5"});
  REQUIRE(run_alone(whole).code == 0);  // nothing is left to do
  CHECK(story_of(whole).back() == "resume@5");

  const RunConfig stopped = with("stopped", 5);
  REQUIRE(run_alone(stopped, SIGTERM).code == 85);
  REQUIRE(run_alone(stopped, SIGTERM).code == 85);  // step 2 is saved, its evaluation still to come
  REQUIRE(run_alone(stopped).code == 0);
  CHECK(story_of(stopped) == std::vector<std::string>{"1", "checkpoint@1", "resume@1", "2", "checkpoint@2", "resume@2", "evaluation@2", "3", "4", "checkpoint@4", "evaluation@4", "5", "checkpoint@5",
                                                      "evaluation@5"});
  CHECK(losses_of(stopped) == losses_of(whole));
  const auto evaluations = [](const RunConfig& config) {
    std::vector<std::string> lines = lines_in(config.run.path() + "/metrics.jsonl");
    std::erase_if(lines, [](const std::string& line) { return line.find("\"evaluation\"") == std::string::npos; });
    return lines;
  };
  CHECK(evaluations(stopped) == evaluations(whole));
}

TEST_CASE("An evaluation of a branch that was left is not this one's", "[metrics]") {
  TempDir dir;
  const std::string path = dir.path() + "/metrics.jsonl";
  CHECK_FALSE(was_evaluated(path, 20));
  {
    MetricsFile file(path, false, {});
    file.evaluation({20, 1}, 1, 1, {});
    file.event("resume", {20, 1}, "");
  }
  CHECK(was_evaluated(path, 20));
  CHECK_FALSE(was_evaluated(path, 10));
  MetricsFile file(path, true, {10, 1});
  CHECK_FALSE(was_evaluated(path, 20));
}

namespace {
// Writes beyond a file size fail, as on a full disk, after a part of the line.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int);
};
}  // namespace

TEST_CASE("Lines that a full disk takes are counted and said, the file stays lines", "[metrics]") {
  TempDir dir;
  const std::string path = dir.path() + "/metrics.jsonl";
  write_text(path, "{\"step\":1}\n{\"step\":2,\"lo");  // a crash in a line
  MetricsFile file(path, true, {1, 1});
  const auto size = fs::file_size(path);
  {
    const FileSizeLimit full(size + 20);
    for (int i = 0; i < 3; ++i) file.event("lost", {i, 1}, "");
    CHECK(file.num_lost() == 3);
  }
  file.event("kept", {4, 1}, "");
  CHECK(file.num_lost() == 3);
  const std::vector<std::string> lines = lines_in(path);
  REQUIRE(lines.size() == 6);
  CHECK(lines[1] == "{\"step\":2,\"lo");
  CHECK(lines[2].find("{\"event\":\"resume\",\"step\":1") == 0);
  CHECK(lines[3].size() == 20);  // what fitted
  CHECK(lines[4] == "{\"event\":\"lines lost\",\"lines\":3}");
  CHECK(lines[5].find("{\"event\":\"kept\"") == 0);
  CHECK_THROWS_AS(MetricsFile(dir.path() + "/none/metrics.jsonl", false, {}), DataError);
}

// That the process itself then ends well (HDF5 holds files it could not write) shows in the exit code of this program.
TEST_CASE("A disk that is full for good ends a run with 65, not before its end, and harms nothing", "[trainer]") {
  TempDir dir;
  REQUIRE(run_alone(tiny_run(dir.path(), {"train.steps=2"})).code == 0);
  const RunConfig config = tiny_run(dir.path(), {"train.steps=5"});
  const std::string metrics = config.run.path() + "/metrics.jsonl";
  const rlim_t limit = 200000;  // a checkpoint is larger, the log is not, and metrics.jsonl comes up against it in the first step
  {
    std::ofstream out(metrics, std::ios::app);
    while (static_cast<rlim_t>(out.tellp()) + 600 < limit) out << "{\"event\":\"padding\",\"step\":0}\n";
  }
  {
    const FileSizeLimit full(limit);
    CHECK(run_alone(config).code == 65);
    CHECK(run_alone(config, SIGUSR1).code == 65);
  }
  CHECK(checkpoints_of(config) == std::vector<std::string>{"step-00000001", "step-00000002"});
  for (const char* said : {"checkpoint of step 3 failed", "checkpoint of step 5 failed", "lines are lost until it can"}) CHECK_THAT(log_of(config), Contains(said));
  CHECK(run_alone(config).code == 0);
  const std::vector<std::string> story = story_of(config);
  CHECK(std::count(story.begin(), story.end(), "5") == 1);
  CHECK(std::count(story.begin(), story.end(), "torn") == 1);
}

TEST_CASE("After a batch ramp the run's end still compares its forecast with what was measured", "[trainer]") {
  TempDir dir;
  // The routed segment peaks in the first step, of one micro-batch; the last step has four.
  const RunConfig config = tiny_run(dir.path(), {"train.steps=6", "train.global_batch=4", "train.batch_ramp={start: 1, until_tokens: 64}", "checkpoint.every=0"});
  REQUIRE(run_alone(config).code == 0);
  const nlohmann::json forecast = forecast_of(config);
  for (const char* segment : {"weights", "main grads", "optimizer", "routed"}) {
    const auto& ranks = forecast["segments"][segment];
    REQUIRE(ranks.size() == 1);
    CHECK(ranks[0]["forecast"] == ranks[0]["measured"]);
    CHECK(ranks[0]["measured"] > 0);
  }
}
