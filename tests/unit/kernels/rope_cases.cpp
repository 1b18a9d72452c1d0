// Registry case of rope, and its table: plain, YaRN, softmax scale, against formulas and numbers from the papers' reference.
#include <catch2/catch.hpp>
#include <cmath>

#include "op_cases.h"

namespace atoll::test {
namespace {

constexpr int64_t kPositions = 40;

void declare_rope(int64_t T, int64_t H, int64_t R, int64_t extra, bool inverse) {
  const auto size = static_cast<size_t>(T * H * R);
  const auto positions = [=] {
    std::vector<int32_t> p;
    for (int64_t t = 0; t < T; ++t) p.push_back(static_cast<int32_t>(t * 7 % kPositions));
    return p;
  };
  register_op_case({.op = Op::kRope, .name = "rope " + std::to_string(T) + "x" + std::to_string(H) + "x" + std::to_string(R) + (inverse ? " back" : ""),
                    .inputs = [=] { return Arrays{{"x", draw("x", size)}}; },
                    .oracle = [=](const Arrays& in, const Rounding& r) {
                      Array y = in.at("x");
                      const auto p = positions();
                      for (int64_t t = 0; t < T; ++t)
                        for (int64_t h = 0; h < H; ++h)
                          for (int64_t i = 0; i < R / 2; ++i) {
                            const double angle = p[static_cast<size_t>(t)] * std::pow(100.0, -2.0 * static_cast<double>(i) / static_cast<double>(R));
                            const double c = r.acc(std::cos(angle)), s = r.acc(std::sin(angle)) * (inverse ? -1 : 1);
                            double* pair = y.data() + (t * H + h) * R + 2 * i;
                            const double a = pair[0], b = pair[1];
                            pair[0] = r.storage(r.acc(r.acc(a * c) - r.acc(b * s)));
                            pair[1] = r.storage(r.acc(r.acc(b * c) + r.acc(a * s)));
                          }
                      return Arrays{{"x", y}};
                    },
                    .run = [=](Context& ctx, DType storage, const Arrays& in) {
                      const Owned x(storage, {T, H, R}, in.at("x"), extra), table(acc_dtype(storage), {kPositions, R});
                      fill_rope_table(table, 100.0, {});
                      const auto p = positions();
                      rope(ctx, {.x_THR = x, .position_T = p, .table_PR = table, .inverse = inverse});
                      ATOLL_CHECK(x.padding_is_untouched(), "rope wrote between rows");
                      return Arrays{{"x", x.values()}};
                    }});
}

bool declare() {
  declare_rope(0, 2, 4, 0, false);
  declare_rope(1, 1, 2, 0, false);
  declare_rope(5, 3, 6, 9, false);
  declare_rope(5, 3, 6, 9, true);
  declare_rope(13, 1, 64, 32, false);
  declare_rope(13, 4, 34, 5, true);
  return true;
}
[[maybe_unused]] const bool registered = declare();

double frequency_of(const RopeScaling& scaling, int64_t R, int64_t i) {  // from the table: the angle at position 1
  const Owned table(DType::kF64, {2, R});
  fill_rope_table(table, 10000.0, scaling);
  const double* row = table.tensor().as<double>() + R;
  return std::atan2(row[2 * i + 1], row[2 * i]);
}

}  // namespace

TEST_CASE("The rope table of DeepSeek-V3 has angle position / 10000^(2i/64)") {
  const Owned table(DType::kF64, {5, 64});
  fill_rope_table(table, 10000.0, {});
  for (int64_t p = 0; p < 5; ++p)
    for (int64_t i = 0; i < 32; ++i) {
      const double angle = static_cast<double>(p) / std::pow(10000.0, static_cast<double>(i) / 32);
      CHECK(table.tensor().as<double>()[p * 64 + 2 * i] == Approx(std::cos(angle)).epsilon(1e-14));
      CHECK(table.tensor().as<double>()[p * 64 + 2 * i + 1] == Approx(std::sin(angle)).epsilon(1e-14).margin(1e-15));
    }
}

TEST_CASE("YaRN of DeepSeek-V3 leaves frequencies up to 10 alone, divides those from 23 on by 40, and ramps between") {
  const RopeScaling yarn{.factor = 40, .mscale = 1, .mscale_all_dim = 1, .is_yarn = true};
  for (int64_t i = 0; i < 32; ++i) {
    const double plain = std::exp(-std::log(10000.0) * static_cast<double>(i) / 32);
    const double ramp = i <= 10 ? 0.0 : i >= 23 ? 1.0 : static_cast<double>(i - 10) / 13;
    CHECK(frequency_of(yarn, 64, i) == Approx(plain * (1 - ramp) + plain * ramp / 40).epsilon(1e-12));
  }
}

TEST_CASE("YaRN scales cos and sin by the ratio of its two temperatures") {
  const RopeScaling yarn{.factor = 40, .mscale = 0.707, .mscale_all_dim = 1.5, .is_yarn = true};
  const Owned table(DType::kF64, {1, 8});
  fill_rope_table(table, 10000.0, yarn);
  CHECK(table.values()[0] == Approx((0.0707 * std::log(40.0) + 1) / (0.15 * std::log(40.0) + 1)).epsilon(1e-14));
}

TEST_CASE("Rotating back is the adjoint of rotating, YaRN's factor included") {
  Context ctx;
  const int64_t T = 11, H = 3, R = 34;
  const size_t size = static_cast<size_t>(T * H * R);
  const Array x = draw("x", size), y = draw("y", size);
  const Owned table(DType::kF64, {T, R}), ax(DType::kF64, {T, H, R}, x), aty(DType::kF64, {T, H, R}, y);
  fill_rope_table(table, 10000.0, {.factor = 40, .mscale = 0.707, .mscale_all_dim = 1.5, .is_yarn = true});
  std::vector<int32_t> positions;
  for (int32_t t = 0; t < T; ++t) positions.push_back(t);
  rope(ctx, {.x_THR = ax, .position_T = positions, .table_PR = table});
  rope(ctx, {.x_THR = aty, .position_T = positions, .table_PR = table, .inverse = true});
  const Array forward = ax.values(), backward = aty.values();
  double left = 0, right = 0, length = 0;
  for (size_t i = 0; i < size; ++i) left += forward[i] * y[i], right += x[i] * backward[i], length += forward[i] * forward[i];
  CHECK(left == Approx(right).epsilon(1e-12));
  CHECK(std::abs(left) > 1);
  double before = 0;
  for (double v : x) before += v * v;
  CHECK(length / before == Approx(std::pow(table.values()[0], 2)).epsilon(1e-12));  // cos 0 = 1: the factor, which is not 1
  CHECK(table.values()[0] < 0.9);
}

TEST_CASE("The softmax scale is 192^-1/2, and 0.135234 under DeepSeek-V3's YaRN") {
  CHECK(attention_scale(192, {}) == Approx(0.0721687836).epsilon(1e-9));
  CHECK(attention_scale(192, {.factor = 40, .mscale = 1, .mscale_all_dim = 1, .is_yarn = true}) == Approx(0.135234).epsilon(4e-6));
  CHECK(attention_scale(192, {.factor = 40, .mscale = 1, .mscale_all_dim = 0, .is_yarn = true}) == attention_scale(192, {}));
}

TEST_CASE("Rope refuses a position outside its table") {
  Context ctx;
  const Owned x(DType::kF32, {1, 1, 4}), table(DType::kF32, {3, 4});
  const std::vector<int32_t> position{3};
  CHECK_THROWS_WITH(rope(ctx, {.x_THR = x, .position_T = position, .table_PR = table}), Catch::Contains("table of 3"));
}

}  // namespace atoll::test
