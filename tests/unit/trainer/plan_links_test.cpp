// Where the devices of a stage are decides which link its traffic takes; sharded weights travel in every chunk; what --explain names adds up to its number.
#include <catch2/catch.hpp>

#include "plan_fixture.h"
#include "trainer/plan/search.h"

using namespace atoll;
using namespace atoll::plan;
using Catch::Matchers::Contains;

namespace {
// Sixteen devices of h100-1024, on two nodes.
Report lite(std::vector<std::string> more) {
  more.insert(more.begin(), {"cluster=h100-1024", "plan.gpus=16", "train.global_batch=64"});
  return make_report(load_plan("deepseek-v2-lite", more, kFolders), false);
}
double message_by_hand(const Report& r, const Link& link) { return r.step.priced.seq_len * r.step.priced.micro_batch * r.in.run.model.hidden_size * 2.0 / link.rate() + link.latency; }
}  // namespace

TEST_CASE("A message crosses the link that lies between its two stages, and the slowest hop is shown", "[plan]") {
  for (const char* schedule : {"1f1b", "zb-h1", "gpipe"}) {
    INFO(schedule);
    const std::string key = std::string("parallel.schedule=") + schedule;
    const Report sixteen = lite({"parallel.pp=16", key});  // stages of one device: 7 to 8 leaves the node
    CHECK(sixteen.step.message == Approx(message_by_hand(sixteen, sixteen.in.cluster.inter)));
    CHECK_THAT(sixteen.ledger.explain("message"), Contains("between nodes") && Contains("cluster.links.inter.latency"));
    const Report eight = lite({"parallel.pp=8", "plan.gpus=8", key});
    CHECK(eight.step.message == Approx(message_by_hand(eight, eight.in.cluster.intra)));
    CHECK_THAT(eight.ledger.explain("message"), Contains("inside a node") && !Contains("inter"));
    for (const char* p2p : {"plan.p2p=overlapped", "plan.p2p=exposed"}) {
      const auto step = [&](std::vector<std::string> more, const char* bandwidth) {
        more.insert(more.end(), {key, p2p, std::string("cluster.links.inter.bandwidth=") + bandwidth});
        return lite(more).step.pipeline;
      };
      CHECK(step({"parallel.pp=16"}, "0.01 GB/s") > 10 * step({"parallel.pp=16"}, "50 GB/s"));
      CHECK(step({"parallel.pp=4"}, "0.01 GB/s") > 10 * step({"parallel.pp=4"}, "50 GB/s"));  // four of four devices: one hop of three
      CHECK(step({"parallel.pp=8", "plan.gpus=8"}, "0.01 GB/s") == step({"parallel.pp=8", "plan.gpus=8"}, "50 GB/s"));
    }
  }
}

TEST_CASE("Only the hop between nodes waits: with messages exposed a step of one slow hop is shorter than one of slow hops only", "[plan]") {
  const Report one = lite({"parallel.pp=16", "parallel.schedule=1f1b", "plan.p2p=exposed", "cluster.links.inter.bandwidth=1 GB/s"});
  const Report all = lite({"parallel.pp=16", "parallel.schedule=1f1b", "plan.p2p=exposed", "cluster.links.inter.bandwidth=1 GB/s", "cluster.links.intra.bandwidth=1 GB/s",
                           "cluster.links.intra.latency=10 us", "cluster.links.intra.usable=1", "cluster.links.inter.usable=1"});
  CHECK(one.step.message == Approx(all.step.message).epsilon(0.3));
  CHECK(one.step.pipeline < all.step.pipeline);
}

TEST_CASE("Gradients of a mirrored stage cross to the node of its mirror", "[plan]") {
  const auto optimizer = [](const char* pp, const char* schedule, const char* bandwidth) {
    const Report r = lite({std::string("parallel.pp=") + pp, std::string("parallel.schedule=") + schedule, "plan.overlap=pairs", std::string("cluster.links.inter.bandwidth=") + bandwidth});
    return r.step.reduce + r.step.gather;
  };
  CHECK(optimizer("4", "dualpipe", "0.5 GB/s") > 5 * optimizer("4", "dualpipe", "50 GB/s"));    // ranks 0-3 and 12-15
  CHECK(optimizer("4", "dualpipev", "0.5 GB/s") == optimizer("4", "dualpipev", "50 GB/s"));     // each stage is on four devices of one node
  CHECK(optimizer("2", "dualpipe", "0.5 GB/s") > 5 * optimizer("2", "dualpipe", "50 GB/s"));    // 0-7 and 8-15
  CHECK(optimizer("1", "1f1b", "0.5 GB/s") > 5 * optimizer("1", "1f1b", "50 GB/s"));
}

TEST_CASE("With ZeRO-3 no chunk and no pair is shorter than its weights travel, and nothing is left for the step's end", "[plan]") {
  for (const char* overlap : {"none", "pairs"}) {
    INFO(overlap);
    const auto report = [&](std::vector<std::string> more) {
      more.insert(more.end(), {"parallel.pp=1", "parallel.ep=8", "parallel.schedule=1f1b", std::string("plan.overlap=") + overlap});
      return lite(more);
    };
    const Report slow = report({"plan.zero=3", "cluster.links.inter.bandwidth=1 GB/s"}), fast = report({"plan.zero=3"}), whole = report({"plan.zero=1"});
    const StageTimes& t = slow.step.stages.front();
    CHECK(t.weights_forward > 10 * fast.step.stages.front().forward);
    CHECK(t.forward == t.weights_forward);
    CHECK(t.backward + t.weight == Approx(t.weights_backward));
    CHECK(slow.ledger.value("chunk.pair") >= (t.weights_forward + t.weights_backward) * (1 - 1e-12));
    CHECK(slow.step.pipeline >= 4 * (t.weights_forward + t.weights_backward) * (1 - 1e-12));  // four micro-batches
    for (const Report* r : {&slow, &fast}) CHECK(r->step.reduce + r->step.gather == 0);
    CHECK(whole.step.reduce + whole.step.gather > 0);
    // Two layers (in pairs four) of weights, in BF16, of the largest layer: routed experts / 8 and the rest.
    const BlockParameters layer = block_parameters(fast.in.run.model, 5, 0);
    const double expected = 2.0 * (static_cast<double>(layer.shared) + static_cast<double>(layer.expert * layer.num_experts) / 8), table = 2.0 * static_cast<double>(fast.in.run.model.vocab_size * fast.in.run.model.hidden_size);
    CHECK(fast.ledger.value("memory.gathered") == Approx(std::max(expected, table) * (overlap == std::string("pairs") ? 4 : 2)));
    CHECK(fast.memory.front().weights > fast.ledger.value("memory.gathered"));
    CHECK(fast.memory.front().weights < whole.memory.front().weights);
  }
}

TEST_CASE("What --explain names below memory and the optimizer makes their numbers, of the rank that it speaks of", "[plan]") {
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{{}, {"parallel.schedule=dualpipev", "plan.schedule=dualpipev"}, {"plan.precision=bf16", "plan.zero=3"}}) {
    const Report r = make_report(v3(arguments), false);
    const auto v = [&](const char* name) { return r.ledger.value(name); };
    const double element = r.in.plan.text("precision") == "fp8" ? 1 + 4.0 / (128 * 128) : 2, grad = r.in.plan.text("grads") == "bf16" ? 2 : 4;
    if (r.in.plan.number("zero") < 3) {
      CHECK(v("memory.weights") == Approx((v("memory.shared_parameters") - v("memory.table_parameters") + v("memory.expert_parameters")) * element + 2 * v("memory.table_parameters")));
      CHECK(v("memory.grads") == Approx((v("memory.shared_parameters") + v("memory.expert_parameters")) * grad));
    }
    double held = v("memory.on_the_way");
    const Entry& activations = *r.ledger.find("memory.activations");
    for (size_t i = 0; i + 1 < activations.inputs.size(); i += 2)
      if (activations.inputs[i].find(".live") != std::string::npos) held += r.ledger.value(activations.inputs[i]) * r.ledger.value(activations.inputs[i + 1]);
    CHECK(held == Approx(v("memory.activations")));
    CHECK(v("memory.total") == Approx(v("memory.weights") + v("memory.grads") + v("memory.optimizer") + v("memory.activations") + v("plan.reserve")));
    CHECK(v("optimizer.update") > 0);
  }
}

TEST_CASE("Every result has inputs, and every input is an item", "[plan]") {
  for (const auto& [name, arguments] : std::vector<std::pair<std::string, std::vector<std::string>>>{
           {"deepseek-v3", {"cluster=h800-2048"}}, {"deepseek-v2-lite", {"cluster=h200-8", "plan.zero=3"}}, {"quickstart", {"cluster=laptop"}}}) {
    const Report r = make_report(load_plan(name, arguments, kFolders), false);
    const std::string json = report_json(r);
    for (const Entry& e : r.ledger.all()) {
      INFO(name << ": " << e.name);
      const std::string of = e.name.substr(0, e.name.find('.'));
      const bool is_given = of == "plan" || of == "cluster" || of == "model" || of == "parallel" || of == "train" || of == "data" || e.name.rfind("tco.", 0) == 0;
      CHECK((is_given || !e.inputs.empty()));
      for (const std::string& input : e.inputs) CHECK(r.ledger.find(input) != nullptr);
      CHECK(json.find("\"" + e.name + "\": {") != std::string::npos);
    }
  }
}

TEST_CASE("The page says what a winner costs, and what no exchange explains", "[plan]") {
  CHECK_THAT(report_text(make_report(v3({"cluster.gpu.memory=65 GB"}), true)), Contains("which fits where the plan as given does not, and takes") && !Contains("-6."));
  const Report host = make_report(load_plan("deepseek-v2-lite", {"cluster=h200-8"}, kFolders), true);
  CHECK_THAT(report_text(host), Contains("why: of what is no computation"));
}

TEST_CASE("A search names what binds most first, and no link that the best layout does not use", "[plan]") {
  const Search s = search_layouts(load_plan("debug", {"cluster=laptop"}, kFolders, true), nullptr);
  CHECK(s.front.front().bound_by.find("the host ") == 0);
  const Search node = search_layouts(load_plan("deepseek-v2-lite", {"cluster=h200-8"}, kFolders, true), nullptr);
  for (const std::string& h : node.hinges) {
    CHECK_THAT(h, !Contains("between nodes"));
    CHECK_THAT(h, !Contains("hinges on memory"));
  }
}

TEST_CASE("ZeRO-2 saves gradients only where each micro-batch is reduced", "[plan]") {
  const auto grads = [](const char* zero, const char* flushes) {
    return lite({"parallel.pp=2", "parallel.ep=1", "parallel.schedule=1f1b", std::string("plan.zero=") + zero, std::string("plan.flushes=") + flushes}).memory.front().grads;
  };
  CHECK(grads("2", "1") > grads("1", "1"));      // eight micro-batches are summed whole, and reduced into shards
  CHECK(grads("2", "8") < 0.5 * grads("1", "8"));  // one each
  CHECK(grads("2", "8") > grads("1", "8") / 8);
}
