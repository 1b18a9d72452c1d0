// Recipes and overrides: what they become, and what every mistake in them says. Policy: a message is part of the contract, its place and its advice included.
#include <catch2/catch.hpp>
#include <fstream>
#include <sstream>

#include "kernels/base/error.h"
#include "trainer/config_schema.h"
#include "trainer/run_config.h"

using namespace atoll;

static const std::string kGood = "model: debug\ntrain:\n  steps: 20\n";

static std::string error_of(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  try {
    parse_run_config(yaml, "recipe.yaml", overrides, ATOLL_SOURCE_DIR);
  } catch (const ConfigError& error) { return error.what(); }
  return "";
}
static bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
static void expect(const std::string& yaml, const std::string& part, const std::vector<std::string>& overrides = {}) {
  const std::string error = error_of(yaml, overrides);
  INFO(yaml << " says:\n" << error);
  CHECK(has(error, part));
}

TEST_CASE("A recipe and overrides become a configuration", "[trainer][config]") {
  const std::string yaml = R"(
model: {preset: quickstart, vocab_size: 2000, q_lora_rank: null}
data:
  store: runs/a b
  seq_len: 256
train:
  tokens: 1.5M
  lr: {max: 3e-3, min: 0, warmup: 20 steps, constant_until: 1M, plateaus: [[2M, 1e-5]]}
  mtp_lambda: [[0, 0.3], [1M tokens, 0.1]]
  balance_alpha: 0
  dtype: fp32
parallel: {pp: 2, stage_layers: [3, 1]}
memory: {activations: 1.5 GiB}
train.global_batch: 16
)";
  const RunConfig c =
      parse_run_config(yaml, "recipe.yaml",
                       {"parallel.ep=2", "data.seq_len=128", "data.seq_len=64", "parallel.stage_layers=[2, 2]", "run.name=x-1", "train.adam={beta2: 0.99}"});
  CHECK(c.model.vocab_size == 2000);
  CHECK(c.model.q_lora_rank == 0);
  CHECK(c.model.hidden_size == model_preset("quickstart")->hidden_size);
  CHECK(c.data.store == "runs/a b");
  CHECK(c.data.seq_len == 64);
  CHECK(c.train.tokens == 1500000);
  CHECK(c.length() == RunPoint::tokens(1500000));
  CHECK(c.train.lr.max == 3e-3);
  CHECK(c.train.lr.warmup == RunPoint::steps(20));
  CHECK(c.train.lr.plateaus.size() == 1);
  CHECK(c.train.mtp_lambda.values.size() == 2);
  CHECK(c.train.balance_alpha.at({1, 1}) == 0);
  CHECK(c.train.dtype == DType::kF32);
  CHECK(c.train.global_batch == 16);
  CHECK(c.train.adam.beta2 == 0.99);
  CHECK(c.parallel.mesh.pp == 2);
  CHECK(c.parallel.mesh.ep == 2);
  CHECK(c.parallel.stage_layers == std::vector<int64_t>{2, 2});
  CHECK(c.memory.activations == 3ll << 29);
  CHECK(c.total_steps() == (1500000 + 1023) / 1024);
}

TEST_CASE("All errors come at once with their places and the nearest names", "[trainer][config]") {
  const std::string yaml = "model: debug\ntrain:\n  steps: 20\n  globl_batch: 4\n  lr:\n    max: fast\nmodel.n_group: 3\n";
  const std::string error = error_of(yaml, {"paralel.pp=3"});
  INFO(error);
  CHECK(error.find("recipe.yaml + 1 override: 4 errors\n") == 0);
  CHECK(has(error, "recipe.yaml:4: train.globl_batch: no such key; did you mean train.global_batch?"));
  CHECK(has(error, "recipe.yaml:6: train.lr.max = fast: expected a number"));
  CHECK(has(error, "recipe.yaml:7: model.n_group = 3: does not divide n_routed_experts = 8"));
  CHECK(has(error, "paralel.pp=3 (command line): no such key; did you mean parallel.pp?"));
  expect("model: debug\ntrain: {steps: 3}\nmodel.n_group: 3\n", "recipe.yaml:3: model.n_group = 3: does not divide n_routed_experts = 8");
  expect(kGood, "model.n_group=3 (command line): model.n_group = 3: does not divide", {"model.n_group=3"});
}

TEST_CASE("Names are guessed over sections and inside them", "[trainer][config]") {
  CHECK(nearest_name("trian") == "train");
  CHECK(nearest_name("paralel.pp") == "parallel.pp");
  CHECK(nearest_name("train.lr.maxx") == "train.lr.max");
  CHECK(nearest_name("train.seq_len") == "data.seq_len");
  CHECK(nearest_name("learning") == "");
  CHECK(nearest_name("model.hiden_size") == "model.hidden_size");
  expect("model: debug\ntrian: {steps: 3}\n", "recipe.yaml:2: trian: no such key; did you mean train?");
  expect(kGood + "weather: {tomorrow: rain}\n", "recipe.yaml:4: weather: no such key");
}

TEST_CASE("Duplicate keys and sections are errors wherever they hide", "[trainer][config]") {
  expect("model: debug\ntrain:\n  steps: 3\n  steps: 4\n", "recipe.yaml:4: train.steps: duplicate key, first given at line 3");
  expect("model: debug\ntrain: {steps: 3}\ndata: {seed: 1}\ntrain: {seed: 2}\n", "recipe.yaml:4: train: duplicate section, first given at line 2");
  expect("model: debug\ntrain: {steps: 3, steps: 4}\n", "duplicate key");
  expect("model: debug\ntrain: {steps: 3}\ntrain.steps: 4\n", "recipe.yaml:3: train.steps: duplicate key, first given at line 2");
  expect("model: debug\ntrain:\n  steps: 3\n  lr: {max: 1}\n  lr: {min: 0}\n", "recipe.yaml:5: train.lr: duplicate key");
}

TEST_CASE("Scalars are never guessed", "[trainer][config]") {
  for (const char* value : {"017", "1e3", "0x10", "3.5", "\"3\"", "many", "true", "1_000", "[3]", "null", "", "99999999999999999999", "--3", "1.0"}) {
    INFO(value);
    CHECK(has(error_of(kGood + "parallel: {pp: " + value + "}\n"), "parallel.pp"));
  }
  expect(kGood + "data: {document_mask: no}\n", "expected true or false");
  expect(kGood + "data: {document_mask: True}\n", "expected true or false");
  for (const char* value : {"inf", ".nan", "1e999", "1e", "0x1p3", "01.5", ".5", "1.", "1 2"})
    expect(kGood + "train.clip_norm: " + value + "\n", "expected a number");
  for (const char* value : {"1GB", "1MB", "1 M", "-1KiB", "1.0001KiB", "99999999TiB"}) expect(kGood + "memory: {routed: " + value + "}\n", "memory.routed");
  for (const char* value : {"20", "20 apples", "-5 steps", "1.5 steps", "steps", "1e3 steps"})
    expect(kGood + "train.lr.warmup: " + value + "\n", "train.lr.warmup");
  expect(kGood, "train.global_batch=0 (command line): out of range: must be 1..2147483648", {"train.global_batch=0"});
  expect(kGood, "expected a whole number", {"train.global_batch=3.5"});
  expect(kGood, "expected one of: bf16 | fp32 | fp64", {"train.dtype=fp16"});
}

TEST_CASE("YAML beyond maps, lists and scalars is refused", "[trainer][config]") {
  expect("model: &m debug\ntrain: {steps: 3}\n", "recipe.yaml:1: anchors");
  expect("model: debug\ndata: &d {seed: 1}\ntrain: *d\n", "recipe.yaml:3: aliases");
  expect("model: !!str debug\ntrain: {steps: 3}\n", "tags");
  expect("train: [unclosed\n", "recipe.yaml:");
  expect(kGood + "---\nmodel: debug\n", "second YAML document");
  expect("- a\n- b\n", "expected sections");
  expect("just words\n", "expected sections");
  expect(std::string("model: debug\n\0", 14), "recipe.yaml:2: not text");
  expect("model: debug\ntrain:\n  steps: \xff\n", "recipe.yaml:3: not text");
  expect(std::string(200000, '['), "recipe.yaml:");
  expect(std::string((1 << 20) + 1, ' '), "larger than 1 MiB");
  expect("train: 3\nmodel: debug\n", "recipe.yaml:1: train: is a section");
  std::string many = "data: {store: [";
  for (int i = 0; i < 100001; ++i) many += "1,";
  expect(many + "1]}\n", "more than 100000 values");
}

TEST_CASE("The model is a preset, a file, or fields", "[trainer][config]") {
  expect("model: deepseek-v4\ntrain: {steps: 3}\n", "recipe.yaml:1: model = deepseek-v4: no such preset; there are deepseek-v3");
  expect("train: {steps: 3}\n", "no model");
  expect("", "no model");
  expect("model: {preset: debug, config: a.json}\ntrain: {steps: 3}\n", "give one of them");
  expect("model: nowhere/config.json\ntrain: {steps: 3}\n", "nowhere/config.json: no such file");
  const auto parse = [](const std::string& yaml, const std::vector<std::string>& overrides = {}) {
    return parse_run_config(yaml, "r", overrides, ATOLL_SOURCE_DIR);
  };
  CHECK(parse("model: tests/golden/deepseek_v3_tiny/config.json\ntrain: {steps: 3}\ndata: {seq_len: 64}\n").model.hidden_size == 64);
  const RunConfig replaced = parse("model: {preset: quickstart, hidden_size: 512}\ntrain: {steps: 3}\n", {"model=debug", "model.vocab_size=100"});
  CHECK(replaced.model.hidden_size == model_preset("debug")->hidden_size);
  CHECK(replaced.model.vocab_size == 100);
}

TEST_CASE("Rules between keys are checked", "[trainer][config]") {
  expect("model: debug\n", "train.steps = 0: give the length of the run");
  expect(kGood, "train.steps is given too", {"train.tokens=10M"});
  expect(kGood, "parallel.pp = 4: more stages than the model's 3 layers", {"parallel.pp=4"});
  expect(kGood, "parallel.ep = 16: more ranks than the 8 experts", {"parallel.ep=16"});
  expect(kGood, "parallel.ep = 2: the model has no routed experts", {"parallel.ep=2", "model.n_routed_experts=0"});
  expect(kGood, "parallel.stage_layers = [2, 2]: sums to 4, the model has 3 layers (model.num_hidden_layers; MTP is on the last stage and is not counted)", {"parallel.pp=2", "parallel.stage_layers=[2,2]"});
  expect(kGood, "2 entries for 1 stages", {"parallel.stage_layers=[2,2]"});
  expect(kGood, "parallel.schedule = interleaved: schedule interleaved needs at least 2 stages a rank (vpp), not 1", {"parallel.pp=2", "parallel.schedule=interleaved"});
  expect(kGood, "parallel.schedule = 1f1b: schedule 1f1b fixes the stages a rank holds itself: vpp must be 1 (unset), not 2", {"parallel.pp=2", "parallel.vpp=2"});
  expect(kGood, "parallel.schedule = dualpipe: schedule dualpipe needs an even number of ranks", {"parallel.pp=3", "parallel.schedule=dualpipe"});
  expect(kGood, "parallel.schedule = dualpipev: 4 stages on parallel.pp = 2 ranks are more than the model's 3 layers", {"parallel.pp=2", "parallel.schedule=dualpipev"});
  expect(kGood, "parallel.stage_layers = [2, 1]: 2 entries for 3 stages (parallel.pp = 1, parallel.schedule = interleaved)",
         {"parallel.schedule=interleaved", "parallel.vpp=3", "parallel.stage_layers=[2,1]"});
  expect(kGood, "every stage needs at least one layer", {"parallel.pp=2", "parallel.stage_layers=[3,0]"});
  expect(kGood, "longer than model.max_position_embeddings", {"data.seq_len=4096"});
  expect(kGood, "the first point must be 0", {"train.bias_gamma=[[1M, 0.1]]"});
  expect(kGood, "points must ascend", {"train.bias_gamma=[[0, 1], [2M, 0.1], [1M, 0]]"});
  expect(kGood, "train.lr.min = 0.5: must lie in 0..0.001 (max)", {"train.lr.min=0.5"});
  expect(kGood, "must be a plain folder name", {"run.name=../x"});
  expect(kGood, "train.batch_ramp.start = 100: larger than train.global_batch", {"train.batch_ramp.start=100", "train.batch_ramp.until_tokens=1M"});
  expect(kGood, "expected key=value", {"--fast"});
}

TEST_CASE("Numbers that would not fit, or divide by zero, are refused", "[trainer][config]") {
  expect(kGood, "train.adam.eps=0 (command line): out of range: must be 1e-30..1", {"train.adam.eps=0"});
  expect(kGood, "out of range: must be 1e-30..1", {"train.adam.eps=1e-46"});
  expect(kGood, "out of range: must be 0..1M", {"checkpoint.keep_last=4294967297"});
  expect(kGood, "out of range", {"train.steps=1000000T"});
  expect(kGood, "more than 10^18 tokens in the whole run", {"train.steps=100T", "train.global_batch=1M"});
  expect(kGood, "more than 10^17 tokens a step", {"train.global_batch=2B", "data.seq_len=1B"});
  const std::vector<std::string> ramp = {"train.batch_ramp.start=1", "train.batch_ramp.until_tokens=10T", "train.global_batch=1B"};
  expect(kGood, "more than 10M sizes", ramp);
  CHECK(parse_run_config(kGood, "r", {"checkpoint.keep_last=1000000", "train.adam.eps=1e-30"}).checkpoint.keep_last == 1000000);
}

TEST_CASE("A ramp as long as a run of 10T tokens is measured at once", "[trainer][config]") {
  const RunConfig c = parse_run_config("model: debug\ntrain: {tokens: 10T}\n", "r", {"train.batch_ramp={start: 1, until_tokens: 10T}", "train.global_batch=8", "data.seq_len=64"});
  const int64_t steps = c.total_steps();  // more than 2.6e10: a walk over them would take minutes
  CHECK(steps > 10'000'000'000'000 / (8 * 64));
  CHECK(c.batch().after(steps).tokens >= c.train.tokens);
  CHECK(c.batch().after(steps - 1).tokens < c.train.tokens);
}

TEST_CASE("The resolved configuration reads back to the same, whatever the values", "[trainer][config]") {
  std::vector<RunConfig> configs{parse_run_config(kGood, "r")};
  configs.push_back(parse_run_config(
      "model: deepseek-v2-lite\ntrain: {tokens: 14800B}\n", "r",
      {"data.store=a \"quoted\" \\ path: #1", "run.name=null",
       "train.lr={max: 2.2e-4, min: 2.2e-5, warmup: 2000 steps, constant_until: 10T, decay_until: 14300B}", "train.lr.plateaus=[[14633B, 7.3e-6]]",
       "train.mtp_lambda=[[0, 0.3], [10T, 0.1]]", "train.adam.eps=1e-20", "train.clip_norm=0.1", "memory.routed=513MiB",
       "train.batch_ramp={start: 3072, until_tokens: 469B}", "train.global_batch=15360", "train.seed=9223372036854775807", "train.adam.moments=bf16",
       "model.rope_scaling={type: yarn, factor: 40, mscale: 0.707, mscale_all_dim: 0.707}", "parallel={pp: 2, stage_layers: [20, 7]}", "train.dtype=fp64",
       "data.document_mask=false", "parallel.schedule=gpipe-w-last", "log.level=warn", "train.bf16_gemm=widen"}));
  for (const RunConfig& c : configs) {
    const std::string yaml = resolved_yaml(c);
    INFO(yaml);
    const RunConfig back = parse_run_config(yaml, "resolved");
    CHECK(resolved_yaml(back) == yaml);
    CHECK(forbidden_changes(yaml, back).empty());
    CHECK(back.data.store == c.data.store);
    CHECK(back.run.name == c.run.name);
    CHECK(back.train.lr == c.train.lr);
    CHECK(back.train.adam.eps == c.train.adam.eps);
    CHECK(back.model.q_lora_rank == c.model.q_lora_rank);
    CHECK(back.memory.routed == c.memory.routed);
    CHECK(back.train.seed == c.train.seed);
    CHECK(back.parallel.stage_layers == c.parallel.stage_layers);
  }
}

TEST_CASE("Every key is printed and every printed value is accepted", "[trainer][config]") {
  const RunConfig c = parse_run_config(kGood, "r");
  for (const ConfigKey& key : config_schema()) {
    INFO(key.name);
    CHECK_FALSE(key.doc.empty());
    CHECK(find_key(key.name) == &key);
    const std::string value = key.print(c);
    if (key.name != "train.tokens") CHECK(error_of(kGood, {key.name + "=" + value}).empty());
  }
}

TEST_CASE("What may not change on resume is named with both values", "[trainer][config]") {
  const RunConfig old = parse_run_config(kGood, "r");
  const auto changes = [&](const std::vector<std::string>& overrides) {
    return forbidden_changes(resolved_yaml(old), parse_run_config(kGood, "r", overrides));
  };
  CHECK(changes({}).empty());
  CHECK(changes({"train.steps=40", "parallel.pp=2", "parallel.ep=2", "train.micro_batch=2", "checkpoint.every=5", "log.every=3", "train.threads=1",
                 "train.lr.max=0.01", "eval.every=3", "memory.routed=1GiB", "run.name=other", "train.resume=never", "data.store=moved"})
            .empty());
  const auto forbidden =
      changes({"train.seed=7", "model.hidden_size=128", "train.global_batch=16", "train.adam.beta2=0.99", "data.seq_len=32", "train.steps=40"});
  REQUIRE(forbidden.size() == 5);
  CHECK(forbidden[0].find("model.hidden_size: was 64, is 128; ") == 0);
  CHECK(forbidden[1].find("data.seq_len: was 512, is 32; ") == 0);
}

TEST_CASE("A recipe that cannot be read is one clear error", "[trainer][config]") {
  CHECK_THROWS_WITH(load_run_config("/nowhere/a.yaml"), "/nowhere/a.yaml: no such recipe");
  CHECK_THROWS_WITH(load_run_config("quickstart"), "quickstart: no such recipe; give its file, for example launch/recipes/quickstart.yaml");
  CHECK_THROWS_WITH(load_run_config(ATOLL_SOURCE_DIR), Catch::Contains("not a file"));
}

TEST_CASE("docs/configuration.md is what the table says", "[trainer][config]") {
  std::ifstream file(std::string(ATOLL_SOURCE_DIR) + "/docs/configuration.md");
  std::ostringstream text;
  text << file.rdbuf();
  if (text.str() != configuration_reference()) {  // the fresh text lies beside the tests' binary for copying
    std::ofstream("configuration.md") << configuration_reference();
    FAIL("docs/configuration.md is stale: replace it by ./configuration.md, or by the output of `atoll config reference`");
  }
}
