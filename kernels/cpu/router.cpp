// Router: scores, grouped top-k, weights, their gradient, and the sequence-wise balance loss. Policy: ties go to the lowest index; excluded groups are never
// candidates (not "score 0": biased scores may be negative); a NaN score sorts last, so ids are always valid and the NaN is seen in weights and loss.
#include "kernels/cpu/router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/cpu/threads.h"
#include "kernels/ops.h"

namespace atoll::cpu {
namespace {

template <class A>
A sortable(A v) { return std::isnan(v) ? -std::numeric_limits<A>::infinity() : v; }

// The `count` largest of a stream of (value, id), largest first; an earlier one wins a tie.
template <class A>
struct TopList {
  A* values;
  int32_t* ids;
  int64_t capacity, size = 0;
  void offer(A value, int32_t id) {
    value = sortable(value);
    if (size == capacity && !(value > values[size - 1])) return;
    int64_t at = size < capacity ? size++ : size - 1;
    for (; at > 0 && value > values[at - 1]; --at) {
      values[at] = values[at - 1];
      ids[at] = ids[at - 1];
    }
    values[at] = value;
    ids[at] = id;
  }
};

template <class A>
void score_row(const A* logits, int64_t E, ScoreFunction function, A* scores) {
  if (function == ScoreFunction::kSigmoid) {
    for (int64_t e = 0; e < E; ++e) scores[e] = 1 / (1 + std::exp(-logits[e]));
    return;
  }
  const A largest = *std::max_element(logits, logits + E);
  A sum = 0;
  for (int64_t e = 0; e < E; ++e) sum += scores[e] = std::exp(logits[e] - largest);
  for (int64_t e = 0; e < E; ++e) scores[e] /= sum;
}

template <class A>
A group_score(const A* scores, const A* bias, int64_t begin, int64_t size, GroupScore kind) {
  A first = -std::numeric_limits<A>::infinity(), second = first;
  for (int64_t e = begin; e < begin + size; ++e) {
    const A v = sortable(bias ? scores[e] + bias[e] : scores[e]);
    if (v > first) second = std::exchange(first, v);
    else if (v > second) second = v;
  }
  return kind == GroupScore::kMax || size == 1 ? first : first + second;
}

// Scratch of one thread: values and ids of the kept experts, values and ids of the kept groups.
template <class A>
struct Scratch {
  A *values, *group_values;
  int32_t* group_ids;
};

template <class A>
void choose(const A* scores, const A* bias, const RouterConfig& config, const Scratch<A>& scratch, int32_t* ids) {
  TopList<A> experts{scratch.values, ids, config.topk};
  const auto offer_group = [&](int64_t begin, int64_t end) {
    for (int64_t e = begin; e < end; ++e) experts.offer(bias ? scores[e] + bias[e] : scores[e], static_cast<int32_t>(e));
  };
  if (config.group_score == GroupScore::kNone) {
    offer_group(0, config.num_experts);
  } else {
    const int64_t size = config.num_experts / config.num_groups;
    TopList<A> groups{scratch.group_values, scratch.group_ids, config.topk_groups};
    for (int32_t g = 0; g < config.num_groups; ++g) groups.offer(group_score(scores, bias, g * size, size, config.group_score), g);
    std::sort(scratch.group_ids, scratch.group_ids + config.topk_groups);
    for (int g = 0; g < config.topk_groups; ++g) offer_group(scratch.group_ids[g] * size, (scratch.group_ids[g] + 1) * size);
  }
  std::sort(ids, ids + config.topk);
}

template <class A>
void weigh(const A* scores, const int32_t* ids, const RouterConfig& config, A* weights) {
  A sum = static_cast<A>(1e-20);
  for (int k = 0; k < config.topk; ++k) sum += scores[ids[k]];
  for (int k = 0; k < config.topk; ++k) weights[k] = (config.normalize ? scores[ids[k]] / sum : scores[ids[k]]) * static_cast<A>(config.scaling);
}

template <class A>
void route(Context& ctx, const Router& op) {
  const int64_t T = op.logits_TE.dim[0], E = op.logits_TE.dim[1], K = op.config.topk, G = op.config.topk_groups;
  const DType acc = op.logits_TE.dtype;
  const Buffer values = ctx.memory.workspace.take({ctx.num_threads, K + G}, acc);
  const Buffer group_ids = ctx.memory.workspace.take({ctx.num_threads, G}, DType::kI32);
  if (ctx.is_sizing) return;
  parallel_ranges(ctx.num_threads, T, [&](int thread, int64_t begin, int64_t end) {
    A* mine = values.tensor().as<A>() + thread * (K + G);
    const Scratch<A> scratch{mine, mine + K, group_ids.tensor().as<int32_t>() + thread * G};
    for (int64_t t = begin; t < end; ++t) {
      A* scores = op.scores_TE.as<A>() + t * E;
      int32_t* ids = op.topk_idx_TK.as<int32_t>() + t * K;
      score_row(op.logits_TE.as<A>() + t * E, E, op.config.score, scores);
      if (!op.forced) choose(scores, op.bias_E.as<A>(), op.config, scratch, ids);
      weigh(scores, ids, op.config, op.weight_TK.as<A>() + t * K);
    }
  });
}

// ds += gradient of the weights; d s_k = scaling (dw_k - sum_j dw_j s_j / Z) / Z when normalised by Z.
template <class A>
void add_weight_gradient(const A* scores, const int32_t* ids, const A* dweights, const RouterConfig& config, A* ds) {
  double sum = 1e-20, dot = 0;
  for (int k = 0; k < config.topk; ++k) {
    sum += scores[ids[k]];
    dot += static_cast<double>(dweights[k]) * scores[ids[k]];
  }
  for (int k = 0; k < config.topk; ++k)
    ds[ids[k]] += static_cast<A>(config.scaling * (config.normalize ? (dweights[k] - dot / sum) / sum : dweights[k]));
}

// ds += scale d/ds sum_e f_e s_e / S = scale (f_e - sum_j f_j s_j / S) / S.
template <class A>
void add_balance_gradient(const A* scores, const A* f, int64_t E, double scale, A* ds) {
  double sum = 0, dot = 0;
  for (int64_t e = 0; e < E; ++e) {
    sum += scores[e];
    dot += static_cast<double>(f[e]) * scores[e];
  }
  for (int64_t e = 0; e < E; ++e) ds[e] += static_cast<A>(scale * (f[e] - dot / sum) / sum);
}

template <class A>
void route_backward(Context& ctx, const RouterBackward& op) {
  const int64_t T = op.scores_TE.dim[0], E = op.scores_TE.dim[1], K = op.config.topk;
  parallel_ranges(ctx.num_threads, T, [&](int, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const A* scores = op.scores_TE.as<A>() + t * E;
      A* d = op.dlogits_TE.as<A>() + t * E;
      std::fill(d, d + E, A(0));
      add_weight_gradient(scores, op.topk_idx_TK.as<int32_t>() + t * K, op.dweight_TK.as<A>() + t * K, op.config, d);
      if (op.f_BE) {
        const auto after = std::upper_bound(op.cu_seqs.begin(), op.cu_seqs.end(), static_cast<int32_t>(t));
        const int64_t b = after - op.cu_seqs.begin() - 1;
        add_balance_gradient(scores, op.f_BE.as<A>() + b * E, E, op.balance_scale / (*after - after[-1]), d);
      }
      if (op.config.score == ScoreFunction::kSigmoid) {
        for (int64_t e = 0; e < E; ++e) d[e] *= scores[e] * (1 - scores[e]);
      } else {
        double dot = 0;
        for (int64_t e = 0; e < E; ++e) dot += static_cast<double>(d[e]) * scores[e];
        for (int64_t e = 0; e < E; ++e) d[e] = scores[e] * static_cast<A>(d[e] - dot);
      }
    }
  });
}

constexpr int64_t kBlockTokens = 128;  // fixed, so that sums do not depend on the thread count

// Of tokens [begin, end): counts of their top-k of un-biased scores, and sums of their normalised scores.
template <class A>
void balance_block(const A* scores_TE, int64_t begin, int64_t end, int64_t E, int64_t K, A* values, int32_t* ids, int32_t* counts, double* sums) {
  std::fill(counts, counts + E, 0);
  std::fill(sums, sums + E, 0.0);
  for (int64_t t = begin; t < end; ++t) {
    const A* scores = scores_TE + t * E;
    TopList<A> top{values, ids, K};
    double sum = 0;
    for (int64_t e = 0; e < E; ++e) {
      top.offer(scores[e], static_cast<int32_t>(e));
      sum += scores[e];
    }
    for (int64_t k = 0; k < K; ++k) ++counts[ids[k]];
    for (int64_t e = 0; e < E; ++e) sums[e] += scores[e] / sum;
  }
}

template <class A>
void balance(Context& ctx, const BalanceLoss& op) {
  const int64_t E = op.scores_TE.dim[1], K = op.topk, B = static_cast<int64_t>(op.cu_seqs.size()) - 1;
  for (int64_t b = 0; b < B; ++b) {
    const int64_t first = op.cu_seqs[b], n = op.cu_seqs[b + 1] - first, num_blocks = (n + kBlockTokens - 1) / kBlockTokens;
    A* f = op.f_BE.as<A>() + b * E;
    if (!ctx.is_sizing) std::fill(f, f + E, A(0));
    if (n == 0) continue;
    const Buffer values = ctx.memory.workspace.take({num_blocks, K}, op.scores_TE.dtype), ids = ctx.memory.workspace.take({num_blocks, K}, DType::kI32);
    const Buffer counts = ctx.memory.workspace.take({num_blocks, E}, DType::kI32), sums = ctx.memory.workspace.take({num_blocks, E}, DType::kF64);
    if (ctx.is_sizing) continue;
    parallel_for(ctx.num_threads, num_blocks, [&](int64_t i) {
      balance_block(op.scores_TE.as<A>(), first + i * kBlockTokens, first + std::min(n, (i + 1) * kBlockTokens), E, K, values.tensor().as<A>() + i * K,
                    ids.tensor().as<int32_t>() + i * K, counts.tensor().as<int32_t>() + i * E, sums.tensor().as<double>() + i * E);
    });
    double term = 0;
    for (int64_t e = 0; e < E; ++e) {
      int64_t count = 0;
      double sum = 0;
      for (int64_t i = 0; i < num_blocks; ++i) {
        count += counts.tensor().as<int32_t>()[i * E + e];
        sum += sums.tensor().as<double>()[i * E + e];
      }
      const double share = static_cast<double>(E) * static_cast<double>(count) / static_cast<double>(K * n);
      f[e] = static_cast<A>(share);
      term += share * sum / static_cast<double>(n);
    }
    *op.loss_sum += term;
  }
}

}  // namespace

void router(Context& ctx, const Router& op) { op.logits_TE.dtype == DType::kF64 ? route<double>(ctx, op) : route<float>(ctx, op); }
void router_backward(Context& ctx, const RouterBackward& op) { op.scores_TE.dtype == DType::kF64 ? route_backward<double>(ctx, op) : route_backward<float>(ctx, op); }
void balance_loss(Context& ctx, const BalanceLoss& op) { op.scores_TE.dtype == DType::kF64 ? balance<double>(ctx, op) : balance<float>(ctx, op); }

}  // namespace atoll::cpu
