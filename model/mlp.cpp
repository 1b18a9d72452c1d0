// gate|up is one product, then SwiGLU, then down. Policy: swiglu_backward writes the gradients of gate and up over their values: what W reads is all that is left.
#include "model/mlp.h"

namespace atoll {

MlpTensors mlp_tensors(const ParameterStore& parameters, const std::string& prefix, int64_t width, bool grads) {
  const LocalParameter& down = parameters.get(prefix + "down_proj.weight");
  return {parameters.fused(prefix + "gate_proj.weight", 2 * width, grads), grads ? down.grad : down.weight};
}

Buffer Mlp::forward(MlpState& s, const Tensor& x) const {
  const int64_t T = x.dim[0];
  Segment& memory = ctx_.memory.activations;
  s.gate_up = memory.take({T, w_.gate_up.dim[0]}, x.dtype);
  linear(ctx_, {.x_TK = x, .w_NK = w_.gate_up, .y_TN = s.gate_up});
  s.act = memory.take({T, w_.down.dim[1]}, x.dtype);
  swiglu(ctx_, {.gate_up_R2F = s.gate_up, .y_RF = s.act});
  Buffer y = memory.take({T, w_.down.dim[0]}, x.dtype);
  linear(ctx_, {.x_TK = s.act, .w_NK = w_.down, .y_TN = y});
  return y;
}

Buffer Mlp::backward_input(MlpState& s, const Tensor& dy) const {
  const int64_t T = dy.dim[0];
  Segment& memory = ctx_.memory.activations;
  {
    Buffer d_act = memory.take({T, w_.down.dim[1]}, dy.dtype);
    linear_backward_input(ctx_, {.dy_TN = dy, .w_NK = w_.down, .dx_TK = d_act});
    swiglu_backward(ctx_, {.dy_RF = d_act, .gate_up_R2F = s.gate_up, .dgate_up_R2F = s.gate_up});
  }
  Buffer dx = memory.take({T, w_.gate_up.dim[1]}, dy.dtype);
  linear_backward_input(ctx_, {.dy_TN = s.gate_up, .w_NK = w_.gate_up, .dx_TK = dx});
  return dx;
}

void Mlp::backward_weight(MlpState& s, const Tensor& x, const Tensor& dy, bool accumulate) const {
  linear_backward_weight(ctx_, {.dy_TN = dy, .x_TK = s.act, .dw_NK = g_.down, .accumulate = accumulate});
  linear_backward_weight(ctx_, {.dy_TN = s.gate_up, .x_TK = x, .dw_NK = g_.gate_up, .accumulate = accumulate});
  s = MlpState{};
}

}  // namespace atoll
