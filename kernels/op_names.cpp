// Names of ops as they are printed in tables and traces.
#include "kernels/ops.h"

namespace atoll {

const char* name_of(Op op) {
  switch (op) {
    case Op::kLinear: return "linear";
    case Op::kLinearBackwardInput: return "linear_backward_input";
    case Op::kLinearBackwardWeight: return "linear_backward_weight";
    case Op::kGroupedLinear: return "grouped_linear";
    case Op::kGroupedLinearBackwardInput: return "grouped_linear_backward_input";
    case Op::kGroupedLinearBackwardWeight: return "grouped_linear_backward_weight";
    case Op::kRmsNorm: return "rms_norm";
    case Op::kRmsNormBackward: return "rms_norm_backward";
    case Op::kRope: return "rope";
    case Op::kAttention: return "attention";
    case Op::kAttentionBackward: return "attention_backward";
    case Op::kSwiglu: return "swiglu";
    case Op::kSwigluBackward: return "swiglu_backward";
    case Op::kRouter: return "router";
    case Op::kRouterBackward: return "router_backward";
    case Op::kBalanceLoss: return "balance_loss";
    case Op::kPermute: return "permute";
    case Op::kUnpermute: return "unpermute";
    case Op::kEmbedding: return "embedding";
    case Op::kEmbeddingBackward: return "embedding_backward";
    case Op::kHeadLoss: return "head_loss";
    case Op::kAdamW: return "adamw";
    case Op::kSumOfSquares: return "sum_of_squares";
    case Op::kAdd: return "add";
    case Op::kCast: return "cast";
    case Op::kNumOps: break;
  }
  return "?";
}

}  // namespace atoll
