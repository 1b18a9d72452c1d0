// FP8 ops on the CPU, the arithmetic that other back ends must match: published tiles, blocks and product; transposes; ragged groups; errors by name. And the GPU's
// absence, which callers meet as a value, not as an #ifdef.
#include "kernels/quant.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/base/rng.h"
#include "kernels/gpu.h"
#include "tests/unit/base/golden_file.h"

using namespace atoll;

namespace {

struct QOwner {  // a QTensor with its memory
  std::vector<uint8_t> codes, bytes;
  std::vector<float> scales;
  QTensor q;
  QOwner(int64_t rows, int64_t cols, int block_rows, ScaleFormat format = ScaleFormat::kF32, ScaleLayout layout = ScaleLayout::kRowMajor)
      : codes(static_cast<size_t>(rows * cols)), bytes(static_cast<size_t>(num_scales(rows, cols, block_rows, layout))), scales(bytes.size()) {
    const auto n = static_cast<int64_t>(scales.size());
    const Tensor s = format == ScaleFormat::kUE8M0 ? Tensor(bytes.data(), DType::kU8, {n}) : Tensor(scales.data(), DType::kF32, {n});
    q = {Tensor(codes.data(), DType::kU8, {rows, cols}), s, block_rows, format, layout};
  }
};
std::vector<float> random_values(int64_t n, const char* purpose) {
  std::vector<float> x(static_cast<size_t>(n));
  const Rng rng(3, purpose);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(rng.normal(i));
  return x;
}

}  // namespace

TEST_CASE("Tile and block casts give the published codes and scales, FP32 and powers of two", "[quant]") {
  Context ctx;
  const GoldenFile file("tiles");
  auto x = file.get<float>("x_1x128"), w = file.get<float>("x_128x128");
  for (ScaleFormat format : {ScaleFormat::kF32, ScaleFormat::kPow2, ScaleFormat::kUE8M0}) {
    const bool is_pow2 = format != ScaleFormat::kF32, is_byte = format == ScaleFormat::kUE8M0;
    QOwner tiles(96, 300, 1, format), blocks(270, 150, 128, format), transposed(150, 270, 128, format);
    cast_tiles(ctx, {Tensor(x.data(), DType::kF32, {96, 300}), tiles.q});
    cast_blocks(ctx, {Tensor(w.data(), DType::kF32, {270, 150}), blocks.q, transposed.q});
    CHECK(tiles.codes == file.get<uint8_t>(is_pow2 ? "1x128.codes_pow2" : "1x128.codes"));
    CHECK(blocks.codes == file.get<uint8_t>(is_pow2 ? "128x128.codes_pow2" : "128x128.codes"));
    if (is_byte) CHECK(tiles.bytes == file.get<uint8_t>("1x128.scale_ue8m0"));
    else CHECK(tiles.scales == file.get<float>(is_pow2 ? "1x128.scale_pow2" : "1x128.scale"));
    if (is_byte) CHECK(blocks.bytes == file.get<uint8_t>("128x128.scale_ue8m0"));
    else CHECK(blocks.scales == file.get<float>(is_pow2 ? "128x128.scale_pow2" : "128x128.scale"));
    int64_t wrong = 0;
    for (int64_t r = 0; r < 270; ++r)
      for (int64_t c = 0; c < 150; ++c) wrong += blocks.q.value(r, c) != transposed.q.value(c, r);
    CHECK(wrong == 0);
  }
  auto half = file.get<uint16_t>("x_bf16");
  QOwner tiles(64, 256, 1);
  cast_tiles(ctx, {Tensor(half.data(), DType::kBF16, {64, 256}), tiles.q});
  CHECK(tiles.codes == file.get<uint8_t>("bf16_1x128.codes_by_reciprocal"));
}

TEST_CASE("E5M6 casts give the published words and read back within half a step", "[quant]") {
  Context ctx;
  const GoldenFile file("e5m6");
  auto x = file.get<float>("tile.x");
  std::vector<int32_t> words(16 * 96);
  std::vector<uint8_t> scales(32);
  std::vector<float> back(x.size());
  const Tensor w(words.data(), DType::kI32, {16, 96}), s(scales.data(), DType::kU8, {16, 2});
  cast_e5m6(ctx, {Tensor(x.data(), DType::kF32, {16, 256}), w, s});
  CHECK(words == file.get<int32_t>("tile.packed"));
  CHECK(scales == file.get<uint8_t>("tile.scale_ue8m0"));
  read_e5m6(ctx, {w, s, Tensor(back.data(), DType::kF32, {16, 256})});
  const auto codes = file.get<int16_t>("tile.codes");
  for (size_t i = 0; i < x.size(); ++i) CHECK(back[i] == decode_e5m6(static_cast<uint16_t>(codes[i])) * decode_ue8m0(scales[i / 128]));
}

TEST_CASE("A transposed cast is the cast of the transpose, group by group, with zeros past a group's end", "[quant]") {
  Context ctx;
  constexpr int64_t kT = 300, kK = 48;
  auto x = random_values(kT * kK, "transposed");
  const std::vector<int64_t> offsets{0, 0, 130, 131, 300};
  const int64_t columns = transposed_columns(offsets);
  CHECK(columns == 128 * (0 + 2 + 1 + 2));
  QOwner yt(kK, columns, 1, ScaleFormat::kF32, ScaleLayout::kMnMajor), y(kT, kK, 1), alone(kT, kK, 1);
  cast_transposed(ctx, {Tensor(x.data(), DType::kF32, {kT, kK}), y.q, yt.q, offsets});
  cast_tiles(ctx, {Tensor(x.data(), DType::kF32, {kT, kK}), alone.q});
  CHECK(y.codes == alone.codes);
  CHECK(y.scales == alone.scales);
  int64_t column = 0, wrong = 0;
  for (size_t e = 0; e + 1 < offsets.size(); ++e) {
    const int64_t tokens = offsets[e + 1] - offsets[e], padded = blocks_of(tokens) * 128;
    std::vector<float> group(static_cast<size_t>(kK * tokens));
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t k = 0; k < kK; ++k) group[static_cast<size_t>(k * tokens + t)] = x[static_cast<size_t>((offsets[e] + t) * kK + k)];
    QOwner want(kK, tokens, 1);
    cast_tiles(ctx, {Tensor(group.data(), DType::kF32, {kK, tokens}), want.q});
    for (int64_t k = 0; k < kK; ++k)
      for (int64_t t = 0; t < padded; ++t)
        wrong += t < tokens ? yt.q.value(k, column + t) != want.q.value(k, t) : yt.codes[static_cast<size_t>(k * columns + column + t)] != 0;
    column += padded;
  }
  CHECK(wrong == 0);
}

TEST_CASE("The published FP8 product comes out of the CPU, whole and as two experts", "[quant]") {
  Context ctx;
  const GoldenFile file("gemm");
  QOwner x(64, 384, 1, ScaleFormat::kF32, ScaleLayout::kMnMajor), w(256, 384, 128);
  x.codes = file.get<uint8_t>("A.codes");
  w.codes = file.get<uint8_t>("B.codes");
  w.scales = file.get<float>("B.scale");
  const auto row_scales = file.get<float>("A.scale");
  QOwner rows(64, 384, 1);
  rows.scales = row_scales;
  for (QOwner* q : {&x, &w, &rows}) q->q.codes.data = q->codes.data();
  w.q.scales.data = w.scales.data();
  rows.q.scales.data = rows.scales.data();
  scales_to_mn_major(ctx, {rows.q, x.q.scales});
  const auto want = file.get<double>("C_f64");
  std::vector<float> y(64 * 256), experts(64 * 128);
  fp8_linear(ctx, {x.q, w.q, Tensor(y.data(), DType::kF32, {64, 256}), {}});
  double largest = 0;
  for (size_t i = 0; i < y.size(); ++i) largest = std::max(largest, std::abs(static_cast<double>(y[i]) - want[i]) / (std::abs(want[i]) + 1));
  CHECK(largest < 1e-5);
  const std::vector<int64_t> offsets{0, 20, 64};
  fp8_linear(ctx, {x.q, w.q, Tensor(experts.data(), DType::kF32, {64, 128}), offsets});
  int64_t wrong = 0;
  for (size_t t = 0; t < 64; ++t)
    for (size_t n = 0; n < 128; ++n) wrong += experts[t * 128 + n] != y[t * 256 + (t < 20 ? 0 : 128) + n];
  CHECK(wrong == 0);
}

TEST_CASE("FP8 weight gradients on the CPU equal FP64 sums over each expert's tokens", "[quant]") {
  Context ctx;
  constexpr int64_t kN = 16, kK = 32;
  const std::vector<int64_t> offsets{0, 5, 5, 200};
  auto dy = random_values(200 * kN, "dy"), x = random_values(200 * kK, "x");
  const int64_t columns = transposed_columns(offsets);
  QOwner dyt(kN, columns, 1, ScaleFormat::kF32, ScaleLayout::kMnMajor), xt(kK, columns, 1, ScaleFormat::kF32, ScaleLayout::kMnMajor);
  cast_transposed(ctx, {Tensor(dy.data(), DType::kF32, {200, kN}), {}, dyt.q, offsets});
  cast_transposed(ctx, {Tensor(x.data(), DType::kF32, {200, kK}), {}, xt.q, offsets});
  for (bool accumulate : {true, false}) {
    std::vector<float> dw(3 * kN * kK, 2.0f);
    fp8_weight_gradient(ctx, {dyt.q, xt.q, Tensor(dw.data(), DType::kF32, {3, kN, kK}), offsets, accumulate});
    int64_t column = 0;
    for (int64_t e = 0; e < 3; ++e) {
      const int64_t end = column + blocks_of(offsets[static_cast<size_t>(e) + 1] - offsets[static_cast<size_t>(e)]) * 128;
      for (int64_t n = 0; n < kN; ++n)
        for (int64_t k = 0; k < kK; ++k) {
          double want = accumulate ? 2 : 0;
          for (int64_t t = column; t < end; ++t) want += static_cast<double>(dyt.q.value(n, t)) * static_cast<double>(xt.q.value(k, t));
          CHECK(static_cast<double>(dw[static_cast<size_t>((e * kN + n) * kK + k)]) == Approx(want).epsilon(1e-4).margin(1e-4));
        }
      column = end;
    }
  }
}

TEST_CASE("A cast next to a norm or an activation is the cast of its result", "[quant]") {
  Context ctx;
  std::vector<bf16> x(4 * 256), gain(256), y(4 * 256), z(4 * 128);
  const Rng rng(9, "cast next");
  for (size_t i = 0; i < x.size(); ++i) x[i] = bf16(static_cast<float>(rng.normal(i)));
  for (bf16& g : gain) g = bf16(1.0f);
  std::vector<float> rstd(4);
  QOwner fused(4, 256, 1), plain(4, 256, 1), fused_act(4, 128, 1), plain_act(4, 128, 1);
  const Tensor x_TD(x.data(), DType::kBF16, {4, 256}), y_TD(y.data(), DType::kBF16, {4, 256}), z_RF(z.data(), DType::kBF16, {4, 128});
  const RmsNorm norm{x_TD, {}, Tensor(gain.data(), DType::kBF16, {256}), {}, {}, Tensor(rstd.data(), DType::kF32, {4})};
  rms_norm_cast(ctx, {norm, fused.q});
  RmsNorm separate = norm;
  separate.y_TD = y_TD;
  rms_norm(ctx, separate);
  cast_tiles(ctx, {y_TD, plain.q});
  CHECK(fused.codes == plain.codes);
  CHECK(fused.scales == plain.scales);
  swiglu_cast(ctx, {{x_TD, {}, {}}, fused_act.q});
  swiglu(ctx, {x_TD, {}, z_RF});
  cast_tiles(ctx, {z_RF, plain_act.q});
  CHECK(fused_act.codes == plain_act.codes);
  CHECK(fused_act.scales == plain_act.scales);
}

TEST_CASE("An infinity poisons its tile, a NaN only itself, and the sign is the value's", "[quant]") {
  Context ctx;
  std::vector<float> x(256, 1.0f);
  x[3] = std::numeric_limits<float>::quiet_NaN();
  x[4] = -std::numeric_limits<float>::quiet_NaN();
  x[130] = -std::numeric_limits<float>::infinity();
  QOwner y(1, 256, 1);
  cast_tiles(ctx, {Tensor(x.data(), DType::kF32, {1, 256}), y.q});
  CHECK(int{y.codes[3]} == 0x7f);
  CHECK(int{y.codes[4]} == 0xff);
  CHECK(int{y.codes[5]} == int{encode_e4m3(448.0f)});
  CHECK(int{y.codes[130]} == 0xff);
  CHECK(int{y.codes[131]} == 0);
}

TEST_CASE("Wrong arguments of an FP8 op are refused by name", "[quant]") {
  Context ctx;
  std::vector<float> x(16 * 128);
  const Tensor t(x.data(), DType::kF32, {16, 128});
  QOwner tiles(16, 128, 1), blocks(16, 128, 128), small(8, 128, 1);
  CHECK_THROWS_WITH(cast_tiles(ctx, {t, small.q}), Catch::Contains("cast_tiles: y"));
  CHECK_THROWS_WITH(cast_tiles(ctx, {t, blocks.q}), Catch::Contains("blocks of 128 rows"));
  CHECK_THROWS_WITH(cast_transposed(ctx, {t, {}, tiles.q, {}}), Catch::Contains("offsets must run from 0 to 16"));
  QTensor missing = tiles.q;
  missing.scales = Tensor(x.data(), DType::kF32, {3});
  CHECK_THROWS_WITH(cast_tiles(ctx, {t, missing}), Catch::Contains("must have 16"));
  CHECK_THROWS_WITH(fp8_linear(ctx, {tiles.q, blocks.q, t, {}}), Catch::Contains("kMnMajor"));
}

TEST_CASE("Without a GPU callers are told so, and what would help", "[quant]") {
  if (has_gpu()) return;  // tests/unit/kernels_cuda is for machines that have one
  Context ctx;
  CHECK_THROWS_WITH(use_gpu(ctx), Catch::Contains(built_with_cuda() ? "no GPU of compute capability 9.0" : "nvcc was not found"));
  CHECK(ctx.device == Device::kCpu);
}

TEST_CASE("Kept tiles with scales of powers of two are cast again for a weight gradient without loss", "[quant]") {
  Context ctx;
  constexpr int64_t kT = 150, kK = 48;
  std::vector<float> x = random_values(kT * kK, "kept");
  const std::vector<int64_t> offsets{0, 20, 20, kT};
  QOwner kept(kT, kK, 1, ScaleFormat::kUE8M0), yt(kK, transposed_columns(offsets), 1, ScaleFormat::kPow2, ScaleLayout::kMnMajor);
  cast_tiles(ctx, {Tensor(x.data(), DType::kF32, {kT, kK}), kept.q});
  recast_transposed(ctx, {kept.q, yt.q, offsets});
  int64_t wrong = 0;
  for (int64_t t = 0; t < kT; ++t)
    for (int64_t k = 0; k < kK; ++k) {
      const float before = kept.q.value(t, k), after = yt.q.value(k, t < 20 ? t : 128 + t - 20), quantum = yt.q.scale_of(k, t < 20 ? t : 128 + t - 20) * 0x1p-9f;
      wrong += before != after && !(std::abs(before) < 8 * quantum && std::abs(before - after) <= quantum / 2);  // subnormal codes have fewer bits
    }
  CHECK(wrong == 0);
  CHECK_THROWS_WITH(recast_transposed(ctx, {kept.q, kept.q, offsets}), Catch::Contains("recast_transposed"));
}

TEST_CASE("Hopper's sums differ from exact ones by their 13 bits, and no more", "[quant]") {
  Context ctx;
  constexpr int64_t kM = 8, kN = 16, kK = 400;
  std::vector<float> a = random_values(kM * kK, "a"), b = random_values(kN * kK, "b"), exact(kM * kN), hopper(kM * kN);
  QOwner x(kM, kK, 1, ScaleFormat::kF32, ScaleLayout::kMnMajor), w(kN, kK, 128);
  cast_tiles(ctx, {Tensor(a.data(), DType::kF32, {kM, kK}), x.q});
  cast_blocks(ctx, {Tensor(b.data(), DType::kF32, {kN, kK}), w.q, {}});
  fp8_linear(ctx, {x.q, w.q, Tensor(exact.data(), DType::kF32, {kM, kN}), {}});
  ctx.fp8_sums = Fp8Sums::kHopper;
  fp8_linear(ctx, {x.q, w.q, Tensor(hopper.data(), DType::kF32, {kM, kN}), {}});
  CHECK(exact != hopper);
  for (int64_t m = 0; m < kM; ++m)
    for (int64_t n = 0; n < kN; ++n) {
      double magnitude = 0;
      for (int64_t k = 0; k < kK; ++k) magnitude += std::abs(static_cast<double>(x.q.value(m, k)) * static_cast<double>(w.q.value(n, k)));
      const auto i = static_cast<size_t>(m * kN + n);
      CHECK(std::abs(static_cast<double>(exact[i]) - static_cast<double>(hopper[i])) <= magnitude * (4 * 33 * 0x1p-13 + 1e-6));
    }
}
