// Costs of each stage into the simulator; sums of what it says; data-parallel collectives and the optimizer after it.
#include "trainer/plan/step_time.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "kernels/base/error.h"
#include "model/parameters.h"
#include "trainer/schedule_rules.h"

namespace atoll::plan {
namespace {
struct Sharding {
  double dense_group = 1, expert_group = 1;  // ranks that share a parameter's gradient
};

Sharding sharding(const Priced& p, bool is_mirrored) {
  const double both = is_mirrored ? 2 : 1;
  const double ranks = static_cast<double>(p.dp) * p.cp;
  return {ranks * both, std::max(1.0, ranks * p.tp / (static_cast<double>(p.ep) * p.etp)) * both};
}

std::vector<StageParameters> rank_parameters(const PlanInput& in, const Priced& p, const Schedule& frame, const std::vector<StageSpec>& specs) {
  const ModelConfig& c = in.run.model;
  const auto kv_heads = static_cast<int64_t>(in.plan.number("kv_heads"));
  std::vector<StageParameters> out(static_cast<size_t>(frame.num_ranks));
  for (int r = 0; r < frame.num_ranks; ++r) {
    StageParameters& sum = out[static_cast<size_t>(r)];
    const auto add_block = [&](int64_t layer) {
      const BlockParameters b = block_parameters(c, layer, kv_heads);
      sum.shared += static_cast<double>(b.shared) / p.tp;
      sum.experts += static_cast<double>(b.expert) * static_cast<double>(b.num_experts) / (static_cast<double>(p.ep) * p.etp);
    };
    const double table = static_cast<double>(c.vocab_size * c.hidden_size) / p.tp;
    bool has_table = false;
    for (int s : frame.stages_of(r)) {
      const StageSpec& spec = specs[static_cast<size_t>(s)];
      for (int64_t l = spec.layers.begin; l < spec.layers.end; ++l) add_block(l);
      for (int64_t k = 0; k < spec.mtp; ++k) add_block(c.num_hidden_layers + k);
      if (spec.has_head && !c.tie_word_embeddings) sum.shared += table;
      if ((spec.has_embedding || spec.mtp > 0 || (spec.has_head && c.tie_word_embeddings)) && !has_table) {
        sum.shared += table;  // MTP reads the embedding: shared where both ends are on one rank
        has_table = true;
      }
    }
  }
  return out;
}

// A reduce-scatter or all-gather of `bytes` a rank over ranks that are `stride` apart: all members of a node share the links to other nodes, and pass on
// inside.
double collective_seconds(const Cluster& cluster, double bytes, double group, double stride) {
  const double local = std::clamp(static_cast<double>(cluster.gpus_per_node) / stride, 1.0, group), nodes = group / local;
  return std::max(bytes * (local - 1) / local / cluster.intra.rate(), bytes * (nodes - 1) / nodes / (cluster.inter.rate() * local));
}
double dense_seconds(const PlanInput& in, const Priced& p, double bytes, const Sharding& g) {
  return collective_seconds(in.cluster, bytes, g.dense_group, p.tp);
}
double expert_seconds(const PlanInput& in, const Priced& p, double bytes, const Sharding& g) {
  return collective_seconds(in.cluster, bytes, g.expert_group, static_cast<double>(p.ep) * p.etp);
}

// Reduction of gradients to their owners, update there, weights back; per rank, the slowest counts.
void price_update(const PlanInput& in, const Sharding& g, StepPrediction& s, Ledger* ledger) {
  const double grad_bytes = in.plan.text("grads") == "bf16" ? 2 : 4, moment_bytes = in.run.train.adam.moments == DType::kBF16 ? 4 : 8;
  const double shown = 1 - in.plan.number("grads_overlap");
  for (const StageParameters& p : s.parameters) {
    const double seconds = dense_seconds(in, s.priced, p.shared, g) + expert_seconds(in, s.priced, p.experts, g);  // for one byte an element
    const double owned = p.shared / g.dense_group + p.experts / g.expert_group;
    const double times =
        in.plan.number("zero") >= 2 ? static_cast<double>(s.priced.flushes) : 1;  // sharded gradients are reduced every time the pipeline runs empty
    s.reduce = std::max(s.reduce, times * shown * grad_bytes * seconds);
    s.gather = std::max(s.gather, shown * 2 * seconds);
    s.update =
        std::max(s.update, owned * (grad_bytes * 2 + 8 + 2 * moment_bytes + 2) / (in.cluster.memory_bandwidth * in.calibration.glue_of("optimizer").fraction));
  }
  if (ledger == nullptr) return;
  double shared = 0, experts = 0;
  for (const StageParameters& p : s.parameters) {
    shared = std::max(shared, p.shared);
    experts = std::max(experts, p.experts);
  }
  ledger->put("rank.shared_parameters", shared, Unit::kCount,
              "of the fullest rank: attention, dense and shared MLPs, norms, router, embedding and head, of all of its stages");
  ledger->put("rank.expert_parameters", experts, Unit::kCount, "of the fullest rank: routed experts of all of its stages / ep");
  const std::vector<std::string> inputs = {"rank.shared_parameters",
                                           "rank.expert_parameters",
                                           "cluster.links.inter.bandwidth",
                                           "cluster.links.inter.usable",
                                           "cluster.links.intra.bandwidth",
                                           "cluster.links.intra.usable",
                                           "plan.grads_overlap",
                                           "plan.grads",
                                           "plan.zero",
                                           "plan.flushes"};
  ledger->put("optimizer.reduce", s.reduce, Unit::kSeconds,
              detail::concat("gradients to their owners, over ", g.dense_group, " ranks (experts: ", g.expert_group, "), exposed after the last backward"),
              inputs);
  ledger->put("optimizer.gather", s.gather, Unit::kSeconds, "BF16 weights back to all of these ranks", inputs);
  ledger->put("optimizer.update", s.update, Unit::kSeconds, "AdamW of the owned rows: bytes / reached memory bandwidth", {"cluster.gpu.memory_bandwidth"});
  ledger->put("optimizer", s.reduce + s.gather + s.update, Unit::kSeconds, "reduce + update + gather",
              {"optimizer.reduce", "optimizer.update", "optimizer.gather"});
}

// ZeRO-3: a stage's weights are gathered before F and before B, gradients reduced after B, of every micro-batch, beside the computation.
void add_weight_traffic(const PlanInput& in, const Sharding& g, const Schedule& frame, StepPrediction& s) {
  if (in.plan.number("zero") < 3) return;
  for (int r = 0; r < frame.num_ranks; ++r)
    for (int stage : frame.stages_of(r)) {
      const StageParameters& p = s.parameters[static_cast<size_t>(r)];
      const double share = 1.0 / static_cast<double>(frame.stages_of(r).size());
      const double byte = share * (dense_seconds(in, s.priced, p.shared, g) + expert_seconds(in, s.priced, p.experts, g));
      StageTimes& t = s.stages[static_cast<size_t>(stage)];
      t.forward = std::max(t.forward, 2 * byte);
      t.backward = std::max(t.backward + t.weight, 4 * byte) - t.weight;
    }
}

SimulationCosts costs_of(const PlanInput& in, const ChunkModel& model, StepPrediction& s, bool is_inter) {
  SimulationCosts costs;
  const bool is_exposed = in.plan.text("p2p") == "exposed" && s.schedule->num_ranks > 1;
  const double message = model.message_seconds(is_inter), wait = is_exposed ? message : 0;
  for (const StageTimes& t : s.stages) {
    costs.forward.push_back(t.forward + wait);
    costs.backward.push_back(t.backward + wait);
    costs.weight.push_back(t.weight);
  }
  const bool has_pairs =
      s.priced.is_paired || s.priced.schedule == "dualpipe" || s.priced.schedule == "dualpipev" || in.run.parallel.schedule == s.priced.schedule;
  std::map<std::tuple<size_t, double, double>, size_t> kinds;  // stages that are alike
  std::vector<size_t> kind;
  for (const StageTimes& t : s.stages) kind.push_back(kinds.try_emplace({t.layers.size(), t.forward, t.backward}, kinds.size()).first->second);
  std::vector<std::pair<double, double>> known(kinds.size() * kinds.size(), {-1, 0});
  for (size_t f = 0; has_pairs && f < s.stages.size(); ++f) {
    costs.pair.emplace_back();
    s.pair_host.emplace_back();
    for (size_t b = 0; b < s.stages.size(); ++b) {
      auto& [seconds, host] = known[kind[f] * kinds.size() + kind[b]];
      if (seconds < 0) seconds = model.pair(s.stages[f], s.stages[b], &host) + 2 * wait;  // two messages leave by one link
      costs.pair.back().push_back(seconds);
      s.pair_host.back().push_back(host);
    }
  }
  const size_t n = static_cast<size_t>(s.schedule->num_ranks);
  if (!is_exposed) {
    costs.send.assign(n, std::vector<double>(n, message));
    for (size_t r = 0; r < n; ++r) costs.send[r][r] = 0;
  }
  return costs;
}

// What of an action the device waits for the host.
double host_of(const StepPrediction& s, const Action& a) {
  const StageTimes& t = s.stages[static_cast<size_t>(a.stage)];
  switch (a.kind) {
    case ActionKind::kForward: return t.host_forward;
    case ActionKind::kBackward: return t.host_backward;
    case ActionKind::kFullBackward: return t.host_backward + t.host_weight;
    case ActionKind::kWeight: return t.host_weight;
    default: return s.pair_host[static_cast<size_t>(forward_of(a).stage)][static_cast<size_t>(weight_of(a).stage)];
  }
}

void sum_timeline(StepPrediction& s) {
  const double ranks = s.schedule->num_ranks;
  for (const auto& line : s.simulation.timeline)
    for (const TimedAction& t : line) {
      const double seconds = (t.end - t.begin) / ranks;
      s.host += host_of(s, t.action) / ranks;
      switch (t.action.kind) {
        case ActionKind::kForward: s.forward += seconds; break;
        case ActionKind::kBackward: s.backward += seconds; break;
        case ActionKind::kFullBackward: s.backward += seconds; break;
        case ActionKind::kWeight: s.weight += seconds; break;
        default: s.pairs += seconds; s.pair_count += 1 / ranks;
      }
    }
  for (double b : s.simulation.bubble) s.bubble += b / ranks;
  for (size_t r = 0; r < s.simulation.timeline.size(); ++r) {
    double exposed = 0;
    for (const TimedAction& t : s.simulation.timeline[r]) {
      const StageTimes& stage = s.stages[static_cast<size_t>(t.action.stage)];
      if (t.action.kind == ActionKind::kForward) exposed += stage.exposed_forward;
      if (t.action.kind == ActionKind::kBackward || t.action.kind == ActionKind::kFullBackward) exposed += stage.exposed_backward;
    }
    s.exposed = std::max(s.exposed, exposed);
  }
}

void explain_step(const PlanInput& in, const ChunkModel& model, const StepPrediction& s, Ledger& ledger) {
  model.explain(ledger);
  std::vector<std::string> stage_names;
  const std::vector<std::string> f_parts = {"layer.attn_forward", "layer.mlp_forward", "layer.dispatch", "layer.combine", "plan.overlap"};
  const std::vector<std::string> b_parts = {"layer.attn_backward", "layer.mlp_backward", "layer.grad_dispatch", "layer.grad_combine", "plan.overlap"};
  double f = 0, b = 0, w = 0, widest = 0;
  for (const StageTimes& t : s.stages) {
    f = std::max(f, t.forward);
    b = std::max(b, t.backward);
    w = std::max(w, t.weight);
    widest = std::max(widest, model.pair(t, t));
  }
  ledger.put("chunk.forward", f, Unit::kSeconds, "F alone of the slowest stage: its layers' phases, exchanges exposed as plan.overlap says", f_parts);
  ledger.put("chunk.backward", b, Unit::kSeconds, "B (input gradients) alone of the slowest stage", b_parts);
  ledger.put("chunk.weight", w, Unit::kSeconds, "W alone of the slowest stage", {"layer.attn_weight", "layer.mlp_weight"});
  std::vector<std::string> all = f_parts;
  all.insert(all.end(), b_parts.begin(), b_parts.end() - 1);
  ledger.put("chunk.pair", widest, Unit::kSeconds, "F and full B of the slowest stage, overlapped: two streams in the order of the trace", all);
  ledger.put("message", s.message, Unit::kSeconds, "one boundary activation or gradient: " + show(model.message_bytes(), Unit::kBytes),
             {"cluster.links.inter.bandwidth", "cluster.links.inter.usable", "cluster.links.inter.latency", "plan.p2p"});
  const std::string of = detail::concat("schedule ", s.schedule->name, ", ", s.schedule->num_stages, " stages on ", s.schedule->num_ranks, " ranks, ",
                                        s.priced.num_microbatches(), " micro-batches: ");
  const std::vector<std::string> chunks = {"chunk.forward", "chunk.backward", "chunk.weight", "chunk.pair", "message"};
  std::vector<std::string> of_pipeline = chunks;
  for (const char* key : {"plan.schedule", "plan.head", "plan.chunks", "plan.flushes", "parallel.pp", "train.micro_batch"}) of_pipeline.push_back(key);
  ledger.put("pipeline", s.pipeline, Unit::kSeconds, of + "simulated from the first action to the last", of_pipeline);
  ledger.put("solo_forward", s.forward, Unit::kSeconds, of + "time in F alone, mean over ranks", chunks);
  ledger.put("solo_backward", s.backward, Unit::kSeconds, of + "time in B alone (and in full backwards), mean over ranks", chunks);
  ledger.put("solo_weight", s.weight, Unit::kSeconds, of + "time in W alone, mean over ranks", chunks);
  ledger.put("pairs", s.pairs, Unit::kSeconds, of + detail::concat("time in overlapped pairs, mean over ranks; ", s.pair_count, " pairs"), chunks);
  ledger.put("bubble", s.bubble, Unit::kSeconds, of + "idle time, mean over ranks", {"pipeline", "solo_forward", "solo_backward", "solo_weight", "pairs"});
  ledger.put("exposed", s.exposed, Unit::kSeconds, "exchanges in chunks that run alone, of the rank that waits most",
             {"layer.dispatch", "layer.combine", "layer.grad_dispatch", "layer.grad_combine"});
  ledger.put("host", s.host, Unit::kSeconds,
             "the device waits for the host, in chunks and pairs whose launches take longer than their kernels; mean over ranks",
             {"layer.host_forward", "layer.host_backward", "plan.host.waits"});
  ledger.put("step_time", s.step, Unit::kSeconds, "pipeline + optimizer", {"pipeline", "optimizer"});
  ledger.put("tokens_per_step", s.tokens_per_step, Unit::kCount, "train.global_batch x data.seq_len", {"train.global_batch", "data.seq_len"});
  ledger.put("gpus", static_cast<double>(in.gpus()), Unit::kCount, "devices used", {"plan.gpus", "cluster.nodes", "cluster.gpus_per_node"});
  ledger.put("tokens_per_gpu_second", s.tokens_per_gpu_second, Unit::kNone, "tokens_per_step / step_time / gpus", {"tokens_per_step", "step_time", "gpus"});
}
}  // namespace

Priced pretraining(const PlanInput& in) {
  const MeshSizes& m = in.run.parallel.mesh;
  Priced p{in.run.data.seq_len, in.run.train.global_batch, in.run.train.micro_batch, m.pp, m.tp, m.cp, m.ep, m.etp, in.chunks(), in.dp(), in.schedule(), {}};
  p.stage_layers.assign(in.run.parallel.stage_layers.begin(), in.run.parallel.stage_layers.end());
  p.flushes = static_cast<int64_t>(in.plan.number("flushes"));
  p.is_paired = in.plan.text("overlap") == "pairs" && (p.schedule == "interleaved" || (p.schedule == "1f1b" && p.pp == 1));
  return p;
}

Schedule schedule_of(const Priced& p) {
  const auto n = static_cast<int>(p.num_microbatches());
  if (!p.is_paired) return build_schedule(p.schedule, p.pp, n, p.chunks);
  Schedule s = p.schedule == "1f1b" ? one_f_one_b(p.pp, n) : interleaved(p.pp, n, p.chunks);
  s.name += " in pairs";
  s.max_live.clear();
  for (std::vector<Action>& list : s.actions) {
    const auto first = std::find_if(list.begin(), list.end(), [](const Action& a) { return a.kind != ActionKind::kForward; });
    std::vector<Action> out(list.begin(), first), forwards, backwards;
    for (auto it = first; it != list.end(); ++it) (it->kind == ActionKind::kForward ? forwards : backwards).push_back(*it);
    for (size_t i = 0; i < backwards.size(); ++i) {
      const Action& b = backwards[i];
      out.push_back(i < forwards.size() ? Action{ActionKind::kPair, forwards[i].stage, forwards[i].microbatch, b.stage, b.microbatch} : b);
    }
    list = std::move(out);
  }
  return with_communication(s);
}

Priced context_stage(const PlanInput& in, const ContextStage& stage) {
  PlanInput at = in;
  MeshSizes& m = at.run.parallel.mesh;
  m.cp = static_cast<int>(stage.cp);
  if (stage.pp > 0) m.pp = static_cast<int>(stage.pp);
  if (stage.ep > 0) m.ep = static_cast<int>(stage.ep);
  if (stage.tp > 0) m.tp = static_cast<int>(stage.tp);
  at.run.data.seq_len = stage.seq_len;
  at.run.train.global_batch = stage.global_batch;
  at.run.train.micro_batch = 1;
  set_number(at, "flushes", 1);
  if (!stage.schedule.empty()) set_text(at, "schedule", stage.schedule);
  std::string text;
  for (const std::string& problem : layout_problems(at)) text += (text.empty() ? "" : "; ") + problem;
  if (!text.empty()) throw ConfigError(text);
  return pretraining(at);
}

std::vector<StageSpec> stage_specs(const PlanInput& in, const Priced& p, int num_stages) {
  const std::vector<std::string>& words = in.plan.words("stages");
  const ModelConfig& c = in.run.model;
  std::vector<StageSpec> specs;
  if (words.empty()) {
    const std::vector<Range> layers = split_layers(c, num_stages, p.stage_layers);
    for (int s = 0; s < num_stages; ++s) {
      const bool is_last = s == num_stages - 1;
      specs.push_back({layers[static_cast<size_t>(s)], s == 0, is_last, is_last ? c.num_nextn_predict_layers : 0});
    }
    return specs;
  }
  const std::string& place = in.plan.at("stages").place;
  int64_t at = 0, embeddings = 0, heads = 0, mtp = 0;
  for (const std::string& word : words) {
    StageSpec spec;
    int64_t n = 0;
    for (const char ch : word) {
      if (ch == 'e')
        spec.has_embedding = ++embeddings > 0;
      else if (ch == 'h')
        spec.has_head = ++heads > 0;
      else if (ch == 'm')
        mtp += spec.mtp = c.num_nextn_predict_layers;
      else if (ch >= '0' && ch <= '9' && n < 100000)
        n = 10 * n + ch - '0';
      else
        throw ConfigError(place + ": plan.stages: '" + word + "': expected e, a number of layers, m, h, as e3 or 4m");
    }
    spec.layers = {at, at + n};
    at += n;
    specs.push_back(spec);
  }
  if (static_cast<int>(specs.size()) != num_stages || at != c.num_hidden_layers || embeddings != 1 || heads != 1 || mtp != c.num_nextn_predict_layers ||
      !specs.front().has_embedding || !specs.back().has_head)
    throw ConfigError(detail::concat(place, ": plan.stages: ", specs.size(), " stages with ", at, " layers; the schedule has ", num_stages,
                                     " stages, the model ", c.num_hidden_layers,
                                     " layers; the first stage has the one e, the last the one h, and there is one m if the model has MTP"));
  return specs;
}

StepPrediction prepare_step(const PlanInput& in, const Priced& priced, std::shared_ptr<const Schedule> built, Ledger* ledger) {
  StepPrediction s;
  s.priced = priced;
  s.schedule = std::move(built);
  if (!s.schedule && priced.schedule == in.run.parallel.schedule) s.schedule = custom_schedule(in.run);  // parallel.schedule may name a file
  if (s.schedule && (s.schedule->num_ranks != priced.pp || s.schedule->num_microbatches != priced.num_microbatches()))
    throw ConfigError(detail::concat("the schedule of ", priced.schedule, " is for ", s.schedule->num_ranks, " ranks and ", s.schedule->num_microbatches,
                                     " micro-batches, not ", priced.pp, " and ", priced.num_microbatches()));
  if (!s.schedule) s.schedule = std::make_shared<const Schedule>(schedule_of(priced));
  s.specs = stage_specs(in, priced, s.schedule->num_stages);
  s.parameters = rank_parameters(in, priced, *s.schedule, s.specs);
  s.model = std::make_shared<const ChunkModel>(
      in, ChunkModel::Layout{priced.seq_len, priced.micro_batch, priced.tp, priced.cp, priced.ep, priced.etp, priced.dp, s.schedule->num_stages});
  for (const StageSpec& spec : s.specs) s.stages.push_back(s.model->stage(spec));
  const Sharding group = sharding(priced, s.schedule->is_mirrored);
  add_weight_traffic(in, group, *s.schedule, s);
  price_update(in, group, s, ledger);
  s.tokens_per_step = static_cast<double>(priced.global_batch) * static_cast<double>(priced.seq_len);
  return s;
}

void simulate_step(const PlanInput& in, StepPrediction& s, Ledger* ledger) {
  const Priced& priced = s.priced;
  const std::shared_ptr<const ChunkModel> held = std::move(s.model);
  const ChunkModel& model = *held;
  const bool is_inter = priced.dp * priced.tp * priced.cp >= in.cluster.gpus_per_node;
  s.message = priced.pp > 1 ? model.message_seconds(is_inter) : 0;
  s.simulation = simulate(*s.schedule, costs_of(in, model, s, is_inter));
  const double flushes = static_cast<double>(priced.flushes);
  s.pipeline = flushes * s.simulation.step_time;
  s.step = s.pipeline + s.reduce + s.gather + s.update;
  sum_timeline(s);
  for (double* part : {&s.forward, &s.backward, &s.weight, &s.pairs, &s.bubble, &s.pair_count, &s.exposed, &s.host}) *part *= flushes;
  s.tokens_per_gpu_second = s.tokens_per_step / s.step / static_cast<double>(in.gpus());
  if (ledger != nullptr) explain_step(in, model, s, *ledger);
}

StepPrediction predict_step(const PlanInput& in, const Priced& priced, Ledger* ledger) {
  StepPrediction s = prepare_step(in, priced, nullptr, ledger);
  simulate_step(in, s, ledger);
  return s;
}

}  // namespace atoll::plan
