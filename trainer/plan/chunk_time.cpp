// Phases, chunks and pairs. Policy: what is assumed hidden is hidden by an order of events that could run, never by a factor.
#include "trainer/plan/chunk_time.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/error.h"
#include "trainer/plan/host_time.h"

namespace atoll::plan {
namespace {
double beyond(double fed, double own) { return fed > own * (1 + 1e-12) ? fed - own : 0; }  // sums in another order are no wait
size_t at(WorkPhase p) { return static_cast<size_t>(p); }

// Two streams over matched layers: computation attn(F) mlp(B) mlp(W) mlp(F) attn(B) attn(W), communication combine(B) dispatch(F) dispatch(B) combine(F)
// (deepseek-v3 fact sheet 5.2); each starts when its stream is free and its inputs are there.
class PairStreams {
 public:
  void pair(const LayerTimes& f, const LayerTimes& b) {
    const double grad_arrived = communicate(b.grad_dispatch.seconds, gradient_ready_);
    const double attn_f = compute(f.of(WorkPhase::kAttnForward), forward_ready_);
    const double arrived = communicate(f.dispatch.seconds, attn_f);
    const double mlp_b = compute(b.of(WorkPhase::kMlpBackward), grad_arrived);
    const double grad_combined = communicate(b.grad_combine.seconds, mlp_b);
    compute(b.of(WorkPhase::kMlpWeight), grad_arrived);
    const double mlp_f = compute(f.of(WorkPhase::kMlpForward), arrived);
    forward_ready_ = communicate(f.combine.seconds, mlp_f);
    gradient_ready_ = compute(b.of(WorkPhase::kAttnBackward), grad_combined);
    compute(b.of(WorkPhase::kAttnWeight), gradient_ready_);
  }
  void forward_alone(const LayerTimes& f) {
    const double attn = compute(f.of(WorkPhase::kAttnForward), forward_ready_);
    const double mlp = compute(f.of(WorkPhase::kMlpForward), communicate(f.dispatch.seconds, attn));
    forward_ready_ = communicate(f.combine.seconds, mlp);
  }
  void backward_alone(const LayerTimes& b) {
    const double arrived = communicate(b.grad_dispatch.seconds, gradient_ready_);
    const double mlp = compute(b.of(WorkPhase::kMlpBackward), arrived);
    const double combined = communicate(b.grad_combine.seconds, mlp);
    compute(b.of(WorkPhase::kMlpWeight), arrived);
    gradient_ready_ = compute(b.of(WorkPhase::kAttnBackward), combined);
    compute(b.of(WorkPhase::kAttnWeight), gradient_ready_);
  }
  void compute_extra(double seconds) { compute(seconds, 0); }
  double end() const { return std::max({compute_free_, forward_ready_, gradient_ready_}); }

 private:
  double compute(double seconds, double ready) { return compute_free_ = std::max(compute_free_, ready) + seconds; }
  double communicate(double seconds, double ready) {
    if (seconds == 0) return ready;
    return link_free_ = std::max(link_free_, ready) + seconds;
  }
  double compute_free_ = 0, link_free_ = 0, forward_ready_ = 0, gradient_ready_ = 0;
};
}  // namespace

double expected_distinct(double of, double picks) { return of <= 1 ? of : of * (1 - std::pow(1 - 1 / of, picks)); }

double routing_imbalance(const PlanInput& in, int ep) { return routing_imbalance(in, ep, in.plan.text("routing")); }

double routing_imbalance(const PlanInput& in, int ep, const std::string& kind) {
  const double experts = static_cast<double>(in.run.model.n_routed_experts), K = static_cast<double>(in.run.model.num_experts_per_tok);
  if (kind == "balanced" || ep <= 1 || experts == 0) return 1;
  const double local = experts / ep;
  if (kind == "worst") return ep * std::min(K, local) / K;
  double sum = 0, most = 0;
  const double s = in.plan.number("zipf_exponent");
  for (int e = 0; e < experts; ++e) sum += std::pow(e + 1.0, -s);
  for (int e = 0; e < experts; e += ep) most += std::min(1.0, K * std::pow(e + 1.0, -s) / sum);  // the rank that holds the most popular of each deal
  return most * ep / K;
}

ChunkModel::ChunkModel(const PlanInput& input, const Layout& layout) : in_(input), layout_(layout) {
  const ModelConfig& c = in_.run.model;
  shape_.kv_heads = static_cast<int64_t>(in_.plan.number("kv_heads"));
  shape_.tokens = static_cast<double>(layout.seq_len * layout.micro_batch) / layout.cp;
  shape_.seq_len = static_cast<double>(layout.seq_len);
  shape_.local_experts = static_cast<double>(c.n_routed_experts) / layout.ep;
  shape_.tp = layout.tp;
  shape_.is_fp8 = in_.plan.text("precision") == "fp8";
  shape_.is_tensor_scaled = in_.plan.text("scaling") == "tensor";
  shape_.are_rows_fp8 = in_.plan.text("dispatch_precision") == "fp8";
  const auto again = [&](const char* word) { return in_.plan.has_word("recompute", word); };
  shape_.recompute = {again("norms"), again("mla_up"), again("swiglu"), again("experts"), again("attention"), again("full")};
  routing_ = route(in_.plan.text("dispatch") == "flat");
  shape_.routed_rows = routing_.rows;
  if (c.first_k_dense_replace > 0 || c.n_routed_experts == 0) dense_ = layer(0);
  if (c.n_routed_experts > 0) moe_ = layer(std::max(c.num_hidden_layers, c.first_k_dense_replace));
  const auto sums = [&](const std::vector<Work>& list, double* out) {
    for (const Work& w : list) {
      const bool is_forward = w.phase == WorkPhase::kAttnForward || w.phase == WorkPhase::kMlpForward,
                 is_weight = w.phase == WorkPhase::kMlpWeight || w.phase == WorkPhase::kAttnWeight;
      out[is_forward ? 0 : is_weight ? 2 : 1] += seconds(w);
    }
  };
  sums(head_work(c, shape_), head_);
  sums(mtp_work(c, shape_), mtp_);
  const double rows = shape_.tokens * static_cast<double>(c.hidden_size) / shape_.tp,
               rate = in_.cluster.memory_bandwidth * in_.calibration.glue_of("embedding").fraction;
  embedding_[0] = rows * 4 / rate;
  embedding_[1] = rows * 10 / rate;
}

// Groups are spread evenly over the nodes of the EP group; a token chooses topk_group of them, then experts in these.
Routing ChunkModel::route(bool is_flat) const {
  const ModelConfig& c = in_.run.model;
  const double K = static_cast<double>(c.num_experts_per_tok), devices = static_cast<double>(layout_.ep) * layout_.etp;
  const double node_size = static_cast<double>(in_.cluster.gpus_per_node);
  Routing r;
  r.imbalance = routing_imbalance(in_, layout_.ep);
  r.rows = c.n_routed_experts == 0 ? 0 : shape_.tokens / layout_.tp * layout_.etp * K * r.imbalance;
  if (c.n_routed_experts == 0 || devices <= 1) return r;
  r.nodes = std::max(1.0, devices / node_size);
  const double groups = static_cast<double>(c.n_group), chosen = static_cast<double>(c.topk_method == "greedy" ? c.n_group : c.topk_group);
  const bool is_limited = chosen < groups;
  const double reachable = !is_limited ? r.nodes : groups >= r.nodes ? expected_distinct(r.nodes, 0) : r.nodes * chosen / groups;
  double touched = reachable;
  if (is_limited && groups >= r.nodes) {  // distinct nodes of `chosen` groups drawn without replacement, `per` groups a node
    const double per = groups / r.nodes;
    double none = 1;
    for (int i = 0; i < static_cast<int>(chosen); ++i) none *= std::max(0.0, (groups - per - i) / (groups - i));
    touched = r.nodes * (1 - none);
  } else {
    touched = expected_distinct(reachable, K);
  }
  r.remote_nodes = touched * (r.nodes - 1) / r.nodes;
  r.copies = is_flat ? K * (r.nodes - 1) / r.nodes : r.remote_nodes;
  const double local_devices = std::min(devices, node_size), on_a_node = touched * expected_distinct(local_devices, K / touched);
  r.local_copies = (is_flat ? K / r.nodes : on_a_node) * (local_devices - 1) / local_devices;
  return r;
}

double ChunkModel::compute_sms() const { return std::max(1.0, in_.cluster.sms - in_.plan.number("comm_sms")); }

double ChunkModel::seconds(const Work& w, const Rate** used) const {
  if (used != nullptr) *used = nullptr;
  if (w.kind == WorkKind::kGlue) return w.bytes / (in_.cluster.memory_bandwidth * in_.calibration.glue_of(name_of(w.phase)).fraction);
  const Calibration::Found found = in_.calibration.find(name_of(w.kind), name_of(w.pass), w.is_fp8 ? "fp8" : "bf16", w.m, w.n, w.k, compute_sms());
  if (used != nullptr) *used = found.rate;
  return w.flops / found.flops;
}

const Reached& ChunkModel::exchange_rate(const std::string& what) const {
  return in_.calibration.exchange_of(what, in_.plan.text("dispatch_library"), static_cast<double>(layout_.ep) * layout_.etp);
}

Exchange ChunkModel::exchange(const std::string& what, bool is_fp8, const Routing& routing) const {
  Exchange e;
  if (layout_.ep * layout_.etp <= 1) return e;
  const double token = shape_.tokens / layout_.tp * wire_bytes(in_.run.model.hidden_size, is_fp8) * routing.imbalance;
  e.inter = token * routing.copies;
  e.intra = token * routing.local_copies;
  const Reached& reached = exchange_rate(what);
  const double inter = e.inter / (in_.cluster.inter.bandwidth * reached.fraction), intra = e.intra / in_.cluster.intra.rate();
  e.seconds = std::max(inter, intra) + (e.inter > 0 ? in_.cluster.inter.latency : in_.cluster.intra.latency) + reached.fixed;
  return e;
}

// Context parallelism: keys and values (MLA: their latents) of the other ranks go round beside attention; what is longer than it shows.
void ChunkModel::add_context_exchange(LayerTimes& t, double forward, double backward) const {
  if (layout_.cp <= 1) return;
  const ModelConfig& c = in_.run.model;
  const double width = shape_.kv_heads > 0 ? static_cast<double>(shape_.kv_heads * (c.qk_head_dim() + c.v_head_dim)) / layout_.tp
                                           : static_cast<double>(c.kv_lora_rank + c.qk_rope_head_dim);
  const bool is_inter = layout_.cp * layout_.tp > in_.cluster.gpus_per_node;
  const double seconds = (layout_.cp - 1) * shape_.tokens * width * 2 / (is_inter ? in_.cluster.inter : in_.cluster.intra).rate();
  t.phase[at(WorkPhase::kAttnForward)] += std::max(0.0, seconds - forward);
  t.phase[at(WorkPhase::kAttnBackward)] += std::max(0.0, 2 * seconds - backward);  // again, and their gradients
}

// Tensor parallelism with sequence parallelism: an all-gather before and a reduce-scatter after attention and a dense MLP, the same backward, and the gathered
// input again for its weight gradient. Experts take their rows from the split sequence.
void ChunkModel::add_tensor_parallel(LayerTimes& t, bool is_moe) const {
  if (layout_.tp <= 1) return;
  const double bytes = shape_.tokens * static_cast<double>(in_.run.model.hidden_size) * 2 * (layout_.tp - 1) / layout_.tp;
  const Link& link = layout_.tp > in_.cluster.gpus_per_node ? in_.cluster.inter : in_.cluster.intra;
  const double each = (bytes / link.rate() + link.latency) * (1 - in_.plan.number("tp_overlap"));
  t.phase[at(WorkPhase::kAttnForward)] += 2 * each;
  t.phase[at(WorkPhase::kAttnBackward)] += 3 * each;
  if (is_moe) return;
  t.phase[at(WorkPhase::kMlpForward)] += 2 * each;
  t.phase[at(WorkPhase::kMlpBackward)] += 3 * each;
}

void ChunkModel::add_host(LayerTimes& t, bool is_moe) const {
  for (size_t p = 0; p < static_cast<size_t>(WorkPhase::kNumPhases); ++p)
    t.host[p] = in_.plan.number("host.launch") * host_launches(in_, static_cast<WorkPhase>(p), is_moe, shape_.local_experts);
}

LayerTimes ChunkModel::layer(int64_t index) const {
  LayerTimes t;
  double attention[2] = {};
  for (const Work& w : block_work(in_.run.model, index, shape_)) {
    const double s = seconds(w);
    t.phase[at(w.phase)] += s;
    if (w.kind == WorkKind::kAttention) attention[w.pass == WorkPass::kInput] += s;
  }
  add_context_exchange(t, attention[0], attention[1]);
  add_tensor_parallel(t, in_.run.model.is_moe_layer(index));
  add_host(t, in_.run.model.is_moe_layer(index));
  if (!in_.run.model.is_moe_layer(index)) return t;
  const bool is_fp8 = in_.plan.text("dispatch_precision") == "fp8";
  t.dispatch = exchange("dispatch", is_fp8, routing_);
  t.combine = exchange("combine", false, routing_);
  t.grad_dispatch = exchange("grad_dispatch", is_fp8, routing_);
  t.grad_combine = exchange("grad_combine", false, routing_);
  if (shape_.recompute.full) {  // forward again: its exchanges too
    t.grad_dispatch.seconds += t.dispatch.seconds;
    t.grad_combine.seconds += t.combine.seconds;
  }
  return t;
}

std::array<double, 4> ChunkModel::exchange_seconds(const std::string& dispatch) const {
  const Routing routing = route(dispatch == "flat");
  const bool is_fp8 = in_.plan.text("dispatch_precision") == "fp8";
  return {exchange("dispatch", is_fp8, routing).seconds, exchange("combine", false, routing).seconds, exchange("grad_dispatch", is_fp8, routing).seconds,
          exchange("grad_combine", false, routing).seconds};
}

StageTimes ChunkModel::stage(const StageSpec& spec) const {
  const ModelConfig& c = in_.run.model;
  StageTimes s;
  for (int64_t l = spec.layers.begin; l < spec.layers.end; ++l) s.layers.push_back(c.is_moe_layer(l) ? moe_ : dense_);
  for (int64_t k = 0; k < spec.mtp; ++k) s.layers.push_back(c.is_moe_layer(c.num_hidden_layers) ? moe_ : dense_);
  const double heads = spec.has_head ? 1.0 + static_cast<double>(c.num_nextn_predict_layers) : 0, modules = static_cast<double>(spec.mtp),
               tables = modules + spec.has_embedding;
  const bool is_fused = in_.plan.text("head") == "fused";
  s.extra_forward += heads * (is_fused ? head_[0] + head_[1] + head_[2] : head_[0]) + modules * mtp_[0] + tables * embedding_[0];
  s.extra_backward += (is_fused ? 0 : heads * head_[1]) + modules * mtp_[1];
  s.extra_weight += (is_fused ? 0 : heads * head_[2]) + modules * mtp_[2] + tables * embedding_[1];
  const bool hides = in_.plan.text("overlap") == "all";  // beside the neighbour's computation: only what is longer than it shows
  const bool waits = in_.plan.is_on("host.waits") && !hides;
  for (const LayerTimes& l : s.layers) {
    const double f = l.of(WorkPhase::kAttnForward) + l.of(WorkPhase::kMlpForward), b = l.of(WorkPhase::kAttnBackward) + l.of(WorkPhase::kMlpBackward);
    const double w = l.of(WorkPhase::kAttnWeight) + l.of(WorkPhase::kMlpWeight);
    const double xf = l.dispatch.seconds + l.combine.seconds, xb = l.grad_dispatch.seconds + l.grad_combine.seconds;
    const double shown_f = hides ? std::max(0.0, xf - f) : xf, shown_b = hides ? std::max(0.0, xb - b - w) : xb;
    const double fed_f = waits && l.dispatch.seconds > 0 ? waiting_forward(l) : std::max(f + shown_f, l.host_forward());
    const double fed_b = std::max(b + shown_b, l.host_backward()), fed_w = std::max(w, l.host_weight());
    s.forward += fed_f;
    s.backward += fed_b;
    s.weight += fed_w;
    s.host_forward += beyond(fed_f, f + shown_f);
    s.host_backward += beyond(fed_b, b + shown_b);
    s.host_weight += beyond(fed_w, w);
    s.exposed_forward += shown_f;
    s.exposed_backward += shown_b;
  }
  s.forward += s.extra_forward;
  s.backward += s.extra_backward;
  s.weight += s.extra_weight;
  return s;
}

double ChunkModel::pair(const StageTimes& f, const StageTimes& b, double* host) const {
  if (in_.plan.text("overlap") == "none") {
    if (host != nullptr) *host = f.host_forward + b.host_backward + b.host_weight;
    return f.forward + b.backward + b.weight;
  }
  PairStreams streams;
  streams.compute_extra(b.extra_backward + b.extra_weight);  // the last stage's backward begins with its head
  const size_t nf = f.layers.size(), nb = b.layers.size();
  for (size_t i = 0; i < std::max(nf, nb); ++i) {
    const LayerTimes* lf = i < nf ? &f.layers[i] : nullptr;
    const LayerTimes* lb = i < nb ? &b.layers[nb - 1 - i] : nullptr;
    if (lf != nullptr && lb != nullptr)
      streams.pair(*lf, *lb);
    else if (lf != nullptr)
      streams.forward_alone(*lf);
    else
      streams.backward_alone(*lb);
  }
  streams.compute_extra(f.extra_forward);
  double launches = 0;  // while it waits for one micro-batch's counts the device has the other's work
  for (const LayerTimes& l : f.layers) launches += l.host_forward();
  for (const LayerTimes& l : b.layers) launches += l.host_backward() + l.host_weight();
  const double linked = std::max(streams.end(), f.weights_forward + b.weights_backward), fed = std::max(linked, launches);
  if (host != nullptr) *host = fed - linked;
  return fed;
}

double ChunkModel::message_bytes() const { return shape_.tokens / layout_.tp * static_cast<double>(in_.run.model.hidden_size) * 2; }

double ChunkModel::message_seconds(bool is_inter) const {
  const Link& link = is_inter ? in_.cluster.inter : in_.cluster.intra;
  return message_bytes() / link.rate() + link.latency;
}

void ChunkModel::explain(Ledger& ledger) const {
  const ModelConfig& c = in_.run.model;
  const int64_t layer_index = c.n_routed_experts > 0 ? std::max(c.num_hidden_layers, c.first_k_dense_replace) : 0;
  std::vector<std::string> of_phase[static_cast<size_t>(WorkPhase::kNumPhases)];
  for (const Work& w : block_work(c, layer_index, shape_)) {
    const Rate* rate = nullptr;
    const double s = seconds(w, &rate);
    const std::string name = std::string("layer.") + name_of(w.phase) + "." + w.op + (w.kind == WorkKind::kGlue ? "" : std::string(".") + name_of(w.pass));
    std::string how;
    std::vector<std::string> inputs = {"cluster.gpu.sms", "plan.comm_sms"};
    if (rate == nullptr) {
      const Reached& reached = in_.calibration.glue_of(name_of(w.phase));
      how = detail::concat(show(w.bytes, Unit::kBytes), " of memory traffic at ", show(reached.fraction, Unit::kFraction), " of the bandwidth; ",
                           in_.calibration.file, ":", reached.line, ": ", reached.source);
      inputs = {"cluster.gpu.memory_bandwidth", "plan.precision", "plan.scaling"};
    } else {
      how = detail::concat(show(w.flops / 1e12, Unit::kNone), " TFLOP (m ", w.m, ", n ", w.n, ", k ", w.k, ") at ", show(rate->flops, Unit::kFlops), " on ",
                           rate->sms, " SMs, measured at m ", rate->m, ", n ", rate->n, ", k ", rate->k, "; ", in_.calibration.file, ":", rate->line, ": ",
                           rate->source);
    }
    ledger.put(name, s, Unit::kSeconds, how, inputs);
    of_phase[at(w.phase)].push_back(name);
  }
  const LayerTimes& l = c.n_routed_experts > 0 ? moe_ : dense_;
  for (size_t p = 0; p < static_cast<size_t>(WorkPhase::kNumPhases); ++p) {
    const std::string name = std::string("layer.") + name_of(static_cast<WorkPhase>(p));
    double shown = l.phase[p];  // what is left is no op: collectives of tp, exchanges of cp
    for (const std::string& op : of_phase[p]) shown -= ledger.value(op);
    if ((layout_.tp > 1 || layout_.cp > 1) && shown > 1e-9) {
      of_phase[p].push_back(name + ".collectives");
      ledger.put(
          of_phase[p].back(), shown, Unit::kSeconds, "tensor-parallel collectives and context-parallel exchanges that nothing hides",
          {"parallel.tp", "parallel.cp", "plan.tp_overlap", "cluster.links.intra.bandwidth", "cluster.links.intra.usable", "cluster.links.intra.latency"});
    }
    ledger.put(name, l.phase[p], Unit::kSeconds, "computation of this phase of one layer and micro-batch: the sum of its ops", of_phase[p]);
  }
  explain_host(l, shape_.local_experts, ledger);
  const std::pair<const char*, const Exchange*> exchanges[] = {
      {"dispatch", &l.dispatch}, {"combine", &l.combine}, {"grad_dispatch", &l.grad_dispatch}, {"grad_combine", &l.grad_combine}};
  ledger.put(
      "routing.remote_nodes", routing_.remote_nodes, Unit::kNone,
      detail::concat("nodes beside its own that a token reaches: EP group on ", routing_.nodes, " nodes, ", c.topk_group, " of ", c.n_group, " groups chosen"),
      {"parallel.ep", "parallel.etp", "cluster.gpus_per_node", "model.num_experts_per_tok", "model.n_group", "model.topk_group"});
  ledger.put("routing.local_copies", routing_.local_copies, Unit::kNone, "copies of a token to other devices inside nodes, on the way to its experts",
             {"routing.remote_nodes", "plan.dispatch", "parallel.ep", "cluster.gpus_per_node", "model.num_experts_per_tok"});
  ledger.put("routing.copies", routing_.copies, Unit::kNone, "crossings to other nodes of a token", {"routing.remote_nodes", "plan.dispatch"});
  ledger.put("routing.imbalance", routing_.imbalance, Unit::kNone, "rows of the most loaded rank / mean", {"plan.routing", "plan.zipf_exponent"});
  for (const auto& [what, e] : exchanges) {
    const std::string name = std::string("layer.") + what;
    if (l.dispatch.seconds == 0) {
      ledger.put(name, 0, Unit::kSeconds, "experts are on the rank itself", {"parallel.ep", "model.n_routed_experts"});
      continue;
    }
    const Reached& reached = exchange_rate(what);
    ledger.put(name + ".inter_bytes", e->inter, Unit::kBytes, "of one device, to other nodes: tokens x copies x bytes of a copy",
               {"routing.copies", "routing.imbalance", "plan.dispatch_precision", "data.seq_len", "train.micro_batch", "model.hidden_size"});
    ledger.put(name + ".intra_bytes", e->intra, Unit::kBytes, "of one device, inside the node: tokens x local copies x bytes of a copy",
               {"routing.local_copies", "routing.imbalance", "plan.dispatch_precision", "data.seq_len", "train.micro_batch", "model.hidden_size"});
    ledger.put(name, e->seconds, Unit::kSeconds,
               detail::concat("the slower of the two links; between nodes at ", show(reached.fraction, Unit::kFraction), " of the line rate",
                              reached.fixed > 0 ? " and " + show(reached.fixed, Unit::kSeconds) + " that no byte explains" : "", "; ", in_.calibration.file,
                              ":", reached.line, ": ", reached.source),
               {name + ".inter_bytes", name + ".intra_bytes", "plan.dispatch_library", "cluster.links.inter.bandwidth", "cluster.links.inter.latency",
                "cluster.links.intra.bandwidth", "cluster.links.intra.usable", "cluster.links.intra.latency"});
  }
}

}  // namespace atoll::plan
