// FP8 casts and products on the CPU: the arithmetic that other back ends must match. Arguments were checked by the public ops.
#pragma once
#include "kernels/quant.h"

namespace atoll::cpu {

void cast_tiles(Context& ctx, const CastTiles& op);
void cast_blocks(Context& ctx, const CastBlocks& op);
void cast_transposed(Context& ctx, const CastTransposed& op);
void recast_transposed(Context& ctx, const RecastTransposed& op);
void cast_e5m6(Context& ctx, const CastE5m6& op);
void read_e5m6(Context& ctx, const ReadE5m6& op);
void scales_to_mn_major(Context& ctx, const ScalesToMnMajor& op);
void fp8_linear(Context& ctx, const Fp8Linear& op);
void fp8_weight_gradient(Context& ctx, const Fp8WeightGradient& op);

}  // namespace atoll::cpu
