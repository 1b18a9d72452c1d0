// Parameters by precision and sharding; activations by the walk of the plan's own schedule.
#include "trainer/plan/plan_memory.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "kernels/base/error.h"
#include "model/parameters.h"

namespace atoll::plan {
MemoryShape memory_shape(const PlanInput& in, const Priced& p, double imbalance) {
  MemoryShape m;
  m.tokens = p.seq_len * p.micro_batch / p.cp;
  m.sequences = p.micro_batch;
  m.rows_sent = static_cast<double>(m.tokens * in.run.model.num_experts_per_tok) / p.tp * p.etp;
  m.rows_received = m.rows_sent * imbalance;
  m.is_alone = p.ep * p.etp == 1;
  m.is_fp8_cache = in.plan.text("cache") == "fp8";
  const auto again = [&](const char* word) { return in.plan.has_word("recompute", word); };
  m.recompute = {again("norms"), again("mla_up"), again("swiglu"), again("experts"), again("attention"), again("full")};
  m.kv_heads = static_cast<int64_t>(in.plan.number("kv_heads"));
  m.tp = p.tp;
  return m;
}

namespace {
// MTP modules that are on another stage than the head are counted as layers there.
StageMemory memory_of(const ModelConfig& model, const StageSpec& spec, const MemoryShape& shape) {
  ModelConfig c = model;
  Range layers = spec.layers;
  if (spec.mtp > 0 && !spec.has_head) layers.end = layers.begin + spec.layers.size() + spec.mtp;
  if (spec.mtp == 0) c.num_nextn_predict_layers = 0;
  return stage_memory(c, layers, spec.has_embedding, spec.has_head, shape);
}

// When a list's action begins in the simulation; a message: when the computation after it does.
double time_of(const StepPrediction& s, int rank, int index) {
  const auto& list = s.schedule->actions[static_cast<size_t>(rank)];
  const auto& line = s.simulation.timeline[static_cast<size_t>(rank)];
  size_t done = 0;
  for (int i = 0; i < index; ++i) done += is_computation(list[static_cast<size_t>(i)]);
  return done < line.size() ? line[done].begin : s.simulation.step_time;
}

// stage -1: of all of them.
int live_at(const StepPrediction& s, int rank, int index, int stage = -1) {
  const auto counts = [&](const StageMicrobatch& at) { return at.stage >= 0 && (stage < 0 || at.stage == stage); };
  int live = 0;
  const auto& list = s.schedule->actions[static_cast<size_t>(rank)];
  for (int i = 0; i <= index && i < static_cast<int>(list.size()); ++i) {
    live += counts(forward_of(list[static_cast<size_t>(i)]));
    if (i < index) live -= counts(weight_of(list[static_cast<size_t>(i)]));
  }
  return live;
}
}  // namespace

namespace {
// Ranks of a plan, one at a time.
class RankWalks {
 public:
  RankWalks(const PlanInput& in, const StepPrediction& s, const std::string& routing, StageMemories& known) : in_(in), s_(s) {
    const Priced& p = s.priced;
    const MemoryShape shape = memory_shape(in, p, routing_imbalance(in, p.ep, routing));
    for (const StageSpec& spec : s.specs) stages_.push_back(known.get(in, p, spec, shape));
    const double both = s.schedule->is_mirrored ? 2 : 1, ranks = static_cast<double>(p.dp) * p.cp;
    dense_group_ = ranks * both;
    expert_group_ = std::max(1.0, ranks * p.tp / (static_cast<double>(p.ep) * p.etp)) * both;
  }

  RankMemory of(int r) const {
    const ModelConfig& c = in_.run.model;
    const double zero = in_.plan.number("zero"), linear = in_.plan.text("precision") == "fp8" ? 1 + 4.0 / (128 * 128) : 2,
                 grad = in_.plan.text("grads") == "bf16" ? 2 : 4, moments = in_.run.train.adam.moments == DType::kBF16 ? 4 : 8,
                 table = static_cast<double>(c.vocab_size * c.hidden_size) / s_.priced.tp;
    const StageParameters& n = s_.parameters[static_cast<size_t>(r)];
    const auto sharded = [&](double shared, double experts, bool is_split) {
      return is_split ? shared / dense_group_ + experts / expert_group_ : shared + experts;
    };
    double tables = 0;  // embedding and head stay in BF16
    for (int stage : s_.schedule->stages_of(r))
      tables += (s_.specs[static_cast<size_t>(stage)].has_embedding ? table : 0) +
                (s_.specs[static_cast<size_t>(stage)].has_head && !c.tie_word_embeddings ? table : 0);
    RankMemory m;
    m.shared = n.shared;
    m.experts = n.experts;
    m.tables = tables;
    if (zero >= 2) {  // layer by layer: one computes, the next is gathered, or the last one's gradients are reduced; in pairs F and B have a layer each
      const auto [weights, parameters] = largest_layer(r, linear, tables > 0 ? table : 0);
      if (zero >= 3) m.gathered = weights * (in_.plan.text("overlap") == "pairs" ? 4 : 2);
      // ZeRO-2 reduces when the pipeline runs empty: several micro-batches are summed whole until then.
      m.unreduced = zero < 3 && s_.priced.num_microbatches() > 1 ? (n.shared + n.experts) * grad : 2 * parameters * grad;
    }
    m.weights = sharded((n.shared - tables) * linear + tables * 2, n.experts * linear, zero >= 3) + m.gathered;
    m.grads = sharded(n.shared * grad, n.experts * grad, zero >= 2) + m.unreduced;
    m.optimizer = sharded(n.shared * (4 + moments), n.experts * (4 + moments), true);
    const auto of_stage = [&](int stage, int) -> const StageMemory& { return *stages_[static_cast<size_t>(stage)]; };
    const RankPeaks peaks = walk_rank(*s_.schedule, r, of_stage, {.are_layers_fused = true, .are_pairs_overlapped = in_.plan.text("overlap") == "pairs"});
    m.activations = peaks.both.bytes;
    m.moment = peaks.both.moment;
    m.peak_action = peaks.both.action;
    m.reserve = in_.plan.number("reserve");
    return m;
  }

 private:
  // Of a layer of this rank's stages (or of the embedding or head, if it has one) on one device: bytes of weights, and parameters.
  std::pair<double, double> largest_layer(int r, double linear, double table) const {
    const ModelConfig& c = in_.run.model;
    const Priced& p = s_.priced;
    std::pair<double, double> most{2 * table, table};
    const auto add = [&](int64_t layer) {
      const BlockParameters b = block_parameters(c, layer, static_cast<int64_t>(in_.plan.number("kv_heads")));
      const double all = static_cast<double>(b.shared) / p.tp + static_cast<double>(b.expert) * static_cast<double>(b.num_experts) / (static_cast<double>(p.ep) * p.etp);
      most = {std::max(most.first, all * linear), std::max(most.second, all)};
    };
    for (const int stage : s_.schedule->stages_of(r)) {
      const StageSpec& spec = s_.specs[static_cast<size_t>(stage)];
      for (int64_t l = spec.layers.begin; l < spec.layers.end; ++l) add(l);
      if (spec.mtp > 0) add(c.num_hidden_layers);
    }
    return most;
  }

  const PlanInput& in_;
  const StepPrediction& s_;
  std::vector<std::shared_ptr<const StageMemory>> stages_;
  double dense_group_ = 1, expert_group_ = 1;
};
}  // namespace

std::vector<RankMemory> plan_memory(const PlanInput& in, const StepPrediction& s, const std::string& routing) {
  StageMemories known;
  const RankWalks walks(in, s, routing, known);
  std::vector<RankMemory> out;
  for (int r = 0; r < s.schedule->num_ranks; ++r) {
    out.push_back(walks.of(r));
    out.back().peak_time = time_of(s, r, out.back().peak_action);
    out.back().live = live_at(s, r, out.back().peak_action);
  }
  return out;
}

std::shared_ptr<const StageMemory> StageMemories::get(const PlanInput& in, const Priced& p, const StageSpec& spec, const MemoryShape& shape) {
  int64_t dense = 0;
  for (int64_t l = spec.layers.begin; l < spec.layers.end; ++l) dense += !in.run.model.is_moe_layer(l);
  const Key key{p.seq_len * p.micro_batch,
                p.tp,
                p.cp,
                p.ep,
                p.etp,
                shape.rows_received,
                in.plan.words("recompute"),
                in.plan.text("cache"),
                spec.layers.size(),
                dense,
                spec.has_embedding,
                spec.has_head,
                spec.mtp};
  {
    const std::lock_guard lock(mutex_);
    if (const auto it = known_.find(key); it != known_.end()) return it->second;
  }
  auto made = std::make_shared<const StageMemory>(memory_of(in.run.model, spec, shape));
  const std::lock_guard lock(mutex_);
  return known_.try_emplace(key, std::move(made)).first->second;
}

double fullest_bytes(const PlanInput& in, const StepPrediction& s, StageMemories& known, const std::function<bool(double)>& is_enough) {
  const RankWalks walks(in, s, in.plan.text("routing"), known);
  double most = 0;
  for (int r = 0; r < s.schedule->num_ranks; ++r) {
    most = std::max(most, walks.of(r).total());
    if (is_enough(most)) break;
  }
  return most;
}

const RankMemory& fullest(const std::vector<RankMemory>& ranks) {
  return *std::max_element(ranks.begin(), ranks.end(), [](const RankMemory& a, const RankMemory& b) { return a.total() < b.total(); });
}

// What is held at the peak: of each of the rank's stages the live micro-batches, and the rest.
void explain_activations(const PlanInput& in, const StepPrediction& s, const RankMemory& m, int rank, Ledger& ledger) {
  const MemoryShape shape = memory_shape(in, s.priced, routing_imbalance(in, s.priced.ep));
  const std::vector<std::string> of_schedule = {"plan.schedule", "plan.chunks", "plan.overlap", "parallel.pp", "train.global_batch", "train.micro_batch", "plan.flushes"};
  std::vector<std::string> inputs;
  double kept = 0;
  for (const int stage : s.schedule->stages_of(rank)) {
    const StageMemory memory = memory_of(in.run.model, s.specs[static_cast<size_t>(stage)], shape);
    const std::string of = detail::concat("memory.stage", stage);
    std::vector<std::string> parts = {"plan.cache", "plan.recompute", "plan.routing", "data.seq_len", "train.micro_batch"};
    double sum = 0;
    for (const auto& [name, bytes] : memory.kept) {
      sum += bytes;
      if (bytes < 1e6) continue;
      parts.push_back(of + ".kept." + name);
      ledger.put(parts.back(), bytes, Unit::kBytes, "kept of one micro-batch from F to B or W; the number is its layer",
                 {"data.seq_len", "train.micro_batch", "model.hidden_size", "plan.cache", "parallel.tp"});
    }
    const int live = live_at(s, rank, m.peak_action, stage);
    ledger.put(of + ".kept", sum, Unit::kBytes, detail::concat("of one micro-batch on stage ", stage), parts);
    ledger.put(of + ".live", live, Unit::kCount, "its micro-batches that hold activations at the peak", of_schedule);
    inputs.insert(inputs.end(), {of + ".live", of + ".kept"});
    kept += live * sum;
  }
  ledger.put("memory.on_the_way", m.activations - kept, Unit::kBytes,
             "what the action at the peak needs beside what is kept (workspace of its layers, boundaries), less what micro-batches between B and W have let go", of_schedule);
  inputs.push_back("memory.on_the_way");
  ledger.put("memory.live", m.live, Unit::kCount,
             detail::concat("micro-batches that hold activations at the peak of rank ", rank, ": ", m.moment, ", ", m.peak_time, " s after the step's begin"), of_schedule);
  inputs.push_back("memory.live");
  ledger.put("memory.activations", m.activations, Unit::kBytes, "walk of the schedule: of each stage live x kept, and what is on the way", inputs);
}

void explain_memory(const PlanInput& in, const StepPrediction& s, const std::vector<RankMemory>& ranks, Ledger& ledger) {
  const RankMemory& m = fullest(ranks);
  const auto rank = static_cast<int>(&m - ranks.data());
  explain_activations(in, s, m, rank, ledger);
  ledger.put("memory.shared_parameters", m.shared, Unit::kCount, detail::concat("of the fullest rank, ", rank, ": attention, dense and shared MLPs, norms, router, embedding and head, of all of its stages"),
             parameter_inputs());
  ledger.put("memory.table_parameters", m.tables, Unit::kCount, "of these the embedding's and the head's", parameter_inputs());
  ledger.put("memory.expert_parameters", m.experts, Unit::kCount, "of that rank: routed experts of all of its stages / ep", parameter_inputs());
  std::vector<std::string> weights = {"memory.shared_parameters", "memory.table_parameters", "memory.expert_parameters", "plan.precision", "plan.zero"},
                           grads = {"memory.shared_parameters", "memory.expert_parameters", "plan.grads", "plan.zero"};
  std::string also;
  if (m.unreduced > 0) {
    also = "; sharded, and those under way";
    ledger.put("memory.gathered", m.gathered, Unit::kBytes, "ZeRO-3: of the largest layer (or table), the one that computes and the one that is gathered, of F and of B in pairs; ZeRO-2: none", parameter_inputs());
    ledger.put("memory.unreduced", m.unreduced, Unit::kBytes, "gradients before they are reduced: of two such layers; ZeRO-2 with several micro-batches: of all layers, summed until the pipeline runs empty", parameter_inputs());
    weights.push_back("memory.gathered");
    grads.push_back("memory.unreduced");
  }
  ledger.put("memory.weights", m.weights, Unit::kBytes, "parameters in the precision of the GEMMs (FP8: 1 byte and a scale of 4 for 128 x 128), embedding and head in BF16" + also, weights);
  ledger.put("memory.grads", m.grads, Unit::kBytes, "main gradients" + also, grads);
  ledger.put("memory.optimizer", m.optimizer, Unit::kBytes, "FP32 masters and both moments of the owned rows: shared / their ranks, experts / theirs",
             {"memory.shared_parameters", "memory.expert_parameters", "train.adam.moment_bytes", "gpus", "parallel.pp", "parallel.tp", "parallel.ep", "parallel.etp"});
  ledger.put("memory.total", m.total(), Unit::kBytes, detail::concat("of the fullest pipeline rank, ", rank),
             {"memory.weights", "memory.grads", "memory.optimizer", "memory.activations", "plan.reserve"});
  ledger.put("memory.left", in.cluster.memory - m.total(), Unit::kBytes, "of the device's memory", {"cluster.gpu.memory", "memory.total"});
}

}  // namespace atoll::plan
