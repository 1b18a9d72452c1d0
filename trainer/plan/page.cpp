// The page and its JSON. Policy: a number is read from the ledger; lines stay below 160 columns; what cannot be fit or closed is said.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kernels/base/error.h"
#include "trainer/plan/report.h"

namespace atoll::plan {
namespace {
class Page {
 public:
  explicit Page(const Report& r) : r_(r), in_(r.in), l_(r.ledger) {}
  std::string text() {
    head();
    time();
    memory();
    published();
    choices();
    money();
    line(
        "\n`--explain ITEM` traces a number to its inputs and their sources (`--explain step_time`, `--explain memory.total`, `--explain tco.total`); `--json` "
        "has all of them.");
    return std::move(out_);
  }

 private:
  template <class... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    out_ += fmt::format(format, std::forward<Args>(args)...) + "\n";
  }
  std::string val(const std::string& name) const {
    const Entry* e = l_.find(name);
    return e == nullptr ? "-" : show(e->value, e->unit);
  }
  double num(const std::string& name) const { return l_.value(name); }

  void head();
  void time();
  void memory();
  void published();
  void choices();
  void why();
  void money();

  const Report& r_;
  const PlanInput& in_;
  const Ledger& l_;
  std::string out_;
};

void Page::head() {
  const Priced& p = r_.step.priced;
  const ModelConfig& c = in_.run.model;
  const auto kv = static_cast<int64_t>(in_.plan.number("kv_heads"));
  line("{} on {}: {} {} ({} a node), {} layers + {} MTP, {} parameters", in_.name, in_.cluster.name, in_.gpus(), in_.cluster.gpu, in_.cluster.gpus_per_node,
       c.num_hidden_layers, c.num_nextn_predict_layers, show(static_cast<double>(total_parameters(c, kv, false)), Unit::kCount));
  line("layout: pp {} x dp {} x tp {} x cp {}, ep {}; schedule {}, {} stages, {} micro-batches of {} x {} tokens; {} operands, {} dispatch in {}", p.pp, p.dp,
       p.tp, p.cp, p.ep, r_.step.schedule->name, r_.step.schedule->num_stages, p.num_microbatches(), p.micro_batch, p.seq_len, in_.plan.text("precision"),
       in_.plan.text("dispatch"), in_.plan.text("dispatch_precision"));
  if (in_.is_batch_chosen) line("batch: {} sequences, the least (8 or more) that the layout divides: the preset names none; set train.global_batch=N", p.global_batch);
  line("model: {:.5g} GFLOP a token causal, {:.5g} non-causal (6 x matrix parameters + 3 x attention; head in, embedding, router, norms, MTP out)",
       num("flops_per_token.causal") / 1e9, num("flops_per_token.non_causal") / 1e9);
  if (in_.calibration.gpu != in_.cluster.gpu)
    line("careful: {} was measured on {}, not on {}; times are those of its kernels", in_.calibration.file, in_.calibration.gpu, in_.cluster.gpu);
  for (const Rate& r : in_.calibration.rates) {
    const double peak = r.precision == "fp8" ? in_.cluster.fp8 : in_.cluster.bf16, reached = r.flops / r.sms * in_.cluster.sms;
    if (reached <= peak) continue;
    line("careful: {}:{} reaches {} on {} SMs: {} on this device, more than cluster.gpu.{} = {}", in_.calibration.file, r.line, show(r.flops, Unit::kFlops),
         r.sms, show(reached, Unit::kFlops), r.precision, show(peak, Unit::kFlops));
    break;  // one shows what is wrong
  }
}

void Page::time() {
  line("\ntime of a step{:>30}", val("step_time"));
  line("  pipeline {} = F alone {} + B alone {} + W alone {} + {:.1f} pairs {} + bubble {} (means over ranks)", val("pipeline"), val("solo_forward"),
       val("solo_backward"), val("solo_weight"), r_.step.pair_count, val("pairs"), val("bubble"));
  line("  optimizer {}: gradients to owners {}, update {}, weights back {}", val("optimizer"), val("optimizer.reduce"), val("optimizer.update"),
       val("optimizer.gather"));
  line("  chunks: F {}, B {}, W {}, pair {} (slowest stage); message between stages {} {}", val("chunk.forward"), val("chunk.backward"), val("chunk.weight"),
       val("chunk.pair"), val("message"), in_.plan.text("p2p"));
  if (r_.exchanges > 0) {
    line("  one layer: computation {}, exchanges {}: dispatch {}, combine {}, gradient dispatch {}, gradient combine {}", val("layer.computation"),
         val("layer.exchanges"), val("layer.dispatch"), val("layer.combine"), val("layer.grad_dispatch"), val("layer.grad_combine"));
    line("  a device sends {} to other nodes and {} inside its node a dispatch, {} and {} a combine; {:.2f} copies of a token leave its node",
         val("layer.dispatch.inter_bytes"), val("layer.dispatch.intra_bytes"), val("layer.combine.inter_bytes"), val("layer.combine.intra_bytes"),
         num("routing.copies"));
    line("  exposed exchanges: {} of a step, in chunks that run alone", val("exposed"));
  }
  line("  host: launches F of a layer in {}, B and W in {}; the device waits for it {} of a step", val("layer.host_forward"), val("layer.host_backward"),
       val("host"));
  line("  {:.0f} tokens/s/GPU, {} tokens a day; {} causal = MFU {}, {} non-causal = MFU {} (of {} dense BF16)", num("tokens_per_gpu_second"),
       val("tokens_per_day"), val("flops.causal"), val("mfu.causal"), val("flops.non_causal"), val("mfu.non_causal"), show(in_.cluster.bf16, Unit::kFlops));
}

void Page::memory() {
  const RankMemory& m = fullest(r_.memory);
  line("\nmemory of the fullest rank ({} of {}): {} of {}, {}", &m - r_.memory.data(), r_.memory.size(), show(m.total(), Unit::kBytes),
       show(in_.cluster.memory, Unit::kBytes),
       m.total() <= in_.cluster.memory ? show(in_.cluster.memory - m.total(), Unit::kBytes) + " left"
                                       : "DOES NOT FIT: " + show(m.total() - in_.cluster.memory, Unit::kBytes) + " too much");
  line("  {:>4} {:>10} {:>10} {:>10} {:>12} {:>9} {:>10}   peak of activations", "rank", "weights", "grads", "optimizer", "activations", "reserve", "total");
  const size_t n = r_.memory.size();
  for (size_t i = 0; i < n; ++i) {
    if (n > 8 && i != 0 && i != n / 4 && i != n / 2 && i != n - 1 && &r_.memory[i] != &m) continue;
    const RankMemory& k = r_.memory[i];
    line("  {:>4} {:>10} {:>10} {:>10} {:>12} {:>9} {:>10}   {:.2f} s, {}; {} live", i, show(k.weights, Unit::kBytes), show(k.grads, Unit::kBytes),
         show(k.optimizer, Unit::kBytes), show(k.activations + k.routed, Unit::kBytes), show(k.reserve, Unit::kBytes), show(k.total(), Unit::kBytes),
         k.peak_time, k.moment, k.live);
  }
  std::string routing;
  for (const auto& [name, k] : r_.by_routing)
    routing +=
        fmt::format("{}{} {}{}", routing.empty() ? "" : ", ", name, show(k.total(), Unit::kBytes), k.total() <= in_.cluster.memory ? "" : " (does not fit)");
  line("  by routing: {}", routing);
}

void Page::published() {
  if (in_.published.empty()) return;
  line("\n{:<28}{:>14}{:>14}{:>10}   source", "beside what was published", "predicted", "published", "residual");
  for (const Published& p : in_.published) {
    const Entry* e = l_.find(p.item);
    if (e == nullptr) {
      line("{:<28}  no such item of this plan", p.item);
      continue;
    }
    line("{:<28}{:>14}{:>14}{:>9.1f}%   {}", p.item, show(e->value, e->unit), show(p.value, e->unit), 100 * (e->value / p.value - 1), p.source);
  }
}

void Page::choices() {
  if (r_.choices.empty()) return;
  line("\n{:<52}{:>10}{:>9}{:>10}{:>10}{:>11}", "one thing changed", "step", "", "bubble", "exposed", "memory");
  const double own = r_.choices.front().step;
  const Choice* best = nullptr;
  for (const Choice& c : r_.choices) {
    if (!c.problem.empty()) {
      line("{:<52}  not possible: {}", c.name, c.problem.substr(0, 100));
      continue;
    }
    if (c.fits && (best == nullptr || c.step < best->step)) best = &c;
    line("{:<52}{:>10}{:>8.1f}%{:>10}{:>10}{:>11}{}", c.name, show(c.step, Unit::kSeconds), 100 * (c.step / own - 1), show(c.bubble, Unit::kSeconds),
         show(c.exposed, Unit::kSeconds), show(c.memory, Unit::kBytes), c.fits ? "" : "  does not fit");
  }
  if (best == nullptr)
    line("none of these fits");
  else if (best == &r_.choices.front())
    line("wins: the plan as given");
  else
    line("wins: {}, {}; it leaves {} of memory{}", best->name,
         best->step <= own ? show(own - best->step, Unit::kSeconds) + " less a step"
                           : "which fits where the plan as given does not, and takes " + show(best->step - own, Unit::kSeconds) + " more a step",
         show(in_.cluster.memory - best->memory, Unit::kBytes),
         best->copies != r_.choices.front().copies
             ? fmt::format(", and {:.2f} copies of a token leave its node instead of {:.2f}", best->copies, r_.choices.front().copies)
             : "");
  why();
}

// What the exchanges do beside the computation, which decides what wins; where they do little, what does.
void Page::why() {
  const std::pair<double, const char*> others[] = {{num("exposed"), "exposed exchanges"}, {num("bubble"), "the bubble"}, {num("optimizer"), "the optimizer"}, {num("host"), "waiting for the host"}};
  const auto& [seconds, other] = *std::max_element(std::begin(others), std::end(others));
  const std::string rest = fmt::format("of what is no computation {} takes most, {} of a step", other, show(seconds, Unit::kSeconds));
  if (r_.exchanges > 0) {
    const double ratio = r_.exchanges / r_.computation;
    line("why: a layer's exchanges take {:.0f} % of its computation ({} / {}); {}", 100 * ratio, show(r_.exchanges, Unit::kSeconds),
         show(r_.computation, Unit::kSeconds),
         ratio > 1     ? std::string("they are longer, so pairs are bound by the links: bytes decide, not schedules")
         : ratio > 0.3 ? "they hide in pairs; alone they would show, so schedules that pair F with B win"
                       : "they are short; " + rest);
  } else {
    line("why: {}", rest);
  }
  line("one GB/s more between nodes would take {} off a step ({:.2f} %)", show(r_.step.step - r_.step_with_more_bandwidth, Unit::kSeconds),
       100 * (1 - r_.step_with_more_bandwidth / r_.step.step));
}

void Page::money() {
  line("\nthe headline: the last run, rented at {}", val("cluster.prices.gpu_hour"));
  line("  pre-training       {:>12} GPU-hours {:>12}   {} tokens, {:.0f} GPU-hours and {} a trillion", val("gpu_hours.pretraining"), val("cost.pretraining"),
       val("run.tokens"), num("gpu_hours_per_trillion"), val("cost_per_trillion"));
  for (const ContextStage& s : in_.context)
    line("    context {:<9} {:>12} GPU-hours {:>12}   {} steps of {}; {} on the fullest rank{}", s.name, val("gpu_hours.context." + s.name), "", s.steps,
         val("context." + s.name + ".step_time"), val("context." + s.name + ".memory"),
         num("context." + s.name + ".memory") <= in_.cluster.memory ? "" : ": DOES NOT FIT");
  for (const std::string& problem : r_.context_problems) line("    left out: {}", problem);
  line("  context extension  {:>12} GPU-hours {:>12}", val("gpu_hours.context"), val("cost.context"));
  line("  post-training      {:>12} GPU-hours {:>12}   an input", val("gpu_hours.post_training"), val("cost.post_training"));
  line("  headline           {:>12} GPU-hours {:>12}", val("gpu_hours.headline"), val("cost.headline"));
  line("what it leaves out");
  line("  failures           one in {} on these devices; checkpoint every {} (Daly); goodput {}: {}", val("failures.mtbf"), val("failures.interval"),
       val("failures.goodput"), val("cost.failures"));
  if (num("failures.goodput") <= kLeastGoodput)
    line("                     failures come faster than a restart and its lost steps take: this run never ends; its goodput is counted as {}",
         show(kLeastGoodput, Unit::kFraction));
  line("  R&D                {} x the headline (ablations, failed ideas, smaller runs): {}", val("plan.rd_multiple"), val("cost.rd"));
  line("  all of it, rented  {}", val("cost.rented"));
  line("  wall time          {}, about {:.0f} failures; {} of power, {} MWh, {} of electricity", val("run.wall"), num("failures.expected"), val("power.site"),
       show(num("power.energy_kwh") / 1000, Unit::kNone), val("cost.energy"));
  line("  owning instead     {} for these {} devices; {} a used GPU-hour over {} years at {} use", val("own.capital"), in_.gpus(), val("own.gpu_hour"),
       val("plan.tco.years"), val("plan.tco.utilisation"));
  if (in_.fleet.empty()) return;
  line("  the owner's fleet  {:<8}{:>8}{:>16}{:>14}{:>16}", "", "devices", "servers", "", "operation");
  for (const FleetPart& f : in_.fleet)
    line("                     {:<8}{:>8}{:>16}{:>14}{:>16}", f.gpu, val("tco." + f.gpu + ".count"), val("tco." + f.gpu + ".capital"), "",
         val("tco." + f.gpu + ".operation"));
  line("                     {:<8}{:>8}{:>16}{:>14}{:>16}   over {} years: {}", "all", val("tco.count"), val("tco.capital"), "", val("tco.operation"),
       val("plan.tco.years"), val("tco.total"));
  line("  the run's share    {} of the fleet's hours in use = {}{}", val("tco.share"), val("tco.run"),
       num("tco.multiple") > 0 ? fmt::format("; the fleet costs {:.0f} times the headline", num("tco.multiple")) : "");
}
}  // namespace

std::string report_text(const Report& report) { return Page(report).text(); }

std::string report_json(const Report& r) {
  nlohmann::ordered_json j;
  j["name"] = r.in.name;
  j["cluster"] = r.in.cluster.name;
  for (const Entry& e : r.ledger.all())
    if (e.unit != Unit::kText && e.unit != Unit::kWords)
      j["items"][e.name] = {{"value", e.value}, {"shown", show(e.value, e.unit)}, {"how", e.how}, {"inputs", e.inputs}};
    else  // its text is in `how`
      j["items"][e.name] = {{"value", nullptr}, {"how", e.how}, {"inputs", e.inputs}};
  for (size_t i = 0; i < r.memory.size(); ++i) {
    const RankMemory& m = r.memory[i];
    j["memory"].push_back({{"rank", i},
                           {"weights", m.weights},
                           {"grads", m.grads},
                           {"optimizer", m.optimizer},
                           {"activations", m.activations},
                           {"reserve", m.reserve},
                           {"total", m.total()},
                           {"peak_time", m.peak_time},
                           {"peak_action", m.moment},
                           {"live", m.live}});
  }
  for (const auto& [name, m] : r.by_routing) j["memory_by_routing"][name] = m.total();
  if (!r.context_problems.empty()) j["context_problems"] = r.context_problems;
  j["fits"] = fullest(r.memory).total() <= r.in.cluster.memory;
  for (size_t i = 0; i < r.step.stages.size(); ++i) {
    const StageTimes& s = r.step.stages[i];
    j["stages"].push_back({{"layers", {r.step.specs[i].layers.begin, r.step.specs[i].layers.end}},
                           {"forward", s.forward},
                           {"backward", s.backward},
                           {"weight", s.weight},
                           {"exposed_forward", s.exposed_forward},
                           {"exposed_backward", s.exposed_backward}});
  }
  for (const Published& p : r.in.published)
    if (const Entry* e = r.ledger.find(p.item))
      j["published"].push_back({{"item", p.item}, {"predicted", e->value}, {"published", p.value}, {"residual", e->value / p.value - 1}, {"source", p.source}});
  for (const Choice& c : r.choices)
    j["choices"].push_back({{"name", c.name},
                            {"possible", c.problem.empty()},
                            {"step_time", c.step},
                            {"bubble", c.bubble},
                            {"exposed", c.exposed},
                            {"memory", c.memory},
                            {"fits", c.fits},
                            {"problem", c.problem}});
  return j.dump(2) + "\n";
}

}  // namespace atoll::plan
