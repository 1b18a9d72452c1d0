// FP8 casts on the GPU give the CPU's bits: tiles, blocks, both orientations, transposed with ragged groups, E5M6, scale layouts; every pattern of a code's input.
#include <catch2/catch.hpp>

#include "kernels/quant.h"
#include "tests/unit/base/golden_file.h"
#include "tests/unit/kernels_cuda/fixture.h"

using namespace atoll;
using namespace atoll::gpu_test;

namespace {

struct Shape { int64_t rows, cols, pad; };
const std::vector<Shape> kShapes = {{1, 16, 0}, {5, 128, 16}, {130, 272, 0}, {64, 7168 / 8, 8}, {257, 144, 24}};

std::string text(const Shape& s, DType type, Kind kind) {
  return std::to_string(s.rows) + "x" + std::to_string(s.cols) + "+" + std::to_string(s.pad) + " " + name_of(type) + " kind " + std::to_string(static_cast<int>(kind));
}
template <class Body>
void for_inputs(const Body& body) {
  for (const Shape& s : kShapes)
    for (DType type : {DType::kBF16, DType::kF32})
      for (Kind kind : {Kind::kNormal, Kind::kOutliers, Kind::kSpecial}) {
        INFO(text(s, type, kind));
        Twin x(type, s.rows, s.cols, s.pad);
        fill(x, kind, "cast");
        body(s, x);
      }
}

}  // namespace

TEST_CASE("Tile casts on the GPU equal the CPU's bit by bit", "[cast]") {
  Backends b;
  for_inputs([&](const Shape& s, Twin& x) {
    x.upload(b);
    for (ScaleFormat format : {ScaleFormat::kF32, ScaleFormat::kPow2, ScaleFormat::kUE8M0})
      for (ScaleLayout layout : {ScaleLayout::kRowMajor, ScaleLayout::kMnMajor}) {
        if (format == ScaleFormat::kUE8M0 && layout == ScaleLayout::kMnMajor) continue;
        QTwin y(s.rows, s.cols, 1, format, layout, 16);
        y.upload(b);
        cast_tiles(b.cpu, {x.host(), y.q});
        cast_tiles(b.gpu, {x.gpu(), y.on_gpu()});
        CHECK(y.same_bits(b));
      }
  });
}

TEST_CASE("Block casts, and their transposes, equal the CPU's bit by bit", "[cast]") {
  Backends b;
  for_inputs([&](const Shape& s, Twin& x) {
    x.upload(b);
    for (ScaleFormat format : {ScaleFormat::kF32, ScaleFormat::kUE8M0}) {
      const bool transposes = s.rows % 16 == 0;
      QTwin y(s.rows, s.cols, 128, format, ScaleLayout::kRowMajor), yt(s.cols, s.rows, 128, format, ScaleLayout::kRowMajor);
      y.upload(b);
      yt.upload(b);
      cast_blocks(b.cpu, {x.host(), y.q, transposes ? yt.q : QTensor{}});
      cast_blocks(b.gpu, {x.gpu(), y.on_gpu(), transposes ? yt.on_gpu() : QTensor{}});
      CHECK(y.same_bits(b));
      CHECK(yt.same_bits(b));
    }
  });
}

TEST_CASE("Transposed casts start every expert on a tile of its own, and equal the CPU's bits", "[cast]") {
  Backends b;
  for_inputs([&](const Shape& s, Twin& x) {
    x.upload(b);
    const int64_t a = s.rows / 3, c = s.rows / 2;
    for (const std::vector<int64_t>& offsets : {std::vector<int64_t>{0, s.rows}, std::vector<int64_t>{0, 0, a, a, c, s.rows, s.rows}})
      for (bool with_rows : {false, true}) {
        const int64_t columns = transposed_columns(offsets);
        QTwin y(s.rows, s.cols, 1, ScaleFormat::kF32, ScaleLayout::kMnMajor), yt(s.cols, columns, 1, ScaleFormat::kF32, ScaleLayout::kMnMajor);
        y.upload(b);
        yt.upload(b);
        cast_transposed(b.cpu, {x.host(), with_rows ? y.q : QTensor{}, yt.q, offsets});
        cast_transposed(b.gpu, {x.gpu(), with_rows ? y.on_gpu() : QTensor{}, yt.on_gpu(), offsets});
        CHECK(y.same_bits(b));
        CHECK(yt.same_bits(b));
      }
  });
}

TEST_CASE("Kept tiles, cast again for a weight gradient, equal the CPU's bits; powers of two lose nothing", "[cast]") {
  Backends b;
  for_inputs([&](const Shape& s, Twin& x) {
    const int64_t a = s.rows / 3, c = s.rows / 2;
    const std::vector<int64_t> offsets{0, 0, a, a, c, s.rows, s.rows};
    for (ScaleFormat format : {ScaleFormat::kF32, ScaleFormat::kPow2, ScaleFormat::kUE8M0})
      for (ScaleLayout layout : {ScaleLayout::kRowMajor, ScaleLayout::kMnMajor}) {
        if (format == ScaleFormat::kUE8M0 && layout == ScaleLayout::kMnMajor) continue;
        QTwin kept(s.rows, s.cols, 1, format, layout, 16), yt(s.cols, transposed_columns(offsets), 1, format == ScaleFormat::kF32 ? format : ScaleFormat::kPow2, ScaleLayout::kMnMajor);
        cast_tiles(b.cpu, {x.host(), kept.q});
        kept.upload(b);
        yt.upload(b);
        recast_transposed(b.cpu, {kept.q, yt.q, offsets});
        recast_transposed(b.gpu, {kept.on_gpu(), yt.on_gpu(), offsets});
        CHECK(yt.same_bits(b));
        if (format == ScaleFormat::kF32) continue;
        int64_t changed = 0, column = 0;
        for (size_t e = 0; e + 1 < offsets.size(); ++e)
          for (int64_t t = offsets[e]; t < offsets[e + 1]; t += 128, column += 128)
            for (int64_t i = t; i < std::min(t + 128, offsets[e + 1]); ++i)
              for (int64_t k = 0; k < s.cols; ++k) {
                const float before = kept.q.value(i, k), after = yt.q.value(k, column + i - t), quantum = yt.q.scale_of(k, column) * 0x1p-9f;
                // Below 2^-6 of its new scale a value has fewer bits than it had: half a quantum may go.
                changed += !(before == after || !std::isfinite(before) || std::isinf(quantum) || (std::abs(before) < quantum * 8 && std::abs(before - after) <= quantum / 2));
              }
        CHECK(changed == 0);
      }
  });
}

TEST_CASE("Casts of no tokens, and of more groups than one launch holds", "[cast]") {
  Backends b;
  Dice dice("cast groups");
  for (const std::vector<int64_t>& offsets : {std::vector<int64_t>{0, 0, 0}, dice.offsets(300, 4)}) {
    Twin x(DType::kBF16, offsets.back(), 48);
    fill(x, Kind::kNormal, "x");
    QTwin y(offsets.back(), 48, 1, ScaleFormat::kF32, ScaleLayout::kRowMajor), yt(48, transposed_columns(offsets), 1, ScaleFormat::kF32, ScaleLayout::kMnMajor);
    x.upload(b);
    y.upload(b);
    yt.upload(b);
    cast_transposed(b.cpu, {x.host(), y.q, yt.q, offsets});
    cast_transposed(b.gpu, {x.gpu(), y.on_gpu(), yt.on_gpu(), offsets});
    CHECK(y.same_bits(b));
    CHECK(yt.same_bits(b));
    recast_transposed(b.gpu, {y.on_gpu(), yt.on_gpu(), offsets});
    recast_transposed(b.cpu, {y.q, yt.q, offsets});
    CHECK(yt.same_bits(b));
    cast_tiles(b.gpu, {x.gpu(), y.on_gpu()});
    CHECK(y.same_bits(b));
  }
}

TEST_CASE("E5M6 casts and their reading equal the CPU's bit by bit", "[cast]") {
  Backends b;
  for_inputs([&](const Shape& s, Twin& x) {
    if (s.cols % 32 != 0) return;
    x.upload(b);
    Twin words(DType::kI32, s.rows, s.cols * 3 / 8), scales(DType::kU8, s.rows, blocks_of(s.cols)), back(x.host().dtype, s.rows, s.cols, 8);
    words.upload(b);
    scales.upload(b);
    back.upload(b);
    cast_e5m6(b.cpu, {x.host(), words.host(), scales.host()});
    cast_e5m6(b.gpu, {x.gpu(), words.gpu(), scales.gpu()});
    CHECK(words.same_bits(b));
    CHECK(scales.same_bits(b));
    read_e5m6(b.cpu, {words.host(), scales.host(), back.host()});
    read_e5m6(b.gpu, {words.gpu(), scales.gpu(), back.gpu()});
    const std::vector<float> gpu = back.values(b);
    int64_t wrong = 0;
    for (int64_t i = 0; i < s.rows * s.cols; ++i) {
      const float mine = back.at(i / s.cols, i % s.cols), other = gpu[static_cast<size_t>(i)];
      wrong += !(mine == other || (mine != mine && other != other));  // a NaN times a scale is any NaN
    }
    CHECK(wrong == 0);
  });
}

TEST_CASE("Scales reach the layout of a product from rows and from exponent bytes", "[cast]") {
  Backends b;
  for (ScaleFormat format : {ScaleFormat::kF32, ScaleFormat::kUE8M0}) {
    Twin x(DType::kBF16, 133, 272);
    fill(x, Kind::kNormal, "scales");
    QTwin y(133, 272, 1, format, ScaleLayout::kRowMajor);
    Twin to(DType::kF32, 1, num_scales(133, 272, 1, ScaleLayout::kMnMajor));
    to.upload(b);
    cast_tiles(b.cpu, {x.host(), y.q});
    y.upload(b);
    scales_to_mn_major(b.cpu, {y.q, to.host()});
    scales_to_mn_major(b.gpu, {y.on_gpu(), to.gpu()});
    CHECK(to.same_bits(b));
  }
}

TEST_CASE("The GPU's E4M3 codes equal encode_e4m3 for every upper half of an FP32 pattern", "[cast]") {
  Backends b;
  constexpr int64_t kRows = 512;
  for (uint32_t lower : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
    // A tile's largest value fixes its multiplier; 448 in front of each tile makes it exactly 1.
    Twin x(DType::kF32, kRows, 256);
    for (int64_t r = 0; r < kRows; ++r)
      for (int64_t c = 0; c < 256; ++c) {
        const uint32_t bits = static_cast<uint32_t>(r * 128 + c % 128) << 16 | lower;
        x.set(r, c, float_of(bits));
        const bool is_large = std::abs(float_of(bits)) > 448.0f;
        if (c % 128 == (c < 128 ? 0 : 1)) x.set(r, c, 448.0f);  // each pattern survives in one of the two tiles
        else if (is_large) x.set(r, c, float_of((bits & 0x80000000u) | bits_of(448.0f)));
      }
    QTwin y(kRows, 256, 1, ScaleFormat::kF32, ScaleLayout::kRowMajor);
    x.upload(b);
    y.upload(b);
    cast_tiles(b.cpu, {x.host(), y.q});
    cast_tiles(b.gpu, {x.gpu(), y.on_gpu()});
    CHECK(y.same_bits(b));
    int64_t wrong = 0;
    for (int64_t r = 0; r < kRows; ++r)
      for (int64_t c = 0; c < 256; ++c) wrong += y.q.codes.as<uint8_t>()[r * 256 + c] != encode_e4m3(x.at(r, c));
    CHECK(wrong == 0);
  }
}

TEST_CASE("Published tiles come out of the GPU with the published codes and scales", "[cast][golden]") {
  Backends b;
  const GoldenFile file("tiles");
  const auto values = file.get<float>("x_1x128");
  const auto codes = file.get<uint8_t>("1x128.codes");
  const auto scales = file.get<float>("1x128.scale");
  Twin x(DType::kF32, 96, 304);  // 300 columns, zeros to the next 16
  for (int64_t r = 0; r < 96; ++r)
    for (int64_t c = 0; c < 304; ++c) x.set(r, c, c < 300 ? values[static_cast<size_t>(r * 300 + c)] : 0.0f);
  QTwin y(96, 304, 1, ScaleFormat::kF32, ScaleLayout::kRowMajor);
  x.upload(b);
  cast_tiles(b.gpu, {x.gpu(), y.on_gpu()});
  const std::vector<uint8_t> got = y.codes.download(b);
  int64_t wrong = 0;
  for (size_t r = 0; r < 96; ++r)
    for (size_t c = 0; c < 300; ++c) wrong += got[r * 304 + c] != codes[r * 300 + c];
  CHECK(wrong == 0);
  CHECK(y.scales.values(b) == scales);
}
