// What a stranger gets wrong in a plan, and what the planner says: the place, what is wrong, and what would be right.
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>

#include "plan_fixture.h"
#include "trainer/plan/search.h"

using namespace atoll;
using namespace atoll::plan;
using Catch::Matchers::Contains;

namespace {
const std::string kStage = "{name: 32K, seq_len: 32768, global_batch: 1920, steps: 1000, cp: 8}";

// A shipped file with one text of it replaced, as a file of its own.
class Changed {
 public:
  Changed(const std::string& file, const std::string& from, const std::string& to) {
    std::string yaml = read_text(kLaunch + "/" + file);
    const size_t at = yaml.find(from);
    REQUIRE(at != std::string::npos);
    yaml.replace(at, from.size(), to);
    std::ofstream(path) << yaml;
  }
  ~Changed() { std::filesystem::remove(path); }
  const std::string path = (std::filesystem::temp_directory_path() / ("atoll-plan-faults-" + std::to_string(++count) + ".yaml")).string();

 private:
  static inline int count = static_cast<int>(std::hash<std::string>{}(std::filesystem::current_path().string()) % 100000) * 100;
};

std::string plan_error(std::vector<std::string> arguments, const std::string& recipe = "deepseek-v3") {
  return error_text([&] { load_plan(recipe, arguments, kFolders); });
}
Report with_stage(const std::string& stage) {
  const Changed recipe("recipes/deepseek-v3.yaml", kStage, stage);
  return make_report(load_plan(recipe.path, {"cluster=h800-2048"}, kFolders), false);
}
std::string stage_problem(const std::string& stage) {
  const Report r = with_stage(stage);
  return r.context_problems.empty() ? "" : r.context_problems.front();
}
}  // namespace

TEST_CASE("A layout that the cluster cannot hold is refused with advice that it can", "[plan]") {
  CHECK_THAT(plan_error({"cluster=laptop"}), Contains("pp=16 x tp=1 x cp=1 = 16 GPUs") && Contains("the cluster has 2") && !Contains("set plan.gpus"));
  CHECK_THAT(plan_error({"cluster=h800-2048", "parallel.tp=256"}), Contains("the cluster has 2048") && !Contains("set plan.gpus"));
  CHECK_THAT(plan_error({"cluster=h800-2048", "parallel.tp=3"}),
             Contains("not divisible by pp=16 x tp=3") && Contains("tp=3 does not divide 128 attention heads") && !Contains("set plan.gpus"));
  CHECK_THAT(plan_error({"cluster=h800-2048", "parallel.pp=12"}), Contains("set plan.gpus=1536"));
  CHECK_THAT(plan_error({"cluster=h800-2048", "parallel.pp=12", "plan.gpus=1536"}), !Contains("GPUs") && !Contains("ep=") && !Contains("global_batch"));  // advice that holds
  CHECK_THAT(plan_error({"cluster=laptop", "parallel.tp=3"}), Contains("the cluster has 2") && Contains("tp=3 does not divide"));
  CHECK_THAT(plan_error({"cluster=h800-2048", "cluster=laptop"}), Contains("cluster=laptop") && Contains("given twice"));
  CHECK_THAT(plan_error({"cluster=h800-2048", "plan.cluster=laptop"}), Contains("(command line): plan.cluster") && Contains("cluster=NAME"));
  CHECK_THAT(plan_error({"cluster=h800-2048", "plan.context=[]"}), Contains("(command line): plan.context") && Contains("in a recipe"));
  CHECK_THAT(plan_error({"cluster=h800-2048", "plan.schedule=dualpip"}),
             Contains("(command line): plan.schedule = dualpip: expected one of") && Contains("dualpipev"));
  CHECK_THAT(plan_error({"cluster=/nowhere/c.yaml"}), Contains("/nowhere/c.yaml: no such file"));
}

TEST_CASE("A preset's batch is one that the layout divides, and said to be chosen; one that was asked for is kept", "[plan]") {
  const Report r = make_report(load_plan("deepseek-v2", {"cluster=h800-2048", "parallel.pp=4", "train.micro_batch=3"}, kFolders), false);
  CHECK(r.in.run.train.global_batch == 512 * 3);
  CHECK_THAT(report_text(r), Contains("batch: 1536 sequences") && Contains("the preset names none"));
  CHECK(load_plan("deepseek-v2", {"cluster=h200-8"}, kFolders).run.train.global_batch == 8);
  CHECK_THAT(plan_error({"cluster=h800-2048", "train.global_batch=7"}, "deepseek-v2"), Contains("train.global_batch = 7: not divisible by dp=2048"));
  CHECK_THAT(report_text(make_report(load_plan("deepseek-v2", {"cluster=h200-8", "train.global_batch=16"}, kFolders), false)), !Contains("the preset names none"));
}

TEST_CASE("A calibration that is not there is named with its line, one of another device is told on the page", "[plan]") {
  const Changed missing("clusters/h800-2048.yaml", "calibration: h800", "calibration: h80");
  CHECK_THAT(plan_error({"cluster=" + missing.path}), Contains(missing.path + ":7: gpu.calibration = h80: no such calibration; did you mean h800?"));
  const Changed other("clusters/h800-2048.yaml", "calibration: h800", "calibration: h100");
  CHECK_THAT(report_text(make_report(load_plan("deepseek-v3", {"cluster=" + other.path}, kFolders), false)), Contains("measured on H100, not on H800"));
  CHECK_THAT(report_text(make_report(load_plan("deepseek-v3", {"cluster=h800-2048"}, kFolders), false)), !Contains("measured on"));
  const Changed own("clusters/h800-2048.yaml", "calibration: h800", "calibration: " + kLaunch + "/calibration/h800.yaml");
  CHECK(plan_error({"cluster=" + own.path}).empty());
  const Changed section("clusters/h800-2048.yaml", "links:", "link:");
  CHECK_THAT(plan_error({"cluster=" + section.path}), Contains(":13: link: no such key; did you mean links?"));
}

TEST_CASE("A context stage that cannot be laid out is left out with its place and reason", "[plan]") {
  const auto stage = [](const std::string& more) { return "{name: 32K, seq_len: 32768, global_batch: 1920, steps: 1000, " + more + "}"; };
  CHECK(stage_problem(stage("cp: 8")).empty());
  CHECK_THAT(stage_problem(stage("cp: 8, ep: 48")), Contains(".yaml:27: plan.context 32K: ep=48"));
  CHECK_THAT(stage_problem(stage("cp: 8, ep: 512")), Contains("more ranks than the 256 experts"));
  CHECK_THAT(stage_problem(stage("cp: 7")), Contains("plan.context 32K: ") && Contains("not divisible by pp=16 x tp=1 x cp=7"));
  CHECK_THAT(stage_problem(stage("cp: 8, pp: 64, ep: 32")), Contains(".yaml:27: plan.context 32K: ") && Contains("64 stages"));
  CHECK_THAT(stage_problem(stage("cp: 1")), Contains("plan.context 32K: ") && Contains("even number of micro-batches"));
  CHECK_THAT(error_text([&] { with_stage(stage("cp: 8, schedule: dualpip")); }), Contains(".yaml:27: plan.context: schedule = dualpip: expected one of"));
  CHECK_THAT(error_text([&] { with_stage("{name: 128K, seq_len: 32768, global_batch: 1920, steps: 1000, cp: 8}"); }),
             Contains(".yaml:28: plan.context: name = 128K: given twice"));
  const Changed fleet("recipes/deepseek-v3.yaml", "gpu: H100, count", "gpu: H800, count");
  CHECK_THAT(plan_error({"cluster=h800-2048"}, fleet.path), Contains(".yaml:33: plan.fleet: gpu = H800: given twice"));
  const Changed published("recipes/deepseek-v3.yaml", "value: 19.926", "value: 0");
  CHECK_THAT(plan_error({"cluster=h800-2048"}, published.path), Contains(".yaml:35: plan.published: value = 0: out of range"));
}

TEST_CASE("A context stage has its own memory, and tensor parallelism of its own", "[plan]") {
  const Report eight = with_stage(kStage), two = with_stage("{name: 32K, seq_len: 32768, global_batch: 1920, steps: 1000, cp: 8, tp: 2}"),
               four = with_stage("{name: 32K, seq_len: 32768, global_batch: 3840, steps: 1000, cp: 4}");
  CHECK(eight.ledger.value("context.32K.memory") < 80e9);
  CHECK(two.context.front().priced.tp == 2);
  CHECK(two.ledger.value("context.32K.memory") < eight.ledger.value("context.32K.memory"));
  CHECK(four.ledger.value("context.32K.memory") > 80e9);
  CHECK_THAT(report_text(four), Contains("context 32K") && Contains("DOES NOT FIT"));
}

TEST_CASE("A guess at an item's name leads to it", "[plan]") {
  const Report r = make_report(load_plan("deepseek-v3", {"cluster=h800-2048"}, kFolders), false);
  const auto answer = [&](const std::string& name) { return error_text([&] { r.ledger.explain(name); }); };
  CHECK_THAT(answer("mfu"), Contains("there are mfu.causal, mfu.non_causal"));
  CHECK_THAT(answer("cost"), Contains("cost.headline") && !Contains("did you mean host"));
  CHECK_THAT(answer("Goodput"), Contains("failures.goodput"));
  CHECK_THAT(answer("parameters"), Contains("model.parameters"));
  CHECK_THAT(answer("STEP_TIME"), Contains("step_time"));
  CHECK(answer("nonsense").size() < 3000);
  CHECK_THAT(answer("nonsense"), Contains("step_time") && Contains("tco.total") && !Contains("layer.attn_forward.q_a"));
  CHECK(r.ledger.value("model.parameters") == 671026419200.0);
  CHECK(r.ledger.value("memory.zipf") > r.ledger.value("memory.total"));
  CHECK_THAT(r.ledger.explain("tokens_per_step"), Contains("train.global_batch = 15360") && Contains("data.seq_len = 4096"));
  CHECK_THAT(r.ledger.explain("context.32K.step_time"), Contains("context.32K.pipeline"));
}

TEST_CASE("A run whose failures outpace its restarts is said never to end, and a small run's hours are not zero", "[plan]") {
  const auto text = [](const std::string& recipe, std::vector<std::string> arguments) {
    return report_text(make_report(load_plan(recipe, arguments, kFolders), false));
  };
  CHECK_THAT(text("deepseek-v3", {"cluster=h800-2048", "cluster.reliability.gpu_mtbf=1 h"}), Contains("never ends"));
  CHECK_THAT(text("deepseek-v3", {"cluster=h800-2048"}), !Contains("never ends"));
  CHECK_THAT(text("quickstart", {"cluster=laptop"}), !Contains("  0 GPU-hours        $0.00   1.802 M"));
  CHECK(show(0.1427, Unit::kCount) == "0.143");
  CHECK(show(5000, Unit::kCount) == "5000");
  CHECK(show(174348.4, Unit::kCount) == "174348");
  CHECK(show(0, Unit::kCount) == "0");
}

TEST_CASE("A price, a stall or an overlap at the edge of what is allowed gives numbers or an error", "[plan]") {
  const auto report = [](const std::string& argument) { return make_report(load_plan("deepseek-v3", {"cluster=h800-2048", argument}, kFolders), false); };
  const Report free = report("cluster.prices.gpu_hour=0 $/h"), instant = report("cluster.reliability.checkpoint=0 s");
  for (const Report* r : {&free, &instant})
    for (const Entry& e : r->ledger.all()) {
      INFO(e.name);
      CHECK(std::isfinite(e.value));
    }
  CHECK_THAT(report_text(free), !Contains("inf"));
  CHECK(instant.ledger.value("failures.goodput") == Approx(1 - 600 * 2048 / (50700 * 3600.0)));
  CHECK_THAT(plan_error({"cluster=h800-2048", "plan.comm_sms=132"}), Contains("(command line): plan.comm_sms = 132: the device has 132"));
  CHECK_THAT(plan_error({"cluster=h800-2048", "train.global_batch=15361"}), Contains("15360 or 15616"));  // 15488 would be 121 micro-batches, which DualPipe refuses
  CHECK_THAT(plan_error({"cluster=h800-2048", "train.global_batch=129", "train.batch_ramp.start=0"}), Contains("as 4096"));  // and fewer than 32
  CHECK_THAT(plan_error({"cluster=h100-1024"}, "debug"), Contains("train.global_batch = 8") && Contains("as 1024"));
}

TEST_CASE("A search goes on where the given layout cannot be built, and says why it cannot", "[plan]") {
  const PlanInput in = load_plan("deepseek-v2-lite", {"cluster=h200-8", "train.global_batch=64", "parallel.ep=3"}, kFolders, true);
  CHECK_THROWS_AS(load_plan("deepseek-v2-lite", {"cluster=h200-8", "train.global_batch=64", "parallel.ep=3"}, kFolders), ConfigError);
  const Search s = search_layouts(in);
  REQUIRE(!s.front.empty());
  CHECK_THAT(s.why_not_given, Contains("ep=3") || Contains("parallel.ep"));
  CHECK_THAT(search_text(s), Contains("as given: cannot be built: " + s.why_not_given) && !Contains("of the given plan's step"));
  CHECK_THAT(search_json(s), Contains("\"problem\""));
  CHECK_THAT(search_svg(s), Contains("as given: cannot be built"));
}

TEST_CASE("A search that finds nothing says why", "[plan]") {
  const auto search_error = [](std::vector<std::string> arguments) {
    return error_text([&] { search_layouts(load_plan("deepseek-v3", arguments, kFolders, true)); });
  };
  CHECK_THAT(search_error({"cluster=h800-2048", "cluster.nodes=125"}), Contains("can be built; the one as given: 1000 GPUs"));
  const std::string none = search_error({"cluster=h200-8", "parallel.pp=8", "parallel.ep=1", "parallel.schedule=1f1b"});
  CHECK_THAT(none, Contains("fits 141 GB") && Contains("exceed it") && !Contains("none of 0 "));
}

TEST_CASE("A search says at what rate of its smaller GEMMs the given plan would be as fast", "[plan]") {
  const PlanInput in = load_plan("deepseek-v2-lite", {"cluster=h200-8", "train.global_batch=64", "parallel.ep=8", "train.micro_batch=8"}, kFolders);
  const Search s = search_layouts(in);
  const auto hinge = std::find_if(s.hinges.begin(), s.hinges.end(), [](const std::string& h) { return h.find("hinges on GEMMs of ") == 0; });
  REQUIRE(hinge != s.hinges.end());
  INFO(*hinge);
  const double share = std::stod(hinge->substr(hinge->find(" at ", hinge->find("shape")) + 4)) / 100;
  CHECK(share < 1);
  const auto step = [&](double factor) {
    PlanInput slower = s.front.front().in;
    for (Rate& r : slower.calibration.rates)
      if (r.op != "attention") r.flops *= factor;
    return predict_step(slower, pretraining(slower), nullptr).step;
  };
  CHECK(step(share + 0.006) < s.given.step);
  CHECK(step(share - 0.006) > s.given.step);
}

TEST_CASE("Every key that a plan's numbers depend on is an input of one, so that --explain comes to it", "[plan]") {
  const Report r = make_report(load_plan("deepseek-v3", {"cluster=h800-2048", "parallel.tp=2"}, kFolders), false);
  std::set<std::string> used;
  for (const Entry& e : r.ledger.all()) used.insert(e.inputs.begin(), e.inputs.end());
  const std::set<std::string> known = {"cluster.name",
                                       "cluster.gpu.name",
                                       "cluster.gpu.calibration",  // who, not how much
                                       "cluster.gpu.fp8",
                                       "cluster.switches.tiers",  // checked against others, priced nowhere
                                       "plan.kv_heads",
                                       "plan.stages",
                                       "parallel.etp"};
  for (const Entry& e : r.ledger.all())
    if (e.name.rfind("plan.", 0) == 0 || e.name.rfind("cluster.", 0) == 0) {
      INFO(e.name);
      CHECK((used.count(e.name) == 1 || known.count(e.name) == 1));
    }
}

TEST_CASE("A phase of a layer is the sum of what --explain names below it, collectives included", "[plan]") {
  for (const char* layout : {"parallel.tp=2", "parallel.cp=1"}) {
    const Report r = make_report(load_plan("deepseek-v3", {"cluster=h800-2048", layout}, kFolders), false);
    for (const char* phase : {"attn_forward", "mlp_forward", "mlp_backward", "mlp_weight", "attn_backward", "attn_weight"}) {
      const Entry* e = r.ledger.find(std::string("layer.") + phase);
      REQUIRE(e != nullptr);
      INFO(layout << " " << phase);
      double sum = 0;
      for (const std::string& input : e->inputs) sum += r.ledger.value(input);
      CHECK(sum == Approx(e->value).epsilon(1e-9));
    }
  }
}

TEST_CASE("A peak below a rate that its own device reached is refused with both lines; of another device it is told on the page", "[plan]") {
  const Changed slow("clusters/h800-2048.yaml", "bf16: {value: 989 TFLOPS", "bf16: {value: 300 TFLOPS");
  CHECK_THAT(plan_error({"cluster=" + slow.path}), Contains(slow.path + ":8: gpu.bf16 = 300 TFLOPS: less than what calibration/h800.yaml:") && Contains("reached") &&
                                                       !Contains("gpu.fp8 ="));
  CHECK_THAT(plan_error({"cluster=h800-2048", "cluster.gpu.bf16=500 TFLOPS", "cluster.gpu.fp8=500 TFLOPS"}),
             Contains("(command line): gpu.bf16 = 500 TFLOPS") && Contains("(command line): gpu.fp8 = 500 TFLOPS"));
  CHECK(plan_error({"cluster=h800-2048", "cluster.gpu.bf16=989 TFLOPS"}).empty());
  const auto text = [](const std::string& argument) {
    return report_text(make_report(load_plan("deepseek-v3", {"cluster=h800-2048", "cluster.gpu.name=other", argument}, kFolders), false));
  };
  CHECK_THAT(text("cluster.gpu.bf16=500 TFLOPS"), Contains("careful: calibration/h800.yaml:") && Contains("cluster.gpu.bf16 = 500 TFLOPS"));
  CHECK_THAT(text("cluster.gpu.bf16=989 TFLOPS"), !Contains("more than cluster.gpu"));
}

TEST_CASE("A section that is given twice is refused with both lines", "[plan]") {
  const Changed links("clusters/h800-2048.yaml", "switches: {tiers: 2}", "links:\n  intra: {latency: 1 us}");
  CHECK_THAT(plan_error({"cluster=" + links.path}), Contains(links.path + ":20: links: duplicate section, first given at " + links.path + ":13"));
  const Changed plan("recipes/deepseek-v3.yaml", "plan:", "plan:\n  tco: {years: 5}\n  tco: {utilisation: 0.5}");
  CHECK_THAT(plan_error({"cluster=h800-2048"}, plan.path), Contains("plan.tco: duplicate section, first given at"));
}

TEST_CASE("Context parallelism cuts a sequence into whole pieces, and no stage is longer than the model's positions", "[plan]") {
  CHECK_THAT(plan_error({"cluster=h800-2048", "data.seq_len=2", "parallel.cp=128"}), Contains("cp=128: 2 tokens of a sequence are not cut into 2 x cp = 256 equal pieces"));
  const auto stage = [](const std::string& more) { return "{name: 32K, global_batch: 1920, steps: 1000, " + more + "}"; };
  CHECK_THAT(stage_problem(stage("seq_len: 2, cp: 128")), Contains(".yaml:27: plan.context 32K: ") && Contains("256 equal pieces"));
  CHECK_THAT(stage_problem(stage("seq_len: 64, cp: 128")), Contains("256 equal pieces"));
  CHECK_THAT(stage_problem(stage("seq_len: 16392, cp: 8")), Contains("16 equal pieces"));  // a multiple of 8, not of 16
  CHECK(stage_problem(stage("seq_len: 16400, cp: 8")).empty());
  const Changed yarn("recipes/deepseek-v3.yaml", kStage, stage("seq_len: 262144, cp: 8"));
  const auto problem = [&](const std::string& factor) {
    const Report r = make_report(load_plan(yarn.path, {"cluster=h800-2048", "model.rope_scaling.type=yarn", "model.rope_scaling.factor=" + factor}, kFolders), false);
    return r.context_problems.empty() ? "" : r.context_problems.front();
  };
  CHECK_THAT(problem("40"), Contains(".yaml:27: plan.context 32K: seq_len = 262144: longer than the 163840 positions of the model with its YaRN"));
  CHECK(problem("64").empty());
  CHECK_THAT(error_text([&] { with_stage(stage("seq_len: 1000000000, cp: 8")); }), Contains(".yaml:27: plan.context: seq_len = 1000000000: out of range"));
}

TEST_CASE("A step of more micro-batches than a schedule may have is refused before it is built", "[plan]") {
  CHECK_THAT(plan_error({"cluster=h800-2048", "train.global_batch=1280000000"}), Contains("global_batch = 1280000000: 10000000 micro-batches on 16 stages: at most 4096 stages, and 4 million"));
  CHECK(plan_error({"cluster=h800-2048", "train.global_batch=32000000"}).empty());  // 250,000 on 16 stages
  CHECK_THAT(plan_error({"cluster=h800-2048", "train.global_batch=32000128"}), Contains("4 million (stage, micro-batch) pairs"));
  const std::vector<std::string> zero_in_64_bits = {"cluster=h800-2048", "cluster.nodes=524288",   "cluster.gpus_per_node=1024", "cluster.power.node=0 W",
                                                    "parallel.pp=1",     "parallel.schedule=1f1b", "data.seq_len=2048",          "train.micro_batch=65536",
                                                    "plan.flushes=524288"};  // 2^29 ranks x 2^16 x 2^19
  CHECK_THAT(plan_error(zero_in_64_bits), Contains("train.global_batch = 15360: not divisible by dp=536870912"));
  CHECK_THAT(stage_problem("{name: 32K, seq_len: 32768, global_batch: 1000000000, steps: 1000, cp: 8}"), Contains(".yaml:27: plan.context 32K: global_batch = 1000000000: "));
}

TEST_CASE("The docs have every key of a cluster's file", "[plan]") {
  for (const SheetKey& k : cluster_schema()) CHECK_THAT(plan_reference(), Contains("| " + k.name + " | "));
}

TEST_CASE("A plan section that is not what it should be is refused with its line, once", "[plan]") {
  const auto section = [](const std::string& yaml) {
    std::string all;
    for (const std::string& e : plan_section_errors(*find_entry(read_tree("plan: " + yaml, "r.yaml"), "plan"), "r.yaml")) all += (all.empty() ? "" : "; ") + e;
    return all;
  };
  CHECK(section("{zero: {value: 1, source: me}}").empty());
  CHECK(section("3") == "r.yaml:1: plan: expected keys below it, found 3");
  CHECK(section("[a]") == "r.yaml:1: plan: expected keys below it, found [a]");
  CHECK(section("{context: [a]}") == "r.yaml:1: plan.context: expected {...}, found a");
  CHECK(section("{zero: {value: 1, value: 2}}") == "r.yaml:1: plan.zero.value: given twice");
  CHECK(section("{zero: {value: 1, source: [a]}}") == "r.yaml:1: plan.zero.source: expected text, found [a]");
  CHECK(section("{recompute: [norms, norms]}") == "r.yaml:1: plan.recompute = [norms, norms]: 'norms' is given twice");
  const auto v3_error = [](const std::string& argument) {
    return error_text([&] { make_report(load_plan("deepseek-v3", {"cluster=h800-2048", argument}, kFolders), false); });
  };
  CHECK_THAT(v3_error("plan.stages=[e9999999999999999999999h]"), Contains("(command line): plan.stages: 'e9999999999999999999999h'"));
  CHECK_THAT(v3_error("plan.stages=[x]"), Contains("(command line): plan.stages: 'x'"));
  CHECK_THAT(v3_error("plan.stages=[e3, 4h]"), Contains("(command line): plan.stages: 2 stages"));
  CHECK_THAT(v3_error("plan.kv_heads=3"), Contains("(command line): plan.kv_heads = 3: does not divide 128 attention heads"));
}
