// Dense SwiGLU MLP: the dense layers' FFN and the shared experts (one MLP of width n_shared * moe_intermediate_size, not gated).
#pragma once
#include "kernels/ops.h"
#include "model/parameters.h"

namespace atoll {

struct MlpTensors {
  Tensor gate_up;  // [2F, D]: gate rows, then up rows
  Tensor down;     // [D, F]
};
MlpTensors mlp_tensors(const ParameterStore& parameters, const std::string& prefix, int64_t width, bool grads);

struct MlpState {
  Buffer gate_up;  // after backward_input: its gradient
  Buffer act;      // operand of down's weight gradient
};

class Mlp {
 public:
  Mlp(Context& ctx, const MlpTensors& weights, const MlpTensors& grads) : ctx_(ctx), w_(weights), g_(grads) {}
  Buffer forward(MlpState& state, const Tensor& x_TD) const;
  Buffer backward_input(MlpState& state, const Tensor& dy_TD) const;                        // returns dx [T, D]
  void backward_weight(MlpState& state, const Tensor& x_TD, const Tensor& dy_TD, bool accumulate) const;  // frees the state

 private:
  Context& ctx_;
  MlpTensors w_, g_;
};

}  // namespace atoll
