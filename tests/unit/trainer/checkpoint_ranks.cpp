// Checkpoints of several ranks (threads of this process): any layout loads any other's, all ranks use the same one, an error of one is an error of all.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <mutex>

#include "checkpoint_fixture.h"

using namespace atoll;
using namespace atoll::test;
using Catch::Contains;

namespace {

// Saves with `world` ranks in the layout `salt`; the result of every rank.
std::vector<SaveResult> save_ranks(const std::string& run_dir, int world, int64_t step, int keep_last = 0, int salt = 0) {
  std::vector<SaveResult> results(static_cast<size_t>(world));
  run_ranks_as_threads(world, [&](Communicator& comm) {
    RankState state(comm.rank(), world, step, salt);
    const std::vector<AttachedFile> files = {{"config.yaml", "x: 1\n"}};
    CheckpointMeta meta = meta_of(step);
    meta.mesh = "dp " + std::to_string(world);
    results[static_cast<size_t>(comm.rank())] = CheckpointWriter().save(comm, run_dir, meta, state.views, files, keep_last);
  });
  return results;
}

// The step that every rank of `world` loads, its values checked; -1 if the ranks differ.
int64_t load_ranks(const std::string& run_dir, int world, int salt = 0) {
  std::vector<int64_t> steps(static_cast<size_t>(world), -1);
  run_ranks_as_threads(world, [&](Communicator& comm) {
    const auto reader = CheckpointReader::open_newest(comm, run_dir);
    if (!reader) return;
    RankState state(comm.rank(), world, 0, salt);
    reader->load(state.views);
    if (state.holds(reader->meta().step)) steps[static_cast<size_t>(comm.rank())] = reader->meta().step;
  });
  for (int64_t step : steps) if (step != steps[0]) return -1;
  return steps[0];
}

}  // namespace

TEST_CASE("A checkpoint of any number of ranks loads into any other, bit for bit") {
  for (int from : {1, 2, 3, 4}) {
    TempDir dir;
    for (const SaveResult& result : save_ranks(dir.path(), from, 7, 0, 1)) {
      INFO(result.error);
      REQUIRE(result.ok);
      CHECK(result.directory == step_dir(dir.path(), 7));
      CHECK(result.bytes > 8'000'000);
    }
    CHECK(names_in(step_dir(dir.path(), 7)).size() == static_cast<size_t>(from) + 3);
    for (int to : {1, 2, 3, 4}) {
      INFO(from << " ranks saved, " << to << " load");
      CHECK(load_ranks(dir.path(), to, 2) == 7);
    }
    CHECK(newest_step(dir.path()) == 7);
  }
}

TEST_CASE("An error of one rank is an error of all, and leaves nothing behind") {
  TempDir dir;
  REQUIRE(save_ranks(dir.path(), 3, 1)[0].ok);
  for (const char* fault : {"save-begin:action=enospc", "mid-rank-file:rank=2:action=enospc", "after-rank-file:rank=1:action=enospc", "before-manifest:action=enospc"}) {
    INFO(fault);
    ::setenv("ATOLL_FAULT", fault, 1);
    const std::vector<SaveResult> results = save_ranks(dir.path(), 3, 2);
    ::unsetenv("ATOLL_FAULT");
    for (const SaveResult& result : results) {
      CHECK_FALSE(result.ok);
      CHECK(result.error == results[0].error);
      CHECK_THAT(result.error, Contains("No space left"));
    }
    CHECK(names_in(dir.path() + "/checkpoints") == std::vector<std::string>{"LATEST", "step-00000001"});
  }
  ::setenv("ATOLL_FAULT", "mid-rank-file:action=enospc", 1);
  const SaveResult result = save_ranks(dir.path(), 3, 2)[1];
  ::unsetenv("ATOLL_FAULT");
  CHECK_THAT(result.error, Contains("rank 0: ") && Contains("; rank 1: ") && Contains("rank-00002.h5"));
  CHECK(save_ranks(dir.path(), 3, 2)[2].ok);
  CHECK(load_ranks(dir.path(), 2) == 2);
}

TEST_CASE("Ranks that overlap or leave a hole between them are told so") {
  TempDir dir;
  const auto save_with = [&](const std::function<void(int, RankState&)>& change) {
    std::string error;
    run_ranks_as_threads(2, [&](Communicator& comm) {
      RankState state(comm.rank(), 2, 1);
      change(comm.rank(), state);
      const SaveResult result = CheckpointWriter().save(comm, dir.path(), meta_of(1), state.views, {}, 0);
      if (comm.rank() == 1) error = result.error;
    });
    return error;
  };
  CHECK(save_with([](int, RankState&) {}).empty());
  CHECK_THAT(save_with([](int rank, RankState& s) { if (rank == 1) ++s.views[0].row_begin, --s.views[0].row_count; }), Contains("rows 30..30 are in no shard"));
  CHECK_THAT(save_with([](int rank, RankState& s) { if (rank == 0) ++s.views[3].row_begin; }), Contains("rows 0..0 are in no shard"));
  CHECK_THAT(save_with([](int rank, RankState& s) { if (rank == 1) s.views[4].tensor = "model.norm2.weight"; }), Contains("are in no shard"));
  CHECK_THAT(save_with([](int rank, RankState& s) { if (rank == 1) s.views[0].dtype = DType::kI32; }), Contains("is fp32[61, 24] in one place and i32[61, 24] in another"));
}

TEST_CASE("All ranks fall back to the same older checkpoint") {
  TempDir dir;
  for (int64_t step : {1, 2, 3}) REQUIRE(save_ranks(dir.path(), 4, step)[0].ok);
  write_text(step_dir(dir.path(), 3) + "/rank-00002.h5", "rubbish");
  CHECK(load_ranks(dir.path(), 4) == 2);
  CHECK(load_ranks(dir.path(), 3, 1) == 2);
  fs::remove(step_dir(dir.path(), 2) + "/manifest.json");
  CHECK(load_ranks(dir.path(), 4) == 1);
  fs::remove(step_dir(dir.path(), 1) + "/rank-00003.h5");
  int refused = 0;
  std::mutex mutex;
  run_ranks_as_threads(4, [&](Communicator& comm) {
    try {
      CheckpointReader::open_newest(comm, dir.path());
    } catch (const DataError& error) {
      const std::lock_guard lock(mutex);
      refused += std::string(error.what()).find("rank-00002.h5") != std::string::npos;
    }
  });
  CHECK(refused == 4);
}

TEST_CASE("A tensor that one rank lacks, and one that no rank wants, are errors on all ranks") {
  TempDir dir;
  REQUIRE(save_ranks(dir.path(), 2, 1)[0].ok);
  const auto errors_with = [&](const std::function<void(int, RankState&)>& change) {
    std::vector<std::string> errors(3);
    run_ranks_as_threads(3, [&](Communicator& comm) {
      const auto reader = CheckpointReader::open_newest(comm, dir.path());
      RankState state(comm.rank(), 3, 0);
      change(comm.rank(), state);
      try {
        reader->load(state.views);
      } catch (const DataError& error) { errors[static_cast<size_t>(comm.rank())] = error.what(); }
    });
    CHECK(errors[0] == errors[1]);
    CHECK(errors[0] == errors[2]);
    return errors[0];
  };
  CHECK(errors_with([](int rank, RankState& s) { if (rank != 1) s.views.erase(s.views.begin() + 5); }).empty());  // wanted by one rank only: enough
  CHECK_THAT(errors_with([](int, RankState& s) { s.views.erase(s.views.begin() + 5); }), Contains("e_score_correction_bias is in the checkpoint, but the model has no such tensor"));
  CHECK_THAT(errors_with([](int rank, RankState& s) { if (rank == 2) s.views[0].tensor = "other"; }), Contains("rank 2: ") && Contains("master/other is missing"));
}

TEST_CASE("Old checkpoints are pruned by all ranks together") {
  TempDir dir;
  for (int64_t step : {1, 2, 3, 4}) {
    const std::vector<SaveResult> results = save_ranks(dir.path(), 3, step, 2);
    for (const SaveResult& result : results) CHECK(result.pruned == results[0].pruned);
  }
  CHECK(names_in(dir.path() + "/checkpoints") == std::vector<std::string>{"LATEST", "step-00000003", "step-00000004"});
  write_text(step_dir(dir.path(), 4) + "/rank-00001.h5", "rubbish");
  REQUIRE(save_ranks(dir.path(), 2, 5, 2)[0].ok);
  CHECK(names_in(dir.path() + "/checkpoints") == std::vector<std::string>{"LATEST", "step-00000003", "step-00000004", "step-00000005"});
}

TEST_CASE("With any rank killed in any stage of a save, all find the previous checkpoint") {
  for (const char* fault : {"before-rank-file:rank=3", "mid-rank-file:rank=1", "after-rank-file:rank=2", "before-manifest:rank=0", "after-manifest:rank=0"}) {
    INFO(fault);
    TempDir dir;
    REQUIRE(save_ranks(dir.path(), 4, 1)[0].ok);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      ::setenv("ATOLL_FAULT", (std::string(fault) + ":action=kill9").c_str(), 1);
      try { save_ranks(dir.path(), 4, 2); } catch (...) {}
      ::_exit(1);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
    CHECK(load_ranks(dir.path(), 3, 1) == 1);
  }
}
