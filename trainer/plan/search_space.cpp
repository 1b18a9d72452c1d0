// Lists of choices, and their bounds.
#include "trainer/plan/search_space.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kernels/base/error.h"
#include "model/parameters.h"

namespace atoll::plan {
namespace {
struct ScheduleChoice {
  const char* name;
  int chunks;
  const char* overlap;
};
constexpr ScheduleChoice kSchedules[] = {{"1f1b", 1, "none"},        {"zb-h1", 1, "none"},        {"interleaved", 2, "none"}, {"interleaved", 2, "pairs"},
                                         {"interleaved", 4, "none"}, {"interleaved", 4, "pairs"}, {"dualpipe", 1, "pairs"},   {"dualpipev", 1, "pairs"}};
constexpr ScheduleChoice kAlone[] = {{"1f1b", 1, "none"}, {"1f1b", 1, "pairs"}};  // of one pipeline rank
const std::vector<std::vector<std::string>> kRecompute = {{}, {"norms", "mla_up", "swiglu"}, {"norms", "mla_up", "swiglu", "experts"}, {"full"}};
constexpr int64_t kLeastRows = 2048;  // tokens of a sequence on a device: GEMMs were measured at 4096 rows and more, context parallelism leaves fewer

void set_words(PlanInput& in, const std::string& key, const std::vector<std::string>& words) {
  Value v = in.plan.at(key);
  v.words = words;
  in.plan.set(key, v);
}
std::vector<int> powers_of_two(int64_t most) {
  std::vector<int> list;
  for (int64_t n = 1; n <= most; n *= 2) list.push_back(static_cast<int>(n));
  return list;
}

// Parameters, gradients and optimizer of an even share: nothing that is held less.
double least_memory(const PlanInput& in) {
  const MeshSizes& m = in.run.parallel.mesh;
  const ModelConfig& c = in.run.model;
  double shared = 0, experts = 0;
  for (int64_t l = 0; l < c.num_blocks(); ++l) {
    const BlockParameters b = block_parameters(c, l, static_cast<int64_t>(in.plan.number("kv_heads")));
    shared += static_cast<double>(b.shared);
    experts += static_cast<double>(b.expert * b.num_experts);
  }
  const double per_rank = (in.schedule() == "dualpipe" ? 2.0 : 1.0) / m.pp, zero = in.plan.number("zero");
  const double held = shared / m.tp * per_rank + experts / m.ep / m.etp * per_rank, split = held / std::max<double>(1, static_cast<double>(in.dp()) / m.ep);
  const double weight = in.plan.text("precision") == "fp8" ? 1 : 2, grad = in.plan.text("grads") == "bf16" ? 2 : 4;
  return (zero >= 3 ? split : held) * weight + (zero >= 2 ? split : held) * grad + in.plan.number("reserve");
}

// Activations that the first rank holds before its first backward; kept: of a dense layer and of a MoE layer.
struct KeptOfLayer {
  double dense = 0, moe = 0;
};
using Splits = std::map<int, std::vector<StageSpec>>;  // by the number of stages
double least_activations(const PlanInput& in, const ScheduleChoice& s, const Priced& p, const KeptOfLayer& kept, Splits& splits) {
  const int n = static_cast<int>(p.num_microbatches()), P = p.pp, stages = std::string(s.name) == "dualpipev" ? 2 * P : P * s.chunks;
  if (!splits.count(stages)) splits[stages] = stage_specs(in, p, stages);
  const std::vector<StageSpec>& specs = splits[stages];
  const auto of_stage = [&](int stage) {
    double sum = 0;
    const Range& layers = specs[static_cast<size_t>(stage)].layers;
    for (int64_t l = layers.begin; l < layers.end; ++l) sum += in.run.model.is_moe_layer(l) ? kept.moe : kept.dense;
    return sum;
  };
  if (std::string(s.name) == "dualpipe") return (P - 1) * of_stage(0);
  if (std::string(s.name) == "dualpipev") return (2 * P - 1) * of_stage(0);
  if (s.chunks == 1) return std::min(n, P) * of_stage(0);
  int forwards = std::min(n * s.chunks, 2 * (P - 1) + (s.chunks - 1) * P);  // warm-up: P micro-batches of a chunk, then of the next
  double sum = 0;
  for (int f = 0; f < forwards; ++f) sum += of_stage((f / P) % s.chunks * P);
  return sum;
}

KeptOfLayer kept_of(const PlanInput& in, const Priced& p) {
  const ModelConfig& c = in.run.model;
  const MemoryShape shape = memory_shape(in, p, routing_imbalance(in, p.ep));
  const auto of = [&](int64_t layer) {
    const StageMemory m = stage_memory(c, {layer, layer + 1}, false, false, shape);
    return std::max(0.0, m.forward.net.activations + m.forward.net.routed - 2 * m.message);
  };
  KeptOfLayer kept;
  for (int64_t l = 0; l < c.num_hidden_layers; ++l) {
    double& k = c.is_moe_layer(l) ? kept.moe : kept.dense;
    if (k == 0) k = of(l);
  }
  return kept;
}

bool never_slower(const std::array<double, 4>& a, const std::array<double, 4>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), [](double x, double y) { return x <= y; });
}

// All choices of one mesh, micro-batch and recomputation.
class LayoutChoices {
 public:
  LayoutChoices(const PlanInput& base, const Front& front, Splits& splits, SpaceCounts& counts)
      : base_(base), front_(front), splits_(splits), counts_(counts), priced_(pretraining(base)), kept_(kept_of(base, priced_)) {}
  std::vector<Candidate> list;

  void add_all() {
    const std::vector<ScheduleChoice> schedules = priced_.pp > 1 ? std::vector<ScheduleChoice>(std::begin(kSchedules), std::end(kSchedules))
                                                                 : std::vector<ScheduleChoice>(std::begin(kAlone), std::end(kAlone));
    for (const char* overlap : {"none", "pairs"})
      for (PlanInput& form : dispatch_forms(overlap)) {
        const double least = least_pipeline(form, model_of(form));
        for (const ScheduleChoice& s : schedules)
          if (std::string(s.overlap) == overlap) add(s, form, least);
      }
  }

 private:
  // With each dispatch form, but one that is slower in all of its exchanges. Exchanges beside computation have multiprocessors of their own.
  std::vector<PlanInput> dispatch_forms(const std::string& overlap) const {
    std::vector<PlanInput> forms(1, base_);
    set_text(forms[0], "overlap", overlap);
    set_number(forms[0], "comm_sms", comm_sms_of(base_, overlap));
    if (base_.run.parallel.mesh.ep == 1) return forms;
    const ChunkModel model = model_of(forms[0]);
    const std::array<double, 4> hierarchical = model.exchange_seconds("hierarchical"), flat = model.exchange_seconds("flat");
    const bool is_flat_better = never_slower(flat, hierarchical) && flat != hierarchical;
    set_text(forms[0], "dispatch", is_flat_better ? "flat" : "hierarchical");
    if (is_flat_better || never_slower(hierarchical, flat)) return forms;
    forms.push_back(forms[0]);
    set_text(forms[1], "dispatch", "flat");
    return forms;
  }
  ChunkModel model_of(const PlanInput& in) const {
    return ChunkModel(in, {priced_.seq_len, priced_.micro_batch, priced_.tp, priced_.cp, priced_.ep, priced_.etp, priced_.dp, priced_.pp});
  }

  void add(const ScheduleChoice& s, const PlanInput& form, double least_step) {
    for (const int zero : {1, 3}) {
      if (zero == 3 && priced_.pp > 1) continue;
      Candidate c{form};
      set_text(c.in, "schedule", s.name);
      if (std::string(s.name).compare(0, 8, "dualpipe") != 0) set_text(c.in, "p2p", "overlapped");
      set_number(c.in, "chunks", s.chunks);
      set_number(c.in, "zero", zero);
      FrontPoint least{least_step, least_memory(c.in), base_.gpus()};
      try {
        least.memory += least_activations(c.in, s, priced_, kept_, splits_);
      } catch (const ConfigError&) {  // more stages than layers
        ++counts_.impossible;
        continue;
      }
      if (least.memory > base_.cluster.memory + 1e9)
        ++counts_.too_large;
      else if (front_.beats(least))
        ++counts_.beaten;
      else
        list.push_back(std::move(c));
    }
  }

  const PlanInput& base_;
  const Front& front_;
  Splits& splits_;
  SpaceCounts& counts_;
  Priced priced_;
  KeptOfLayer kept_;
};
}  // namespace

void Front::add(const FrontPoint& p) {
  if (beats(p)) return;
  std::erase_if(points_, [&](const FrontPoint& q) { return p.step <= q.step && p.memory <= q.memory && p.gpus <= q.gpus; });
  points_.push_back(p);
}
bool Front::beats(const FrontPoint& least) const {
  return std::any_of(points_.begin(), points_.end(),
                     [&](const FrontPoint& q) { return q.step <= least.step && q.memory <= least.memory && q.gpus <= least.gpus; });
}

double least_pipeline(const PlanInput& in, const ChunkModel& model) {
  const ModelConfig& c = in.run.model;
  const Priced p = pretraining(in);
  const StageTimes whole = model.stage({{0, c.num_hidden_layers}, true, true, c.num_nextn_predict_layers});
  double seconds = whole.forward + whole.backward + whole.weight;
  if (in.plan.text("overlap") == "pairs") {
    double computation = whole.extra_forward + whole.extra_backward + whole.extra_weight, exchanges = 0;
    for (const LayerTimes& l : whole.layers) {
      for (const double phase : l.phase) computation += phase;
      exchanges += l.dispatch.seconds + l.combine.seconds + l.grad_dispatch.seconds + l.grad_combine.seconds;
    }
    seconds = std::max(computation, exchanges);
  }
  return seconds * static_cast<double>(p.num_microbatches() * p.flushes) / p.pp;
}

std::vector<MeshSizes> meshes_of(const PlanInput& in, int64_t gpus) {
  const ModelConfig& c = in.run.model;
  std::vector<MeshSizes> list;
  for (const int pp : powers_of_two(std::min<int64_t>(64, c.num_hidden_layers)))
    for (const int tp : powers_of_two(std::min<int64_t>(in.cluster.gpus_per_node, 8)))
      for (const int cp : powers_of_two(std::min<int64_t>(64, std::max<int64_t>(1, in.run.data.seq_len / kLeastRows)))) {
        if (gpus % (static_cast<int64_t>(pp) * tp * cp) != 0 || c.num_attention_heads % tp != 0) continue;
        for (const int ep : c.n_routed_experts > 0 ? powers_of_two(c.n_routed_experts) : std::vector<int>{1})
          if (gpus / pp % ep == 0) list.push_back({.pp = pp, .tp = tp, .cp = cp, .ep = ep, .etp = 1});
      }
  std::stable_sort(list.begin(), list.end(), [](const MeshSizes& a, const MeshSizes& b) {
    return a.pp * a.pp * a.tp * a.cp < b.pp * b.pp * b.tp * b.cp;
  });  // micro-batches of a rank x ranks
  return list;
}

std::vector<Candidate> candidates_of(const PlanInput& in, int64_t gpus, const MeshSizes& mesh, const Front& front, SpaceCounts& counts) {
  std::vector<Candidate> list;
  Splits splits;
  for (const int64_t micro : {1, 2, 4})
    for (const auto& recompute : kRecompute) {
      PlanInput base = in;
      set_number(base, "gpus", static_cast<double>(gpus));
      base.run.parallel.mesh = mesh;
      base.run.parallel.stage_layers.clear();
      base.run.train.micro_batch = micro;
      set_words(base, "stages", {});
      set_words(base, "recompute", recompute);
      set_number(base, "flushes", 1);
      if (!layout_problems(base).empty()) {
        ++counts.impossible;
        continue;
      }
      LayoutChoices choices(base, front, splits, counts);
      choices.add_all();
      for (Candidate& c : choices.list) list.push_back(std::move(c));
    }
  return list;
}

std::string schedule_text(const PlanInput& in) {
  const bool is_dualpipe = in.schedule().compare(0, 8, "dualpipe") == 0;
  return in.schedule() + (in.schedule() == "interleaved" ? fmt::format(" x{}", in.chunks()) : "") +
         (in.plan.text("overlap") != "none" && !is_dualpipe ? " overlapped" : "");
}

std::string describe(const PlanInput& in) {
  const MeshSizes& m = in.run.parallel.mesh;
  std::string recompute;
  for (const std::string& w : in.plan.words("recompute")) recompute += (recompute.empty() ? "" : "+") + w;
  return fmt::format("pp {} dp {}{} ep {}, {}, {} x {} micro-batches, zero {}, recompute {}{}{}", m.pp, in.dp(),
                     (m.tp > 1 ? fmt::format(" tp {}", m.tp) : "") + (m.cp > 1 ? fmt::format(" cp {}", m.cp) : ""), m.ep, schedule_text(in),
                     in.run.train.global_batch / in.dp() / in.run.train.micro_batch, in.run.train.micro_batch, in.plan.number("zero"),
                     recompute.empty() ? "none" : recompute, in.plan.text("dispatch") == "flat" ? ", flat dispatch" : "",
                     in.run.parallel.stage_layers.empty() ? "" : ", own layer split");
}

}  // namespace atoll::plan
