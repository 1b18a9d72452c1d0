// The planner: its data files, the arithmetic of shapes, DeepSeek-V3's published step, memory and money. Figures that were published are written out here, not
// computed.
#include <catch2/catch.hpp>
#include <cmath>

#include "plan_fixture.h"
#include "model/flops.h"
#include "trainer/plan/search.h"

using namespace atoll;
using namespace atoll::plan;
using Catch::Matchers::Contains;

namespace {
std::string cluster_error(const std::string& from, const std::string& to) {
  std::string yaml = read_text(kLaunch + "/clusters/h800-2048.yaml");
  const size_t at = yaml.find(from);
  REQUIRE(at != std::string::npos);
  yaml.replace(at, from.size(), to);
  return error_text([&] { parse_cluster(yaml, "c.yaml"); });
}
}  // namespace

TEST_CASE("Every shipped cluster and calibration is read, and every figure of a cluster's file has a source or a default", "[plan]") {
  for (const char* name : {"h800-2048", "h100-1024", "h200-8", "laptop"}) {
    const Cluster c = load_cluster(name, kFolders.clusters);
    CHECK(c.name == name);
    const Calibration k = load_calibration(c.calibration, kFolders.calibration);
    CHECK(k.gpu == c.gpu);
    for (const char* pass : {"forward", "input", "weight"}) CHECK(k.find("gemm", pass, "bf16", 4096, 7168, 7168, c.sms).flops > 0);
    for (const Rate& r : k.rates) CHECK(!r.source.empty());
    for (const char* key : {"gpu.bf16", "gpu.fp8", "gpu.memory", "links.intra.bandwidth", "links.inter.bandwidth", "prices.gpu_hour"})
      CHECK(!c.sheet.at(key).source.empty());
  }
}

TEST_CASE("An exchange takes its library's figures of the nearest EP size, and general ones where the library was not measured", "[plan]") {
  const std::string text = "gpu: X\nrates:\n  - {op: gemm, pass: forward, precision: bf16, m: 1, n: 1, k: 1, rate: 1 TFLOPS, sms: 1, source: s}\nexchanges:\n";
  const Calibration c = parse_calibration(text +
                                              "  - {of: all, fraction: 0.5, source: s}\n  - {of: dispatch, by: a, ranks: 16, fraction: 0.6, fixed: 1 ms, source: s}\n"
                                              "  - {of: dispatch, by: a, ranks: 64, fraction: 0.7, source: s}\n",
                                          "c.yaml");
  CHECK(c.exchange_of("dispatch", "a", 16).fraction == 0.6);
  CHECK(c.exchange_of("dispatch", "a", 16).fixed == 1e-3);
  CHECK(c.exchange_of("dispatch", "a", 31).fraction == 0.6);
  CHECK(c.exchange_of("dispatch", "a", 33).fraction == 0.7);
  CHECK(c.exchange_of("combine", "a", 16).fraction == 0.5);
  CHECK(c.exchange_of("dispatch", "b", 16).fraction == 0.5);
  CHECK_THAT(error_text([&] { parse_calibration(text + "  - {of: combine, fraction: 1, source: s}\n", "c.yaml").exchange_of("dispatch", "a", 2); }), Contains("exchanges has no fraction of dispatch"));
  CHECK_THAT(error_text([&] { parse_calibration(text + "  - {of: all, fraction: 0.5, fixd: 1 s, source: s}\n", "c.yaml"); }),
             Contains("c.yaml:5: exchanges: fixd: no such key; did you mean fixed?"));
  // the fixed time is a part of the plan's exchanges
  const auto dispatch = [](const char* library) {
    const PlanInput in = load_plan(std::string(ATOLL_SOURCE_DIR) + "/tests/acceptance/published_runs/qwen3-30b-bridge-bf16.yaml",
                                   {std::string("plan.dispatch_library=") + library}, kFolders);
    return ChunkModel(in, {.ep = 16}).moe().dispatch.seconds;
  };
  CHECK(dispatch("hybridep") - dispatch("deepep") == Approx(0.353e-3 + 4096 * 1.9921875 / 2 * 4096 / 50e9 * (1 - 1 / 0.893)).epsilon(1e-6));
}

TEST_CASE("docs/planning.md has the table of keys that the program parses", "[plan]") {
  CHECK_THAT(read_text(std::string(ATOLL_SOURCE_DIR) + "/docs/planning.md"), Contains(plan_reference()));
}

TEST_CASE("A wrong cluster file is refused with its line, and with what would be right", "[plan]") {
  CHECK_THAT(cluster_error("nodes: {value: 256", "nodes: {value: 0"), Contains("c.yaml:3: nodes = 0: out of range"));
  CHECK_THAT(cluster_error("bf16: {value: 989 TFLOPS", "bf16: {value: 989"), Contains("c.yaml:8: gpu.bf16 = 989: expected a number with its unit"));
  CHECK_THAT(cluster_error("fp8: {value: 1979 TFLOPS", "fp8: {value: 79 TFLOPS"), Contains("c.yaml:9: gpu.fp8 = 79 TFLOPS: slower than gpu.bf16"));
  CHECK_THAT(cluster_error("bandwidth: {value: 50 GB/s", "bandwidth: {value: 500 GB/s"), Contains("are they swapped?"));
  CHECK_THAT(cluster_error("usable: {value: 0.8, source: \"arXiv 2505.09343, section 4.3: about 160", "usable: {value: 1.8, source: \"arXiv"),
             Contains("links.intra.usable = 1.8: out of range"));
  CHECK_THAT(cluster_error("gpus_per_node: 8", "gpus_per_nod: 8"),
             Contains("no such key; did you mean gpus_per_node?") && Contains("gpus_per_node is missing"));
  CHECK_THAT(cluster_error("  power: {value: 700 W", "  memory: 3 GB\n  power: {value: 700 W"), Contains("gpu.memory: duplicate key"));
  CHECK_THAT(cluster_error("  power: {value: 700 W", "  power: {value: 7 kW"), Contains("power.node = 10.2 kW: less than its GPUs'"));
  CHECK_THAT(error_text([] { load_cluster("h80-2048", kFolders.clusters); }), Contains("did you mean h800-2048?"));
  CHECK_THAT(error_text([] { v3({"plan.recompte=[]"}); }), Contains("did you mean recompute?"));
  CHECK_THAT(error_text([] { v3({"plan.recompute=[norm]"}); }), Contains("is not one of norms"));
  CHECK_THAT(error_text([] { v3({"parallel.pp=6"}); }), Contains("2048 GPUs are not divisible by pp=6"));
  CHECK_THAT(error_text([] {
               parse_calibration("gpu: x\nrates:\n  - {op: gem, pass: forward, precision: fp8, m: 1, n: 1, k: 1, rate: 1 TFLOPS, sms: 1, source: me}\n",
                                 "k.yaml");
             }),
             Contains("k.yaml:3: rates: op = gem: expected one of gemm, grouped, attention"));
  CHECK_THAT(error_text([] {
               parse_calibration("gpu: x\nrates:\n  - {op: gemm, pass: forward, precision: fp8, m: 1, n: 1, k: 1, rate: 1 TFLOPS, sms: 1}\n", "k.yaml");
             }),
             Contains("k.yaml:3: rates: source is missing"));
}

TEST_CASE("Every error of a planner's file has the line that it is about", "[plan]") {
  const auto calibration = [](const std::string& yaml) { return error_text([&] { parse_calibration(yaml, "k.yaml"); }); };
  const std::string rate = "  - {op: gemm, pass: forward, precision: fp8, m: 1, n: 1, k: 1, rate: 1 TFLOPS, sms: 1, source: me}\n";
  CHECK(calibration("gpu: x\nrates:\n" + rate).empty());
  CHECK_THAT(calibration("gpu: x\nrates:\n  - {op: gemm, op: grouped}\n"), Contains("k.yaml:3: rates: op: duplicate key"));
  CHECK_THAT(calibration("gpu: x\nrates:\n" + rate + "rates:\n" + rate), Contains("k.yaml:4: rates: duplicate key, first given at k.yaml:2"));
  CHECK_THAT(calibration("gpu: x\nsources: me\nrates:\n" + rate), Contains("k.yaml:2: sources: expected tag: text"));
  CHECK_THAT(calibration("gpu: x\nexchange:\nrates:\n" + rate), Contains("k.yaml:2: exchange: no such key; did you mean exchanges?"));
  CHECK_THAT(calibration("gpu: x\nrates:\n" + rate + "glue:\n  - {of: all, fraction: 1, source: ''}\n"), Contains("k.yaml:5: glue: source"));
  CHECK_THAT(cluster_error("  memory: {value: 80 GB, source: \"data sheet\"}\n", ""), Contains("c.yaml:5: gpu.memory is missing"));
  CHECK_THAT(cluster_error("prices:", "reliability: {gpu_mtbf: 1 min}\nprices:"), Contains("c.yaml:21: reliability.restart = 600 s: longer than reliability.gpu_mtbf = 60 s"));
  const std::string stage = "    - {name: a, seq_len: 8, global_batch: 8, steps: 8}\n";
  const auto section = [](const std::string& yaml) {
    std::string all;
    for (const std::string& e : plan_section_errors(find_entry(read_tree("plan:\n" + yaml, "r.yaml"), "plan")[0], "r.yaml")) all += e + "\n";
    return all;
  };
  CHECK(section("  context:\n" + stage).empty());
  CHECK_THAT(section("  context:\n    - {name: a, seq_len: 8}\n"), Contains("r.yaml:3: plan.context: global_batch is missing"));
  CHECK_THAT(section("  context:\n" + stage + "  context:\n" + stage), Contains("r.yaml:4: plan.context: duplicate key, first given at r.yaml:2"));
  CHECK_THAT(section("  cluster: [laptop]\n"), Contains("r.yaml:2: plan.cluster = [laptop]: expected"));
}

TEST_CASE("Numbers are read with their units and written back as people write them", "[plan]") {
  double v = 0;
  CHECK((parse_number("50 GB/s", Unit::kBandwidth, v).empty() && v == 50e9));
  CHECK((parse_number("400 Gb/s", Unit::kBandwidth, v).empty() && v == 50e9));
  CHECK((parse_number("90 %", Unit::kFraction, v).empty() && std::abs(v - 0.9) < 1e-15));
  CHECK((parse_number("$1.6B", Unit::kDollars, v).empty() && v == 1.6e9));
  CHECK((parse_number("31728 $", Unit::kDollars, v).empty() && v == 31728));
  for (const char* bad : {"50", "50 GB", "fast", "", "0x10 GB/s", "nan GB/s", "1e400 GB/s"}) CHECK(!parse_number(bad, Unit::kBandwidth, v).empty());
  CHECK(show(5.576e6, Unit::kDollars) == "$5.576 M");
  CHECK(show(0.0197, Unit::kSeconds) == "19.7 ms");
}

TEST_CASE("The ops of all blocks add up to the FLOPs that MFU counts", "[plan]") {
  for (const char* preset : {"deepseek-v3", "deepseek-v2", "deepseek-v2-lite", "quickstart", "debug"}) {
    const ModelConfig c = *model_preset(preset);
    WorkShape s;
    s.tokens = 1024;
    s.seq_len = 512;
    s.routed_rows = s.tokens * static_cast<double>(c.num_experts_per_tok);
    s.recompute.mla_up = true;  // done, not counted
    double sum = 0;
    for (int64_t l = 0; l < c.num_hidden_layers; ++l)
      for (const Work& w : block_work(c, l, s))
        if (!w.is_extra) sum += w.kind == WorkKind::kAttention ? (w.pass == WorkPass::kForward ? 3 * w.flops : 0) : w.flops;
    for (const Work& w : head_work(c, s)) sum += w.flops;
    INFO(preset);
    CHECK(sum / s.tokens == Approx(training_flops_per_token(c, 512)).epsilon(1e-12));
    CHECK(counted_flops_per_token(c, 0, 512, true) == training_flops_per_token(c, 512));
    const int64_t all = count_model(c).parameters;
    CHECK(total_parameters(c, 0, false) == all);
    int64_t blocks = 0;
    for (int64_t l = 0; l < c.num_hidden_layers; ++l) {
      const BlockParameters b = block_parameters(c, l, 0);
      blocks += b.shared + b.expert * b.num_experts;
    }
    CHECK(blocks + c.vocab_size * c.hidden_size * (c.tie_word_embeddings ? 1 : 2) + c.hidden_size == all - count_model(c).router_bias);
  }
}

TEST_CASE("Tensor parallelism divides a block's work and leaves nothing out", "[plan]") {
  const ModelConfig c = *model_preset("deepseek-v3");
  WorkShape s;
  s.tokens = 4096;
  s.seq_len = 4096;
  s.routed_rows = 32768;
  double one = 0, four = 0;
  for (const Work& w : block_work(c, 10, s)) one += w.flops;
  s.tp = 4;
  s.routed_rows /= 4;
  for (const Work& w : block_work(c, 10, s)) four += w.flops;
  CHECK(4 * four == Approx(one).epsilon(1e-12));
}

TEST_CASE("A token of DeepSeek-V3 crosses to 3.5 other nodes, and the published bytes leave a device", "[plan]") {
  const PlanInput in = v3();
  const ChunkModel model(in, {4096, 1, 1, 1, 64, 1, 128, 16});
  CHECK(model.routing().remote_nodes == Approx(3.5));
  CHECK(model.moe().dispatch.inter == Approx(4096 * 3.5 * (7168 + 4 * 56)));
  CHECK(model.moe().combine.inter == Approx(4096 * 3.5 * 7168 * 2));
  CHECK(model.moe().dispatch.inter / 1e6 == Approx(106).epsilon(0.001));
  CHECK(model.moe().combine.inter / 1e6 == Approx(205.5).epsilon(0.001));
  CHECK(model.shape().routed_rows == 32768);
}

TEST_CASE("A layer's phases take what DeepSeek's trace shows", "[plan]") {
  const PlanInput in = v3();
  const ChunkModel model(in, {4096, 1, 1, 1, 64, 1, 128, 16});
  const std::pair<WorkPhase, double> spans[] = {{WorkPhase::kAttnForward, 4.4e-3}, {WorkPhase::kMlpBackward, 5.5e-3},  {WorkPhase::kMlpWeight, 5.1e-3},
                                                {WorkPhase::kMlpForward, 4.4e-3},  {WorkPhase::kAttnBackward, 9.6e-3}, {WorkPhase::kAttnWeight, 2.4e-3}};
  for (const auto& [phase, seconds] : spans) {
    INFO(name_of(phase));
    CHECK(model.moe().of(phase) == Approx(seconds).epsilon(0.04));  // the trace's rank had 5 % fewer routed rows in F
  }
  const StageTimes four = model.stage({{20, 24}});
  CHECK(model.pair(four, four) == Approx(129e-3).epsilon(0.03));
}

TEST_CASE("A fused head moves its gradients into F and takes as long", "[plan]") {
  const PlanInput separate = v3({"plan.overlap=none"}), fused = v3({"plan.overlap=none", "plan.head=fused"});
  const ChunkModel::Layout layout = {4096, 1, 1, 1, 64, 1, 128, 16};
  const StageSpec last = {.layers = {60, 61}, .has_head = true};
  const StageTimes a = ChunkModel(separate, layout).stage(last), b = ChunkModel(fused, layout).stage(last);
  CHECK(b.extra_backward == 0);
  CHECK(b.extra_weight == 0);
  CHECK(b.forward == Approx(a.forward + a.extra_backward + a.extra_weight));
  CHECK(b.forward + b.backward + b.weight == Approx(a.forward + a.backward + a.weight));
  CHECK(a.extra_backward > 0);
}

TEST_CASE("A pair takes at least its computation and its exchanges, and at most both", "[plan]") {
  for (const char* bandwidth : {"10 GB/s", "25 GB/s", "50 GB/s", "190 GB/s"}) {
    const PlanInput in = v3({std::string("cluster.links.inter.bandwidth=") + bandwidth});
    const ChunkModel model(in, {4096, 1, 1, 1, 64, 1, 128, 16});
    const StageTimes s = model.stage({{20, 24}});
    const LayerTimes& l = model.moe();
    double compute = 0;
    for (double p : l.phase) compute += 4 * p;
    const double exchanges = 4 * (l.dispatch.seconds + l.combine.seconds + l.grad_dispatch.seconds + l.grad_combine.seconds);
    const double pair = model.pair(s, s);
    CHECK(pair >= std::max(compute, exchanges) * (1 - 1e-12));
    CHECK(pair <= compute + exchanges);
    CHECK(s.forward + s.backward + s.weight == Approx(compute + exchanges));
  }
}

TEST_CASE("DeepSeek-V3's published step, hours and dollars are met within 10 %, and MFU is exact given the step", "[plan]") {
  const Report r = make_report(v3(), false);
  const Ledger& l = r.ledger;
  CHECK(l.value("step_time") == Approx(19.926).epsilon(0.1));
  CHECK(l.value("gpu_hours_per_trillion") == Approx(180e3).epsilon(0.1));
  CHECK(l.value("cost_per_trillion") == Approx(2 * l.value("gpu_hours_per_trillion")));  // at $2 an hour
  CHECK(l.value("cost.pretraining") == Approx(5.328e6).epsilon(0.1));
  CHECK(r.step.pair_count ==
        Approx((2.0 * (97 + 98 + 99 + 100 + 101 + 102 + 103 + 103)) / 16));  // 97..103 pairs; the two middle ranks run their first unpaired
  // 62,914,560 tokens in 19.926 s on 2048 devices
  const double tokens = 62914560 / 19.926 / 2048;
  CHECK(tokens * l.value("flops_per_token.causal") / 1e12 == Approx(385).epsilon(0.001));
  CHECK(tokens * l.value("flops_per_token.non_causal") / 1e12 == Approx(432).epsilon(0.0015));
  CHECK(std::round(tokens * l.value("flops_per_token.causal") / 989e12 * 1e4) == 3894);
  CHECK(std::round(tokens * l.value("flops_per_token.non_causal") / 989e12 * 1e4) == 4373);
}

TEST_CASE("DeepSeek-V3 fits 80 GB with the published caches and recomputation, and not without either", "[plan]") {
  const auto total = [](std::vector<std::string> more) {
    const PlanInput in = v3(std::move(more));
    return fullest(plan_memory(in, predict_step(in, pretraining(in), nullptr), "balanced")).total();
  };
  CHECK(total({}) < 80e9);
  CHECK(total({"plan.recompute=[]"}) > 80e9);
  CHECK(total({"plan.cache=bf16"}) > 80e9);
  CHECK(total({"plan.recompute=[]", "plan.cache=bf16"}) > total({"plan.recompute=[]"}));
}

TEST_CASE("The inter-node link decides what wins", "[plan]") {
  const auto bound = [](const char* bandwidth) { return make_report(v3({std::string("cluster.links.inter.bandwidth=") + bandwidth}), true); };
  const Report half = bound("25 GB/s"), own = bound("50 GB/s"), triple = bound("150 GB/s");
  CHECK(half.exchanges > half.computation);
  CHECK(own.exchanges < own.computation);
  const auto gain = [](const Report& r, const std::string& name) {
    for (const Choice& c : r.choices)
      if (c.name.find(name) != std::string::npos && c.problem.empty()) return c.step / r.choices.front().step;
    return 0.0;
  };
  CHECK(gain(half, "flat") > 1.5);
  CHECK(gain(triple, "flat") < 1.1);
  CHECK(gain(half, "zb-h1") > gain(triple, "zb-h1"));
  CHECK(half.step.step - half.step_with_more_bandwidth > 10 * (own.step.step - own.step_with_more_bandwidth));
}

TEST_CASE("Every number's inputs are in the ledger, down to sources", "[plan]") {
  const Report r = make_report(v3(), false);
  for (const Entry& e : r.ledger.all()) {
    INFO(e.name);
    CHECK(!e.how.empty());
    for (const std::string& input : e.inputs) CHECK(r.ledger.find(input) != nullptr);
  }
  for (const Published& p : r.in.published) CHECK(r.ledger.find(p.item) != nullptr);
  CHECK_THAT(r.ledger.explain("tco.total"), Contains("SemiAnalysis"));
  CHECK_THAT(r.ledger.explain("step_time"), Contains("h800.yaml:") && Contains("profile-data"));
  CHECK_THAT(error_text([&] { r.ledger.explain("step_tim"); }), Contains("did you mean step_time?"));
}

TEST_CASE("The seed's argument line by line: $5.576M of rent against $1.6B of servers and $944M of operation", "[plan]") {
  const Report r = make_report(v3({"plan.pretraining_gpu_hours=2664K", "plan.context_gpu_hours=119K"}), false);
  const Ledger& l = r.ledger;
  CHECK(l.value("cost.pretraining") == 5.328e6);
  CHECK(l.value("cost.context") == 0.238e6);
  CHECK(l.value("cost.post_training") == 0.01e6);
  CHECK(l.value("cost.headline") == 5.576e6);
  CHECK(l.value("tco.count") == 60000);
  CHECK(l.value("tco.capital") == Approx(1.629e9).epsilon(0.001));
  CHECK(l.value("tco.operation") == Approx(944e6).epsilon(0.001));
  CHECK(l.value("tco.total") == Approx(2.573e9).epsilon(0.001));
}

TEST_CASE("The checkpoint interval loses least", "[plan]") {
  for (const double stall : {0.5, 10.0, 300.0})
    for (const double mtbf : {3600.0, 86400.0}) {
      const auto lost = [&](double t) { return 1 - t / (mtbf * (std::exp((t + stall) / mtbf) - 1)); };  // exponential failures, restart left out
      const double t = daly_interval(stall, mtbf);
      CHECK(lost(t) <= lost(t * 1.1));
      CHECK(lost(t) <= lost(t * 0.9));
    }
}

TEST_CASE("Routing: balanced is 1, a flat Zipf too, the worst sends every row to one rank", "[plan]") {
  CHECK(routing_imbalance(v3({"plan.routing=balanced"}), 64) == 1);
  CHECK(routing_imbalance(v3({"plan.routing=zipf", "plan.zipf_exponent=0"}), 64) == Approx(1));
  CHECK(routing_imbalance(v3({"plan.routing=zipf"}), 64) > 1);
  CHECK(routing_imbalance(v3({"plan.routing=worst"}), 64) == 64.0 * 4 / 8);  // 4 experts a rank, 8 chosen
}

TEST_CASE("A search finds layouts that fit, none of which is beaten by another, and the best is no slower than the given one", "[plan]") {
  const PlanInput in = load_plan("deepseek-v2-lite", {"cluster=h200-8", "train.global_batch=64", "parallel.ep=8"}, kFolders);
  const Search s = search_layouts(in);
  REQUIRE(!s.front.empty());
  CHECK(s.front.front().step <= s.given.step);
  for (size_t i = 0; i < s.front.size(); ++i) {
    CHECK(s.front[i].memory <= in.cluster.memory);
    for (size_t k = 0; k < s.front.size(); ++k)
      if (i != k) CHECK_FALSE((s.front[k].step <= s.front[i].step && s.front[k].memory <= s.front[i].memory && s.front[k].gpus <= s.front[i].gpus));
    const StepPrediction again = predict_step(s.front[i].in, pretraining(s.front[i].in), nullptr);
    CHECK(again.step == s.front[i].step);
  }
  CHECK_THAT(search_text(s), Contains("bound by") && Contains("one more GB"));
  const std::string picture = search_svg(s);
  CHECK_THAT(picture, Contains("as given") && Contains("memory of a GPU") && Contains(">best"));
  size_t points = 0;
  for (size_t at = picture.find("<circle"); at != std::string::npos; at = picture.find("<circle", at + 1)) ++points;
  CHECK(points >= 3);
  CHECK(points <= s.front.size() + 2);
}
