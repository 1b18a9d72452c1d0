// Registry cases of adamw, sum_of_squares, add and cast.
#include <catch2/catch.hpp>
#include <cmath>

#include "op_cases.h"

namespace atoll::test {
namespace {

Array positive(Array a) {
  for (double& value : a) value = std::abs(value);
  return a;
}

void declare_adamw(int64_t n, DType moments_of_bf16, const std::string& text) {
  register_op_case(
      {.op = Op::kAdamW,
       .name = "adamw " + text,
       .inputs =
           [=] {
             const auto size = static_cast<size_t>(n);
             return Arrays{{"master", draw("p", size)}, {"grad", draw("g", size)}, {"m", draw("m", size, 0.125)}, {"v", positive(draw("v", size, 0.125))}};
           },
       .oracle =
           [=](const Arrays& in, const Rounding& r) {
             const double lr = 0.25, b1 = 0.9, b2 = 0.95, eps = 1e-8, wd = 0.125, scale = 0.5, step = 3;
             Arrays out = in;
             out.erase("grad");
             Array weight;
             const DType moments = moments_of_bf16 == DType::kBF16 ? DType::kBF16 : acc_dtype(r.dtype);
             const auto as_moment = [&](double value) { return r.is_exact ? value : round_to(moments, value); };
             for (size_t i = 0; i < in.at("grad").size(); ++i) {
               double &p = out["master"][i], &m = out["m"][i], &v = out["v"][i];
               const double g = in.at("grad")[i] * scale;
               p = r.acc(p * r.acc(1 - lr * wd));
               m = r.acc(r.acc(b1 * m) + r.acc((1 - b1) * g));
               v = r.acc(r.acc(b2 * v) + r.acc((1 - b2) * r.acc(g * g)));
               const double m_hat = r.acc(m / (1 - std::pow(b1, step))), v_hat = r.acc(v / (1 - std::pow(b2, step)));
               p = r.acc(p - r.acc(r.acc(lr * m_hat) / r.acc(r.acc(std::sqrt(v_hat)) + eps)));
               m = as_moment(m);
               v = as_moment(v);
               weight.push_back(r.storage(p));
             }
             out["weight"] = weight;
             return out;
           },
       .run =
           [=](Context& ctx, DType storage, const Arrays& in) {
             const DType acc = acc_dtype(storage), moments = moments_of_bf16 == DType::kBF16 ? DType::kBF16 : acc;
             const Owned master(acc, {n}, in.at("master")), grad(acc, {n}, in.at("grad")), m(moments, {n}, in.at("m")), v(moments, {n}, in.at("v")),
                 weight(storage, {n});
             adamw(ctx, {.master = master, .grad = grad, .m = m, .v = v, .weight = weight, .lr = 0.25, .weight_decay = 0.125, .grad_scale = 0.5, .step = 3});
             return Arrays{{"master", master.values()}, {"m", m.values()}, {"v", v.values()}, {"weight", weight.values()}};
           }});
}

void declare_sum(int64_t n) {
  register_op_case({.op = Op::kSumOfSquares,
                    .name = "sum_of_squares of " + std::to_string(n),
                    .inputs =
                        [=] {
                          return Arrays{{"x", draw("x", static_cast<size_t>(n))}};
                        },
                    .oracle =
                        [](const Arrays& in, const Rounding&) {
                          long double sum = 0;
                          for (double x : in.at("x")) sum += static_cast<long double>(x) * x;
                          return Arrays{{"sum", {static_cast<double>(sum)}}};
                        },
                    .run =
                        [=](Context& ctx, DType storage, const Arrays& in) {
                          return Arrays{{"sum", {sum_of_squares(ctx, Owned(storage, {n}, in.at("x")))}}};
                        }});
}

void declare_add(int64_t T, int64_t D, int64_t extra, bool in_place) {
  const auto size = static_cast<size_t>(T * D);
  register_op_case({.op = Op::kAdd,
                    .name = "add " + std::to_string(T) + "x" + std::to_string(D) + (extra ? " strided" : "") + (in_place ? " in place" : ""),
                    .inputs =
                        [=] {
                          return Arrays{{"a", draw("a", size)}, {"b", draw("b", size)}};
                        },
                    .oracle =
                        [](const Arrays& in, const Rounding& r) {
                          Array y = in.at("a");
                          for (size_t i = 0; i < y.size(); ++i) y[i] = r.storage(y[i] + in.at("b")[i]);
                          return Arrays{{"y", y}};
                        },
                    .run =
                        [=](Context& ctx, DType storage, const Arrays& in) {
                          const Owned a(storage, {T, D}, in.at("a"), extra), b(storage, {T, D}, in.at("b")), other(storage, {T, D}, extra);
                          const Owned& y = in_place ? a : other;
                          add(ctx, {.a = a, .b = b, .y = y});
                          ATOLL_CHECK(y.padding_is_untouched(), "add wrote between rows");
                          return Arrays{{"y", y.values()}};
                        }});
}

void declare_cast(DType from, DType to, int64_t T, int64_t D, int64_t extra, double scale) {
  const auto size = static_cast<size_t>(T * D);
  register_op_case(
      {.op = Op::kCast,
       .name = std::string("cast ") + name_of(from) + " to " + name_of(to) + " " + std::to_string(T) + "x" + std::to_string(D) + " x " + std::to_string(scale),
       .inputs =
           [=] {
             Array x(size);
             const Rng rng(2, "cast");
             for (size_t i = 0; i < size; ++i) x[i] = round_to(from, rng.normal(i) * std::exp2(static_cast<double>(i % 41) - 20));
             return Arrays{{"x", x}};
           },
       .oracle =
           [=](const Arrays& in, const Rounding&) {
             Array y;
             const DType math = from == DType::kF64 || to == DType::kF64 ? DType::kF64 : DType::kF32;
             for (double x : in.at("x")) y.push_back(round_to(to, round_to(math, round_to(math, scale) * x)));
             return Arrays{{"y", y}};
           },
       .run =
           [=](Context& ctx, DType, const Arrays& in) {
             const Owned x(from, {T, D}, in.at("x"), extra), y(to, {T, D}, extra);
             cast(ctx, {.x = x, .y = y, .scale = scale});
             ATOLL_CHECK(y.padding_is_untouched(), "cast wrote between rows");
             return Arrays{{"y", y.values()}};
           },
       .exact = {"y"},
       .dtypes = {to}});
}

bool declare() {
  declare_adamw(0, DType::kF32, "of nothing");
  declare_adamw(1, DType::kF32, "of 1");
  declare_adamw(37, DType::kBF16, "of 37 with bf16 moments");
  declare_adamw(40001, DType::kF32, "of 40001");
  declare_adamw(20003, DType::kBF16, "of 20003 with bf16 moments");
  for (int64_t n : {0, 1, 15, 4096, 4097, 20011}) declare_sum(n);
  declare_add(0, 5, 0, false);
  declare_add(1, 1, 0, true);
  declare_add(7, 33, 3, false);
  declare_add(7, 33, 3, true);
  declare_add(50, 1001, 0, true);
  for (DType from : {DType::kF64, DType::kF32, DType::kBF16})
    for (DType to : {DType::kF64, DType::kF32, DType::kBF16}) {
      declare_cast(from, to, 5, 67, 3, 1.0);
      declare_cast(from, to, 40, 1000, 0, 0.3);
    }
  return true;
}
const bool declared = declare();

}  // namespace
TEST_CASE("Add and cast refuse elements that are not neighbours") {
  Context ctx;
  const Owned memory(DType::kF32, {4, 6}, Array(24, 1.0)), flat(DType::kF32, {4, 3});
  Tensor every_other = memory;
  every_other.dim[1] = 3;
  every_other.stride[1] = 2;
  CHECK_THROWS_WITH(add(ctx, {.a = every_other, .b = flat, .y = flat}), Catch::Contains("add: a") && Catch::Contains("inner stride 2"));
  CHECK_THROWS_WITH(add(ctx, {.a = flat, .b = every_other, .y = flat}), Catch::Contains("add: b"));
  CHECK_THROWS_WITH(add(ctx, {.a = flat, .b = flat, .y = every_other}), Catch::Contains("add: y"));
  CHECK_THROWS_WITH(cast(ctx, {.x = every_other, .y = flat}), Catch::Contains("cast: x"));
  CHECK_THROWS_WITH(cast(ctx, {.x = flat, .y = every_other}), Catch::Contains("cast: y"));
}

}  // namespace atoll::test
