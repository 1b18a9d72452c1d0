// The walk, and the trainer's forecast: its segments and its messages, counted as parallel/communicator.h counts them.
#include "trainer/plan/memory_walk.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>

#include "parallel/row_shards.h"

namespace atoll::plan {
namespace {
class Walk {
 public:
  Walk(const Schedule& schedule, int rank) : schedule_(schedule), rank_(rank) {}
  RankPeaks peaks;

  void rise(const Held& above, int index) {  // a momentary height over what is held
    reach(peaks.activations, held_.activations + above.activations, index);
    reach(peaks.routed, held_.routed + above.routed, index);
    reach(peaks.both, held_.activations + held_.routed + above.activations + above.routed, index);
  }
  void apply(const Held& net) {
    held_.activations += net.activations;
    held_.routed += net.routed;
  }
  void action(const ActionMemory& m, int index) {
    rise(m.peak, index);
    apply(m.net);
  }
  void message(double bytes, int index) {
    apply({bytes, 0});
    rise({}, index);
  }
  RankPeaks found() {
    for (Peak* peak : {&peaks.activations, &peaks.routed, &peaks.both})
      if (peak->action >= 0) peak->moment = to_string(schedule_.actions[static_cast<size_t>(rank_)][static_cast<size_t>(peak->action)]);
    return peaks;
  }
  bool is_local(int stage, int microbatch) const { return stage >= 0 && stage < schedule_.num_stages && schedule_.rank_of(stage, microbatch) == rank_; }

 private:
  void reach(Peak& peak, double bytes, int index) {
    if (bytes <= peak.bytes) return;
    peak.bytes = bytes;
    peak.action = index;
  }
  const Schedule& schedule_;
  int rank_;
  Held held_;
};

Held sum(const Held& a, const Held& b) { return {a.activations + b.activations, a.routed + b.routed}; }

template <class Of>
RankPeaks walk(const Schedule& schedule, int rank, const Of& of, const Execution& execution) {
  Walk steps(schedule, rank);
  const auto forward = [&](int stage, int m, int i) {
    if (steps.is_local(stage - 1, m)) steps.rise({of(stage, m).message, 0}, i);  // the executor copies between stages of one rank
    steps.action(of(stage, m).forward, i);
  };
  const auto backward = [&](int stage, int m, int i) {
    if (steps.is_local(stage + 1, m)) steps.rise({of(stage, m).message, 0}, i);
    steps.action(of(stage, m).backward, i);
  };
  const auto full_backward = [&](int stage, int m, int i) {
    if (!execution.are_layers_fused) {
      backward(stage, m, i);
      return steps.action(of(stage, m).weight, i);
    }
    if (steps.is_local(stage + 1, m)) steps.rise({of(stage, m).message, 0}, i);
    steps.action(of(stage, m).full_backward, i);
  };
  const auto on_the_way = [&](int stage, int m) { return execution.are_layers_fused ? of(stage, m).full_backward.peak : of(stage, m).backward.peak; };
  const auto& list = schedule.actions[static_cast<size_t>(rank)];
  for (int i = 0; i < static_cast<int>(list.size()); ++i) {
    const Action& a = list[static_cast<size_t>(i)];
    switch (a.kind) {
      case ActionKind::kForward: forward(a.stage, a.microbatch, i); break;
      case ActionKind::kBackward: backward(a.stage, a.microbatch, i); break;
      case ActionKind::kWeight: steps.action(of(a.stage, a.microbatch).weight, i); break;
      case ActionKind::kFullBackward: full_backward(a.stage, a.microbatch, i); break;
      case ActionKind::kPair:
        if (execution.are_pairs_overlapped) steps.rise(sum(of(a.stage, a.microbatch).forward.peak, on_the_way(a.pair_stage, a.pair_microbatch)), i);
        forward(a.stage, a.microbatch, i);
        full_backward(a.pair_stage, a.pair_microbatch, i);
        break;
      case ActionKind::kRecvForward:
      case ActionKind::kRecvBackward: steps.message(of(a.stage, a.microbatch).message, i); break;
      case ActionKind::kSendForward:
      case ActionKind::kSendBackward: steps.message(-of(a.stage, a.microbatch).message, i); break;
    }
  }
  return steps.found();
}
}  // namespace

RankPeaks walk_rank(const Schedule& schedule, int rank, const MemoryOf& of, const Execution& execution) {
  return walk(schedule, rank, of, execution);
}
RankPeaks walk_rank(const Schedule& schedule, int rank, const std::vector<StageMemory>& stages, const Execution& execution) {
  return walk(
      schedule, rank, [&](int stage, int) -> const StageMemory& { return stages[static_cast<size_t>(stage)]; }, execution);
}

namespace {
// Bytes that one rank sends in RowShards: to each other rank the rows that it owns; and its own rows to all the others.
struct ShardBytes {
  int64_t reduce = 0, gather = 0;
};
ShardBytes shard_bytes(int64_t rows, int64_t cols, int64_t grad_element, int64_t weight_element, int size, int rank) {
  const int64_t own = owned_rows(rows, size, rank).size();
  return {(rows - own) * cols * grad_element, own * cols * weight_element * (size - 1)};
}

void count_shards(const EngineOptions& o, const std::vector<ParameterSpec>& manifest, const Placement& placement, const ShardPlaces& places, RankForecast& f) {
  const auto s = static_cast<int64_t>(size_of(o.storage)), a = static_cast<int64_t>(size_of(acc_dtype(o.storage)));
  const auto size = [](const Range& place) { return static_cast<int>(place.end); };
  const auto rank = [](const Range& place) { return static_cast<int>(place.begin); };
  const auto add = [&](int64_t rows, int64_t cols, int64_t grad, int64_t weight, const Range& place) {
    const ShardBytes b = shard_bytes(rows, cols, grad, weight, size(place), rank(place));
    f.wire_reduce += b.reduce;
    f.wire_gather += b.gather;
  };
  for (const ParameterLayout::Item& item : parameter_layout(o.model, manifest, placement).items) {
    if (item.is_replica) continue;
    const ParameterSpec& spec = manifest[static_cast<size_t>(item.index)];
    const Range& place = spec.expert >= 0 ? places.edp : places.dp;
    add(spec.rows, spec.cols, a, s, place);
    if (places.mirror.end == 1) continue;
    add(spec.rows, spec.cols, a, a, places.mirror);  // mirror ranks add all gradients, and both keep the sums
    add(owned_rows(spec.rows, size(place), rank(place)).size(), spec.cols, 0, s, places.mirror);
  }
  const int64_t other_uses = placement.is_last() ? (o.model.num_nextn_predict_layers > 0) + o.model.tie_word_embeddings : 0;
  for (int64_t use = 0; places.mirror.end > 1 && use < other_uses; ++use) add(o.model.vocab_size, o.model.hidden_size, a, a, places.mirror);
}

// Sums and gathers of counts and losses, in the order of train_step.cpp.
void count_small(const EngineOptions& o, const std::vector<ParameterSpec>& manifest, const Placement& placement, const Mesh& mesh, const Schedule& schedule,
                 int rank, RankForecast& f) {
  const int64_t dp = mesh.size(Axis::kDp), pp = mesh.size(Axis::kPp), ep = mesh.size(Axis::kEp), depth = o.model.num_nextn_predict_layers,
                blocks = o.model.num_blocks(), E = o.model.n_routed_experts;
  const int64_t sums = 8 * (1 + depth + blocks), passes = o.grad_halves == 2 && !schedule.is_mirrored ? 2 : 1;
  f.wire_small += (dp - 1) * 8 * 3;                                                          // labels, sequences, tokens
  f.wire_small += passes * ((dp - 1) * sums + (pp - 1) * sums + (dp - 1) * 8 * blocks * E);  // losses, expert counts
  if (schedule.is_mirrored) f.wire_small += 8 * blocks * E;
  f.wire_small += (pp - 1) * 8;                                                                                       // load
  f.wire_small += (dp - 1) * 8 * static_cast<int64_t>(stage_parameter_indices(o.model, manifest, placement).size());  // squares
  f.wire_small += (pp - 1) * 8 * std::ssize(manifest);                                                                // of all ranks
  for (const Action& action : schedule.actions[static_cast<size_t>(mesh.index(Axis::kPp, rank))]) {  // every dispatch agrees on its counts first
    const int stage = forward_of(action).stage;
    if (stage < 0) continue;
    int64_t moe = 0;
    for (int64_t l = placement.layers(stage).begin; l < placement.layers(stage).end; ++l) moe += o.model.is_moe_layer(l);
    if (stage == schedule.num_stages - 1)
      for (int64_t k = 0; k < depth; ++k) moe += o.model.is_moe_layer(o.model.num_hidden_layers + k);
    f.wire_counts += passes * moe * (ep - 1) * 8 * E;
  }
}

void count_embedding(const EngineOptions& o, const Placement& placement, RankForecast& f) {
  if (placement.is_first() == placement.is_last()) return;
  const int64_t table = o.model.vocab_size * o.model.hidden_size;
  const auto s = static_cast<int64_t>(size_of(o.storage)), a = static_cast<int64_t>(size_of(acc_dtype(o.storage)));
  const int64_t uses = (o.model.num_nextn_predict_layers > 0) + o.model.tie_word_embeddings;
  if (placement.is_last()) f.wire_embedding += uses * table * a;        // gradients of the embedding's other uses
  if (placement.is_first() && uses > 0) f.wire_embedding += table * s;  // the updated table
}

// Most scratch of an op of this rank; stages with the same kinds of layers are asked once.
int64_t count_workspace(const EngineOptions& o, const std::vector<ParameterSpec>& manifest, const Mesh& mesh, const Placement& placement, const ShardPlaces& places, const RunShape& shape) {
  StageOpsShape w;
  w.threads = o.threads;
  w.bf16_gemm = o.bf16_gemm;
  w.storage = o.storage;
  w.tokens = shape.tokens;
  w.sequences = shape.sequences;
  w.longest_document = shape.longest_document;
  w.num_experts = placement.experts.size();
  w.expert_rows = mesh.size(Axis::kEp) * shape.tokens;  // all tokens of the group choose one expert
  w.has_balance_loss = shape.has_balance_loss;
  int64_t most = 0;
  std::set<std::tuple<bool, bool, bool>> seen;
  for (const int stage : placement.stages) {
    const Range layers = placement.layers(stage);
    bool has[2] = {false, false};
    for (int64_t l = layers.begin; l < layers.end; ++l) has[o.model.is_moe_layer(l)] = true;
    const bool is_last = stage == placement.num_stages - 1;
    if (seen.emplace(has[0], has[1], is_last).second) most = std::max(most, stage_workspace(o.model, layers, is_last, w));
  }
  int64_t elements = 0;
  for (const ParameterLayout::Item& item : parameter_layout(o.model, manifest, placement).items) {
    if (item.is_replica) continue;
    const ParameterSpec& spec = manifest[static_cast<size_t>(item.index)];
    const Range& place = spec.expert >= 0 ? places.edp : places.dp;
    elements = std::max(elements, owned_rows(spec.rows, static_cast<int>(place.end), static_cast<int>(place.begin)).size() * spec.cols);
  }
  return std::max(most, gradient_norm_workspace(elements));
}
}  // namespace

RankForecast forecast_rank(const EngineOptions& o, const Schedule& schedule, const std::vector<ParameterSpec>& manifest, int world, int rank,
                           const RunShape& shape) {
  const Mesh mesh(world, o.mesh);
  const int pp_rank = mesh.index(Axis::kPp, rank);
  RankForecast f;
  MemoryShape m;
  m.tokens = shape.tokens;
  m.sequences = shape.sequences;
  m.rows_sent = static_cast<double>(shape.tokens * o.model.num_experts_per_tok);
  m.rows_received = shape.rows_received;
  m.is_alone = mesh.size(Axis::kEp) == 1;
  m.has_balance_loss = shape.has_balance_loss;
  m.storage = o.storage;
  const std::vector<Range> layers = split_layers(o.model, schedule.num_stages, o.stage_layers);
  std::vector<StageMemory> stages;
  for (int s = 0; s < schedule.num_stages; ++s)
    stages.push_back(stage_memory(o.model, layers[static_cast<size_t>(s)], s == 0, s == schedule.num_stages - 1, m));
  if (shape.rows.empty()) {
    f.peaks = walk_rank(schedule, pp_rank, stages, {});
  } else {
    std::vector<std::vector<StageMemory>> of_microbatch(shape.rows.size());  // [micro-batch][stage of this rank]
    const std::vector<int> mine = schedule.stages_of(pp_rank);
    for (size_t i = 0; i < shape.rows.size(); ++i) {
      m.rows_of_layer = shape.rows[i];
      for (int s : mine) of_microbatch[i].push_back(stage_memory(o.model, layers[static_cast<size_t>(s)], s == 0, s == schedule.num_stages - 1, m));
    }
    f.peaks = walk_rank(
        schedule, pp_rank,
        [&](int stage, int microbatch) -> const StageMemory& {
          return of_microbatch[static_cast<size_t>(microbatch)][static_cast<size_t>(std::lower_bound(mine.begin(), mine.end(), stage) - mine.begin())];
        },
        {});
  }

  const auto place = [&](Axis axis) { return Range{mesh.index(axis, rank), mesh.size(axis)}; };
  ShardPlaces places{place(Axis::kDp), place(Axis::kEdp)};
  if (schedule.is_mirrored) places.mirror = {pp_rank < mesh.size(Axis::kPp) - 1 - pp_rank ? 0 : 1, 2};
  const Placement placement{schedule.stages_of(pp_rank), schedule.num_stages, layers,
                            split_evenly(o.model.n_routed_experts, mesh.size(Axis::kEp), mesh.index(Axis::kEp, rank))};
  const bool is_in_halves = o.grad_halves == 2 && !schedule.is_mirrored;  // the schedule is that of one half then
  f.persistent = persistent_memory(o.model, manifest, placement, o.storage, o.moments, o.max_sequence, places, is_in_halves);
  count_shards(o, manifest, placement, places, f);
  count_small(o, manifest, placement, mesh, schedule, rank, f);
  count_embedding(o, placement, f);
  f.workspace = count_workspace(o, manifest, mesh, placement, places, shape);
  const auto message = [&](int microbatch) {
    const int64_t tokens = shape.microbatch_tokens.empty() ? shape.tokens : shape.microbatch_tokens[static_cast<size_t>(microbatch)];
    return tokens * o.model.hidden_size * static_cast<int64_t>(size_of(o.storage));
  };
  for (const Action& a : schedule.actions[static_cast<size_t>(pp_rank)])
    if (a.kind == ActionKind::kSendForward || a.kind == ActionKind::kSendBackward) f.wire_boundary += message(a.microbatch) * (is_in_halves ? 2 : 1);
  f.wire_fixed = f.wire_boundary + f.wire_reduce + f.wire_gather + f.wire_counts + f.wire_small + f.wire_embedding;
  return f;
}

}  // namespace atoll::plan
