// The ops of the CUDA back end. Arguments were checked by the public ops; what only a GPU asks for (16-byte rows, columns in 16s) is checked here.
// Without nvcc, stub.cpp has the same symbols; they throw.
#pragma once
#include "kernels/ops.h"
#include "kernels/quant.h"

namespace atoll::cuda {

void cast_tiles(Context& ctx, const CastTiles& op);
void cast_blocks(Context& ctx, const CastBlocks& op);
void cast_transposed(Context& ctx, const CastTransposed& op);
void cast_e5m6(Context& ctx, const CastE5m6& op);
void read_e5m6(Context& ctx, const ReadE5m6& op);
void scales_to_mn_major(Context& ctx, const ScalesToMnMajor& op);
void fp8_linear(Context& ctx, const Fp8Linear& op);
void fp8_weight_gradient(Context& ctx, const Fp8WeightGradient& op);

}  // namespace atoll::cuda
