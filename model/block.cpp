// The phases of a block, in the tables' order. Policy: each buffer is let go in the phase that reads it last; the second norm adds the residual on its way, so the sum is
// made once and kept for backward.
#include "model/block.h"

namespace atoll {
namespace {
std::string layer_prefix(int64_t layer) { return "model.layers." + std::to_string(layer) + "."; }
}  // namespace

Block::Block(Context& ctx, const ModelConfig& config, const ParameterStore& p, int64_t layer, Range experts, Dispatcher& dispatcher, const Tensor& rope_table)
    : ctx_(ctx), config_(config), layer_(layer),
      mla_(ctx, config, mla_tensors(p, config, layer_prefix(layer) + "self_attn.", false), mla_tensors(p, config, layer_prefix(layer) + "self_attn.", true), rope_table) {
  const std::string prefix = layer_prefix(layer), mlp = prefix + "mlp.";
  const LocalParameter &in = p.get(prefix + "input_layernorm.weight"), &post = p.get(prefix + "post_attention_layernorm.weight");
  input_norm_ = in.weight;
  d_input_norm_ = in.grad;
  post_norm_ = post.weight;
  d_post_norm_ = post.grad;
  if (config.is_moe_layer(layer))
    moe_.emplace(ctx, config, layer, moe_tensors(p, config, mlp, experts, false), moe_tensors(p, config, mlp, experts, true), p.router_bias(layer), dispatcher);
  else
    mlp_.emplace(ctx, mlp_tensors(p, mlp, config.intermediate_size, false), mlp_tensors(p, mlp, config.intermediate_size, true));
}

std::span<const Block::Phase> Block::forward_phases() const {
  static constexpr Phase kTable[] = {{"attn", &Block::attn_forward}, {"mlp", &Block::mlp_forward}, {"combine", &Block::combine_forward}};
  return kTable;
}
std::span<const Block::Phase> Block::backward_input_phases() const {
  static constexpr Phase kTable[] = {{"combine", &Block::combine_backward}, {"mlp", &Block::mlp_backward}, {"attn", &Block::attn_backward}};
  return kTable;
}
std::span<const Block::Phase> Block::backward_weight_phases() const {
  static constexpr Phase kTable[] = {{"mlp", &Block::mlp_weights}, {"attn", &Block::attn_weights}};
  return kTable;
}

void Block::attn_forward(BlockCall& c) const {
  BlockState& s = c.state;
  const int64_t T = s.h.tensor().dim[0], D = config_.hidden_size;
  const DType type = s.h.tensor().dtype;
  Segment& memory = ctx_.memory.activations;
  s.mla.x = memory.take({T, D}, type);
  s.rstd_in = memory.take({T}, acc_dtype(type));
  rms_norm(ctx_, {.x_TD = s.h, .gain_D = input_norm_, .y_TD = s.mla.x, .rstd_T = s.rstd_in, .eps = config_.rms_norm_eps});
  s.h2 = mla_.forward(s.mla, *s.rows);
  s.x_post = memory.take({T, D}, type);
  s.rstd_post = memory.take({T}, acc_dtype(type));
  rms_norm(ctx_, {.x_TD = s.h2, .residual_TD = s.h, .gain_D = post_norm_, .h_TD = s.h2, .y_TD = s.x_post, .rstd_T = s.rstd_post, .eps = config_.rms_norm_eps});
  if (moe_) moe_->route_and_dispatch(s.moe, s.x_post, *s.rows, c.scales, c.sums, c.probe);
}

void Block::mlp_forward(BlockCall& c) const {
  BlockState& s = c.state;
  if (moe_)
    moe_->experts(s.moe, s.x_post);
  else
    s.ffn_out = mlp_->forward(s.mlp, s.x_post);
}

void Block::combine_forward(BlockCall& c) const {
  BlockState& s = c.state;
  s.out = moe_ ? moe_->combine(s.moe) : std::move(s.ffn_out);
  add(ctx_, {.a = s.h2, .b = s.out, .y = s.out});
  if (c.probe.observe) c.probe.observe("hidden." + std::to_string(layer_ + 1), s.out);
}

void Block::combine_backward(BlockCall& c) const {
  if (moe_) moe_->dispatch_gradient(c.state.moe, c.state.dout);
}

void Block::mlp_backward(BlockCall& c) const {
  BlockState& s = c.state;
  if (moe_)
    moe_->experts_backward(s.moe, s.dout);
  else
    s.dx_post = mlp_->backward_input(s.mlp, s.dout);
}

void Block::attn_backward(BlockCall& c) const {
  BlockState& s = c.state;
  if (moe_) s.dx_post = moe_->combine_gradient(s.moe, *s.rows, c.scales);
  Buffer dh2 = ctx_.memory.activations.take({s.dout.tensor().dim[0], config_.hidden_size}, s.dout.tensor().dtype);
  rms_norm_backward(ctx_, {.dy_TD = s.dx_post, .h_TD = s.h2, .gain_D = post_norm_, .rstd_T = s.rstd_post, .add_TD = s.dout, .dx_TD = dh2, .dgain_D = d_post_norm_});
  s.dx_post.reset();
  s.h2.reset();
  s.rstd_post.reset();
  const Tensor dh2_view = dh2;
  Buffer dx = mla_.backward_input(s.mla, *s.rows, std::move(dh2));
  s.dh = std::move(dx);
  rms_norm_backward(ctx_, {.dy_TD = s.dh, .h_TD = s.h, .gain_D = input_norm_, .rstd_T = s.rstd_in, .add_TD = dh2_view, .dx_TD = s.dh, .dgain_D = d_input_norm_});
  s.h.reset();
  s.rstd_in.reset();
}

void Block::mlp_weights(BlockCall& c) const {
  BlockState& s = c.state;
  if (moe_)
    moe_->backward_weight(s.moe, s.x_post, s.dout, c.accumulate);
  else
    mlp_->backward_weight(s.mlp, s.x_post, s.dout, c.accumulate);
  s.x_post.reset();
  s.dout.reset();
}

void Block::attn_weights(BlockCall& c) const { mla_.backward_weight(c.state.mla, c.accumulate); }

void run_phases(const Block& block, std::span<const Block::Phase> phases, BlockCall& call) {
  for (const Block::Phase& phase : phases) (block.*phase.run)(call);
}

}  // namespace atoll
