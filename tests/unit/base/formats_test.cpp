// E4M3, E5M6, UE8M0 and BF16 against published codes (tests/golden/fp8: torch, integer arithmetic) and against the nearest value found by search over all codes.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/base/formats.h"
#include "kernels/base/qtensor.h"
#include "kernels/base/rng.h"
#include "tests/unit/base/golden_file.h"

using namespace atoll;

namespace {

bool same_bits(float a, float b) { return std::memcmp(&a, &b, 4) == 0; }

// The code whose value is nearest to |x| by distance in FP64; of two equally near ones the even code. `finite`: number of finite non-negative codes.
template <class Decode>
uint32_t nearest_code(float x, uint32_t finite, const Decode& decode) {
  const double a = std::abs(static_cast<double>(x));
  uint32_t low = 0, high = finite - 1;  // values ascend with the code
  if (a >= decode(high)) return high;
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    (decode(middle) <= a ? low : high) = middle;
  }
  const double to_low = a - decode(low), to_high = decode(high) - a;
  if (to_low != to_high) return to_low < to_high ? low : high;
  return low % 2 == 0 ? low : high;
}

template <class Encode, class Decode>
int64_t wrong_codes(uint32_t finite, uint32_t sign, uint32_t nan, const Encode& encode, const Decode& decode) {
  int64_t wrong = 0;
  for (uint32_t upper = 0; upper < 0x10000; ++upper)
    for (uint32_t lower : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const float x = float_of(upper << 16 | lower);
      const uint32_t expected = (std::signbit(x) ? sign : 0u) | (std::isnan(x) ? nan : nearest_code(x, finite, decode));
      wrong += encode(x) != expected;
    }
  return wrong;
}

static_assert(encode_e4m3(448.0f) == 0x7e && encode_e4m3(-0.0f) == 0x80 && encode_e5m6(1.0f) == 0x3c0 && encode_ue8m0(1.0f) == 127);  // at compile time too

}  // namespace

TEST_CASE("E4M3 codes equal the published ones") {
  const GoldenFile file("e4m3");
  const auto decode = file.get<float>("decode");
  REQUIRE(decode.size() == 256);
  for (uint32_t c = 0; c < 256; ++c)
    if (std::isnan(decode[c])) CHECK(std::isnan(decode_e4m3(static_cast<uint8_t>(c))));
    else CHECK(same_bits(decode_e4m3(static_cast<uint8_t>(c)), decode[c]));
  const auto inputs = file.get<float>("inputs");
  const auto codes = file.get<uint8_t>("codes");
  REQUIRE(inputs.size() > 30000);
  int64_t wrong = 0;
  for (size_t i = 0; i < inputs.size(); ++i) wrong += encode_e4m3(inputs[i]) != codes[i];
  CHECK(wrong == 0);
}

TEST_CASE("E5M6 codes and packing equal the published ones") {
  const GoldenFile file("e5m6");
  const auto decode = file.get<float>("decode");
  REQUIRE(decode.size() == 4096);
  for (uint32_t c = 0; c < 4096; ++c)
    if (std::isnan(decode[c])) CHECK(std::isnan(decode_e5m6(static_cast<uint16_t>(c))));
    else CHECK(same_bits(decode_e5m6(static_cast<uint16_t>(c)), decode[c]));
  const auto inputs = file.get<float>("inputs");
  const auto codes = file.get<int16_t>("codes");
  REQUIRE(inputs.size() > 15000);
  int64_t wrong = 0;
  for (size_t i = 0; i < inputs.size(); ++i) wrong += encode_e5m6(inputs[i]) != codes[i];
  CHECK(wrong == 0);
  const auto tile = file.get<int16_t>("tile.codes");
  const auto packed = file.get<uint32_t>("tile.packed");
  REQUIRE(packed.size() * 8 == tile.size() * 3);
  for (size_t g = 0; g < tile.size() / 8; ++g) {
    uint16_t v[8], back[8];
    uint32_t w[3];
    for (size_t k = 0; k < 8; ++k) v[k] = static_cast<uint16_t>(tile[8 * g + k]);
    pack_e5m6(v, w);
    unpack_e5m6(w, back);
    wrong += std::memcmp(w, &packed[3 * g], 12) != 0 || std::memcmp(v, back, 16) != 0;
  }
  CHECK(wrong == 0);
}

TEST_CASE("Every encoder gives the nearest value, ties to even, from any FP32 value") {
  CHECK(wrong_codes(0x7f, 0x80, 0x7f, encode_e4m3, [](uint32_t c) { return static_cast<double>(decode_e4m3(static_cast<uint8_t>(c))); }) == 0);
  CHECK(wrong_codes(0x7c0, 0x800, 0x7e0, encode_e5m6, [](uint32_t c) { return static_cast<double>(decode_e5m6(static_cast<uint16_t>(c))); }) == 0);
}

TEST_CASE("Every code survives decoding and encoding") {
  for (uint32_t c = 0; c < 0x100; ++c) CHECK(encode_e4m3(decode_e4m3(static_cast<uint8_t>(c))) == c);
  for (uint32_t c = 0; c < 0x1000; ++c) {
    const uint32_t magnitude = c & 0x7ff, expected = magnitude < 0x7c0 ? c : (c & 0x800) | (magnitude == 0x7c0 ? 0x7bf : 0x7e0);  // infinity saturates
    CHECK(encode_e5m6(decode_e5m6(static_cast<uint16_t>(c))) == expected);
  }
  for (uint32_t c = 0; c < 0x10000; ++c) {
    const float x = float_of(c << 16);
    if (!std::isnan(x)) CHECK(bf16(x).bits == c);
  }
  for (int b = 0; b < 255; ++b) {
    CHECK(encode_ue8m0(decode_ue8m0(static_cast<uint8_t>(b))) == (b == 0 ? 1 : b));  // 2^-127 is subnormal: the next power that multiplies exactly
    if (b >= 1 && b < 254) CHECK(decode_ue8m0(static_cast<uint8_t>(b)) * inverse_ue8m0(static_cast<uint8_t>(b)) == 1.0f);
  }
  CHECK(encode_ue8m0(std::numeric_limits<float>::infinity()) == 255);
  CHECK(encode_ue8m0(std::numeric_limits<float>::quiet_NaN()) == 255);
  CHECK(std::isnan(decode_ue8m0(255)));
}

TEST_CASE("UE8M0 is the smallest power of two that is not below the scale") {
  const Rng rng(11, "ue8m0");
  for (uint64_t i = 0; i < 20000; ++i) {
    const float x = float_of(0x00800000u + static_cast<uint32_t>(rng.below(i, 0x7e000000u)));
    const float up = decode_ue8m0(encode_ue8m0(x));
    if (!(up >= x && up / 2 < x)) FAIL(x << " became " << up);
  }
}

TEST_CASE("Tile scales, codes and their two rules equal the published ones") {
  const GoldenFile file("tiles");
  const auto x = file.get<float>("x_1x128"), amax = file.get<float>("1x128.amax"), scale = file.get<float>("1x128.scale");
  const auto codes = file.get<uint8_t>("1x128.codes"), pow2 = file.get<uint8_t>("1x128.codes_pow2"), ue8m0 = file.get<uint8_t>("1x128.scale_ue8m0");
  constexpr size_t kRows = 96, kCols = 300, kTiles = 3;
  REQUIRE(x.size() == kRows * kCols);
  for (size_t t = 0; t < kRows * kTiles; ++t) {
    const size_t row = t / kTiles, begin = t % kTiles * 128, end = std::min(begin + 128, kCols);
    float largest = 0;
    for (size_t c = begin; c < end; ++c) largest = amax_step(largest, x[row * kCols + c]);
    CHECK(largest == amax[t]);
    const QuantScale q = e4m3_scale(largest), p = pow2_scale(largest, kE4m3Max);
    CHECK(same_bits(q.scale, scale[t]));
    CHECK(encode_ue8m0(q.scale) == ue8m0[t]);
    int64_t wrong = 0;
    for (size_t i = row * kCols + begin; i < row * kCols + end; ++i) wrong += (encode_e4m3(x[i] * q.multiplier) != codes[i]) + (encode_e4m3(x[i] * p.multiplier) != pow2[i]);
    CHECK(wrong == 0);
  }
  // On BF16 inputs the rule shows: ours multiplies by the rounded reciprocal.
  const auto half = file.get<uint16_t>("x_bf16");
  const auto by_reciprocal = file.get<uint8_t>("bf16_1x128.codes_by_reciprocal"), by_division = file.get<uint8_t>("bf16_1x128.codes");
  int64_t wrong = 0, differs = 0;
  for (size_t t = 0; t < half.size() / 128; ++t) {
    float largest = 0;
    for (size_t i = 128 * t; i < 128 * t + 128; ++i) largest = amax_step(largest, float_of(uint32_t{half[i]} << 16));
    for (size_t i = 128 * t; i < 128 * t + 128; ++i) {
      const uint8_t code = encode_e4m3(float_of(uint32_t{half[i]} << 16) * e4m3_scale(largest).multiplier);
      wrong += code != by_reciprocal[i];
      differs += code != by_division[i];
    }
  }
  CHECK(wrong == 0);
  CHECK(differs > 0);
}

TEST_CASE("A QTensor finds the scale of an element in both layouts") {
  std::vector<uint8_t> codes(130 * 272, encode_e4m3(1.0f));
  std::vector<float> scales(3 * 132);
  for (size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<float>(i + 1);
  const Tensor c(codes.data(), DType::kU8, {130, 272}), s(scales.data(), DType::kF32, {3 * 132});
  CHECK(num_scales(130, 272, 1, ScaleLayout::kRowMajor) == 130 * 3);
  CHECK(num_scales(130, 272, 128, ScaleLayout::kRowMajor) == 2 * 3);
  CHECK(num_scales(130, 272, 1, ScaleLayout::kMnMajor) == 3 * 132);
  CHECK(QTensor{c, s, 1, ScaleFormat::kF32, ScaleLayout::kRowMajor}.value(5, 257) == 5 * 3 + 2 + 1);
  CHECK(QTensor{c, s, 1, ScaleFormat::kF32, ScaleLayout::kMnMajor}.value(5, 257) == 2 * 132 + 5 + 1);
  CHECK(QTensor{c, s, 128, ScaleFormat::kF32, ScaleLayout::kRowMajor}.value(129, 128) == 3 + 1 + 1);
}
