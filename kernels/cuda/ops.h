// The ops of the CUDA back end. Arguments were checked by the public ops; what only a GPU asks for (16-byte rows, columns in 16s) is checked here.
// Without nvcc, stub/stub.cpp has the same symbols; they throw.
#pragma once
#include "kernels/ops.h"
#include "kernels/quant.h"

namespace atoll::cuda {

void cast_tiles(Context& ctx, const CastTiles& op);
void cast_blocks(Context& ctx, const CastBlocks& op);
void cast_transposed(Context& ctx, const CastTransposed& op);
void recast_transposed(Context& ctx, const RecastTransposed& op);
void cast_e5m6(Context& ctx, const CastE5m6& op);
void read_e5m6(Context& ctx, const ReadE5m6& op);
void scales_to_mn_major(Context& ctx, const ScalesToMnMajor& op);
void fp8_linear(Context& ctx, const Fp8Linear& op);
void fp8_weight_gradient(Context& ctx, const Fp8WeightGradient& op);

void linear(Context& ctx, const Linear& op);
void linear_backward_input(Context& ctx, const LinearBackwardInput& op);
void linear_backward_weight(Context& ctx, const LinearBackwardWeight& op);
void grouped_linear(Context& ctx, const GroupedLinear& op);
void grouped_linear_backward_input(Context& ctx, const GroupedLinearBackwardInput& op);
void grouped_linear_backward_weight(Context& ctx, const GroupedLinearBackwardWeight& op);
void rms_norm(Context& ctx, const RmsNorm& op);
void rms_norm_backward(Context& ctx, const RmsNormBackward& op);
void swiglu(Context& ctx, const Swiglu& op);
void swiglu_backward(Context& ctx, const SwigluBackward& op);
void adamw(Context& ctx, const AdamW& op);
void rms_norm_cast(Context& ctx, const RmsNormCast& op);
void swiglu_cast(Context& ctx, const SwigluCast& op);

}  // namespace atoll::cuda
