// The dry run: a start of many ranks in one process, and the errors that a start would give.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "plan_fixture.h"
#include "trainer/plan/dry_run.h"
#include "trainer/run_directory.h"

using namespace atoll;
using namespace atoll::plan;
using Catch::Matchers::Contains;

namespace {
RunConfig recipe(const std::string& name, std::vector<std::string> more = {}) {
  more.insert(more.begin(), "run.dir=" + (std::filesystem::temp_directory_path() / "atoll-dry-run-never-made").string());
  return load_run_config(std::string(ATOLL_SOURCE_DIR) + "/launch/recipes/" + name + ".yaml", more);
}
}  // namespace

TEST_CASE("A dry run of DeepSeek-V3 on 2048 ranks places every rank, proves the schedule and saves every row once", "[plan]") {
  const DryRun run = dry_run(recipe("deepseek-v3"), 2048);
  REQUIRE(run.ranks.size() == 2048);
  CHECK(run.ranks[0].next == 128);
  CHECK(run.ranks[2047].previous == 1919);
  CHECK(run.ranks[70].ep->front() == 64);
  CHECK(*run.ranks[70].edp == std::vector<int>{6, 70});
  CHECK(*run.ranks[130].mirror == std::vector<int>{130, 14 * 128 + 2});
  CHECK(run.schedule.num_microbatches == 120);
  // 682,636,487,424 parameters with gain vectors, in FP32 with two BF16 moments; the biases of 59 routers in FP32
  const int64_t trained = 671026419200 - 58 * 256 + 11610068224 - 256;
  CHECK(run.checkpoint_bytes == trained * 8 + 59 * 256 * 4);
  REQUIRE(run.problems.size() == 1);
  CHECK_THAT(run.problems[0], Contains("set data.store"));
  CHECK(run.exit == ExitCode::kData);
  CHECK(run.ranks[70].ep == run.ranks[64].ep);  // one object
  CHECK_THAT(dry_run_text(run), Contains("proven") && Contains("a start would end here"));
}

TEST_CASE("A dry run refuses what a start refuses", "[plan]") {
  CHECK_THAT(error_text([] { dry_run(recipe("debug"), 0); }), Contains("world=0 must be at least 1"));
  CHECK_THAT(error_text([] { dry_run(recipe("debug", {"parallel.pp=2"}), 5); }), Contains("5 ranks are not divisible by pp=2"));
  CHECK_THAT(error_text([] { dry_run(recipe("debug", {"parallel.ep=3"}), 4); }), Contains("is not divisible by ep=3"));
  CHECK_THAT(error_text([] { dry_run(recipe("deepseek-v3"), 4096); }),
             Contains("micro-batches") && Contains("dualpipe"));  // 60 in a step, but 16 while the batch grows
  const DryRun tight = dry_run(recipe("debug", {"parallel.pp=2", "memory.activations=64KiB"}), 2);
  CHECK_THAT(dry_run_text(tight), Contains("memory.activations = 65.54 KB: the fullest rank needs"));
}

TEST_CASE("A dry run looks where a start would write and read", "[plan]") {
  const std::filesystem::path here = std::filesystem::temp_directory_path() / ("atoll-dry-run-a-file-" + std::to_string(::getpid()));
  std::ofstream(here) << "not a folder";
  const auto text = [](std::vector<std::string> more) { return dry_run_text(dry_run(recipe("debug", more), 2)); };
  CHECK_THAT(text({"run.dir=" + here.string()}), Contains("cannot be created: " + here.string() + " is not a folder"));
  CHECK_THAT(text({"run.dir=" + here.string() + "/below"}), Contains("cannot be created"));
  CHECK_THAT(text({}), !Contains("cannot be created"));
  CHECK_THAT(text({"train.resume=/nonexistent/step-00000001"}), Contains("/nonexistent/step-00000001"));
  std::filesystem::remove(here);
  std::filesystem::create_directories(here / "run");
  const std::vector<std::string> there = {"run.dir=" + here.string(), "run.name=run"};
  CHECK_THAT(text(there), !Contains("is in use by"));
  CHECK(std::filesystem::is_empty(here / "run"));
  {
    RunLock lock;
    REQUIRE(lock.take((here / "run/lock").string(), 0).empty());
    CHECK_THAT(text(there), Contains("run is in use by process " + std::to_string(::getpid())));
  }
  CHECK_THAT(text(there), !Contains("is in use by"));
  std::filesystem::remove_all(here);
}

TEST_CASE("A dry run takes memory by the rank, not by the square of the ranks, and refuses more ranks than it is for", "[plan]") {
  const DryRun run = dry_run(recipe("debug", {"train.global_batch=16384"}), 16384);
  for (const RankPlace& p : run.ranks) REQUIRE(p.dp == run.ranks[0].dp);
  CHECK_THAT(error_text([&] { dry_run_json(run); }), Contains("leave out --json"));
  for (const int64_t world : {kMaxWorld + 1, int64_t{4294967297}})
    CHECK_THAT(error_text([&] { dry_run(recipe("debug"), world); }), Contains("world=" + std::to_string(world) + ": a dry run is of at most 65536 ranks"));
  CHECK_THAT(error_text([] { dry_run(recipe("debug", {"train.global_batch=10M"}), 1); }), Contains("4 million (stage, micro-batch) pairs"));
}

TEST_CASE("Groups that ranks do not agree on are found", "[plan]") {
  const RunConfig config = recipe("debug", {"parallel.pp=2", "parallel.ep=2"});
  const Mesh mesh(8, config.parallel.mesh);
  const std::vector<RankPlace> good = dry_run(config, 8).ranks;
  const auto error_of_ranks = [&](const std::function<void(std::vector<RankPlace>&)>& harm) {
    std::vector<RankPlace> ranks = good;
    harm(ranks);
    return error_text([&] { check_groups(mesh, ranks); });
  };
  const auto group = [](std::vector<int> ranks) { return std::make_shared<const std::vector<int>>(std::move(ranks)); };
  CHECK(error_of_ranks([](auto&) {}).empty());
  CHECK_THAT(error_of_ranks([&](auto& r) { r[1].ep = group({0, 1}); }), Contains("ranks 0 and 1 disagree on their ep group"));  // equal, but not the same
  CHECK_THAT(error_of_ranks([&](auto& r) { r[2].edp = r[1].edp; }), Contains("ranks 0 and 2 disagree on their edp group"));
  CHECK_THAT(error_of_ranks([&](auto& r) { r[5].dp = group({5, 5, 6, 7}); }), Contains("ranks 4 and 5 disagree on their dp group"));
  CHECK_THAT(error_of_ranks([&](auto& r) { r[0].ep = r[1].ep = group({1, 0}); }), Contains("rank 0 would make another ep group"));
  CHECK_THAT(error_of_ranks([&](auto& r) { r[0].pp = nullptr; }), Contains("pp group"));
}

TEST_CASE("The exit code of a dry run is that of the first problem that a start would meet", "[plan]") {
  const auto exit_of = [](std::vector<std::string> more) { return dry_run(recipe("debug", more), 2).exit; };
  CHECK(exit_of({"data.store=/nonexistent"}) == ExitCode::kData);
  CHECK(exit_of({"data.store=/nonexistent", "train.resume=/nonexistent/step-00000001"}) == ExitCode::kData);
  CHECK(exit_of({"data.store=/nonexistent", "memory.activations=64KiB"}) == ExitCode::kData);
  for (const char* dir : {"run.dir=/proc/x", "run.dir=/dev/null/x"}) {
    const DryRun run = dry_run(recipe("debug", {"data.store=/nonexistent", dir}), 2);
    CHECK(run.exit == ExitCode::kConfig);
    REQUIRE(run.problems.size() == 2);
    CHECK_THAT(run.problems[0], Contains("cannot be created"));
  }
}
