// Whose a run folder is, who works in it, what is written there when, and from which checkpoint a run goes on.
#include <sys/wait.h>

#include <catch2/catch.hpp>

#include "trainer_fixture.h"

using namespace atoll;
using namespace atoll::test;
using Catch::Contains;

TEST_CASE("A checkpoint's path starts a run; a run that has checkpoints goes on from its own", "[trainer]") {
  TempDir dir;
  const RunConfig first = tiny_run(dir.path(), {"run.name=first"});
  REQUIRE(run_alone(first).code == 0);
  const std::string from = first.run.path() + "/checkpoints/step-00000002";
  const RunConfig branch = tiny_run(dir.path(), {"run.name=branch", "train.resume=" + from, "train.steps=5"});
  REQUIRE(run_alone(branch, SIGUSR1).code == 85);  // stopped after one step: "go on with the same command"
  CHECK(checkpoints_of(branch) == std::vector<std::string>{"step-00000003"});
  REQUIRE(run_alone(branch).code == 0);
  CHECK(story_of(branch) == std::vector<std::string>{"resume@2", "3", "checkpoint@3", "resume@3", "4", "checkpoint@4", "5", "checkpoint@5", "evaluation@5"});
  CHECK_THAT(log_of(branch), Contains("passed over: " + branch.run.path() + " has checkpoints of its own"));

  const std::string before = text_of(step_dir(first.run.path(), 3) + "/CHECKSUMS");  // the same for the run that the checkpoint belongs to
  REQUIRE(run_alone(tiny_run(dir.path(), {"run.name=first", "train.resume=" + from, "train.steps=4"})).code == 0);
  CHECK(text_of(step_dir(first.run.path(), 3) + "/CHECKSUMS") == before);
  const std::string config = text_of(first.run.path() + "/config.yaml");
  const RunOutcome other = run_alone(tiny_run(dir.path(), {"run.name=first", "train.resume=" + from, "train.seed=9"}));
  CHECK(other.code == 64);
  CHECK_THAT(other.error, Contains("train.seed: was 1, is 9"));
  CHECK(text_of(first.run.path() + "/config.yaml") == config);
}

TEST_CASE("What a start that was cut off leaves is a new run, and what is not ours is not touched", "[trainer]") {
  TempDir dir;
  RunConfig config = tiny_run(dir.path(), {"train.steps=1"});
  const std::string run = config.run.path();
  for (const char* name : {"log", "checkpoints"}) fs::create_directories(run + "/" + name);
  write_text(run + "/log/rank-00000.log", "");
  write_text(run + "/config.yaml.tmp", "half");
  write_text(run + "/config.yaml.tmp-0123", "half");
  write_text(run + "/lock", "");
  CHECK(use_of(run) == FolderUse::kNew);
  CHECK(run_alone(config).code == 0);
  CHECK(names_in(run) == std::vector<std::string>{"checkpoints", "config.yaml", "lock", "log", "metrics.jsonl"});
  CHECK(use_of(run) == FolderUse::kTrained);

  TempDir foreign;
  config = tiny_run(foreign.path(), {"train.steps=1"});
  fs::create_directories(config.run.path());
  write_text(config.run.path() + "/thesis.tex", "years of work");
  CHECK(run_alone(config).code == 64);
  CHECK(names_in(config.run.path()) == std::vector<std::string>{"thesis.tex"});
}

TEST_CASE("config.yaml is written before anything else, and replaced only by a run that may go on", "[trainer]") {
  TempDir dir;
  const RunConfig config = tiny_run(dir.path(), {"train.steps=1"});
  const std::string path = config.run.path() + "/config.yaml";
  CHECK(run_alone(tiny_run(dir.path(), {"train.steps=1", "model.vocab_size=300"})).code == 64);  // smaller than the store's
  CHECK(fs::exists(path));
  CHECK(run_alone(config).code == 0);  // nothing was trained yet: the mended configuration is taken
  CHECK(text_of(path) == resolved_yaml(config));

  const RunConfig longer = tiny_run(dir.path(), {"train.steps=2"});
  write_text(step_dir(config.run.path(), 1) + "/rank-00000.h5", "rotten");
  CHECK(run_alone(longer).code == 65);
  CHECK(text_of(path) == resolved_yaml(config));
}

TEST_CASE("train.resume=never refuses a run that exists", "[trainer]") {
  TempDir dir;
  const RunConfig config = tiny_run(dir.path(), {"train.steps=1", "train.resume=never"});
  CHECK(run_alone(config).code == 0);
  const RunOutcome again = run_alone(config);
  CHECK(again.code == 64);
  CHECK_THAT(again.error, Contains("nothing is ever overwritten"));
}

TEST_CASE("One job at a time works in a run folder, and every rank of the second is told who the first is", "[trainer]") {
  TempDir dir;
  const RunConfig config = tiny_run(dir.path());
  fs::create_directories(config.run.path());
  int ready[2], done[2];
  REQUIRE((::pipe(ready) == 0 && ::pipe(done) == 0));
  const pid_t holder = ::fork();
  REQUIRE(holder >= 0);
  if (holder == 0) {  // another job
    ::close(done[1]);
    RunLock lock;
    const char held = lock.take(config.run.path() + "/lock", 0).empty() ? 'y' : 'n';
    char unused;
    if (::write(ready[1], &held, 1) != 1 || ::read(done[0], &unused, 1) != 0) ::_exit(1);
    ::_exit(0);
  }
  char held = 'n';
  REQUIRE(::read(ready[0], &held, 1) == 1);
  REQUIRE(held == 'y');
  std::vector<std::string> errors(2);
  run_ranks_as_threads(2, [&](Communicator& world) {
    try {
      RunDirectory(world, config, resolved_yaml(config), 0.0);
    } catch (const ConfigError&) {
      errors[static_cast<size_t>(world.rank())] = "another type";
    } catch (const Error& error) {
      if (error.code() == ExitCode::kConfig) errors[static_cast<size_t>(world.rank())] = error.what();
    }
  });
  for (const std::string& error : errors) CHECK_THAT(error, Contains("is in use by process " + std::to_string(holder) + " on host "));
  CHECK_FALSE(fs::exists(config.run.path() + "/config.yaml"));
  for (int fd : {done[0], done[1], ready[0], ready[1]}) ::close(fd);  // it may go
  int status = 0;
  REQUIRE(::waitpid(holder, &status, 0) == holder);
  CHECK(status == 0);
  const auto alone = one_rank_world();
  CHECK_NOTHROW(RunDirectory(*alone, config, resolved_yaml(config), 0.0));
}

TEST_CASE("A moved store is the same store, another store is refused", "[trainer]") {
  TempDir dir, stores;
  REQUIRE(run_alone(tiny_run(dir.path(), {"train.steps=1"})).code == 0);
  fs::copy(sample_store(), stores.path() + "/moved");
  CHECK(run_alone(tiny_run(dir.path(), {"train.steps=2", "data.store=" + stores.path() + "/moved"})).code == 0);
  make_store(stores.path() + "/other", 61);
  const std::string config = text_of(dir.path() + "/run/config.yaml");
  const RunOutcome other = run_alone(tiny_run(dir.path(), {"train.steps=3", "data.store=" + stores.path() + "/other"}));
  CHECK(other.code == 65);
  CHECK_THAT(other.error, Contains("is not what") && Contains("was trained on"));
  CHECK(text_of(dir.path() + "/run/config.yaml") == config);
}
