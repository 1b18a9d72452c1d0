// Checkpoints of one rank: what is saved is loaded bit for bit, what does not fit is named, what is old is pruned.
#include <catch2/catch.hpp>

#include "checkpoint_fixture.h"

using namespace atoll;
using namespace atoll::test;
using Catch::Contains;

TEST_CASE("A checkpoint is loaded bit for bit") {
  TempDir dir;
  const SaveResult result = save_alone(dir.path(), 10);
  INFO(result.error);
  REQUIRE(result.ok);
  CHECK(result.warning.empty());
  CHECK(result.directory == step_dir(dir.path(), 10));
  CHECK(names_in(result.directory) == std::vector<std::string>{"CHECKSUMS", "config.yaml", "manifest.json", "rank-00000.h5", "tokenizer.model"});
  CHECK(names_in(dir.path() + "/checkpoints") == std::vector<std::string>{"LATEST", "step-00000010"});
  CHECK(text_of(dir.path() + "/checkpoints/LATEST") == "step-00000010\n");

  const auto reader = CheckpointReader::open_newest(dir.path());
  REQUIRE(reader);
  CHECK(reader->meta().step == 10);
  CHECK(reader->meta().tokens == 40960);
  CHECK(reader->meta().sequences == 80);
  CHECK(reader->meta().resolved_config_yaml == "train:\n  steps: 20\n");
  CHECK(reader->meta().data_fingerprint == "fingerprint-1");
  CHECK(reader->meta().extra_json == R"({"loss_hex":"0x1.8p+1","skipped":0})");
  CHECK(reader->attached("tokenizer.model") == std::string("\0\x01tok", 5));
  CHECK_THROWS_AS(reader->attached("manifest.json"), DataError);
  CHECK(result.bytes == reader->manifest().total_bytes());
  RankState state(0, 1, 0);
  CHECK_FALSE(state.holds(10));
  reader->load(state.views);
  CHECK(state.holds(10));
  CHECK_FALSE(state.holds(11));
}

TEST_CASE("Any row ranges are loaded from any shards") {
  TempDir dir;
  REQUIRE(save_alone(dir.path(), 3).ok);
  const auto reader = CheckpointReader::open_newest(dir.path());
  for (int world : {2, 3, 5})
    for (int rank = 0; rank < world; ++rank) {
      RankState state(rank, world, 0, 1);
      reader->load(state.views);
      CHECK(state.holds(3));
    }
}

TEST_CASE("A run without checkpoints has none") {
  TempDir dir;
  CHECK_FALSE(CheckpointReader::open_newest(dir.path()));
  CHECK_FALSE(CheckpointReader::open_newest(dir.path() + "/nowhere"));
  CHECK_THROWS_AS(CheckpointReader::open(dir.path() + "/nowhere"), DataError);
}

TEST_CASE("A model that does not fit is refused with the tensors named") {
  TempDir dir;
  REQUIRE(save_alone(dir.path(), 1).ok);
  const auto reader = CheckpointReader::open_newest(dir.path());
  RankState state(0, 1, 0);
  const auto fails_with = [&](const std::string& text) {
    CHECK_THROWS_WITH(reader->load(state.views), Contains(text));
    for (const auto& memory : state.memory)
      for (std::byte b : memory) if (b != std::byte{0}) FAIL("something was filled");
  };
  SECTION("missing") {
    state.views[0].tensor = "model.other.weight";
    fails_with("master/model.other.weight is missing in the checkpoint");
  }
  SECTION("unexpected") {
    state.views.erase(state.views.begin() + 4);
    fails_with("master/model.norm.weight is in the checkpoint, but the model has no such tensor");
    reader->load(state.views, Unexpected::kIgnore);
  }
  SECTION("shape") {
    state.views[0].global_rows += 1;
    fails_with("master/model.embed_tokens.weight is fp32[61, 24] in the checkpoint, the model wants fp32[62, 24]");
  }
  SECTION("dtype") {
    state.views[0].dtype = DType::kBF16;
    fails_with("fp32[61, 24] in the checkpoint, the model wants bf16[61, 24]");
  }
  SECTION("a vector is no matrix of one column") {
    state.views[4].is_vector = false;
    fails_with("model wants fp32[24, 1]");
  }
  SECTION("rows out of range") {
    state.views[0].row_begin = 1;
    fails_with("out of range");
  }
  SECTION("only the first few are listed") {
    for (ShardView& view : state.views) view.tensor += "x";
    fails_with("and 6 more");
  }
}

TEST_CASE("Shards that do not cover each row exactly once are not saved") {
  TempDir dir;
  OneRank world;
  RankState state(0, 1, 1);
  const auto fails_with = [&](const std::string& text) {
    const SaveResult result = CheckpointWriter().save(world, dir.path(), meta_of(1), state.views, {}, 0);
    CHECK_FALSE(result.ok);
    CHECK_THAT(result.error, Contains(text));
    CHECK(names_in(dir.path() + "/checkpoints").empty());
  };
  SECTION("a hole") {
    state.views[0].row_count -= 1;
    fails_with("rows 60..60 are in no shard");
  }
  SECTION("an overlap") {
    ShardView again = state.views[0];
    again.row_begin = 7;
    again.row_count = 2;
    state.views.push_back(again);
    fails_with("rows 7.. are covered twice");
  }
  SECTION("the same shard twice") {
    state.views.push_back(state.views[0]);
    fails_with("twice");
  }
  SECTION("two shapes of one tensor") {
    state.views[0].row_count = 30;
    ShardView rest = state.views[0];
    rest.row_begin = 30;
    rest.row_count = 31;
    rest.global_cols = 23;
    state.views.push_back(rest);
    fails_with("is fp32[61, 24] in one place and fp32[61, 23] in another");
  }
  SECTION("rows beyond the end") {
    state.views[0].row_begin = 1;
    fails_with("rows [1, 62) of 61");
  }
  SECTION("an attached file with a path") {
    const std::vector<AttachedFile> files = {{"../evil", "x"}};
    const SaveResult result = CheckpointWriter().save(world, dir.path(), meta_of(1), state.views, files, 0);
    CHECK_THAT(result.error, Contains("not a plain file name"));
  }
  SECTION("extra that is not JSON") {
    CheckpointMeta meta = meta_of(1);
    meta.extra_json = "{";
    const SaveResult result = CheckpointWriter().save(world, dir.path(), meta, state.views, {}, 0);
    CHECK_THAT(result.error, Contains("extra_json"));
  }
}

TEST_CASE("Empty shards and empty tensors are legal") {
  TempDir dir;
  OneRank world;
  RankState state(0, 1, 1);
  ShardView none = state.views[0];
  none.row_begin = 61;
  none.row_count = 0;
  none.data = nullptr;
  state.views.push_back(none);
  state.views.push_back({"nothing", "master", DType::kF32, 0, 4, false, 0, 0, nullptr});
  REQUIRE(CheckpointWriter().save(world, dir.path(), meta_of(1), state.views, {}, 0).ok);
  RankState loaded(0, 1, 0);
  loaded.views.push_back(none);
  loaded.views.push_back(state.views.back());
  CheckpointReader::open_newest(dir.path())->load(loaded.views);
  CHECK(loaded.holds(1));
}

TEST_CASE("The last n good checkpoints are kept") {
  TempDir dir;
  for (int64_t step : {1, 2, 3}) REQUIRE(save_alone(dir.path(), step, 2).ok);
  CHECK(names_in(dir.path() + "/checkpoints") == std::vector<std::string>{"LATEST", "step-00000002", "step-00000003"});
  SECTION("a bad one does not count") {
    write_text(step_dir(dir.path(), 3) + "/tokenizer.model", "\1\1tok");
    const SaveResult result = save_alone(dir.path(), 4, 2);
    REQUIRE(result.ok);
    CHECK(result.pruned.empty());
    CHECK(names_in(dir.path() + "/checkpoints") == std::vector<std::string>{"LATEST", "step-00000002", "step-00000003", "step-00000004"});
    const SaveResult next = save_alone(dir.path(), 5, 2);
    CHECK(next.pruned == std::vector<std::string>{"step-00000003", "step-00000002"});
    CHECK(names_in(dir.path() + "/checkpoints") == std::vector<std::string>{"LATEST", "step-00000004", "step-00000005"});
  }
  SECTION("a failed save removes none") {
    ::setenv("ATOLL_FAULT", "mid-rank-file:action=enospc", 1);
    const SaveResult result = save_alone(dir.path(), 4, 1);
    ::unsetenv("ATOLL_FAULT");
    CHECK_FALSE(result.ok);
    CHECK_THAT(result.error, Contains("step 4") && Contains("No space left"));
    CHECK(names_in(dir.path() + "/checkpoints") == std::vector<std::string>{"LATEST", "step-00000002", "step-00000003"});
    CHECK(newest_step(dir.path()) == 3);
  }
}

TEST_CASE("A step saved again replaces its checkpoint") {
  TempDir dir;
  REQUIRE(save_alone(dir.path(), 1).ok);
  REQUIRE(save_alone(dir.path(), 2).ok);
  write_text(step_dir(dir.path(), 2) + "/rank-00000.h5", "rubbish");
  CHECK(newest_step(dir.path()) == 1);
  REQUIRE(save_alone(dir.path(), 2).ok);
  CHECK(newest_step(dir.path()) == 2);
  CHECK(names_in(dir.path() + "/checkpoints") == std::vector<std::string>{"LATEST", "step-00000001", "step-00000002"});
}

TEST_CASE("LATEST missing, empty, foreign or dangling is recovered by looking") {
  TempDir dir;
  for (int64_t step : {1, 2}) REQUIRE(save_alone(dir.path(), step).ok);
  const std::string latest = dir.path() + "/checkpoints/LATEST";
  for (const char* text : {"", "\n", "step-00000009\n", "../../etc/passwd", "step-2", "\xff\xfe"}) {
    write_text(latest, text);
    CHECK(newest_step(dir.path()) == 2);
  }
  fs::remove(latest);
  CHECK(newest_step(dir.path()) == 2);
  fs::create_directory(latest);
  CHECK(newest_step(dir.path()) == 2);
}

TEST_CASE("A run that went back is continued where it was, not where it had been") {
  TempDir dir;
  for (int64_t step : {1, 2, 5}) REQUIRE(save_alone(dir.path(), step).ok);
  REQUIRE(save_alone(dir.path(), 3, 2).ok);  // somebody resumed from 2
  CHECK(newest_step(dir.path()) == 3);
  CHECK(names_in(dir.path() + "/checkpoints") == std::vector<std::string>{"LATEST", "step-00000002", "step-00000003", "step-00000005"});
  fs::remove_all(step_dir(dir.path(), 3));
  fs::create_directory(step_dir(dir.path(), 3));
  CHECK(newest_step(dir.path()) == 2);
}

TEST_CASE("A step saved again after the run went back is no predecessor of what followed the first time") {
  TempDir dir;
  for (int64_t step : {10, 20, 30}) REQUIRE(save_alone(dir.path(), step).ok);
  write_text(dir.path() + "/checkpoints/LATEST", "step-00000010\n");  // somebody went back
  {
    OneRank world;
    RankState state(0, 1, 20);
    CheckpointMeta meta = meta_of(20);
    meta.extra_json = R"({"another":"branch"})";
    REQUIRE(CheckpointWriter().save(world, dir.path(), meta, state.views, {}, 0).ok);
  }
  CHECK(newest_step(dir.path()) == 20);  // 30 followed another 20
  REQUIRE(save_alone(dir.path(), 25).ok);
  write_text(dir.path() + "/checkpoints/LATEST", "step-00000020\n");  // killed before LATEST was renewed: 25 followed this 20
  CHECK(newest_step(dir.path()) == 25);
}

TEST_CASE("Leftovers of interrupted saves are ignored and removed by the next save") {
  TempDir dir;
  REQUIRE(save_alone(dir.path(), 1).ok);
  const std::string root = dir.path() + "/checkpoints";
  fs::create_directory(root + "/step-00000009.tmp-0123");
  write_text(root + "/step-00000009.tmp-0123/rank-00000.h5", "half");
  write_text(root + "/LATEST.tmp-0123", "step-00000009\n");
  fs::create_directory(root + "/mine.tmp-keep");
  fs::create_directory(root + "/step-9");
  CHECK(newest_step(dir.path()) == 1);
  REQUIRE(save_alone(dir.path(), 2).ok);
  CHECK(names_in(root) == std::vector<std::string>{"LATEST", "mine.tmp-keep", "step-00000001", "step-00000002", "step-9"});
}
