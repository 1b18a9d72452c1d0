// What `atoll checkpoint ls | show | verify` say.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "checkpoint_fixture.h"
#include "trainer/checkpoint_commands.h"

using namespace atoll;
using namespace atoll::test;
using Catch::Contains;
using nlohmann::json;

TEST_CASE("checkpoint ls names each checkpoint and what is wrong with it") {
  TempDir dir;
  for (int64_t step : {1, 2, 3}) REQUIRE(save_alone(dir.path(), step).ok);
  CHECK(checkpoint_ls(dir.path(), false).ok);
  write_text(step_dir(dir.path(), 2) + "/rank-00000.h5", "rubbish");
  const CommandOutput text = checkpoint_ls(dir.path(), false);
  CHECK_FALSE(text.ok);
  CHECK_THAT(text.text, Contains("step-00000003") && Contains("<- LATEST") && Contains("BAD: rank-00000.h5: has 7 bytes"));
  const json list = json::parse(checkpoint_ls(dir.path(), true).text);
  REQUIRE(list.size() == 3);
  CHECK(list[0]["step"] == 3);
  CHECK(list[0]["is_latest"] == true);
  CHECK(list[0]["is_complete"] == true);
  CHECK(list[0]["tokens"] == 3 * 4096);
  CHECK(list[1]["is_complete"] == false);
  CHECK_THROWS_AS(checkpoint_ls(dir.path() + "/nowhere", true), DataError);
}

TEST_CASE("checkpoint show describes a checkpoint, or a run's newest good one") {
  TempDir dir;
  for (int64_t step : {1, 2}) REQUIRE(save_alone(dir.path(), step).ok);
  CHECK_THAT(checkpoint_show(step_dir(dir.path(), 1), false).text, Contains("step 1  tokens 4096") && Contains("model.embed_tokens.weight") && Contains("fp32[61, 24]"));
  CHECK(json::parse(checkpoint_show(step_dir(dir.path(), 1) + "/", true).text)["step"] == 1);
  CHECK(json::parse(checkpoint_show(dir.path(), true).text)["step"] == 2);
  write_text(step_dir(dir.path(), 2) + "/rank-00000.h5", "rubbish");
  CHECK(json::parse(checkpoint_show(dir.path(), true).text)["step"] == 1);
  CHECK_THROWS_AS(checkpoint_show(step_dir(dir.path(), 2), true), DataError);
}

TEST_CASE("checkpoint verify finds the bad one of several") {
  TempDir dir;
  for (int64_t step : {1, 2}) REQUIRE(save_alone(dir.path(), step).ok);
  CHECK(checkpoint_verify(dir.path(), false).ok);
  std::string bytes = text_of(step_dir(dir.path(), 1) + "/rank-00000.h5");
  bytes[bytes.size() / 3] ^= 1;
  write_text(step_dir(dir.path(), 1) + "/rank-00000.h5", bytes);
  const CommandOutput run = checkpoint_verify(dir.path(), false);
  CHECK_FALSE(run.ok);
  CHECK_THAT(run.text, Contains("good  ") && Contains("BAD   ") && Contains("rank-00000.h5: hash differs"));
  CHECK(checkpoint_verify(step_dir(dir.path(), 2), true).ok);
  CHECK(json::parse(checkpoint_verify(step_dir(dir.path(), 1), true).text)[0]["is_good"] == false);
}
