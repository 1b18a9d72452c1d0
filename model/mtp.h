// Multi-token prediction module k (DeepSeek-V3 eq. 21-25): x = W_eh [norm(Emb(t_{i+k})); norm(h^{k-1}_i)] (embedding first, as published checkpoints store it),
// one block, a final norm, the shared head. It runs on exactly n - k rows of each sequence of n tokens. The main model's state enters AFTER its final norm.
#pragma once
#include "model/block.h"

namespace atoll {

struct MtpState {
  Buffer embedded, joined, enorm_rstd, hnorm_rstd;  // joined: [T_k, 2D], operand of eh_proj's weight gradient
  BlockState block;
  Buffer x, final_rstd, normed;                     // block output; its normed state: h^k
  Buffer d_normed, dx, d_embedded;
  void free_buffers() {
    block.free_buffers();
    for (Buffer* b : {&embedded, &joined, &enorm_rstd, &hnorm_rstd, &x, &final_rstd, &normed, &d_normed, &dx, &d_embedded}) b->reset();
  }
};

class Mtp {
 public:
  Mtp(Context& ctx, const ModelConfig& config, const ParameterStore& parameters, int depth, Range experts, Dispatcher& dispatcher, const Tensor& rope_table_PR);
  void reserve(MtpState& state) const { block_.reserve(state.block); }
  const std::vector<int64_t>* rows_received() const { return block_.rows_received(); }
  void begin_step() { block_.begin_step(); }
  // previous_TD: h^{k-1} on the rows of depth k-1 (`from`). Leaves h^k in state.normed.
  void forward(MtpState& state, const TokenRows& from, const TokenRows& rows, const Tensor& previous_TD, const StepScales&, StepSums&, const ModelProbe&) const;
  // state.d_normed holds the gradient of h^k; adds the gradient of h^{k-1} into d_previous_TD.
  void backward_input(MtpState& state, const TokenRows& from, const TokenRows& rows, const Tensor& previous_TD, const Tensor& d_previous_TD, const StepScales&, StepSums&, const ModelProbe&) const;
  void backward_weight(MtpState& state, const TokenRows& rows, const StepScales&, StepSums&, const ModelProbe&, bool accumulate) const;  // frees the state

 private:
  Context& ctx_;
  const ModelConfig& config_;
  Tensor table_, d_table_;
  const LocalParameter &enorm_, &hnorm_, &eh_proj_, &final_norm_;
  Block block_;
};

}  // namespace atoll
