// QTensor: a quantised matrix [rows, cols]: codes (U8), and one scale for each 1x128 tile or 128x128 block, as a type of its own. Non-owning, as Tensor is.
// Policy: value = decode(code) * scale. Short tiles at the edges have a scale too: ceil(cols / 128) of them a row.
#pragma once
#include <cstdint>

#include "kernels/base/formats.h"
#include "kernels/base/tensor.h"

namespace atoll {

enum class ScaleFormat : uint8_t { kF32, kPow2, kUE8M0 };   // any FP32; FP32 that are powers of two; their exponent bytes
// kRowMajor: scales[row block][col block]. kMnMajor (1x128 only): scales[col block][row], rows padded to a multiple of 4 (16 bytes): what TMA can load.
enum class ScaleLayout : uint8_t { kRowMajor, kMnMajor };

ATOLL_HD constexpr int64_t blocks_of(int64_t n) { return (n + kQuantTile - 1) / kQuantTile; }
ATOLL_HD constexpr int64_t padded_scale_rows(int64_t rows) { return (rows + 3) / 4 * 4; }

struct QTensor {
  Tensor codes;                // U8 [rows, cols]; rows may be strided
  Tensor scales;               // FP32, or U8 for kUE8M0
  int block_rows = 1;          // 1 or 128; block columns are always 128
  ScaleFormat format = ScaleFormat::kF32;
  ScaleLayout layout = ScaleLayout::kRowMajor;

  int64_t rows() const { return codes.dim[0]; }
  int64_t cols() const { return codes.dim[1]; }
  explicit operator bool() const { return static_cast<bool>(codes); }
  int64_t scale_index(int64_t r, int64_t c) const {  // of element (r, c)
    return layout == ScaleLayout::kMnMajor ? c / kQuantTile * padded_scale_rows(rows()) + r : r / block_rows * blocks_of(cols()) + c / kQuantTile;
  }
  float scale_of(int64_t r, int64_t c) const {       // host memory only
    const int64_t i = scale_index(r, c);
    return format == ScaleFormat::kUE8M0 ? decode_ue8m0(scales.as<uint8_t>()[i]) : scales.as<float>()[i];
  }
  float value(int64_t r, int64_t c) const { return decode_e4m3(codes.as<uint8_t>()[r * codes.stride[0] + c]) * scale_of(r, c); }  // host memory only
};

// How many scales such a matrix has.
constexpr int64_t num_scales(int64_t rows, int64_t cols, int block_rows, ScaleLayout layout) {
  if (layout == ScaleLayout::kMnMajor) return blocks_of(cols) * padded_scale_rows(rows);
  return (block_rows == 1 ? rows : blocks_of(rows)) * blocks_of(cols);
}

}  // namespace atoll
