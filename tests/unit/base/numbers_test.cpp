// Random numbers and BF16 rounding, bit by bit. Policy: the reference is published (Philox's known answers, FNV-1a's) or computed another way (distances in FP64).
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "kernels/base/dtype.h"
#include "kernels/base/rng.h"

using namespace atoll;

TEST_CASE("Philox gives its published answers") {
  // Random123's known-answer vectors of philox4x32-10: counter (4 words) and key (2 words).
  using Block = std::array<uint32_t, 4>;
  CHECK(Rng(0, uint64_t{0}).block(0) == Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(Rng(~uint64_t{0}, ~uint64_t{0}).block(~uint64_t{0}) == Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(Rng(0x299f31d0a4093822, uint64_t{0x0370734413198a2e}).block(0x85a308d3243f6a88) == Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("A purpose's name is its FNV-1a hash") {
  CHECK(fnv1a("") == 0xcbf29ce484222325);
  CHECK(fnv1a("a") == 0xaf63dc4c8601ec8c);
  CHECK(fnv1a("foobar") == 0x85944171f73967e8);
  CHECK(Rng(5, "init").bits(7) == Rng(5, fnv1a("init")).bits(7));
  CHECK(Rng(5, "init").bits(7) != Rng(5, "data").bits(7));
  CHECK(Rng(5, "init").bits(7) != Rng(6, "init").bits(7));
  CHECK(Rng(5, "init").bits(7) != Rng(5, "init").bits(8));
}

TEST_CASE("Uniform, bounded and normal numbers keep their ranges and moments") {
  const Rng rng(3, "moments");
  constexpr int kN = 200000;
  double uniform = 0, normal = 0, squares = 0, cubes = 0, fourths = 0;
  std::array<int, 7> faces{};
  for (uint64_t i = 0; i < kN; ++i) {
    const double u = rng.uniform(i), z = rng.normal(i);
    if (!(u >= 0 && u < 1) || !std::isfinite(z)) FAIL("number " << i << ": " << u << ", " << z);
    uniform += u / kN;
    normal += z / kN;
    squares += z * z / kN;
    cubes += z * z * z / kN;
    fourths += z * z * z * z / kN;
    ++faces.at(rng.below(i, faces.size()));
  }
  // Five standard errors of each mean; the numbers are fixed, so this holds or not, always.
  const double error = 5 / std::sqrt(static_cast<double>(kN));
  CHECK(std::abs(uniform - 0.5) < error * std::sqrt(1.0 / 12));
  CHECK(std::abs(normal) < error);
  CHECK(std::abs(squares - 1) < error * std::sqrt(2.0));
  CHECK(std::abs(cubes) < error * std::sqrt(15.0));
  CHECK(std::abs(fourths - 3) < error * std::sqrt(96.0));
  for (int count : faces) CHECK(std::abs(count / static_cast<double>(kN) - 1.0 / 7) < error * std::sqrt(6.0 / 49));
  for (uint64_t i = 0; i < 100; ++i) CHECK(rng.below(i, 1) == 0);
}

namespace {
double value_of(uint16_t bits) { return static_cast<float>(std::bit_cast<bf16>(bits)); }

// The nearest BF16 by distance; of two equally near ones the even pattern. Beyond the largest value lies 2^128, which is spelled infinity.
uint16_t nearest(float x) {
  const auto toward_zero = static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16);
  const auto away = static_cast<uint16_t>(toward_zero + 1);
  const double far = std::isinf(value_of(away)) ? std::copysign(0x1p128, x) : value_of(away);
  const double to_near = std::abs(static_cast<double>(x) - value_of(toward_zero)), to_far = std::abs(far - static_cast<double>(x));
  if (to_near != to_far) return to_near < to_far ? toward_zero : away;
  return (toward_zero & 1) == 0 ? toward_zero : away;
}
}  // namespace

TEST_CASE("BF16 rounds to the nearest value, ties to even, from any FP32 value") {
  int64_t wrong = 0;
  uint32_t first = 0;
  for (uint32_t upper = 0; upper < 0x10000; ++upper)
    for (uint32_t lower : {0x0000u, 0x0001u, 0x4000u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const uint32_t pattern = upper << 16 | lower;
      const float x = std::bit_cast<float>(pattern);
      if (!std::isfinite(x) || bf16(x).bits == nearest(x)) continue;
      if (wrong++ == 0) first = pattern;
    }
  INFO("first wrong pattern " << std::hex << first);
  CHECK(wrong == 0);
  // Written out: a tie goes to the even neighbour below and above.
  CHECK(bf16(1.0f + 0x1p-8f).bits == 0x3f80);
  CHECK(bf16(1.0f + 0x3p-8f).bits == 0x3f82);
  CHECK(bf16(std::nextafter(1.0f + 0x1p-8f, 2.0f)).bits == 0x3f81);
  CHECK(bf16(-(1.0f + 0x1p-8f)).bits == 0xbf80);
  CHECK(bf16(-0.0f).bits == 0x8000);
}

TEST_CASE("BF16 keeps infinities, overflows to them, and never makes a number of a NaN") {
  const float inf = std::numeric_limits<float>::infinity();
  CHECK(bf16(inf).bits == 0x7f80);
  CHECK(bf16(-inf).bits == 0xff80);
  CHECK(bf16(std::numeric_limits<float>::max()).bits == 0x7f80);
  CHECK(bf16(std::bit_cast<float>(0x7f7f7fffu)).bits == 0x7f7f);  // the largest that still rounds down
  // The smallest signalling NaN has only lower bits set: cut off, it would be infinity.
  for (uint32_t pattern : {0x7f800001u, 0x7fffffffu, 0x7fc00000u, 0xff800001u, 0xffffffffu}) {
    const bf16 rounded(std::bit_cast<float>(pattern));
    INFO(std::hex << pattern << " became " << rounded.bits);
    CHECK(std::isnan(static_cast<float>(rounded)));
    CHECK((rounded.bits >> 15) == (pattern >> 31));
    CHECK((rounded.bits & 0x40) != 0);  // quiet
  }
}

TEST_CASE("Every BF16 value is kept by a round trip through FP32") {
  int64_t wrong = 0;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float x = static_cast<float>(std::bit_cast<bf16>(static_cast<uint16_t>(bits)));
    wrong += !std::isnan(x) && bf16(x).bits != bits;
  }
  CHECK(wrong == 0);
}
