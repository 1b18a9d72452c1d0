// Putting a plan together, and the neighbours it is compared with.
#include "trainer/plan/report.h"

#include "kernels/base/error.h"

namespace atoll::plan {
namespace {

std::vector<Choice> neighbours(const PlanInput& in) {
  std::vector<Choice> list;
  const auto add = [&](const std::string& name, const std::function<void(PlanInput&)>& change) { list.push_back(price_choice(in, name, change)); };
  const auto schedule = [](const std::string& name, const std::string& overlap) {
    return [name, overlap](PlanInput& p) {
      set_text(p, "schedule", name);
      set_text(p, "overlap", overlap);
      set_number(p, "comm_sms", comm_sms_of(p, overlap));
      if (overlap == "none" && p.plan.text("p2p") == "exposed") set_text(p, "p2p", "overlapped");
      if (name == "interleaved" && p.chunks() < 2) set_number(p, "chunks", 2);
    };
  };
  add("as given", [](PlanInput&) {});
  if (in.run.parallel.mesh.pp > 1) {
    if (in.schedule() != "dualpipe") add("schedule dualpipe, exchanges hidden in pairs", schedule("dualpipe", "pairs"));
    add("schedule dualpipev, exchanges hidden in pairs", schedule("dualpipev", "pairs"));
    add("schedule zb-h1, exchanges exposed", schedule("zb-h1", "none"));
    add("schedule 1f1b, exchanges exposed", schedule("1f1b", "none"));
  }
  if (in.run.parallel.mesh.ep > 1) {
    const bool is_flat = in.plan.text("dispatch") == "flat";
    add(is_flat ? "hierarchical dispatch" : "flat dispatch", [=](PlanInput& p) { set_text(p, "dispatch", is_flat ? "hierarchical" : "flat"); });
    const bool is_fp8 = in.plan.text("dispatch_precision") == "fp8";
    add(is_fp8 ? "BF16 dispatch" : "FP8 dispatch", [=](PlanInput& p) { set_text(p, "dispatch_precision", is_fp8 ? "bf16" : "fp8"); });
    if (in.run.parallel.mesh.ep % 2 == 0) add(detail::concat("ep ", in.run.parallel.mesh.ep / 2), [](PlanInput& p) { p.run.parallel.mesh.ep /= 2; });
    add(detail::concat("ep ", in.run.parallel.mesh.ep * 2), [](PlanInput& p) { p.run.parallel.mesh.ep *= 2; });
  }
  if (in.run.parallel.mesh.pp > 2 && in.run.parallel.stage_layers.empty())
    add(detail::concat("pp ", in.run.parallel.mesh.pp / 2), [](PlanInput& p) { p.run.parallel.mesh.pp /= 2; });
  return list;
}
// What the plan takes from the trainer's own configuration.
void put_run(const PlanInput& in, Ledger& l) {
  const RunConfig& run = in.run;
  const MeshSizes& m = run.parallel.mesh;
  const std::pair<const char*, int64_t> keys[] = {{"train.tokens", run.train.tokens},
                                                  {"train.steps", run.train.steps},
                                                  {"train.global_batch", run.train.global_batch},
                                                  {"train.micro_batch", run.train.micro_batch},
                                                  {"data.seq_len", run.data.seq_len},
                                                  {"model.num_hidden_layers", run.model.num_hidden_layers},
                                                  {"model.num_nextn_predict_layers", run.model.num_nextn_predict_layers},
                                                  {"model.hidden_size", run.model.hidden_size},
                                                  {"model.intermediate_size", run.model.intermediate_size},
                                                  {"model.moe_intermediate_size", run.model.moe_intermediate_size},
                                                  {"model.n_routed_experts", run.model.n_routed_experts},
                                                  {"model.num_experts_per_tok", run.model.num_experts_per_tok},
                                                  {"model.n_group", run.model.n_group},
                                                  {"model.topk_group", run.model.topk_group},
                                                  {"model.num_attention_heads", run.model.num_attention_heads},
                                                  {"model.vocab_size", run.model.vocab_size},
                                                  {"parallel.pp", m.pp},
                                                  {"parallel.tp", m.tp},
                                                  {"parallel.cp", m.cp},
                                                  {"parallel.ep", m.ep},
                                                  {"parallel.etp", m.etp}};
  l.put("train.adam.moment_bytes", in.run.train.adam.moments == DType::kBF16 ? 4 : 8, Unit::kBytes, "train.adam.moments: both moments of one element");
  for (const auto& [key, value] : keys) l.put(key, static_cast<double>(value), Unit::kCount, in.is_batch_chosen && key == std::string("train.global_batch") ? "the preset names none: the least that the layout divides, 8 or more" : "the run's configuration");
}
}  // namespace

Choice price_choice(const PlanInput& input, const std::string& name, const std::function<void(PlanInput&)>& change) {
  Choice c;
  c.name = name;
  PlanInput in = input;
  change(in);
  try {
    if (const std::vector<std::string> problems = layout_problems(in); !problems.empty()) throw ConfigError(problems.front());
    const StepPrediction s = predict_step(in, pretraining(in), nullptr);
    const std::vector<RankMemory> ranks = plan_memory(in, s, in.plan.text("routing"));
    c.step = s.step;
    c.bubble = s.bubble;
    c.exposed = s.exposed;
    c.optimizer = s.reduce + s.update + s.gather;
    c.memory = fullest(ranks).total();
    c.fits = c.memory <= in.cluster.memory;
    const Priced& p = s.priced;
    c.copies = ChunkModel(in, {p.seq_len, p.micro_batch, p.tp, p.cp, p.ep, p.etp, p.dp, 1}).routing().copies;
  } catch (const ConfigError& error) { c.problem = error.what(); }
  return c;
}

Report make_report(const PlanInput& input, bool with_choices) {
  Report r{input};
  r.in.context.clear();
  for (const ContextStage& stage : input.context) {
    try {
      StepPrediction step = predict_step(input, context_stage(input, stage), nullptr);
      r.context_memory.push_back(fullest(plan_memory(input, step, input.plan.text("routing"))).total());
      r.context.push_back(std::move(step));
      r.in.context.push_back(stage);
    } catch (const ConfigError& error) { r.context_problems.push_back(stage.place + ": plan.context " + stage.name + ": " + error.what()); }
  }
  const PlanInput& in = r.in;
  Ledger& l = r.ledger;
  l.put_sheet("plan", in.plan);
  l.put_sheet("cluster", in.cluster.sheet);
  put_run(in, l);
  r.step = predict_step(in, pretraining(in), &l);
  r.memory = plan_memory(in, r.step, in.plan.text("routing"));
  explain_memory(in, r.step, r.memory, l);
  const bool has_routing = in.run.model.n_routed_experts > 0;
  for (const char* routing : {"balanced", "zipf", "worst"})
    if (has_routing || std::string(routing) == "balanced") {
      r.by_routing.emplace_back(routing, fullest(plan_memory(in, r.step, routing)));
      l.put(std::string("memory.") + routing, r.by_routing.back().second.total(), Unit::kBytes,
            std::string("of the fullest rank, with routing ") + routing + ": as memory.total, with the rows of its most loaded rank", {"plan.zipf_exponent"});
    }
  for (size_t i = 0; i < r.context.size(); ++i)
    l.put("context." + in.context[i].name + ".memory", r.context_memory[i], Unit::kBytes,
          "of the fullest rank of this stage; plan.recompute and plan.cache as before", {"plan.recompute", "plan.cache", "plan.routing", "plan.reserve"});
  price_run(in, r.step, r.context, l);
  l.put("tokens_per_day", r.step.tokens_per_step / r.step.step * 86400, Unit::kCount, "tokens_per_step / step_time x 86400", {"tokens_per_step", "step_time"});
  const ChunkModel model(
      in, {r.step.priced.seq_len, r.step.priced.micro_batch, r.step.priced.tp, r.step.priced.cp, r.step.priced.ep, r.step.priced.etp, r.step.priced.dp, 1});
  const LayerTimes& layer = has_routing ? model.moe() : model.dense();
  for (double p : layer.phase) r.computation += p;
  r.exchanges = layer.dispatch.seconds + layer.combine.seconds + layer.grad_dispatch.seconds + layer.grad_combine.seconds;
  l.put("layer.computation", r.computation, Unit::kSeconds, "F, B and W of one layer and micro-batch",
        {"layer.attn_forward", "layer.mlp_forward", "layer.mlp_backward", "layer.mlp_weight", "layer.attn_backward", "layer.attn_weight"});
  if (r.exchanges > 0)
    l.put("layer.exchanges", r.exchanges, Unit::kSeconds, "its four exchanges",
          {"layer.dispatch", "layer.combine", "layer.grad_dispatch", "layer.grad_combine"});
  if (with_choices) {
    r.choices = neighbours(in);
    r.step_with_more_bandwidth = price_choice(in, "", [](PlanInput& p) { p.cluster.inter.bandwidth += 1e9; }).step;
  }
  return r;
}

}  // namespace atoll::plan
