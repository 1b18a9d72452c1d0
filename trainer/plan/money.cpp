// The arithmetic of a run's cost. One line a number, so that --explain can walk it.
#include "trainer/plan/money.h"

#include <cmath>

#include "kernels/base/error.h"

namespace atoll::plan {

double young_interval(double stall, double mtbf) { return std::sqrt(2 * stall * mtbf); }

// J. T. Daly 2006, the higher-order estimate of the optimum.
double daly_interval(double stall, double mtbf) {
  if (stall >= 2 * mtbf) return mtbf;
  const double x = std::sqrt(stall / (2 * mtbf));
  return young_interval(stall, mtbf) * (1 + x / 3 + x * x / 9) - stall;
}

namespace {
void price_stages(const PlanInput& in, const StepPrediction& step, const std::vector<StepPrediction>& context, Ledger& l) {
  using enum Unit;
  const double gpus = static_cast<double>(in.gpus()),
               tokens = in.run.train.tokens > 0 ? static_cast<double>(in.run.train.tokens) : static_cast<double>(in.run.train.steps) * step.tokens_per_step;
  l.put("run.tokens", tokens, kCount, "train.tokens (or steps x tokens of a step); the batch ramp is priced at the full batch",
        {"train.tokens", "train.steps"});
  l.put("gpu_hours_per_trillion", gpus * step.step / 3600 * 1e12 / step.tokens_per_step, kCount, "gpus x step_time / 3600 x 1e12 / tokens_per_step",
        {"gpus", "step_time", "tokens_per_step"});
  l.put("cost_per_trillion", l.value("gpu_hours_per_trillion") * in.cluster.sheet.number("prices.gpu_hour"), kDollars, "gpu_hours_per_trillion x rent",
        {"gpu_hours_per_trillion", "cluster.prices.gpu_hour"});
  const double own = in.plan.number("pretraining_gpu_hours");
  const double pre =
      l.put("gpu_hours.pretraining", own > 0 ? own : tokens / 1e12 * l.value("gpu_hours_per_trillion"), kCount,
            own > 0 ? "given" : "run.tokens / 1e12 x gpu_hours_per_trillion", {"run.tokens", "gpu_hours_per_trillion", "plan.pretraining_gpu_hours"});
  double extension = 0;
  std::vector<std::string> names = {"plan.context_gpu_hours"};
  for (size_t i = 0; i < context.size(); ++i) {
    const ContextStage& s = in.context[i];
    const StepPrediction& c = context[i];
    names.push_back("gpu_hours.context." + s.name);
    l.put("context." + s.name + ".pipeline", c.pipeline, kSeconds,
          detail::concat("schedule ", c.schedule->name, ": F alone ", show(c.forward, kSeconds), ", B alone ", show(c.backward, kSeconds), ", W alone ",
                         show(c.weight, kSeconds), ", pairs ", show(c.pairs, kSeconds), ", bubble ", show(c.bubble, kSeconds), " (its keys: ", s.place, ")"),
          {"plan.schedule", "plan.overlap", "plan.p2p", "plan.dispatch", "parallel.pp", "parallel.ep", "parallel.tp"});
    l.put("context." + s.name + ".optimizer", c.reduce + c.update + c.gather, kSeconds,
          detail::concat("gradients to owners ", show(c.reduce, kSeconds), ", update ", show(c.update, kSeconds), ", weights back ", show(c.gather, kSeconds)),
          {"plan.grads", "plan.grads_overlap", "plan.zero", "cluster.links.inter.bandwidth", "cluster.links.intra.bandwidth", "cluster.gpu.memory_bandwidth"});
    l.put("context." + s.name + ".step_time", c.step, kSeconds,
          detail::concat("sequences of ", s.seq_len, ", batch ", s.global_batch, ", pp ", c.priced.pp, " x cp ", c.priced.cp, " x dp ", c.priced.dp, ", ep ",
                         c.priced.ep, ", ", c.priced.num_microbatches(), " micro-batches; simulated"),
          {"context." + s.name + ".pipeline", "context." + s.name + ".optimizer"});
    extension += l.put(names.back(), gpus * c.step / 3600 * static_cast<double>(s.steps), kCount, detail::concat(s.steps, " steps"),
                       {"context." + s.name + ".step_time", "gpus"});
  }
  const double given = in.plan.number("context_gpu_hours");
  const double ctx = l.put("gpu_hours.context", given > 0 ? given : extension, kCount, given > 0 ? "given" : "sum of the context stages", names);
  const double post = l.put("gpu_hours.post_training", in.plan.number("post_training_gpu_hours"), kCount, "an input", {"plan.post_training_gpu_hours"});
  const double price = in.cluster.sheet.number("prices.gpu_hour");
  l.put("cost.pretraining", pre * price, kDollars, "hours x rent", {"gpu_hours.pretraining", "cluster.prices.gpu_hour"});
  l.put("cost.context", ctx * price, kDollars, "hours x rent", {"gpu_hours.context", "cluster.prices.gpu_hour"});
  l.put("cost.post_training", post * price, kDollars, "hours x rent", {"gpu_hours.post_training", "cluster.prices.gpu_hour"});
  l.put("gpu_hours.headline", pre + ctx + post, kCount, "the last run alone", {"gpu_hours.pretraining", "gpu_hours.context", "gpu_hours.post_training"});
  l.put("cost.headline", (pre + ctx + post) * price, kDollars, "what is quoted: the last run alone, rented",
        {"cost.pretraining", "cost.context", "cost.post_training"});
}

void price_failures(const PlanInput& in, Ledger& l) {
  using enum Unit;
  const Sheet& c = in.cluster.sheet;
  const double gpus = static_cast<double>(in.gpus()), mtbf = l.put("failures.mtbf", c.number("reliability.gpu_mtbf") / gpus, kSeconds,
                                                                   "mean time between failures of one device / gpus", {"cluster.reliability.gpu_mtbf", "gpus"});
  const double stall = c.number("reliability.checkpoint"), restart = c.number("reliability.restart");
  l.put("failures.young", young_interval(stall, mtbf), kSeconds, "Young: sqrt(2 x stall x mtbf)", {"cluster.reliability.checkpoint", "failures.mtbf"});
  const double interval = l.put("failures.interval", daly_interval(stall, mtbf), kSeconds, "Daly: the checkpoint interval that loses least",
                                {"cluster.reliability.checkpoint", "failures.mtbf"});
  const double lost = (stall > 0 ? stall / (interval + stall) : 0) + (interval / 2 + restart) / mtbf;
  const double goodput =
      l.put("failures.goodput", std::max(kLeastGoodput, 1 - lost), kFraction, "1 - stall / (interval + stall) - (interval / 2 + restart) / mtbf, at least 1 %",
            {"failures.interval", "failures.mtbf", "cluster.reliability.restart", "cluster.reliability.checkpoint"});
  const double hours = l.value("gpu_hours.headline") / gpus / goodput;
  l.put("run.wall", hours * 3600, kSeconds, "gpu_hours.headline / gpus / goodput", {"gpu_hours.headline", "gpus", "failures.goodput"});
  l.put("failures.expected", hours * 3600 / mtbf, kNone, "run.wall / mtbf", {"run.wall", "failures.mtbf"});
  l.put("cost.failures", l.value("cost.headline") * (1 / goodput - 1), kDollars, "cost.headline x (1 / goodput - 1)", {"cost.headline", "failures.goodput"});
}

void price_power(const PlanInput& in, Ledger& l) {
  using enum Unit;
  const Sheet& c = in.cluster.sheet;
  const double gpus = static_cast<double>(in.gpus()), node = c.number("power.node");
  const double machine = node > 0 ? gpus / static_cast<double>(in.cluster.gpus_per_node) * node : gpus * c.number("gpu.power");
  const double watts =
      l.put("power.site", (machine + gpus * c.number("switches.per_gpu_power")) * c.number("power.pue"), kWatts, "(nodes x power.node + network) x PUE",
            {"cluster.power.node", "cluster.gpu.power", "cluster.switches.per_gpu_power", "cluster.power.pue", "gpus"});
  const double kwh = l.put("power.energy_kwh", watts / 1000 * l.value("run.wall") / 3600, kCount, "site power x run.wall, kWh", {"power.site", "run.wall"});
  l.put("cost.energy", kwh * c.number("prices.energy"), kDollars, "inside the rent of a rented cluster", {"power.energy_kwh", "cluster.prices.energy"});
  const double hours = in.plan.number("tco.years") * 8766 * in.plan.number("tco.utilisation");
  const double capital = l.put("own.capital", gpus * c.number("prices.server_per_gpu"), kDollars, "buying these devices with their servers and network",
                               {"cluster.prices.server_per_gpu", "gpus"});
  const double energy = watts / 1000 / gpus * c.number("prices.energy") / in.plan.number("tco.utilisation");
  l.put("own.gpu_hour", capital / gpus / hours + energy, kDollarsPerHour, "capital over its used hours, and electricity of all hours",
        {"own.capital", "plan.tco.years", "plan.tco.utilisation", "power.site", "cluster.prices.energy"});
}

void price_ownership(const PlanInput& in, Ledger& l) {
  using enum Unit;
  const double headline = l.value("cost.headline"), rd = in.plan.number("rd_multiple");
  l.put("cost.rd", headline * rd, kDollars, "ablations, failed ideas, smaller runs: rd_multiple x cost.headline", {"plan.rd_multiple", "cost.headline"});
  l.put("cost.rented", headline * (1 + rd) + l.value("cost.failures"), kDollars, "headline + failures + R&D, all of it rented",
        {"cost.headline", "cost.failures", "cost.rd"});
  if (in.fleet.empty()) return;
  double count = 0, capital = 0, operation = 0;
  std::vector<std::string> capitals, operations, counts;
  for (const FleetPart& f : in.fleet) {
    const std::string name = "tco." + f.gpu;
    l.put(name + ".count", f.count, kCount, f.source);
    l.put(name + ".server_per_gpu", f.server, kDollars, f.source);
    l.put(name + ".operation_per_gpu", f.operation, kDollars, f.source);
    capital += l.put(name + ".capital", f.count * f.server, kDollars, "count x server_per_gpu", {name + ".count", name + ".server_per_gpu"});
    operation += l.put(name + ".operation", f.count * f.operation, kDollars, "count x operation_per_gpu, over tco.years",
                       {name + ".count", name + ".operation_per_gpu"});
    count += f.count;
    capitals.push_back(name + ".capital");
    operations.push_back(name + ".operation");
    counts.push_back(name + ".count");
  }
  l.put("tco.count", count, kCount, "devices of the fleet", counts);
  l.put("tco.capital", capital, kDollars, "servers of the whole fleet", capitals);
  l.put("tco.operation", operation, kDollars, "its operation over tco.years", operations);
  l.put("tco.staff", in.plan.number("tco.staff"), kDollars, "people", {"plan.tco.staff"});
  const double total = l.put("tco.total", capital + operation + in.plan.number("tco.staff"), kDollars, "owning the fleet for tco.years",
                             {"tco.capital", "tco.operation", "tco.staff", "plan.tco.years"});
  const double hours = l.put("tco.gpu_hours", count * in.plan.number("tco.years") * 8766 * in.plan.number("tco.utilisation"), kCount, "devices x hours in use",
                             {"tco.count", "plan.tco.years", "plan.tco.utilisation"});
  l.put("tco.share", l.value("gpu_hours.headline") / hours, kFraction, "gpu_hours.headline / tco.gpu_hours: the last run's part of the fleet's life",
        {"gpu_hours.headline", "tco.gpu_hours"});
  l.put("tco.run", total * l.value("tco.share"), kDollars, "that part of the total", {"tco.total", "tco.share"});
  l.put("tco.multiple", headline > 0 ? total / headline : 0, kNone, "tco.total / cost.headline; 0 without rent", {"tco.total", "cost.headline"});
}
}  // namespace

void price_run(const PlanInput& in, const StepPrediction& step, const std::vector<StepPrediction>& context, Ledger& l) {
  using enum Unit;
  const auto kv_heads = static_cast<int64_t>(in.plan.number("kv_heads"));
  l.put("model.parameters", static_cast<double>(total_parameters(in.run.model, kv_heads, false)), kCount, "of the model's configuration, MTP left out",
        parameter_inputs());
  for (const bool is_causal : {true, false}) {
    const std::string kind = is_causal ? "causal" : "non_causal";
    const double flops = l.put("flops_per_token." + kind, counted_flops_per_token(in.run.model, kv_heads, in.run.data.seq_len, is_causal), kNone,
                               std::string("6 x matrix parameters of a token (head in; embedding, router, norms, MTP out) + 3 x attention products, ") +
                                   (is_causal ? "half of them" : "all of them"),
                               {"data.seq_len", "model.num_hidden_layers", "model.hidden_size", "model.intermediate_size", "model.moe_intermediate_size", "model.num_experts_per_tok",
                                "model.num_attention_heads", "model.vocab_size", "plan.kv_heads"});
    const double reached = l.put("flops." + kind, flops * step.tokens_per_gpu_second, kFlops, "flops_per_token x tokens_per_gpu_second",
                                 {"flops_per_token." + kind, "tokens_per_gpu_second"});
    l.put("mfu." + kind, reached / in.cluster.bf16, kFraction, "flops / dense BF16 peak, whatever precision computes", {"flops." + kind, "cluster.gpu.bf16"});
  }
  price_stages(in, step, context, l);
  price_failures(in, l);
  price_power(in, l);
  price_ownership(in, l);
}

}  // namespace atoll::plan
