// The FP8 ops: arguments are checked here once, then the context's back end computes.
#include "kernels/quant.h"

#include "kernels/checks.h"
#include "kernels/cpu/quant.h"
#include "kernels/cuda/ops.h"

namespace atoll {
namespace {

void check_source(const char* what, const Tensor& x) {
  ATOLL_CHECK(x.rank == 2 && (x.dtype == DType::kBF16 || x.dtype == DType::kF32), what, " is ", x.shape(), ", must be bf16 or fp32 [rows, columns]");
  check_tensor(what, x, x.dtype, {x.dim[0], x.dim[1]}, true);
}
void check_quantised(const char* what, const QTensor& q, int64_t rows, int64_t cols, int block_rows, int64_t groups = 1) {  // groups: matrices one under another
  check_tensor(what, q.codes, DType::kU8, {rows, cols}, true);
  ATOLL_CHECK(q.block_rows == block_rows, what, " has blocks of ", q.block_rows, " rows, must have ", block_rows);
  ATOLL_CHECK(q.layout == ScaleLayout::kRowMajor || (block_rows == 1 && q.format != ScaleFormat::kUE8M0), what, ": scales in kMnMajor are FP32 of 1x128 tiles");
  const int64_t n = groups * num_scales(rows / groups, cols, block_rows, q.layout);
  const DType type = q.format == ScaleFormat::kUE8M0 ? DType::kU8 : DType::kF32;
  ATOLL_CHECK(q.scales.dtype == type && q.scales.size() >= n && q.scales.is_contiguous() && (n == 0 || q.scales.data), what, " has scales ", q.scales.shape(), ", must have ", n,
              " of ", name_of(type));
}
// What a product loads.
void check_factor(const char* what, const QTensor& q, int block_rows, ScaleLayout layout, int64_t groups = 1) {
  check_quantised(what, q, q.codes.dim[0], q.codes.dim[1], block_rows, groups);
  ATOLL_CHECK(q.format != ScaleFormat::kUE8M0 && q.layout == layout, what, ": a product takes FP32 scales ", layout == ScaleLayout::kMnMajor ? "in kMnMajor (scales_to_mn_major)" : "in kRowMajor");
}
void check_offsets(const char* what, std::span<const int64_t> offsets, int64_t rows) {
  ATOLL_CHECK(offsets.size() >= 2 && offsets.front() == 0 && offsets.back() == rows, what, ": offsets must run from 0 to ", rows, " rows");
  for (size_t e = 0; e + 1 < offsets.size(); ++e) ATOLL_CHECK(offsets[e] <= offsets[e + 1], what, ": offsets descend at group ", e, ": ", offsets[e], " > ", offsets[e + 1]);
}

void check_transposed(const char* op, const QTensor& yt, std::span<const int64_t> offsets, int64_t T, int64_t K) {
  check_offsets(op, offsets, T);
  check_quantised(op, yt, K, transposed_columns(offsets), 1);
  ATOLL_CHECK(yt.layout == ScaleLayout::kMnMajor, op, ": the scales of yt are kMnMajor");
}
void check_e5m6(const char* op, const Tensor& plain, const Tensor& words, const Tensor& scales) {
  check_source(op, plain);
  const int64_t T = plain.dim[0], K = plain.dim[1];
  ATOLL_CHECK(K % 32 == 0, op, ": ", plain.shape(), "; columns must be a multiple of 32");
  check_tensor(op, words, DType::kI32, {T, 3 * K / 8});
  check_tensor(op, scales, DType::kU8, {T, blocks_of(K)});
}

}  // namespace

int64_t transposed_columns(std::span<const int64_t> offsets) {
  int64_t columns = 0;
  for (size_t e = 0; e + 1 < offsets.size(); ++e) columns += blocks_of(offsets[e + 1] - offsets[e]) * kQuantTile;
  return columns;
}

void cast_tiles(Context& ctx, const CastTiles& op) {
  check_source("cast_tiles: x", op.x_TK);
  check_quantised("cast_tiles: y", op.y_TK, op.x_TK.dim[0], op.x_TK.dim[1], 1);
  if (op.x_TK.size() == 0) return;
  return ctx.device == Device::kCuda ? cuda::cast_tiles(ctx, op) : cpu::cast_tiles(ctx, op);
}

void cast_blocks(Context& ctx, const CastBlocks& op) {
  check_source("cast_blocks: w", op.w_NK);
  const int64_t N = op.w_NK.dim[0], K = op.w_NK.dim[1];
  check_quantised("cast_blocks: y", op.y_NK, N, K, kQuantTile);
  if (op.yt_KN) {
    check_quantised("cast_blocks: yt", op.yt_KN, K, N, kQuantTile);
    ATOLL_CHECK((op.yt_KN.format == ScaleFormat::kF32) == (op.y_NK.format == ScaleFormat::kF32), "cast_blocks: y and yt are the same codes, so both scales are powers of two or none");
  }
  if (op.w_NK.size() == 0) return;
  return ctx.device == Device::kCuda ? cuda::cast_blocks(ctx, op) : cpu::cast_blocks(ctx, op);
}

void cast_transposed(Context& ctx, const CastTransposed& op) {
  check_source("cast_transposed: x", op.x_TK);
  const int64_t T = op.x_TK.dim[0], K = op.x_TK.dim[1];
  check_transposed("cast_transposed", op.yt_KT, op.offsets, T, K);
  if (op.y_TK) check_quantised("cast_transposed: y", op.y_TK, T, K, 1);
  if (op.x_TK.size() == 0) return;
  return ctx.device == Device::kCuda ? cuda::cast_transposed(ctx, op) : cpu::cast_transposed(ctx, op);
}

void recast_transposed(Context& ctx, const RecastTransposed& op) {
  ATOLL_CHECK(op.x_TK.codes.rank == 2, "recast_transposed: x is ", op.x_TK.codes.shape(), ", must be codes [rows, columns]");
  const int64_t T = op.x_TK.rows(), K = op.x_TK.cols();
  check_quantised("recast_transposed: x", op.x_TK, T, K, 1);
  check_transposed("recast_transposed", op.yt_KT, op.offsets, T, K);
  if (op.x_TK.codes.size() == 0) return;
  return ctx.device == Device::kCuda ? cuda::recast_transposed(ctx, op) : cpu::recast_transposed(ctx, op);
}

void cast_e5m6(Context& ctx, const CastE5m6& op) {
  check_e5m6("cast_e5m6", op.x_TK, op.words_TW, op.scales_TB);
  if (op.x_TK.size() == 0) return;
  return ctx.device == Device::kCuda ? cuda::cast_e5m6(ctx, op) : cpu::cast_e5m6(ctx, op);
}

void read_e5m6(Context& ctx, const ReadE5m6& op) {
  check_e5m6("read_e5m6", op.y_TK, op.words_TW, op.scales_TB);
  if (op.y_TK.size() == 0) return;
  return ctx.device == Device::kCuda ? cuda::read_e5m6(ctx, op) : cpu::read_e5m6(ctx, op);
}

void scales_to_mn_major(Context& ctx, const ScalesToMnMajor& op) {
  const QTensor& q = op.from_TK;
  ATOLL_CHECK(q.block_rows == 1 && q.layout == ScaleLayout::kRowMajor, "scales_to_mn_major: scales of 1x128 tiles in kRowMajor are needed");
  ATOLL_CHECK(op.to.dtype == DType::kF32 && op.to.size() >= num_scales(q.rows(), q.cols(), 1, ScaleLayout::kMnMajor), "scales_to_mn_major: ", op.to.shape(), " is too small for ",
              q.rows(), " rows padded to 4, ", blocks_of(q.cols()), " blocks");
  if (q.codes.size() == 0) return;
  return ctx.device == Device::kCuda ? cuda::scales_to_mn_major(ctx, op) : cpu::scales_to_mn_major(ctx, op);
}

void rms_norm_cast(Context& ctx, const RmsNormCast& op) {
  const Tensor& x = op.norm.x_TD;
  ATOLL_CHECK(x.rank == 2 && x.dtype == DType::kBF16, "rms_norm_cast: x is ", x.shape(), ", must be bf16 [T, D]");
  const int64_t T = x.dim[0], D = x.dim[1];
  check_quantised("rms_norm_cast: q", op.q_TD, T, D, 1);
  if (x.size() == 0) return;
  if (ctx.device == Device::kCuda) {
    check_tensor("rms_norm_cast: x", x, x.dtype, {T, D}, true);
    check_tensor("rms_norm_cast: gain", op.norm.gain_D, x.dtype, {D});
    check_tensor("rms_norm_cast: rstd", op.norm.rstd_T, DType::kF32, {T});
    ATOLL_CHECK(static_cast<bool>(op.norm.residual_TD) == static_cast<bool>(op.norm.h_TD), "rms_norm_cast: h goes with residual");
    if (op.norm.residual_TD) check_tensor("rms_norm_cast: residual", op.norm.residual_TD, x.dtype, {T, D}, true);
    if (op.norm.h_TD) check_tensor("rms_norm_cast: h", op.norm.h_TD, x.dtype, {T, D}, true);
    if (op.norm.y_TD) check_tensor("rms_norm_cast: y", op.norm.y_TD, x.dtype, {T, D}, true);
    return cuda::rms_norm_cast(ctx, op);
  }
  RmsNorm norm = op.norm;
  Buffer y;
  if (!norm.y_TD) {
    y = ctx.memory.workspace.take({T, D}, x.dtype);
    norm.y_TD = y.tensor();
  }
  rms_norm(ctx, norm);
  cpu::cast_tiles(ctx, {norm.y_TD, op.q_TD});
}

void swiglu_cast(Context& ctx, const SwigluCast& op) {
  const Tensor& gate_up = op.act.gate_up_R2F;
  ATOLL_CHECK(gate_up.rank == 2 && gate_up.dtype == DType::kBF16 && gate_up.dim[1] % 2 == 0, "swiglu_cast: gate_up is ", gate_up.shape(), ", must be bf16 [R, 2 F]");
  const int64_t R = gate_up.dim[0], F = gate_up.dim[1] / 2;
  check_quantised("swiglu_cast: q", op.q_RF, R, F, 1);
  if (gate_up.size() == 0) return;
  if (ctx.device == Device::kCuda) {
    check_tensor("swiglu_cast: gate_up", gate_up, gate_up.dtype, {R, 2 * F});
    if (op.act.weight_R) check_tensor("swiglu_cast: weight", op.act.weight_R, DType::kF32, {R});
    if (op.act.y_RF) check_tensor("swiglu_cast: y", op.act.y_RF, gate_up.dtype, {R, F});
    return cuda::swiglu_cast(ctx, op);
  }
  Swiglu act = op.act;
  Buffer y;
  if (!act.y_RF) {
    y = ctx.memory.workspace.take({R, F}, gate_up.dtype);
    act.y_RF = y.tensor();
  }
  swiglu(ctx, act);
  cpu::cast_tiles(ctx, {act.y_RF, op.q_RF});
}

void fp8_linear(Context& ctx, const Fp8Linear& op) {
  const int64_t T = op.x_TK.rows(), K = op.x_TK.cols(), N = op.y_TN.dim[1], E = op.offsets.empty() ? 1 : static_cast<int64_t>(op.offsets.size()) - 1;
  check_factor("fp8_linear: x", op.x_TK, 1, ScaleLayout::kMnMajor);
  check_factor("fp8_linear: w", op.w_NK, kQuantTile, ScaleLayout::kRowMajor, E);
  ATOLL_CHECK(op.w_NK.rows() == E * N && op.w_NK.cols() == K, "fp8_linear: w is ", op.w_NK.codes.shape(), ", expected [", E, " x ", N, ", ", K, "]");
  ATOLL_CHECK(N % 16 == 0 && K % 16 == 0, "fp8_linear: N = ", N, " and K = ", K, " must be multiples of 16");
  ATOLL_CHECK(op.y_TN.dtype == DType::kBF16 || op.y_TN.dtype == DType::kF32, "fp8_linear: y is ", op.y_TN.shape(), ", must be bf16 or fp32");
  check_tensor("fp8_linear: y", op.y_TN, op.y_TN.dtype, {T, N}, true);
  if (!op.offsets.empty()) check_offsets("fp8_linear", op.offsets, T);
  if (op.y_TN.size() == 0) return;
  return ctx.device == Device::kCuda ? cuda::fp8_linear(ctx, op) : cpu::fp8_linear(ctx, op);
}

void fp8_weight_gradient(Context& ctx, const Fp8WeightGradient& op) {
  const Tensor& dw = op.dw_ENK;
  ATOLL_CHECK(dw.rank == 3 && op.offsets.size() == static_cast<size_t>(dw.dim[0]) + 1, "fp8_weight_gradient: dw is ", dw.shape(), " and there are ", op.offsets.size(),
              " offsets; expected [E, N, K] and E + 1");
  check_tensor("fp8_weight_gradient: dw", dw, DType::kF32, {dw.dim[0], dw.dim[1], dw.dim[2]}, true);
  check_offsets("fp8_weight_gradient", op.offsets, op.offsets.back());
  check_factor("fp8_weight_gradient: dy", op.dy_NT, 1, ScaleLayout::kMnMajor);
  check_factor("fp8_weight_gradient: x", op.x_KT, 1, ScaleLayout::kMnMajor);
  const int64_t columns = transposed_columns(op.offsets);
  ATOLL_CHECK(op.dy_NT.rows() == dw.dim[1] && op.x_KT.rows() == dw.dim[2] && op.dy_NT.cols() == columns && op.x_KT.cols() == columns, "fp8_weight_gradient: dy is ",
              op.dy_NT.codes.shape(), ", x ", op.x_KT.codes.shape(), "; expected [", dw.dim[1], ", ", columns, "] and [", dw.dim[2], ", ", columns, "]");
  ATOLL_CHECK(dw.dim[2] % 16 == 0, "fp8_weight_gradient: dw is ", dw.shape(), "; its columns must be a multiple of 16");
  if (dw.size() == 0) return;
  return ctx.device == Device::kCuda ? cuda::fp8_weight_gradient(ctx, op) : cpu::fp8_weight_gradient(ctx, op);
}

}  // namespace atoll
