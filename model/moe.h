// Mixture of experts: router, dispatch to the experts' ranks, routed experts, combine (DeepSeek-V3 eq. 12-20). The routing weight is applied to the SwiGLU output,
// so combine is an un-weighted sum. Communication is posted in one phase and awaited in a later one; every ep rank joins every exchange, with or without tokens.
#pragma once
#include "kernels/ops.h"
#include "model/batch.h"
#include "model/mlp.h"
#include "model/step.h"
#include "parallel/dispatch.h"

namespace atoll {

struct MoeTensors {
  Tensor gate;             // [E, D]
  Tensor expert_gate_up;   // [local experts, 2F, D]
  Tensor expert_down;      // [local experts, D, F]
  MlpTensors shared;       // empty without shared experts
};
MoeTensors moe_tensors(const ParameterStore& parameters, const ModelConfig& config, const std::string& prefix, Range experts, bool grads);

struct MoeState {
  MlpState shared;
  Buffer shared_out;                                 // forward: y of the shared expert; backward: its dx, then the whole dx
  Buffer scores, topk_idx, topk_weight, f;           // router
  Buffer row_of, token_of, slot_of;                  // permutation: row of (t,k); token and (t,k) slot of a row
  DispatchPlan plan;
  Buffer send_rows, send_weight, arrived, arrived_weight;  // in flight
  Request rows_request, weight_request;
  Buffer expert_x, expert_weight, gate_up, act, expert_dy;   // routed experts; gate_up becomes its gradient; operands of the weight gradients
  Buffer d_logits;
  std::vector<int64_t> counts;
};

class Moe {
 public:
  Moe(Context& ctx, const ModelConfig& config, int64_t layer, const MoeTensors& weights, const MoeTensors& grads, const Tensor& router_bias, Dispatcher& dispatcher);
  void reserve(MoeState& state) const { state.counts.reserve(static_cast<size_t>(config_.n_routed_experts)), dispatcher_.reserve(state.plan); }
  // Rows that this rank received in each micro-batch since begin_step(), in forward order: what the memory of routed rows followed.
  const std::vector<int64_t>& rows_received() const { return rows_; }
  void begin_step() { rows_.clear(); }
  // forward phases; x_TD: the normed input
  void route_and_dispatch(MoeState& state, const Tensor& x_TD, const TokenRows& rows, const StepScales& scales, StepSums& sums, const ModelProbe& probe) const;
  void experts(MoeState& state, const Tensor& x_TD) const;
  Buffer combine(MoeState& state) const;  // [T, D]
  // backward phases; dy_TD: gradient of combine's output
  void dispatch_gradient(MoeState& state, const Tensor& dy_TD) const;
  void experts_backward(MoeState& state, const Tensor& dy_TD) const;
  Buffer combine_gradient(MoeState& state, const TokenRows& rows, const StepScales& scales) const;  // dx [T, D]
  void backward_weight(MoeState& state, const Tensor& x_TD, const Tensor& dy_TD, bool accumulate) const;  // frees the state

 private:
  void send_to_experts(MoeState& state, const Tensor& rows_source, bool with_weights) const;
  Buffer to_expert_order(const MoeState& state, Buffer arrived) const;
  Buffer to_arrival_order(const MoeState& state, Buffer expert_ordered) const;
  bool is_alone() const { return dispatcher_.local_experts().size() == config_.n_routed_experts; }

  Context& ctx_;
  const ModelConfig& config_;
  int64_t layer_;
  MoeTensors w_, g_;
  Tensor bias_;
  Dispatcher& dispatcher_;
  bool has_shared_;
  mutable std::vector<int64_t> rows_;
  Mlp shared_;
};

}  // namespace atoll
