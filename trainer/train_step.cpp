// One optimizer step, and what it is made of. Policy: losses and gradients are sums over the step's global tokens; every rank computes the same verdict from the same numbers.
#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/ops.h"
#include "parallel/stopwatch.h"
#include "trainer/engine.h"

namespace atoll {
namespace {
constexpr int kEmbeddingChannel = 3;  // of the pipeline's communicator; 0 and 1 are the executor's
}

const StepResult& Engine::train_step(std::vector<MicroBatch>& batches, const StepPlan& plan) {
  const int64_t sent = groups_.bytes_sent();
  const double exchanged = dispatcher_->seconds();
  accumulate_gradients(batches, plan);
  times_.exchange += dispatcher_->seconds() - exchanged;
  ++times_.steps;
  StepResult& result = result_;
  {
    const Stopwatch watch(times_.reduce);
    reduce_gradients();
    result.grad_norm = global_norm();
  }
  if (!std::isfinite(result.total) || !std::isfinite(result.grad_norm)) {  // the same on every rank: both are global
    result.applied = false;
    result.reason = !std::isfinite(result.total) ? "non-finite loss" : "non-finite gradient norm";
  } else {
    result.clip = plan.clip_norm > 0 ? std::min(1.0, plan.clip_norm / (result.grad_norm + 1e-6)) : 1.0;
    {
      const Stopwatch watch(times_.update);
      optimizer_->step(options_.adamw, plan.lr, result.clip, plan.step);
      update_router_bias(result.expert_counts, plan.bias_gamma);  // once per optimizer step, from global counts
    }
    const Stopwatch watch(times_.publish);
    optimizer_->publish();
    send_embedding_to_last_stage();
  }
  result.bytes_sent = groups_.bytes_sent() - sent;
  return result;
}

void Engine::reduce_gradients() {
  const bool is_rounding = std::exchange(ctx_.round_outputs_to_bf16, false);  // main gradients are never in BF16
  optimizer_->add_mirror_gradients();
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

  const int64_t dispatched = dispatcher_->bytes_dispatched(), combined = dispatcher_->bytes_combined();
  run_micro_batches(batches, scales);
  const StepSums& sums = sums_;
  result.dispatch_bytes = dispatcher_->bytes_dispatched() - dispatched;
  result.combine_bytes = dispatcher_->bytes_combined() - combined;

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

// Gradients into the parameters, sums over all ranks into sums_. In halves, each is one pass of its own, and two numbers are added: as mirror ranks add theirs.
void Engine::run_micro_batches(std::vector<MicroBatch>& batches, const StepScales& scales) {
  if (options_.grad_halves == 1 || frame_.is_mirrored) return run_pipeline(batches, scales);
  ATOLL_CHECK(batches.size() % 2 == 0, "parallel.grad_halves = 2 needs an even number of micro-batches in a step, not ", batches.size());
  const size_t half = batches.size() / 2;
  for (size_t h = 0; h < 2; ++h) {
    halves_[h].resize(half);
    for (size_t i = 0; i < half; ++i) std::swap(halves_[h][i], batches[h * half + i]);
  }
  run_pipeline(halves_[0], scales);
  parameters_->put_grads_aside(ctx_);
  first_half_sums_ = sums_;
  run_pipeline(halves_[1], scales);
  const bool is_rounding = std::exchange(ctx_.round_outputs_to_bf16, false);
  parameters_->add_grads_put_aside(ctx_);
  ctx_.round_outputs_to_bf16 = is_rounding;
  sums_.add(first_half_sums_);
  for (size_t h = 0; h < 2; ++h)
    for (size_t i = 0; i < half; ++i) std::swap(halves_[h][i], batches[h * half + i]);
}

void Engine::run_pipeline(const std::vector<MicroBatch>& batches, const StepScales& scales) {
  parameters_->zero_grads();
  for (const auto& stage : stages_) stage->begin(batches, scales, true);
  Executor& executor = *pipeline(static_cast<int>(batches.size())).executor;
  executor.run();
  const ExecutorTimes& spent = executor.times();
  times_.forward += spent.forward;
  times_.backward += spent.backward_input;
  times_.weight += spent.backward_weight;
  times_.waiting += spent.waiting;
  for (const auto& stage : stages_) stage->settle();
  sum_over_stages(sums_);
  sum_over_ranks(sums_);
}

void Engine::sum_over_stages(StepSums& sums) const {
  sums.reset(static_cast<int>(options_.model.num_nextn_predict_layers), options_.model.num_blocks(), options_.model.n_routed_experts);
  for (const auto& stage : stages_) sums.add(stage->sums());
}

// Losses over all ranks, expert counts over those of this rank's layers. A loss lives on the last stage, a layer's balance term on its own: the sum over pipeline ranks adds zeros,
// or one number of each mirror rank.
void Engine::sum_over_ranks(StepSums& sums) {
  const size_t depth = static_cast<size_t>(options_.model.num_nextn_predict_layers);
  sums_buffer_.assign(1, sums.loss);
  sums_buffer_.insert(sums_buffer_.end(), sums.mtp_loss.begin(), sums.mtp_loss.end());
  sums_buffer_.insert(sums_buffer_.end(), sums.balance.begin(), sums.balance.end());
  groups_.dp->sum_in_rank_order(std::span<double>(sums_buffer_));
  groups_.pp->sum_in_rank_order(std::span<double>(sums_buffer_));
  sums.loss = sums_buffer_[0];
  std::copy_n(sums_buffer_.begin() + 1, depth, sums.mtp_loss.begin());
  std::copy(sums_buffer_.begin() + 1 + static_cast<int64_t>(depth), sums_buffer_.end(), sums.balance.begin());
  groups_.dp->sum_in_rank_order(std::span<int64_t>(sums.expert_counts));
  if (groups_.mirror) groups_.mirror->sum_in_rank_order(std::span<int64_t>(sums.expert_counts));
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

// The embedding's gradient = input use + MTP use + tied-head use, in this order, on the first stage's rank.
void Engine::add_embedding_uses() {
  const bool has_first = placement_.is_first(), has_last = placement_.is_last();
  const int first_rank = frame_.rank_of_stage.front(), last_rank = frame_.rank_of_stage.back();
  const Tensor input = parameters_->embedding_grad(EmbeddingUse::kInput);
  for (EmbeddingUse use : {EmbeddingUse::kMtp, EmbeddingUse::kTiedHead}) {
    const bool used = use == EmbeddingUse::kMtp ? options_.model.num_nextn_predict_layers > 0 : options_.model.tie_word_embeddings;
    if (!used) continue;
    const Tensor mine = parameters_->embedding_grad(use);
    if (has_last && !has_first) groups_.pp->send(mine.data, mine.bytes(), first_rank, kEmbeddingChannel);
    if (!has_first) continue;
    if (has_last) {
      add(ctx_, {.a = input, .b = mine, .y = input});
    } else {
      Buffer received = ctx_.memory.comm.take({input.dim[0], input.dim[1]}, input.dtype);
      groups_.pp->recv(received.tensor().data, received.tensor().bytes(), last_rank, kEmbeddingChannel);
      add(ctx_, {.a = input, .b = received, .y = input});
    }
    if (options_.fault == PlantedFault::kGradientCountedTwice) add(ctx_, {.a = input, .b = mine ? mine : input, .y = input});
  }
}

// norm^2: one FP64 sum a parameter, added in manifest order, whatever rank holds it: every layout of stages has the bits of one rank. Of two mirror ranks one speaks.
double Engine::global_norm() {
  optimizer_->sums_of_squares(stage_parameters_, norm_sums_);
  groups_.dp->sum_in_rank_order(std::span<double>(norm_sums_));
  all_norm_sums_.assign(manifest_.size(), 0.0);
  if (!groups_.mirror || groups_.mirror->rank() == 0)
    for (size_t i = 0; i < norm_sums_.size(); ++i) all_norm_sums_[static_cast<size_t>(stage_parameters_[i])] = norm_sums_[i];
  groups_.pp->sum_in_rank_order(std::span<double>(all_norm_sums_));
  double squares = 0;
  for (double s : all_norm_sums_) squares += s;
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
  const bool has_first = placement_.is_first(), has_last = placement_.is_last();
  if (!has_shared_embedding() || has_first == has_last) return;
  if (has_first) groups_.pp->send(embedding_->weight.data, embedding_->weight.bytes(), frame_.rank_of_stage.back(), kEmbeddingChannel);
  if (has_last) groups_.pp->recv(embedding_->weight.data, embedding_->weight.bytes(), frame_.rank_of_stage.front(), kEmbeddingChannel);
}

}  // namespace atoll
