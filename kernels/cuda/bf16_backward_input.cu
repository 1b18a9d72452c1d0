// BF16 GEMM for linear_backward_input and its grouped form: dx (+)= dy w. w lies N-major for this product: wgmma transposes it, no copy is made.
// Roofline (H100): as bf16_linear.cu; the transposed operand costs nothing in shared memory.
#include "kernels/cuda/bf16_linear.h"

namespace atoll::cuda {

using Traits = GemmTraits<false, false, true, Scales::kNone, GroupedBy::kRows, false>;
void bf16_backward_input(Context& ctx, const Bf16Product& p) { bf16_product<Traits>(ctx, "linear_backward_input", p); }

}  // namespace atoll::cuda
