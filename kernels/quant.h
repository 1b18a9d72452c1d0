// FP8 ops on one device, the second page of the API beside ops.h: casts to QTensor and products of QTensors (DeepSeek-V3 technical report, section 3.3).
// Policy: casts are bit-identical on every back end: code = e4m3(x * fp32(448 / max(amax, 1e-4))), scale = fp32(max(amax, 1e-4) / 448); with kPow2 or kUE8M0 the
// scale is rounded up to a power of two first. x may be BF16 or FP32 and have strided rows. On a GPU: asynchronous on ctx's stream; columns a multiple of 16
// and rows 16-byte aligned. On the CPU an op is complete when it returns. T == 0 is legal.
#pragma once
#include <cstdint>
#include <span>

#include "kernels/base/context.h"
#include "kernels/base/qtensor.h"
#include "kernels/ops.h"

namespace atoll {

// ---- Casts to E4M3. y's block_rows, format and layout say what is wanted.
struct CastTiles { Tensor x_TK; QTensor y_TK; };                  // 1x128 tiles
struct CastBlocks { Tensor w_NK; QTensor y_NK, yt_KN; };          // 128x128 blocks; yt (optional): the same codes and scales, transposed (no second rounding)
void cast_tiles(Context& ctx, const CastTiles& op);
void cast_blocks(Context& ctx, const CastBlocks& op);
// Weight gradients contract over tokens: x^T in tiles of 128 tokens of one channel. Groups (experts) are rows [offsets[e], offsets[e+1]) of x; each starts a new tile, so
// yt has transposed_columns(offsets) columns, those past a group's end hold zero codes. yt scales: FP32, kMnMajor. y (optional): the 1x128 cast of the same x, in one pass.
struct CastTransposed { Tensor x_TK; QTensor y_TK, yt_KT; std::span<const int64_t> offsets; };
void cast_transposed(Context& ctx, const CastTransposed& op);
int64_t transposed_columns(std::span<const int64_t> offsets);
// The same from codes that were kept (a cached activation in 1x128 tiles, scales of any format and layout): each value is read back as FP32 and rounded again in its tile
// of 128 tokens. With powers of two on both sides (kPow2, kUE8M0) nothing is rounded twice that does not fall below the smallest code of its new tile.
struct RecastTransposed { QTensor x_TK, yt_KT; std::span<const int64_t> offsets; };
void recast_transposed(Context& ctx, const RecastTransposed& op);
// ---- E5M6 (the input of o_proj, kept for backward): eight values in three words, scales UE8M0 bytes [T, K/128], largest value 65024. K: multiple of 32.
struct CastE5m6 { Tensor x_TK, words_TW, scales_TB; };            // words: I32 [T, 3 K / 8]
struct ReadE5m6 { Tensor words_TW, scales_TB, y_TK; };            // y: BF16 or FP32
void cast_e5m6(Context& ctx, const CastE5m6& op);
void read_e5m6(Context& ctx, const ReadE5m6& op);
// Scales of 1x128 tiles into the layout that a GEMM loads: FP32, kMnMajor (from kRowMajor of any format: what arrived over a wire).
struct ScalesToMnMajor { QTensor from_TK; Tensor to; };
void scales_to_mn_major(Context& ctx, const ScalesToMnMajor& op);

// ---- Norm and activation whose result goes into an FP8 product: the op of ops.h, then the 1x128 cast of its (BF16-rounded) result, in one pass. The plain result is
// optional: leave norm.y_TD or act.y_RF empty. Storage BF16.
struct RmsNormCast { RmsNorm norm; QTensor q_TD; };
struct SwigluCast { Swiglu act; QTensor q_RF; };
void rms_norm_cast(Context& ctx, const RmsNormCast& op);
void swiglu_cast(Context& ctx, const SwigluCast& op);

// ---- Products. Each 128 of K is summed by the tensor cores, then promoted: y += scale_x scale_w sum, in FP32.
// x: 1x128 tiles (kMnMajor FP32), w: 128x128 blocks (kRowMajor FP32). y BF16 or FP32; rows may be strided. Groups as in GroupedLinear; w of E experts lie one under another: [E N, K].
// N a multiple of 16, K of 16. Each expert's blocks begin at its first row, so w has E x blocks_of(N) x blocks_of(K) scales: what cast_blocks makes of each expert.
// On the CPU ctx.fp8_sums chooses exact block sums (the default) or Hopper's; with the latter a GPU's bits are the CPU's, as far as that model is true.
struct Fp8Linear { QTensor x_TK, w_NK; Tensor y_TN; std::span<const int64_t> offsets; };     // offsets empty: one group
void fp8_linear(Context& ctx, const Fp8Linear& op);
// dw_e (+)= dy_e^T x_e over the tokens of each group; both operands as cast_transposed leaves them. dw: FP32 [E, N, K].
struct Fp8WeightGradient { QTensor dy_NT, x_KT; Tensor dw_ENK; std::span<const int64_t> offsets; bool accumulate = true; };
void fp8_weight_gradient(Context& ctx, const Fp8WeightGradient& op);

}  // namespace atoll
