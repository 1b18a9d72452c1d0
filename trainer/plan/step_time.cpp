// Costs of each stage into the simulator; sums of what it says; data-parallel collectives and the optimizer after it.
#include "trainer/plan/step_time.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "kernels/base/error.h"
#include "model/parameters.h"
#include "trainer/schedule_rules.h"

namespace atoll::plan {
namespace {
// Pipeline ranks on nodes: rank r has the devices [r x devices, (r + 1) x devices), node after node.
class Places {
 public:
  Places(const Cluster& cluster, const Priced& p) : devices_(p.dp * p.tp * p.cp), node_(cluster.gpus_per_node), num_ranks_(p.pp) {}
  // Whether a device of rank a and its peer of rank b are on different nodes; the slowest pair counts.
  bool is_between_nodes(int a, int b) const {
    if (devices_ >= node_) return a != b;
    for (int64_t i = 0; i < devices_; ++i)
      if ((a * devices_ + i) / node_ != (b * devices_ + i) / node_) return true;
    return false;
  }
  // Nodes of a group that has every `stride`-th device of rank r, and of its mirror.
  double nodes_of(int r, bool is_mirrored, double group, int64_t stride) const {
    const int other = is_mirrored ? num_ranks_ - 1 - r : r;
    const double members = group / (other == r ? 1 : 2);
    if (devices_ >= node_) return group / std::clamp(static_cast<double>(node_) / static_cast<double>(stride), 1.0, members);
    size_t most = 1;
    for (int64_t first = 0; first < stride; ++first) {
      std::set<int64_t> nodes;
      for (const int rank : {r, other})
        for (int64_t i = first; i < devices_; i += stride) nodes.insert((rank * devices_ + i) / node_);
      most = std::max(most, nodes.size());
    }
    return static_cast<double>(most);
  }

 private:
  int64_t devices_, node_;
  int num_ranks_;
};

struct Sharding {
  double dense_group = 1, expert_group = 1;      // ranks that share a parameter's gradient
  std::vector<double> dense_nodes, expert_nodes;  // [pipeline rank] that they are on
};

Sharding sharding(const Cluster& cluster, const Priced& p, bool is_mirrored) {
  const double both = is_mirrored ? 2 : 1;
  const double ranks = static_cast<double>(p.dp) * p.cp;
  Sharding g{ranks * both, std::max(1.0, ranks * p.tp / (static_cast<double>(p.ep) * p.etp)) * both, {}, {}};
  const Places places(cluster, p);
  for (int r = 0; r < p.pp; ++r) {
    g.dense_nodes.push_back(places.nodes_of(r, is_mirrored, g.dense_group, p.tp));
    g.expert_nodes.push_back(places.nodes_of(r, is_mirrored, g.expert_group, static_cast<int64_t>(p.ep) * p.etp));
  }
  return g;
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

// A reduce-scatter or all-gather of `bytes` a rank over a group on so many nodes: all members of a node share the links to other nodes, and pass on inside.
double collective_seconds(const Cluster& cluster, double bytes, double group, double nodes) {
  const double local = group / nodes;
  return std::max(bytes * (local - 1) / local / cluster.intra.rate(), bytes * (nodes - 1) / nodes / (cluster.inter.rate() * local));
}
// All parameters of rank r, for one byte an element.
double parameter_seconds(const PlanInput& in, const StepPrediction& s, const Sharding& g, size_t r) {
  return collective_seconds(in.cluster, s.parameters[r].shared, g.dense_group, g.dense_nodes[r]) +
         collective_seconds(in.cluster, s.parameters[r].experts, g.expert_group, g.expert_nodes[r]);
}
double grad_bytes_of(const PlanInput& in) { return in.plan.text("grads") == "bf16" ? 2 : 4; }
bool are_weights_sharded(const PlanInput& in) { return in.plan.number("zero") >= 3; }

// Reduction of gradients to their owners, update there, weights back; per rank, the slowest counts. With ZeRO-3 every chunk has reduced and gathered already.
void price_update(const PlanInput& in, const Sharding& g, StepPrediction& s, Ledger* ledger) {
  const double grad_bytes = grad_bytes_of(in), moment_bytes = in.run.train.adam.moments == DType::kBF16 ? 4 : 8;
  const double shown = are_weights_sharded(in) ? 0 : 1 - in.plan.number("grads_overlap");
  const double times = in.plan.number("zero") >= 2 ? static_cast<double>(s.priced.flushes) : 1;  // sharded gradients are reduced every time the pipeline runs empty
  const double row_bytes = grad_bytes * 2 + 8 + 2 * moment_bytes + 2, fraction = in.calibration.glue_of("optimizer").fraction;
  const auto owned_of = [&](size_t r) { return s.parameters[r].shared / g.dense_group + s.parameters[r].experts / g.expert_group; };
  size_t slowest = 0, fullest = 0;
  for (size_t r = 1; r < s.parameters.size(); ++r) {
    if (parameter_seconds(in, s, g, r) > parameter_seconds(in, s, g, slowest)) slowest = r;
    if (owned_of(r) > owned_of(fullest)) fullest = r;
  }
  const double seconds = parameter_seconds(in, s, g, slowest), owned = owned_of(fullest);
  s.reduce = times * shown * grad_bytes * seconds;
  s.gather = shown * 2 * seconds;
  s.update = owned * row_bytes / (in.cluster.memory_bandwidth * fraction);
  if (ledger == nullptr) return;
  ledger->put("optimizer.shared_parameters", s.parameters[slowest].shared, Unit::kCount,
              detail::concat("attention, dense and shared MLPs, norms, router, embedding and head of all stages of rank ", slowest, ", whose collectives take longest"), parameter_inputs());
  ledger->put("optimizer.expert_parameters", s.parameters[slowest].experts, Unit::kCount, "routed experts of all of its stages / ep", parameter_inputs());
  ledger->put("optimizer.owned_parameters", owned, Unit::kCount,
              detail::concat("of rank ", fullest, ", which owns most: shared / ", g.dense_group, " + experts / ", g.expert_group), parameter_inputs());
  const std::vector<std::string> inputs = {"optimizer.shared_parameters",
                                           "optimizer.expert_parameters",
                                           "cluster.links.inter.bandwidth",
                                           "cluster.links.inter.usable",
                                           "cluster.links.intra.bandwidth",
                                           "cluster.links.intra.usable",
                                           "plan.grads_overlap",
                                           "plan.grads",
                                           "plan.zero",
                                           "plan.flushes"};
  const std::string over = are_weights_sharded(in) ? "; none after the step: ZeRO-3 has done it in every chunk"
                                                   : detail::concat("; ", show(seconds, Unit::kSeconds), " for each byte of an element (", g.dense_group, " ranks on ",
                                                                    g.dense_nodes[slowest], " nodes; experts: ", g.expert_group, " on ", g.expert_nodes[slowest],
                                                                    "; the slower of the links inside and between nodes), of which 1 - grads_overlap shows");
  ledger->put("optimizer.reduce", s.reduce, Unit::kSeconds, detail::concat("gradients of ", grad_bytes, " bytes to their owners, ", times, " times", over), inputs);
  ledger->put("optimizer.gather", s.gather, Unit::kSeconds, "BF16 weights back to all of these ranks" + over, inputs);
  const Reached& reached = in.calibration.glue_of("optimizer");
  ledger->put("optimizer.update", s.update, Unit::kSeconds,
              detail::concat("AdamW: ", row_bytes, " bytes an owned element at ", show(fraction, Unit::kFraction), " of the memory bandwidth; ", in.calibration.file, ":", reached.line,
                             ": ", reached.source),
              {"optimizer.owned_parameters", "plan.grads", "cluster.gpu.memory_bandwidth"});
  ledger->put("optimizer", s.reduce + s.gather + s.update, Unit::kSeconds, "reduce + update + gather",
              {"optimizer.reduce", "optimizer.update", "optimizer.gather"});
}

// ZeRO-3: a stage's weights are gathered before F and before B, gradients reduced after B, of every micro-batch, layer by layer beside the computation.
void add_weight_traffic(const PlanInput& in, const Sharding& g, const Schedule& frame, StepPrediction& s) {
  if (!are_weights_sharded(in)) return;
  for (int r = 0; r < frame.num_ranks; ++r)
    for (int stage : frame.stages_of(r)) {
      const double byte = parameter_seconds(in, s, g, static_cast<size_t>(r)) / static_cast<double>(frame.stages_of(r).size());
      StageTimes& t = s.stages[static_cast<size_t>(stage)];
      t.weights_forward = std::max(t.weights_forward, 2 * byte);
      t.weights_backward = std::max(t.weights_backward, (2 + grad_bytes_of(in)) * byte);
      t.forward = std::max(t.forward, t.weights_forward);
      t.backward = std::max(t.backward + t.weight, t.weights_backward) - t.weight;
    }
}

// Seconds of a boundary message of this stage: of the slower of its two hops, in both directions of a mirrored schedule; none inside a rank.
double hop_seconds(const ChunkModel& model, const Places& places, const Schedule& schedule, int stage) {
  double seconds = 0;
  const int here = schedule.rank_of_stage[static_cast<size_t>(stage)], mirror = schedule.num_ranks - 1;
  for (const int next : {stage - 1, stage + 1}) {
    if (next < 0 || next >= schedule.num_stages) continue;
    const int there = schedule.rank_of_stage[static_cast<size_t>(next)];
    if (there == here) continue;
    const bool is_inter = places.is_between_nodes(here, there) || (schedule.is_mirrored && places.is_between_nodes(mirror - here, mirror - there));
    seconds = std::max(seconds, model.message_seconds(is_inter));
  }
  return seconds;
}

SimulationCosts costs_of(const PlanInput& in, const ChunkModel& model, const Places& places, StepPrediction& s) {
  SimulationCosts costs;
  const bool is_exposed = in.plan.text("p2p") == "exposed" && s.schedule->num_ranks > 1;
  std::vector<double> wait;
  for (int stage = 0; stage < s.schedule->num_stages; ++stage) wait.push_back(is_exposed ? hop_seconds(model, places, *s.schedule, stage) : 0);
  for (size_t stage = 0; stage < s.stages.size(); ++stage) {
    costs.forward.push_back(s.stages[stage].forward + wait[stage]);
    costs.backward.push_back(s.stages[stage].backward + wait[stage]);
    costs.weight.push_back(s.stages[stage].weight);
  }
  const bool has_pairs =
      s.priced.is_paired || s.priced.schedule == "dualpipe" || s.priced.schedule == "dualpipev" || in.run.parallel.schedule == s.priced.schedule;
  std::map<std::tuple<size_t, double, double, double, double>, size_t> kinds;  // stages that are alike
  std::vector<size_t> kind;
  for (const StageTimes& t : s.stages)
    kind.push_back(kinds.try_emplace({t.layers.size(), t.forward, t.backward, t.weights_forward, t.weights_backward}, kinds.size()).first->second);
  std::vector<std::pair<double, double>> known(kinds.size() * kinds.size(), {-1, 0});
  for (size_t f = 0; has_pairs && f < s.stages.size(); ++f) {
    costs.pair.emplace_back();
    s.pair_host.emplace_back();
    for (size_t b = 0; b < s.stages.size(); ++b) {
      auto& [seconds, host] = known[kind[f] * kinds.size() + kind[b]];
      if (seconds < 0) seconds = model.pair(s.stages[f], s.stages[b], &host);
      costs.pair.back().push_back(seconds + wait[f] + wait[b]);  // two messages leave by one link
      s.pair_host.back().push_back(host);
    }
  }
  const int n = s.schedule->num_ranks;
  if (is_exposed) return costs;
  for (int a = 0; a < n; ++a) {
    costs.send.emplace_back();
    for (int b = 0; b < n; ++b) costs.send.back().push_back(a == b ? 0 : model.message_seconds(places.is_between_nodes(a, b)));
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

// What the message took longest over.
void explain_message(const ChunkModel& model, const Places& places, const StepPrediction& s, Ledger& ledger) {
  bool is_inter = false;
  for (int r = 0; r + 1 < s.schedule->num_ranks; ++r) is_inter = is_inter || places.is_between_nodes(r, r + 1);
  const std::string link = std::string("cluster.links.") + (is_inter ? "inter" : "intra");
  ledger.put("message", s.message, Unit::kSeconds,
             detail::concat("one boundary activation or gradient, ", show(model.message_bytes(), Unit::kBytes), ", over the slowest hop between stages, ",
                            is_inter ? "between nodes" : "inside a node"),
             {link + ".bandwidth", link + ".usable", link + ".latency", "plan.p2p", "data.seq_len", "train.micro_batch", "model.hidden_size"});
}

void explain_step(const PlanInput& in, const ChunkModel& model, const StepPrediction& s, Ledger& ledger) {
  model.explain(ledger);
  std::vector<std::string> f_parts = {"layer.attn_forward", "layer.mlp_forward", "layer.dispatch", "layer.combine", "plan.overlap"};
  std::vector<std::string> b_parts = {"layer.attn_backward", "layer.mlp_backward", "layer.grad_dispatch", "layer.grad_combine", "plan.overlap"};
  double f = 0, b = 0, w = 0, widest = 0, gathers = 0, reduces = 0;
  for (const StageTimes& t : s.stages) {
    f = std::max(f, t.forward);
    b = std::max(b, t.backward);
    w = std::max(w, t.weight);
    widest = std::max(widest, model.pair(t, t));
    gathers = std::max(gathers, t.weights_forward);
    reduces = std::max(reduces, t.weights_backward);
  }
  if (are_weights_sharded(in)) {
    const std::vector<std::string> inputs = {"optimizer.shared_parameters",   "optimizer.expert_parameters",  "plan.zero", "plan.grads", "cluster.links.inter.bandwidth",
                                             "cluster.links.intra.bandwidth", "cluster.links.inter.usable", "cluster.links.intra.usable"};
    ledger.put("chunk.weights_forward", gathers, Unit::kSeconds, "ZeRO-3: the weights of the slowest stage gathered; F takes as long at least", inputs);
    ledger.put("chunk.weights_backward", reduces, Unit::kSeconds, "ZeRO-3: gathered again, and their gradients reduced; B and W take as long at least", inputs);
    f_parts.push_back("chunk.weights_forward");
    b_parts.insert(b_parts.end() - 1, "chunk.weights_backward");
  }
  ledger.put("chunk.forward", f, Unit::kSeconds, "F alone of the slowest stage: its layers' phases, exchanges exposed as plan.overlap says", f_parts);
  ledger.put("chunk.backward", b, Unit::kSeconds, "B (input gradients) alone of the slowest stage", b_parts);
  ledger.put("chunk.weight", w, Unit::kSeconds, "W alone of the slowest stage", {"layer.attn_weight", "layer.mlp_weight"});
  std::vector<std::string> all = f_parts;
  all.insert(all.end(), b_parts.begin(), b_parts.end() - 1);
  ledger.put("chunk.pair", widest, Unit::kSeconds, "F and full B of the slowest stage, overlapped: two streams in the order of the trace", all);
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

const std::vector<std::string>& parameter_inputs() {
  static const std::vector<std::string> names = {"model.num_hidden_layers", "model.hidden_size", "model.n_routed_experts", "model.moe_intermediate_size", "model.intermediate_size",
                                                 "model.num_attention_heads", "model.vocab_size", "plan.kv_heads", "plan.stages", "parallel.pp", "parallel.tp", "parallel.ep", "parallel.etp"};
  return names;
}

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
  const Sharding group = sharding(in.cluster, priced, s.schedule->is_mirrored);
  add_weight_traffic(in, group, *s.schedule, s);
  price_update(in, group, s, ledger);
  s.tokens_per_step = static_cast<double>(priced.global_batch) * static_cast<double>(priced.seq_len);
  return s;
}

void simulate_step(const PlanInput& in, StepPrediction& s, Ledger* ledger) {
  const Priced& priced = s.priced;
  const std::shared_ptr<const ChunkModel> held = std::move(s.model);
  const ChunkModel& model = *held;
  const Places places(in.cluster, priced);
  for (int stage = 0; stage < s.schedule->num_stages; ++stage) s.message = std::max(s.message, hop_seconds(model, places, *s.schedule, stage));
  s.simulation = simulate(*s.schedule, costs_of(in, model, places, s));
  const double flushes = static_cast<double>(priced.flushes);
  s.pipeline = flushes * s.simulation.step_time;
  s.step = s.pipeline + s.reduce + s.gather + s.update;
  sum_timeline(s);
  for (double* part : {&s.forward, &s.backward, &s.weight, &s.pairs, &s.bubble, &s.pair_count, &s.exposed, &s.host}) *part *= flushes;
  s.tokens_per_gpu_second = s.tokens_per_step / s.step / static_cast<double>(in.gpus());
  if (ledger == nullptr) return;
  explain_message(model, places, s, *ledger);
  explain_step(in, model, s, *ledger);
}

StepPrediction predict_step(const PlanInput& in, const Priced& priced, Ledger* ledger) {
  StepPrediction s = prepare_step(in, priced, nullptr, ledger);
  simulate_step(in, s, ledger);
  return s;
}

}  // namespace atoll::plan
