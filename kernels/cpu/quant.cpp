// FP8 casts and products on the CPU, written for being obviously right. Policy: the block sums of a product are exact (FP64: codes have 4 bits), then promoted in FP32,
// so what a GPU's product may differ by is its own block sum's rounding alone; with Fp8Sums::kHopper they are the model's of Hopper, and nothing differs.
#include "kernels/cpu/quant.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/base/fp8_accumulate.h"
#include "kernels/cpu/threads.h"

namespace atoll::cpu {
namespace {

float at(const Tensor& x, int64_t r, int64_t c) {
  return x.dtype == DType::kBF16 ? static_cast<float>(x.as<bf16>()[r * x.stride[0] + c]) : x.as<float>()[r * x.stride[0] + c];
}
uint8_t& code(const QTensor& q, int64_t r, int64_t c) { return q.codes.as<uint8_t>()[r * q.codes.stride[0] + c]; }

// Stores the scale of the tile that begins at (r, c); returns what its values are multiplied by.
float set_scale(const QTensor& q, int64_t r, int64_t c, float amax) {
  const QuantScale s = q.format == ScaleFormat::kF32 ? e4m3_scale(amax) : pow2_scale(amax, kE4m3Max);
  const int64_t i = q.scale_index(r, c);
  if (q.format == ScaleFormat::kUE8M0) q.scales.as<uint8_t>()[i] = encode_ue8m0(s.scale);
  else q.scales.as<float>()[i] = s.scale;
  return s.multiplier;
}
float amax_of(const Tensor& x, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
  float amax = 0;
  for (int64_t r = r0; r < r1; ++r)
    for (int64_t c = c0; c < c1; ++c) amax = amax_step(amax, at(x, r, c));
  return amax;
}
std::array<int64_t, 2> whole(int64_t rows) { return {0, rows}; }

// Exact sum of the products of two runs of codes.
double dot(const uint8_t* a, const uint8_t* b, int64_t n, const std::array<float, 256>& value) {
  double sum = 0;
  for (int64_t k = 0; k < n; ++k) sum += static_cast<double>(value[a[k]]) * static_cast<double>(value[b[k]]);
  return sum;
}
std::array<float, 256> e4m3_values() {
  std::array<float, 256> table;
  for (size_t c = 0; c < 256; ++c) table[c] = decode_e4m3(static_cast<uint8_t>(c));
  return table;
}
// Four steps of a Hopper tensor core: 32 products and the sum so far each.
float hopper_dot(const uint8_t* a, const uint8_t* b, int64_t n, const std::array<float, 256>& value) {
  constexpr int kStep = 32;
  float sum = 0, x[kStep], y[kStep];
  for (int64_t k = 0; k < n; k += kStep) {
    const int step = static_cast<int>(std::min<int64_t>(kStep, n - k));
    for (int i = 0; i < step; ++i) x[i] = value[a[k + i]], y[i] = value[b[k + i]];
    sum = fp8_accumulate(sum, x, y, step);
  }
  return sum;
}
// Adds the sum of one block to y. Hopper's promotion is one FMA, as its kernels have it.
float promote(Fp8Sums sums, float y, float scale, const uint8_t* a, const uint8_t* b, int64_t n, const std::array<float, 256>& value) {
  return sums == Fp8Sums::kHopper ? std::fmaf(scale, hopper_dot(a, b, n, value), y) : y + scale * static_cast<float>(dot(a, b, n, value));
}
// yt: tiles of 128 tokens of one channel, each group on tiles of its own; value(t, k) is what is cast.
template <class Value>
void transpose(Context& ctx, const QTensor& yt, int64_t K, std::span<const int64_t> offsets, const Value& value) {
  int64_t column = 0;  // of yt
  for (size_t e = 0; e + 1 < offsets.size(); ++e)
    for (int64_t t = offsets[e]; t < offsets[e + 1]; t += kQuantTile, column += kQuantTile)
      parallel_for(ctx.num_threads, K, [&, end = std::min(offsets[e + 1], t + kQuantTile)](int64_t k) {
        float amax = 0;
        for (int64_t i = t; i < end; ++i) amax = amax_step(amax, value(i, k));
        const float multiplier = set_scale(yt, k, column, amax);
        for (int64_t i = 0; i < kQuantTile; ++i) code(yt, k, column + i) = t + i < end ? cast_e4m3(value(t + i, k), multiplier) : uint8_t{0};
      });
}
void put(const Tensor& y, int64_t i, float value) {
  if (y.dtype == DType::kBF16) y.as<bf16>()[i] = bf16(value);
  else y.as<float>()[i] = value;
}

}  // namespace

void cast_tiles(Context& ctx, const CastTiles& op) {
  const int64_t T = op.x_TK.dim[0], K = op.x_TK.dim[1];
  parallel_for(ctx.num_threads, T, [&](int64_t t) {
    for (int64_t k = 0; k < K; k += kQuantTile) {
      const int64_t end = std::min(K, k + kQuantTile);
      const float multiplier = set_scale(op.y_TK, t, k, amax_of(op.x_TK, t, t + 1, k, end));
      for (int64_t c = k; c < end; ++c) code(op.y_TK, t, c) = cast_e4m3(at(op.x_TK, t, c), multiplier);
    }
  });
}

void cast_blocks(Context& ctx, const CastBlocks& op) {
  const int64_t N = op.w_NK.dim[0], K = op.w_NK.dim[1];
  parallel_for(ctx.num_threads, blocks_of(N), [&](int64_t block) {
    const int64_t n0 = block * kQuantTile, n1 = std::min(N, n0 + kQuantTile);
    for (int64_t k = 0; k < K; k += kQuantTile) {
      const int64_t end = std::min(K, k + kQuantTile);
      const float amax = amax_of(op.w_NK, n0, n1, k, end), multiplier = set_scale(op.y_NK, n0, k, amax);
      if (op.yt_KN) set_scale(op.yt_KN, k, n0, amax);
      for (int64_t n = n0; n < n1; ++n)
        for (int64_t c = k; c < end; ++c) {
          const uint8_t value = cast_e4m3(at(op.w_NK, n, c), multiplier);
          code(op.y_NK, n, c) = value;
          if (op.yt_KN) code(op.yt_KN, c, n) = value;
        }
    }
  });
}

void cast_transposed(Context& ctx, const CastTransposed& op) {
  if (op.y_TK) cpu::cast_tiles(ctx, {op.x_TK, op.y_TK});
  transpose(ctx, op.yt_KT, op.x_TK.dim[1], op.offsets, [&](int64_t t, int64_t k) { return at(op.x_TK, t, k); });
}

void recast_transposed(Context& ctx, const RecastTransposed& op) {
  transpose(ctx, op.yt_KT, op.x_TK.cols(), op.offsets, [&](int64_t t, int64_t k) { return read_e4m3(code(op.x_TK, t, k), op.x_TK.scale_of(t, k)); });
}

void cast_e5m6(Context& ctx, const CastE5m6& op) {
  const int64_t T = op.x_TK.dim[0], K = op.x_TK.dim[1];
  parallel_for(ctx.num_threads, T, [&](int64_t t) {
    for (int64_t k = 0; k < K; k += kQuantTile) {
      const int64_t end = std::min(K, k + kQuantTile);
      const QuantScale s = pow2_scale(amax_of(op.x_TK, t, t + 1, k, end), kE5m6Max);
      op.scales_TB.as<uint8_t>()[t * blocks_of(K) + k / kQuantTile] = encode_ue8m0(s.scale);
      for (int64_t c = k; c < end; c += 8) {
        uint16_t v[8];
        for (int64_t i = 0; i < 8; ++i) v[i] = atoll::cast_e5m6(at(op.x_TK, t, c + i), s.multiplier);
        pack_e5m6(v, op.words_TW.as<uint32_t>() + (t * K + c) / 8 * 3);
      }
    }
  });
}

void read_e5m6(Context& ctx, const ReadE5m6& op) {
  const int64_t T = op.y_TK.dim[0], K = op.y_TK.dim[1];
  parallel_for(ctx.num_threads, T, [&](int64_t t) {
    for (int64_t c = 0; c < K; c += 8) {
      const float scale = decode_ue8m0(op.scales_TB.as<uint8_t>()[t * blocks_of(K) + c / kQuantTile]);
      uint16_t v[8];
      unpack_e5m6(op.words_TW.as<uint32_t>() + (t * K + c) / 8 * 3, v);
      for (int64_t i = 0; i < 8; ++i) put(op.y_TK, t * op.y_TK.stride[0] + c + i, decode_e5m6(v[i]) * scale);
    }
  });
}

void scales_to_mn_major(Context& ctx, const ScalesToMnMajor& op) {
  const int64_t T = op.from_TK.rows(), blocks = blocks_of(op.from_TK.cols());
  parallel_for(ctx.num_threads, blocks, [&](int64_t b) {
    for (int64_t t = 0; t < T; ++t) op.to.as<float>()[b * padded_scale_rows(T) + t] = op.from_TK.scale_of(t, b * kQuantTile);
  });
}

void fp8_linear(Context& ctx, const Fp8Linear& op) {
  const std::array<float, 256> value = e4m3_values();
  const int64_t K = op.x_TK.cols(), N = op.y_TN.dim[1];
  const std::array<int64_t, 2> one_group = whole(op.x_TK.rows());
  const std::span<const int64_t> offsets = op.offsets.empty() ? std::span<const int64_t>(one_group) : op.offsets;
  for (size_t e = 0; e + 1 < offsets.size(); ++e)
    parallel_for(ctx.num_threads, offsets[e + 1] - offsets[e], [&, first = offsets[e], w0 = static_cast<int64_t>(e) * N, w_block0 = static_cast<int64_t>(e) * blocks_of(N)](int64_t i) {
      const int64_t t = first + i;
      for (int64_t n = 0; n < N; ++n) {
        float y = 0;
        for (int64_t k = 0; k < K; k += kQuantTile) {
          const float from_w = op.w_NK.scales.as<float>()[(w_block0 + n / kQuantTile) * blocks_of(K) + k / kQuantTile];
          y = promote(ctx.fp8_sums, y, op.x_TK.scale_of(t, k) * from_w, &code(op.x_TK, t, k), &code(op.w_NK, w0 + n, k), std::min<int64_t>(kQuantTile, K - k), value);
        }
        put(op.y_TN, t * op.y_TN.stride[0] + n, y);
      }
    });
}

void fp8_weight_gradient(Context& ctx, const Fp8WeightGradient& op) {
  const std::array<float, 256> value = e4m3_values();
  const int64_t N = op.dw_ENK.dim[1], K = op.dw_ENK.dim[2];
  int64_t begin = 0;
  for (size_t e = 0; e + 1 < op.offsets.size(); ++e) {
    const int64_t end = begin + blocks_of(op.offsets[e + 1] - op.offsets[e]) * kQuantTile;
    parallel_for(ctx.num_threads, N, [&](int64_t n) {
      float* dw = op.dw_ENK.as<float>() + static_cast<int64_t>(e) * op.dw_ENK.stride[0] + n * op.dw_ENK.stride[1];
      for (int64_t k = 0; k < K; ++k) {
        float sum = 0;
        for (int64_t t = begin; t < end; t += kQuantTile)
          sum = promote(ctx.fp8_sums, sum, op.dy_NT.scale_of(n, t) * op.x_KT.scale_of(k, t), &code(op.dy_NT, n, t), &code(op.x_KT, k, t), kQuantTile, value);
        dw[k] = op.accumulate ? dw[k] + sum : sum;
      }
    });
    begin = end;
  }
}

}  // namespace atoll::cpu
