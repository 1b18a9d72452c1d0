// What a step tells the model and what the model tells back.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/base/tensor.h"

namespace atoll {

// Factors of the gradient, from the whole step's counts (all micro-batches, all ranks): losses are sums over global tokens, never means of means.
struct StepScales {
  double loss = 0;     // 1 / N, N = main labels of the step
  double mtp = 0;      // lambda / (depth N)
  double balance = 0;  // alpha / sequences of the step; 0: the balance loss is not computed
};

// Sums over this rank's tokens and this stage's layers; the trainer adds them over ranks.
struct StepSums {  // of one stage, or added up
  double loss = 0;                     // sum of cross-entropies (last stage)
  std::vector<double> mtp_loss;        // [depth]
  std::vector<double> balance;         // [block] sum over sequences of the balance term, un-scaled
  std::vector<int64_t> expert_counts;  // [block, expert] tokens routed, by the biased top-k
  void reset(int depth, int64_t blocks, int64_t experts) {
    loss = 0;
    mtp_loss.assign(static_cast<size_t>(depth), 0.0);
    balance.assign(static_cast<size_t>(blocks), 0.0);
    expert_counts.assign(static_cast<size_t>(blocks * experts), 0);
  }
  void add(const StepSums& other) {  // a stage without MTP has none of its sums
    loss += other.loss;
    for (size_t i = 0; i < other.mtp_loss.size(); ++i) mtp_loss[i] += other.mtp_loss[i];
    for (size_t i = 0; i < other.balance.size(); ++i) balance[i] += other.balance[i];
    for (size_t i = 0; i < other.expert_counts.size(); ++i) expert_counts[i] += other.expert_counts[i];
  }
};

// Looks into a forward pass: `observe` is told named tensors ("hidden.3", "moe.3.router_logits", ...); `force_routing` may fill a layer's top-k ids and return true.
struct ModelProbe {
  std::function<void(const std::string& name, const Tensor& value)> observe;
  std::function<bool(int64_t layer, const Tensor& topk_idx_TK)> force_routing;
};

}  // namespace atoll
