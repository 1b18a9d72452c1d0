// What a run says on the console: one rank speaks, the overwritten line fits the terminal, nothing is glued to it. And what is flushed when.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <functional>
#include <optional>

#include "trainer_fixture.h"
#include "trainer/metrics.h"

using namespace atoll;
using namespace atoll::test;
using Catch::Contains;

namespace {
// What `body` writes to stderr, with these variables in the environment.
std::string stderr_of(const std::map<std::string, std::string>& environment, const std::function<void()>& body) {
  TempDir dir;
  const std::string path = dir.path() + "/stderr";
  for (auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
  std::fflush(stderr);
  const int before = ::dup(STDERR_FILENO), file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  REQUIRE((before >= 0 && file >= 0 && ::dup2(file, STDERR_FILENO) >= 0));
  log::set_console_level(log::Level::kInfo);
  body();
  log::flush();
  log::set_console_level(log::Level::kError);
  std::fflush(stderr);
  ::dup2(before, STDERR_FILENO);
  for (int fd : {before, file}) ::close(fd);
  for (auto& [name, value] : environment) ::unsetenv(name.c_str());
  return text_of(path);
}

struct Step {
  StepResult result;
  StepMetrics metrics;
  Step() {
    result.loss = 5.1234;
    result.mtp_loss = {5.5, 6.5};
    result.grad_norm = 1.25;
    metrics.position = {123, 1};
    metrics.total_steps = 100000;
    metrics.tokens_per_second = 1234567;
    metrics.eta_seconds = 7500;
    metrics.mfu = 0.5;
    metrics.lr = 1e-3;
    metrics.result = &result;
  }
};
}  // namespace

TEST_CASE("The overwritten line is as long as the terminal allows, the most important fields first", "[metrics]") {
  Step s;
  CHECK(live_line(s.metrics, 80) == "step 123/100000 | loss 5.1234 | 1,234,567 tok/s | ETA 2h05m | norm 1.250");
  CHECK(live_line(s.metrics, 40) == "step 123/100000 | loss 5.1234");
  CHECK(live_line(s.metrics, 8) == "step 12");
  CHECK(live_line(s.metrics, 0) == "s");
  CHECK(live_line(s.metrics, 1000) == "step 123/100000 | loss 5.1234 | 1,234,567 tok/s | ETA 2h05m | norm 1.250 | lr 1.00e-03 | MFU 50.0% | mtp 5.5000 | mtp 6.5000 | load 0.00 | balance 0.00e+00");
  for (int columns = 1; columns < 200; ++columns) CHECK(static_cast<int>(live_line(s.metrics, columns).size()) <= std::max(1, columns - 1));
}

TEST_CASE("On a terminal the live line is cut to its columns, elsewhere nothing is cut", "[metrics]") {
  Step s;
  const auto step = [&] { StepConsole(10, true).step(s.metrics); };
  CHECK(stderr_of({{"ATOLL_TERMINAL", "1"}, {"ATOLL_COLUMNS", "40"}}, step) == "\r\033[Kstep 123/100000 | loss 5.1234");
  CHECK(stderr_of({{"ATOLL_TERMINAL", "1"}}, step) == "\r\033[K" + live_line(s.metrics, 80));
  s.metrics.position.step = 120;
  CHECK(stderr_of({{"ATOLL_TERMINAL", "1"}, {"ATOLL_COLUMNS", "40"}}, step) == "\r\033[K" + console_line(s.metrics) + "\n");
  CHECK(stderr_of({{"ATOLL_TERMINAL", "0"}, {"ATOLL_COLUMNS", "40"}}, step) == console_line(s.metrics) + "\n");
}

TEST_CASE("A warning ends the live line, and only the rank that speaks gives it", "[metrics]") {
  Step s;
  for (bool speaks : {true, false})
    CHECK(stderr_of({{"ATOLL_TERMINAL", "1"}, {"ATOLL_COLUMNS", "30"}}, [&] {
            StepConsole console(10, speaks);
            console.step(s.metrics);
            console.warning("step 124: non-finite loss");
            console.error("no room");
            console.message("done");
          }) == (speaks ? "\r\033[Kstep 123/100000 | loss 5.1234\nwarning: rank 0: step 124: non-finite loss\nerror: rank 0: no room\ndone\n" : ""));
}

TEST_CASE("The log of a run is on disk after each step", "[trainer]") {
  TempDir dir;
  const RunConfig config = tiny_run(dir.path(), {"train.steps=3", "checkpoint.every=0"});
  const std::string path = config.run.path() + "/log/rank-00000.log";
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::setenv("ATOLL_FAULT", "save-begin:action=kill9", 1);
    ::_exit(run_alone(config).code);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
  CHECK_THAT(text_of(path), Contains("step 3/3 | loss "));
}

TEST_CASE("A run whose log cannot be opened goes on without it", "[trainer]") {
  TempDir dir;
  const RunConfig config = tiny_run(dir.path(), {"train.steps=1"});
  REQUIRE(run_alone(config).code == 0);
  const std::string path = config.run.path() + "/log/rank-00000.log";
  fs::remove(path);
  fs::create_directory(path);
  CHECK(run_alone(tiny_run(dir.path(), {"train.steps=2"})).code == 0);
  CHECK(story_of(config).back() == "evaluation@2");
}

TEST_CASE("BF16 products are what the run began with where that can be, and native is refused where it cannot", "[trainer]") {
  TrainConfig train;
  train.dtype = DType::kBF16;
  const auto mode = [&](Bf16Gemm wanted, Bf16Gemm saved, bool has_native) {
    train.bf16_gemm = wanted;
    return choose_bf16_gemm(train, saved, has_native);
  };
  using enum Bf16Gemm;
  CHECK(mode(kAuto, kAuto, false).mode == kAuto);
  for (bool has_native : {true, false}) {
    CHECK(mode(kAuto, kWiden, has_native).mode == kWiden);
    CHECK(mode(kWiden, kNative, has_native).mode == kWiden);
    CHECK(mode(kWiden, kNative, has_native).warning.empty());
  }
  CHECK(mode(kAuto, kNative, true).mode == kNative);
  CHECK(mode(kAuto, kNative, true).warning.empty());
  CHECK(mode(kAuto, kNative, false).mode == kWiden);
  CHECK_THAT(mode(kAuto, kNative, false).warning, Contains("bits will differ"));
  CHECK(mode(kNative, kWiden, true).mode == kNative);
  CHECK_THROWS_AS(mode(kNative, kAuto, false), ConfigError);
  train.dtype = DType::kF32;
  CHECK_NOTHROW(mode(kNative, kAuto, false));
}
