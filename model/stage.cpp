// F, B and W of a stage as the executor calls them. Policy: a tensor is freed in the phase that reads it last; a slot goes when its computation and both of its sends are done.
#include "model/stage.h"

#include <algorithm>
#include <utility>

namespace atoll {

Stage::Stage(Context& ctx, const ModelConfig& config, ParameterStore& parameters, const Placement& placement, int number, Dispatcher& dispatcher, int64_t max_positions)
    : ctx_(ctx), config_(config), parameters_(parameters), number_(number), is_first_(number == 0), is_last_(number == placement.num_stages - 1), dispatcher_(dispatcher),
      type_(parameters.storage()) {
  rope_table_ = ctx.memory.weights.take({max_positions, config.qk_rope_head_dim}, acc_dtype(type_));
  fill_rope_table(rope_table_, config.rope_theta, config.rope_scaling);
  for (int64_t l = placement.layers(number).begin; l < placement.layers(number).end; ++l)
    blocks_.push_back(std::make_unique<Block>(ctx, config, parameters, l, placement.experts, dispatcher, rope_table_));
  if (is_first_) embedding_ = parameters.get("model.embed_tokens.weight").weight;
  if (is_last_) {
    for (int k = 1; k <= config.num_nextn_predict_layers; ++k) mtp_.push_back(std::make_unique<Mtp>(ctx, config, parameters, k, placement.experts, dispatcher, rope_table_));
    const LocalParameter& norm = parameters.get("model.norm.weight");
    final_norm_ = norm.weight;
    d_final_norm_ = norm.grad;
    const LocalParameter& head = parameters.get(config.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight");
    head_ = head.weight;
    d_head_ = config.tie_word_embeddings ? parameters.embedding_grad(EmbeddingUse::kTiedHead) : head.grad;
  }
}

void Stage::begin(const std::vector<MicroBatch>& batches, const StepScales& scales, bool is_training) {
  ATOLL_CHECK(num_live_ == 0, num_live_, " micro-batches of the last step are still live");
  batches_ = &batches;
  scales_ = scales;
  is_training_ = is_training;
  for (auto& block : blocks_) block->begin_step();
  for (auto& module : mtp_) module->begin_step();
  forwards_.clear();
  has_gradients_ = false;
  slot_of_.assign(batches.size(), -1);
  sums_.reset(static_cast<int>(mtp_.size()), config_.num_blocks(), config_.n_routed_experts);
}

void Stage::add_slot() {
  free_slots_.push_back(static_cast<int>(slots_.size()));
  slots_.push_back(std::make_unique<Slot>());
  slots_.back()->blocks.resize(blocks_.size());
  slots_.back()->mtp.resize(mtp_.size());
  reserve(*slots_.back());
  free_slots_.reserve(slots_.size());
}

void Stage::reserve(Slot& slot) {
  for (size_t i = 0; i < blocks_.size(); ++i) blocks_[i]->reserve(slot.blocks[i]);
  for (size_t k = 0; k < mtp_.size(); ++k) mtp_[k]->reserve(slot.mtp[k]);
}

void Stage::settle() {
  if (is_training_ && settled_for_ < batches_->size()) {
    settled_for_ = batches_->size();
    for (size_t wanted = std::min(settled_for_, slots_.size() + 2); slots_.size() < wanted;) add_slot();
  }
  for (auto& slot : slots_) reserve(*slot);
  if (config_.n_routed_experts > 0) settle_grouped(ctx_, dispatcher_.most_rows() / config_.num_experts_per_tok);  // at most all tokens of the ep group choose one expert
}

Stage::Slot& Stage::acquire(int m) {
  int& index = slot_of_[static_cast<size_t>(m)];
  if (index >= 0) return *slots_[static_cast<size_t>(index)];
  if (free_slots_.empty()) add_slot();
  index = free_slots_.back();
  free_slots_.pop_back();
  ++num_live_;
  return *slots_[static_cast<size_t>(index)];
}

// A slot whose computation is done waits for its sends; whichever comes last frees it.
void Stage::release_if_idle(int m) {
  Slot& s = slot(m);
  if (!s.is_done || s.output || s.d_input) return;
  s.is_done = false;
  free_slots_.push_back(slot_of_[static_cast<size_t>(m)]);
  slot_of_[static_cast<size_t>(m)] = -1;
  --num_live_;
}

Buffer Stage::boundary(int m) { return ctx_.memory.activations.take({(*batches_)[static_cast<size_t>(m)].main.size(), config_.hidden_size}, type_); }

void Stage::forward(int m) {
  forwards_.push_back(m);
  current_ = m;
  Slot& s = acquire(m);
  const MicroBatch& batch = (*batches_)[static_cast<size_t>(m)];
  Buffer h = std::move(s.input);
  if (is_first_) {
    h = boundary(m);
    embedding(ctx_, {.ids_T = batch.main.ids_T(), .table_VD = embedding_, .y_TD = h});
    if (probe.observe) probe.observe("hidden.0", h);
  }
  run_blocks_forward(s, batch, std::move(h));
  if (is_last_) heads_forward(s, batch);
  if (is_training_) return;
  for (BlockState& b : s.blocks) b.free_buffers();
  for (MtpState& t : s.mtp) t.free_buffers();
  s.x.reset();
  s.final_rstd.reset();
  s.normed.reset();
  s.is_done = true;
  release_if_idle(m);
}

void Stage::run_blocks_forward(Slot& s, const MicroBatch& batch, Buffer h) {
  for (size_t i = 0; i < blocks_.size(); ++i) {
    BlockState& state = s.blocks[i];
    state.rows = &batch.main;
    state.h = std::move(h);
    BlockCall call{state, scales_, sums_, probe};
    run_phases(*blocks_[i], blocks_[i]->forward_phases(), call);
    h = std::move(state.out);
  }
  (is_last_ ? s.x : s.output) = std::move(h);
}

void Stage::heads_forward(Slot& s, const MicroBatch& batch) {
  const int64_t T = batch.main.size(), D = config_.hidden_size;
  Segment& memory = ctx_.memory.activations;
  s.normed = memory.take({T, D}, type_);
  s.final_rstd = memory.take({T}, acc_dtype(type_));
  rms_norm(ctx_, {.x_TD = s.x, .gain_D = final_norm_, .y_TD = s.normed, .rstd_T = s.final_rstd, .eps = config_.rms_norm_eps});
  if (probe.observe) probe.observe("hidden.final_norm", s.normed);
  auto loss = [&](const Tensor& state, const TokenRows& rows, double scale, double& sum, Buffer& d_state) {
    if (is_training_) d_state = memory.take({rows.size(), D}, type_);
    head_loss(ctx_, {.x_TD = state, .w_VD = head_, .labels_T = rows.labels_T(), .scale = scale, .loss_sum = &sum, .dx_TD = is_training_ ? d_state.tensor() : Tensor{},
                     .dw_VD = is_training_ ? d_head_ : Tensor{}});
  };
  loss(s.normed, batch.main, scales_.loss, sums_.loss, s.d_normed);
  const TokenRows* from = &batch.main;
  Tensor previous = s.normed;
  for (size_t k = 0; k < mtp_.size(); ++k) {
    const TokenRows& rows = batch.mtp[k];
    mtp_[k]->forward(s.mtp[k], *from, rows, previous, scales_, sums_, probe);
    if (probe.observe) probe.observe("mtp." + std::to_string(k + 1) + ".normed", s.mtp[k].normed);
    loss(s.mtp[k].normed, rows, scales_.mtp, sums_.mtp_loss[k], s.mtp[k].d_normed);
    from = &rows;
    previous = s.mtp[k].normed;
  }
  if (!is_training_ && keep_final_state) {
    kept_state_ = std::move(s.normed);
    final_state_ = kept_state_;
  }
}

void Stage::backward_input(int m) {
  Slot& s = slot(m);
  const MicroBatch& batch = (*batches_)[static_cast<size_t>(m)];
  Buffer d = std::move(s.d_output);
  if (is_last_) {
    for (size_t k = mtp_.size(); k-- > 0;) {
      const TokenRows& from = k == 0 ? batch.main : batch.mtp[k - 1];
      const Tensor previous = k == 0 ? s.normed.tensor() : s.mtp[k - 1].normed.tensor();
      const Tensor d_previous = k == 0 ? s.d_normed.tensor() : s.mtp[k - 1].d_normed.tensor();
      mtp_[k]->backward_input(s.mtp[k], from, batch.mtp[k], previous, d_previous, scales_, sums_, probe);
    }
    d = std::move(s.d_normed);
    rms_norm_backward(ctx_, {.dy_TD = d, .h_TD = s.x, .gain_D = final_norm_, .rstd_T = s.final_rstd, .dx_TD = d, .dgain_D = d_final_norm_});
    s.x.reset();
    s.final_rstd.reset();
    s.normed.reset();
  }
  for (size_t i = blocks_.size(); i-- > 0;) {
    BlockState& state = s.blocks[i];
    state.dout = std::move(d);
    BlockCall call{state, scales_, sums_, probe};
    run_phases(*blocks_[i], blocks_[i]->backward_input_phases(), call);
    d = std::move(state.dh);
  }
  (is_first_ ? s.d_embedded : s.d_input) = std::move(d);
}

void Stage::backward_weight(int m) {
  Slot& s = slot(m);
  const MicroBatch& batch = (*batches_)[static_cast<size_t>(m)];
  const bool is_adding = std::exchange(has_gradients_, true);
  for (size_t k = mtp_.size(); k-- > 0;) mtp_[k]->backward_weight(s.mtp[k], batch.mtp[k], scales_, sums_, probe, is_adding);
  for (size_t i = blocks_.size(); i-- > 0;) {
    BlockCall call{s.blocks[i], scales_, sums_, probe, is_adding};
    run_phases(*blocks_[i], blocks_[i]->backward_weight_phases(), call);
  }
  if (is_first_) {
    embedding_backward(ctx_, {.ids_T = batch.main.ids_T(), .dy_TD = s.d_embedded, .dtable_VD = parameters_.embedding_grad(EmbeddingUse::kInput)});
    s.d_embedded.reset();
  }
  s.is_done = true;
  release_if_idle(m);
}

void Stage::add_rows_received(std::vector<std::vector<int64_t>>& rows) const {
  const auto put = [&](int64_t layer, const std::vector<int64_t>* of_layer) {
    for (size_t i = 0; of_layer != nullptr && i < of_layer->size(); ++i) rows[static_cast<size_t>(forwards_[i])][static_cast<size_t>(layer)] = (*of_layer)[i];
  };
  for (const auto& block : blocks_) put(block->layer(), block->rows_received());
  for (size_t k = 0; k < mtp_.size(); ++k) put(config_.num_hidden_layers + static_cast<int64_t>(k), mtp_[k]->rows_received());
}

StageFunctions Stage::functions(std::vector<Stage*> stages) {
  StageFunctions f;
  const auto span = [](Buffer& b) { return StageFunctions::Span{b.tensor().data, b.tensor().bytes()}; };
  const auto at = [stages = std::move(stages)](int s) -> Stage& { return *stages[static_cast<size_t>(s)]; };
  f.forward = [at](int s, int m) { at(s).forward(m); };
  f.backward_input = [at](int s, int m) { at(s).backward_input(m); };
  f.backward_weight = [at](int s, int m) { at(s).backward_weight(m); };
  f.forward_output = [at, span](int s, int m) { return span(at(s).slot(m).output); };
  f.forward_input = [at, span](int s, int m) {
    Slot& slot = at(s).acquire(m);
    slot.input = at(s).boundary(m);
    return span(slot.input);
  };
  f.backward_output = [at, span](int s, int m) {
    Slot& slot = at(s).slot(m);
    slot.d_output = at(s).boundary(m);
    return span(slot.d_output);
  };
  f.backward_input_gradient = [at, span](int s, int m) { return span(at(s).slot(m).d_input); };
  f.release_forward_output = [at](int s, int m) { at(s).slot(m).output.reset(); at(s).release_if_idle(m); };
  f.release_backward_input_gradient = [at](int s, int m) { at(s).slot(m).d_input.reset(); at(s).release_if_idle(m); };
  return f;
}

}  // namespace atoll
