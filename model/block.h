// One transformer block: h += attention(norm(h)); h += ffn(norm(h)). Its forward and backward are tables of named phases; a phase runs to completion and may post
// communication that a later phase awaits. Two micro-batches' phases can be interleaved (parallel/executor); run() walks one table alone.
#pragma once
#include <optional>
#include <span>

#include "model/mla.h"
#include "model/moe.h"

namespace atoll {

struct BlockState {
  const TokenRows* rows = nullptr;
  Buffer h, rstd_in;             // block input; after attention h2 is kept for the second norm
  Buffer h2, rstd_post, x_post;  // x_post: normed FFN input, operand of the FFN's weight gradients
  Buffer ffn_out;                // dense: result of the mlp phase
  Buffer out;                    // forward's result; taken by the next block
  Buffer dout, dx_post;          // gradient of out (kept until W); gradient of x_post between phases
  Buffer dh;                     // backward's result
  MlaState mla;
  MlpState mlp;
  MoeState moe;
  void free_buffers() {  // as W leaves it: the vectors keep their room
    MoeState kept;
    kept.plan = std::move(moe.plan);
    kept.counts = std::move(moe.counts);
    *this = BlockState{};
    moe = std::move(kept);
  }
};

struct BlockCall {  // what every phase is given
  BlockState& state;
  const StepScales& scales;
  StepSums& sums;
  const ModelProbe& probe;
  bool accumulate = true;  // W: false in the first micro-batch of a step, whose GEMMs overwrite the main gradients
};

class Block {
 public:
  Block(Context& ctx, const ModelConfig& config, const ParameterStore& parameters, int64_t layer, Range experts, Dispatcher& dispatcher, const Tensor& rope_table_PR);

  struct Phase { const char* name; void (Block::*run)(BlockCall&) const; };
  std::span<const Phase> forward_phases() const;
  std::span<const Phase> backward_input_phases() const;
  std::span<const Phase> backward_weight_phases() const;
  int64_t layer() const { return layer_; }
  const std::vector<int64_t>* rows_received() const { return moe_ ? &moe_->rows_received() : nullptr; }
  void begin_step() { if (moe_) moe_->begin_step(); }
  void reserve(BlockState& state) const { if (moe_) moe_->reserve(state.moe); }

 private:
  void attn_forward(BlockCall&) const;      // norm, MLA, residual, norm; MoE: router, posts dispatch
  void mlp_forward(BlockCall&) const;       // MoE: shared expert first (hides dispatch), awaits it, routed experts, posts combine
  void combine_forward(BlockCall&) const;   // awaits combine; residual
  void combine_backward(BlockCall&) const;  // posts the gradient dispatch
  void mlp_backward(BlockCall&) const;      // shared expert first; awaits; routed input gradients; posts the gradient combine
  void attn_backward(BlockCall&) const;     // awaits; router, norms, MLA
  void mlp_weights(BlockCall&) const;
  void attn_weights(BlockCall&) const;

  Context& ctx_;
  const ModelConfig& config_;
  int64_t layer_;
  Tensor input_norm_, post_norm_, d_input_norm_, d_post_norm_;
  Mla mla_;
  std::optional<Mlp> mlp_;
  std::optional<Moe> moe_;
};

void run_phases(const Block& block, std::span<const Block::Phase> phases, BlockCall& call);

}  // namespace atoll
