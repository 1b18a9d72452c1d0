// A layer of experts in the order of its phases. Policy: rows travel grouped by expert and are put in order on arrival; a group of one rank uses the same buffers
// without an exchange.
#include "model/moe.h"

#include <algorithm>

namespace atoll {

MoeTensors moe_tensors(const ParameterStore& parameters, const ModelConfig& config, const std::string& prefix, Range experts, bool grads) {
  MoeTensors t;
  const LocalParameter& gate = parameters.get(prefix + "gate.weight");
  t.gate = grads ? gate.grad : gate.weight;
  const std::string first = prefix + "experts." + std::to_string(experts.begin) + ".";
  t.expert_gate_up = parameters.stacked(first + "gate_proj.weight", experts.size(), 2 * config.moe_intermediate_size, grads);
  t.expert_down = parameters.stacked(first + "down_proj.weight", experts.size(), config.hidden_size, grads);
  if (config.n_shared_experts > 0) t.shared = mlp_tensors(parameters, prefix + "shared_experts.", config.n_shared_experts * config.moe_intermediate_size, grads);
  return t;
}

Moe::Moe(Context& ctx, const ModelConfig& config, int64_t layer, const MoeTensors& weights, const MoeTensors& grads, const Tensor& router_bias, Dispatcher& dispatcher)
    : ctx_(ctx), config_(config), layer_(layer), w_(weights), g_(grads), bias_(router_bias), dispatcher_(dispatcher), has_shared_(config.n_shared_experts > 0),
      shared_(ctx, weights.shared, grads.shared) {}

void Moe::route_and_dispatch(MoeState& s, const Tensor& x, const TokenRows& rows, const StepScales& scales, StepSums& sums, const ModelProbe& probe) const {
  const int64_t T = x.dim[0], E = config_.n_routed_experts, K = config_.num_experts_per_tok;
  const DType acc = acc_dtype(x.dtype);
  Segment& memory = ctx_.memory.activations;
  Buffer logits = memory.take({T, E}, acc);
  linear(ctx_, {.x_TK = x, .w_NK = w_.gate, .y_TN = logits, .keeps_acc = true});
  s.scores = memory.take({T, E}, acc);
  s.topk_idx = memory.take({T, K}, DType::kI32);
  s.topk_weight = memory.take({T, K}, acc);
  const bool forced = probe.force_routing && probe.force_routing(layer_, s.topk_idx);
  router(ctx_, {.logits_TE = logits, .bias_E = bias_, .scores_TE = s.scores, .topk_idx_TK = s.topk_idx, .weight_TK = s.topk_weight, .config = config_.router(), .forced = forced});
  if (probe.observe) {
    const std::string name = "moe." + std::to_string(layer_);
    probe.observe(name + ".router_logits", logits);
    probe.observe(name + ".topk_ids", s.topk_idx);
    probe.observe(name + ".topk_weights", s.topk_weight);
  }
  if (scales.balance != 0) {
    s.f = memory.take({rows.num_sequences(), E}, acc);
    balance_loss(ctx_, {.scores_TE = s.scores, .cu_seqs = rows.cu_seqs, .topk = static_cast<int>(K), .f_BE = s.f, .loss_sum = &sums.balance[static_cast<size_t>(layer_)]});
  }

  s.row_of = memory.take({T, K}, DType::kI32);
  s.token_of = memory.take({T * K}, DType::kI32);
  s.slot_of = memory.take({T * K}, DType::kI32);
  s.counts.assign(static_cast<size_t>(E), 0);
  permutation_plan(s.topk_idx, s.row_of, s.token_of, s.counts);
  for (int64_t slot = 0; slot < T * K; ++slot) s.slot_of.tensor().as<int32_t>()[s.row_of.tensor().as<int32_t>()[slot]] = static_cast<int32_t>(slot);
  for (int64_t e = 0; e < E; ++e) sums.expert_counts[static_cast<size_t>(layer_ * E + e)] += s.counts[static_cast<size_t>(e)];
  dispatcher_.plan(s.counts, s.plan);
  rows_.push_back(s.plan.rows_received);
  send_to_experts(s, x, true);
}

// Gathers the rows that leave, grouped by expert, and posts them.
void Moe::send_to_experts(MoeState& s, const Tensor& source, bool with_weights) const {
  const int64_t D = source.dim[1], R = s.plan.rows_sent, arriving = s.plan.rows_received;
  Segment& memory = ctx_.memory.routed;
  s.send_rows = memory.take({R, D}, source.dtype);
  permute(ctx_, {.x_TD = source, .index_R = s.token_of, .y_RD = s.send_rows});
  const Tensor& weight = s.topk_weight;
  if (with_weights) {
    s.send_weight = memory.take({R, 1}, weight.dtype);
    permute(ctx_, {.x_TD = weight.view({weight.size(), 1}), .index_R = s.slot_of, .y_RD = s.send_weight});
  }
  if (is_alone()) {
    s.arrived = std::move(s.send_rows);
    if (with_weights) s.arrived_weight = std::move(s.send_weight);
    return;
  }
  s.arrived = memory.take({arriving, D}, source.dtype);
  s.rows_request = dispatcher_.dispatch(s.plan, s.send_rows.tensor().data, D * static_cast<int64_t>(size_of(source.dtype)), s.arrived.tensor().data);
  if (!with_weights) return;
  s.arrived_weight = memory.take({arriving, 1}, weight.dtype);
  s.weight_request = dispatcher_.dispatch(s.plan, s.send_weight.tensor().data, static_cast<int64_t>(size_of(weight.dtype)), s.arrived_weight.tensor().data);
}

Buffer Moe::to_expert_order(const MoeState& s, Buffer arrived) const {
  if (is_alone()) return arrived;
  Buffer ordered = ctx_.memory.routed.take({arrived.tensor().dim[0], arrived.tensor().dim[1]}, arrived.tensor().dtype);
  permute(ctx_, {.x_TD = arrived, .index_R = Tensor(const_cast<int32_t*>(s.plan.expert_order.data()), DType::kI32, {s.plan.rows_received}), .y_RD = ordered});
  return ordered;
}

Buffer Moe::to_arrival_order(const MoeState& s, Buffer ordered) const {
  if (is_alone()) return ordered;
  Buffer arrival = ctx_.memory.routed.take({ordered.tensor().dim[0], ordered.tensor().dim[1]}, ordered.tensor().dtype);
  permute(ctx_, {.x_TD = ordered, .index_R = Tensor(const_cast<int32_t*>(s.plan.arrival_order.data()), DType::kI32, {s.plan.rows_received}), .y_RD = arrival});
  return arrival;
}

void Moe::experts(MoeState& s, const Tensor& x) const {
  if (has_shared_) s.shared_out = shared_.forward(s.shared, x);  // first: it hides the dispatch
  dispatcher_.wait(s.rows_request);
  dispatcher_.wait(s.weight_request);
  s.send_rows.reset();
  s.send_weight.reset();
  s.expert_x = to_expert_order(s, std::move(s.arrived));
  s.expert_weight = to_expert_order(s, std::move(s.arrived_weight));
  const int64_t R = s.plan.rows_received, D = x.dim[1], F = config_.moe_intermediate_size;
  Segment& memory = ctx_.memory.routed;
  s.gate_up = memory.take({R, 2 * F}, x.dtype);
  grouped_linear(ctx_, {.x_RK = s.expert_x, .w_ENK = w_.expert_gate_up, .y_RN = s.gate_up, .offsets = s.plan.expert_offsets});
  s.act = memory.take({R, F}, x.dtype);
  swiglu(ctx_, {.gate_up_R2F = s.gate_up, .weight_R = s.expert_weight.tensor().view({R}), .y_RF = s.act});
  Buffer y = memory.take({R, D}, x.dtype);
  grouped_linear(ctx_, {.x_RK = s.act, .w_ENK = w_.expert_down, .y_RN = y, .offsets = s.plan.expert_offsets});
  s.arrived = to_arrival_order(s, std::move(y));
  if (is_alone()) {
    s.send_rows = std::move(s.arrived);
    return;
  }
  s.send_rows = memory.take({s.plan.rows_sent, D}, x.dtype);
  s.rows_request = dispatcher_.combine(s.plan, s.arrived.tensor().data, D * static_cast<int64_t>(size_of(x.dtype)), s.send_rows.tensor().data);
}

Buffer Moe::combine(MoeState& s) const {
  dispatcher_.wait(s.rows_request);
  s.arrived.reset();
  const Tensor& rows = s.send_rows;
  const int64_t T = s.row_of.tensor().dim[0];
  Buffer y = has_shared_ ? std::move(s.shared_out) : ctx_.memory.activations.take({T, rows.dim[1]}, rows.dtype);
  unpermute(ctx_, {.y_RD = rows, .row_of_TK = s.row_of, .add_TD = has_shared_ ? y.tensor() : Tensor{}, .out_TD = y});
  s.send_rows.reset();
  return y;
}

void Moe::dispatch_gradient(MoeState& s, const Tensor& dy) const { send_to_experts(s, dy, false); }

void Moe::experts_backward(MoeState& s, const Tensor& dy) const {
  if (has_shared_) s.shared_out = shared_.backward_input(s.shared, dy);
  dispatcher_.wait(s.rows_request);
  s.send_rows.reset();
  s.expert_dy = to_expert_order(s, std::move(s.arrived));
  const int64_t R = s.plan.rows_received, D = dy.dim[1], F = config_.moe_intermediate_size;
  const DType acc = acc_dtype(dy.dtype);
  Segment& memory = ctx_.memory.routed;
  Buffer d_weight = memory.take({R, 1}, acc);
  {
    Buffer d_act = memory.take({R, F}, dy.dtype);
    grouped_linear_backward_input(ctx_, {.dy_RN = s.expert_dy, .w_ENK = w_.expert_down, .dx_RK = d_act, .offsets = s.plan.expert_offsets});
    swiglu_backward(ctx_, {.dy_RF = d_act, .gate_up_R2F = s.gate_up, .weight_R = s.expert_weight.tensor().view({R}), .dgate_up_R2F = s.gate_up, .dweight_R = d_weight.tensor().view({R})});
  }
  s.expert_weight.reset();
  Buffer dx = memory.take({R, D}, dy.dtype);
  grouped_linear_backward_input(ctx_, {.dy_RN = s.gate_up, .w_ENK = w_.expert_gate_up, .dx_RK = dx, .offsets = s.plan.expert_offsets});
  s.arrived = to_arrival_order(s, std::move(dx));
  s.arrived_weight = to_arrival_order(s, std::move(d_weight));
  if (is_alone()) {
    s.send_rows = std::move(s.arrived);
    s.send_weight = std::move(s.arrived_weight);
    return;
  }
  s.send_rows = memory.take({s.plan.rows_sent, D}, dy.dtype);
  s.send_weight = memory.take({s.plan.rows_sent, 1}, acc);
  s.rows_request = dispatcher_.combine(s.plan, s.arrived.tensor().data, D * static_cast<int64_t>(size_of(dy.dtype)), s.send_rows.tensor().data);
  s.weight_request = dispatcher_.combine(s.plan, s.arrived_weight.tensor().data, static_cast<int64_t>(size_of(acc)), s.send_weight.tensor().data);
}

Buffer Moe::combine_gradient(MoeState& s, const TokenRows& rows, const StepScales& scales) const {
  dispatcher_.wait(s.rows_request);
  dispatcher_.wait(s.weight_request);
  s.arrived.reset();
  s.arrived_weight.reset();
  const int64_t T = s.row_of.tensor().dim[0], K = s.row_of.tensor().dim[1], E = config_.n_routed_experts;
  const Tensor& d_rows = s.send_rows;
  const DType type = d_rows.dtype, acc = acc_dtype(type);
  Segment& memory = ctx_.memory.activations;
  Buffer dx = has_shared_ ? std::move(s.shared_out) : memory.take({T, d_rows.dim[1]}, type);
  unpermute(ctx_, {.y_RD = d_rows, .row_of_TK = s.row_of, .add_TD = has_shared_ ? dx.tensor() : Tensor{}, .out_TD = dx});
  Buffer d_weight = memory.take({T, K}, acc);
  permute(ctx_, {.x_TD = s.send_weight, .index_R = s.row_of.tensor().view({T * K}), .y_RD = d_weight.tensor().view({T * K, 1})});
  s.send_rows.reset();
  s.send_weight.reset();

  Buffer d_logits = memory.take({T, E}, acc);
  router_backward(ctx_, {.scores_TE = s.scores, .topk_idx_TK = s.topk_idx, .dweight_TK = d_weight, .f_BE = s.f, .cu_seqs = rows.cu_seqs,
                         .balance_scale = scales.balance, .config = config_.router(), .dlogits_TE = d_logits});
  if (type == acc) {
    s.d_logits = std::move(d_logits);
  } else {  // GEMM operands have the storage type
    s.d_logits = memory.take({T, E}, type);
    cast(ctx_, {.x = d_logits, .y = s.d_logits});
  }
  linear_backward_input(ctx_, {.dy_TN = s.d_logits, .w_NK = w_.gate, .dx_TK = dx, .accumulate = true});
  return dx;
}

void Moe::backward_weight(MoeState& s, const Tensor& x, const Tensor& dy, bool accumulate) const {
  grouped_linear_backward_weight(ctx_, {.dy_RN = s.expert_dy, .x_RK = s.act, .dw_ENK = g_.expert_down, .offsets = s.plan.expert_offsets, .accumulate = accumulate});
  grouped_linear_backward_weight(ctx_, {.dy_RN = s.gate_up, .x_RK = s.expert_x, .dw_ENK = g_.expert_gate_up, .offsets = s.plan.expert_offsets, .accumulate = accumulate});
  if (has_shared_) shared_.backward_weight(s.shared, x, dy, accumulate);
  linear_backward_weight(ctx_, {.dy_TN = s.d_logits, .x_TK = x, .dw_NK = g_.gate, .accumulate = accumulate});
  for (Buffer* b : {&s.scores, &s.topk_idx, &s.topk_weight, &s.f, &s.row_of, &s.token_of, &s.slot_of, &s.expert_x, &s.gate_up, &s.act, &s.expert_dy, &s.d_logits}) b->reset();
}

}  // namespace atoll
