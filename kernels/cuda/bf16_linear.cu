// BF16 GEMM for linear and grouped_linear: y (+)= x w^T, both operands K-major; dense, or grouped over experts' rows.
// Roofline (H100: 989 TFLOP/s BF16, 3.35 TB/s): 2MNK FLOP against 2(MK + NK + MN) bytes; tensor-bound from about M = 300 for V3's shapes.
#include "kernels/cuda/bf16_linear.h"

namespace atoll::cuda {

using Traits = GemmTraits<false, false, false, Scales::kNone, GroupedBy::kRows, false>;
void bf16_linear(Context& ctx, const Bf16Product& p) { bf16_product<Traits>(ctx, "linear", p); }

}  // namespace atoll::cuda
