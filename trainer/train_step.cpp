// One optimizer step, and what it is made of. Policy: losses and gradients are sums over the step's global tokens; every rank computes the same verdict from the same numbers.
#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/ops.h"
#include "trainer/engine.h"

namespace atoll {
namespace {
constexpr int kEmbeddingChannel = 3, kNormChannel = 4;  // of the pipeline's communicator; 0 and 1 are the executor's
}

const StepResult& Engine::train_step(std::vector<MicroBatch>& batches, const StepPlan& plan) {
  const int64_t sent = groups_.bytes_sent();
  accumulate_gradients(batches, plan);
  StepResult& result = result_;
  reduce_gradients();
  result.grad_norm = global_norm();
  if (!std::isfinite(result.total) || !std::isfinite(result.grad_norm)) {  // the same on every rank: both are global
    result.applied = false;
    result.reason = !std::isfinite(result.total) ? "non-finite loss" : "non-finite gradient norm";
  } else {
    result.clip = plan.clip_norm > 0 ? std::min(1.0, plan.clip_norm / (result.grad_norm + 1e-6)) : 1.0;
    optimizer_->step(options_.adamw, plan.lr, result.clip, plan.step);
    update_router_bias(result.expert_counts, plan.bias_gamma);  // once per optimizer step, from global counts
    optimizer_->publish();
    send_embedding_to_last_stage();
  }
  result.bytes_sent = groups_.bytes_sent() - sent;
  return result;
}

void Engine::reduce_gradients() {
  const bool is_rounding = std::exchange(ctx_.round_outputs_to_bf16, false);  // main gradients are never in BF16
  add_embedding_uses();
  ctx_.round_outputs_to_bf16 = is_rounding;
  optimizer_->reduce_gradients();
}

const StepResult& Engine::accumulate_gradients(std::vector<MicroBatch>& batches, const StepPlan& plan) {
  StepResult& result = result_;
  const int depth = static_cast<int>(options_.model.num_nextn_predict_layers);
  int64_t counts[3] = {0, 0, 0};  // labels, sequences, tokens of the whole step
  for (MicroBatch& b : batches) {
    b.derive_mtp(depth);
    counts[0] += b.main.num_labels();
    counts[1] += b.main.num_sequences();
    counts[2] += b.main.size();
  }
  groups_.dp->sum_in_rank_order(std::span<int64_t>(counts));
  result.labels = counts[0];
  result.sequences = counts[1];
  result.tokens = counts[2];
  const double labels = static_cast<double>(std::max<int64_t>(1, counts[0])), sequences = static_cast<double>(std::max<int64_t>(1, counts[1]));
  StepScales scales{.loss = 1.0 / labels, .mtp = depth > 0 ? plan.mtp_lambda / (depth * labels) : 0.0, .balance = plan.balance_alpha / sequences};
  if (options_.fault == PlantedFault::kLossScaledOnOneRank && groups_.dp->rank() == groups_.dp->size() - 1 && groups_.dp->size() > 1) scales.loss *= 1.001;

  parameters_->zero_grads();
  stage_->begin(batches, scales, true);
  const int64_t dispatched = dispatcher_->bytes_dispatched(), combined = dispatcher_->bytes_combined();
  pipeline(static_cast<int>(batches.size())).executor->run();
  stage_->settle();
  result.dispatch_bytes = dispatcher_->bytes_dispatched() - dispatched;
  result.combine_bytes = dispatcher_->bytes_combined() - combined;

  StepSums& sums = sums_;
  sums = stage_->sums();
  sum_over_ranks(sums);
  result.applied = true;
  result.reason.clear();
  result.mtp_loss.clear();
  result.balance_of_layer.clear();
  result.balance = 0;
  result.loss = sums.loss / labels;
  result.total = result.loss;
  for (double mtp : sums.mtp_loss) {
    result.mtp_loss.push_back(mtp / labels);
    result.total += plan.mtp_lambda / depth * (mtp / labels);
  }
  for (double balance : sums.balance) {
    result.balance_of_layer.push_back(plan.balance_alpha * balance / sequences);
    result.balance += result.balance_of_layer.back();
  }
  result.total += result.balance;
  result.expert_counts = sums.expert_counts;
  measure_load();
  return result;
}

// Losses over all ranks, expert counts over this stage's. A loss lives on the last stage, a layer's balance term on its own: the sum over stages adds zeros.
void Engine::sum_over_ranks(StepSums& sums) {
  const size_t depth = static_cast<size_t>(options_.model.num_nextn_predict_layers);
  sums.mtp_loss.resize(depth, 0.0);
  sums_buffer_.assign(1, sums.loss);
  sums_buffer_.insert(sums_buffer_.end(), sums.mtp_loss.begin(), sums.mtp_loss.end());
  sums_buffer_.insert(sums_buffer_.end(), sums.balance.begin(), sums.balance.end());
  groups_.dp->sum_in_rank_order(std::span<double>(sums_buffer_));
  groups_.pp->sum_in_rank_order(std::span<double>(sums_buffer_));
  sums.loss = sums_buffer_[0];
  std::copy_n(sums_buffer_.begin() + 1, depth, sums.mtp_loss.begin());
  std::copy(sums_buffer_.begin() + 1 + static_cast<int64_t>(depth), sums_buffer_.end(), sums.balance.begin());
  groups_.dp->sum_in_rank_order(std::span<int64_t>(sums.expert_counts));
}

void Engine::measure_load() {
  StepResult& result = result_;
  const int64_t E = options_.model.n_routed_experts;
  double worst = 0;
  for (size_t begin = 0; E > 0 && begin + static_cast<size_t>(E) <= result.expert_counts.size(); begin += static_cast<size_t>(E)) {
    int64_t sum = 0, most = 0;
    for (int64_t e = 0; e < E; ++e) {
      sum += result.expert_counts[begin + static_cast<size_t>(e)];
      most = std::max(most, result.expert_counts[begin + static_cast<size_t>(e)]);
    }
    if (sum > 0) worst = std::max(worst, static_cast<double>(most) * static_cast<double>(E) / static_cast<double>(sum));
  }
  groups_.pp->all_gather(&worst, sizeof worst, loads_.data());
  result.expert_load_max_over_mean = *std::max_element(loads_.begin(), loads_.end());
}

// The embedding's gradient = input use + MTP use + tied-head use, in this order, on the first stage.
void Engine::add_embedding_uses() {
  const int last = groups_.pp->size() - 1, rank = groups_.pp->rank();
  const Tensor input = parameters_->embedding_grad(EmbeddingUse::kInput);
  for (EmbeddingUse use : {EmbeddingUse::kMtp, EmbeddingUse::kTiedHead}) {
    const bool used = use == EmbeddingUse::kMtp ? options_.model.num_nextn_predict_layers > 0 : options_.model.tie_word_embeddings;
    if (!used) continue;
    const Tensor mine = parameters_->embedding_grad(use);
    if (rank == last && rank != 0) groups_.pp->send(mine.data, mine.bytes(), 0, kEmbeddingChannel);
    if (rank != 0) continue;
    if (last == 0) {
      add(ctx_, {.a = input, .b = mine, .y = input});
    } else {
      Buffer received = ctx_.memory.comm.take({input.dim[0], input.dim[1]}, input.dtype);
      groups_.pp->recv(received.tensor().data, received.tensor().bytes(), last, kEmbeddingChannel);
      add(ctx_, {.a = input, .b = received, .y = input});
    }
    if (options_.fault == PlantedFault::kGradientCountedTwice) add(ctx_, {.a = input, .b = mine ? mine : input, .y = input});
  }
}

// norm^2: one FP64 sum a parameter, added in manifest order: the chain over stages gives every pp the bits of one stage.
double Engine::global_norm() {
  optimizer_->sums_of_squares(stage_parameters_, norm_sums_);
  groups_.dp->sum_in_rank_order(std::span<double>(norm_sums_));
  Communicator& pp = *groups_.pp;
  double squares = 0;
  if (pp.rank() > 0) pp.recv(&squares, sizeof squares, pp.rank() - 1, kNormChannel);
  for (double s : norm_sums_) squares += s;
  if (pp.rank() + 1 < pp.size()) pp.send(&squares, sizeof squares, pp.rank() + 1, kNormChannel);
  pp.broadcast(&squares, sizeof squares, pp.size() - 1);
  return std::sqrt(squares);
}

// b_e += gamma sign(mean(c) - c_e) (Wang et al. 2024; DeepSeek-V3 section 2.1.2), in the bias's own type.
void Engine::update_router_bias(const std::vector<int64_t>& counts, double gamma) {
  if (options_.fault == PlantedFault::kBiasUpdatedOnOneStage && groups_.pp->rank() > 0) return;
  const int64_t E = options_.model.n_routed_experts;
  for (const ParameterStore::Bias& bias : parameters_->router_biases()) {
    const int64_t* c = counts.data() + bias.layer * E;
    int64_t sum = 0;
    for (int64_t e = 0; e < E; ++e) sum += c[e];
    for (int64_t e = 0; e < E; ++e) {
      const int64_t above = sum - c[e] * E;  // sign of (mean - c_e), exact
      const double change = above > 0 ? gamma : above < 0 ? -gamma : 0.0;
      if (bias.value.dtype == DType::kF64)
        bias.value.as<double>()[e] += change;
      else
        bias.value.as<float>()[e] += static_cast<float>(change);
    }
  }
}

void Engine::send_embedding_to_last_stage() {
  const int last = groups_.pp->size() - 1, rank = groups_.pp->rank();
  if (last == 0 || !has_shared_embedding()) return;
  if (rank == 0) groups_.pp->send(embedding_->weight.data, embedding_->weight.bytes(), last, kEmbeddingChannel);
  if (rank == last) groups_.pp->recv(embedding_->weight.data, embedding_->weight.bytes(), 0, kEmbeddingChannel);
}

}  // namespace atoll
