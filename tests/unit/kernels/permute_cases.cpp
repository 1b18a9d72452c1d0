// Registry cases of permute and unpermute, and the permutation plan.
#include <catch2/catch.hpp>
#include <algorithm>

#include "op_cases.h"

namespace atoll::test {
namespace {

struct Plan {
  Owned ids, row_of, token_of;
  std::vector<int64_t> counts;
  Plan(int64_t T, int64_t K, int64_t E) : ids(DType::kI32, {T, K}), row_of(DType::kI32, {T, K}), token_of(DType::kI32, {T * K}), counts(static_cast<size_t>(E)) {
    for (int64_t t = 0; t < T; ++t)
      for (int64_t k = 0; k < K; ++k) ids.tensor().as<int32_t>()[t * K + k] = static_cast<int32_t>((t * t + 3 * k + t) % E);
    permutation_plan(ids, row_of, token_of, counts);
  }
};

void declare_permute(int64_t T, int64_t K, int64_t E, int64_t D) {
  const auto size = static_cast<size_t>(T * D);
  register_op_case({.op = Op::kPermute, .name = "permute " + std::to_string(T) + "x" + std::to_string(K) + "x" + std::to_string(D),
                    .inputs = [=] { return Arrays{{"x", draw("x", size)}}; },
                    .oracle = [=](const Arrays& in, const Rounding&) {
                      const Plan plan(T, K, E);
                      Array y;
                      for (double token : plan.token_of.values())
                        for (int64_t d = 0; d < D; ++d) y.push_back(in.at("x")[static_cast<size_t>(static_cast<int64_t>(token) * D + d)]);
                      return Arrays{{"y", y}};
                    },
                    .run = [=](Context& ctx, DType storage, const Arrays& in) {
                      const Plan plan(T, K, E);
                      const Owned x(storage, {T, D}, in.at("x")), y(storage, {T * K, D});
                      permute(ctx, {.x_TD = x, .index_R = plan.token_of, .y_RD = y});
                      return Arrays{{"y", y.values()}};
                    },
                    .exact = {"y"}});
}

void declare_unpermute(int64_t T, int64_t K, int64_t E, int64_t D, bool has_add, bool in_place) {
  const std::string name = "unpermute " + std::to_string(T) + "x" + std::to_string(K) + "x" + std::to_string(D) + (has_add ? " + add" : "") + (in_place ? " in place" : "");
  register_op_case({.op = Op::kUnpermute, .name = name,
                    .inputs = [=] { return Arrays{{"y", draw("y", static_cast<size_t>(T * K * D))}, {"add", draw("add", static_cast<size_t>(T * D))}}; },
                    .oracle = [=](const Arrays& in, const Rounding& r) {
                      const Array row_of = Plan(T, K, E).row_of.values();
                      Array out(static_cast<size_t>(T * D));
                      for (int64_t i = 0; i < T * D; ++i) {
                        double sum = has_add ? in.at("add")[static_cast<size_t>(i)] : 0;
                        for (int64_t k = 0; k < K; ++k) sum = r.acc(sum + in.at("y")[static_cast<size_t>(row_of[static_cast<size_t>(i / D * K + k)]) * static_cast<size_t>(D) + static_cast<size_t>(i % D)]);
                        out[static_cast<size_t>(i)] = r.storage(sum);
                      }
                      return Arrays{{"out", out}};
                    },
                    .run = [=](Context& ctx, DType storage, const Arrays& in) {
                      const Plan plan(T, K, E);
                      const Owned y(storage, {T * K, D}, in.at("y")), add(storage, {T, D}, in.at("add")), other(storage, {T, D});
                      const Owned& out = in_place ? add : other;
                      unpermute(ctx, {.y_RD = y, .row_of_TK = plan.row_of, .add_TD = has_add ? add.tensor() : Tensor{}, .out_TD = out});
                      return Arrays{{"out", out.values()}};
                    }});
}

bool declare() {
  declare_permute(0, 2, 4, 5);
  declare_permute(1, 1, 1, 1);
  declare_permute(9, 3, 7, 33);
  declare_permute(50, 2, 64, 128);
  declare_unpermute(0, 2, 4, 5, false, false);
  declare_unpermute(1, 1, 1, 1, true, false);
  declare_unpermute(9, 3, 7, 33, true, true);
  declare_unpermute(50, 8, 64, 128, false, false);
  return true;
}
[[maybe_unused]] const bool registered = declare();

}  // namespace

TEST_CASE("Unpermute is the adjoint of permute") {
  Context ctx;
  const int64_t T = 19, K = 3, E = 7, D = 5;
  const Plan plan(T, K, E);
  const Array x = draw("x", static_cast<size_t>(T * D)), y = draw("y", static_cast<size_t>(T * K * D));
  const Owned x_TD(DType::kF64, {T, D}, x), y_RD(DType::kF64, {T * K, D}, y), ax(DType::kF64, {T * K, D}), aty(DType::kF64, {T, D});
  permute(ctx, {.x_TD = x_TD, .index_R = plan.token_of, .y_RD = ax});
  unpermute(ctx, {.y_RD = y_RD, .row_of_TK = plan.row_of, .out_TD = aty});
  double left = 0, right = 0;
  for (size_t i = 0; i < y.size(); ++i) left += ax.values()[i] * y[i];
  for (size_t i = 0; i < x.size(); ++i) right += x[i] * aty.values()[i];
  CHECK(left == Approx(right).epsilon(1e-12));
  CHECK(std::abs(left) > 1);
}

TEST_CASE("A permutation plan groups rows by expert, tokens ascending inside") {
  const Owned ids(DType::kI32, {4, 2}, {1, 3, 0, 3, 1, 3, 0, 1}), row_of(DType::kI32, {4, 2}), token_of(DType::kI32, {8});
  std::vector<int64_t> counts(5, -1);
  permutation_plan(ids, row_of, token_of, counts);
  CHECK(counts == std::vector<int64_t>{2, 3, 0, 3, 0});
  CHECK(token_of.values() == Array{1, 3, 0, 2, 3, 0, 1, 2});
  CHECK(row_of.values() == Array{2, 5, 0, 6, 3, 7, 1, 4});
}

TEST_CASE("A permutation plan of no tokens has no rows") {
  const Owned ids(DType::kI32, {0, 2}), row_of(DType::kI32, {0, 2}), token_of(DType::kI32, {0});
  std::vector<int64_t> counts(3, -1);
  permutation_plan(ids, row_of, token_of, counts);
  CHECK(counts == std::vector<int64_t>{0, 0, 0});
}

TEST_CASE("Permutation refuses an expert or a row that does not exist") {
  const Owned ids(DType::kI32, {1, 1}, {4}), row_of(DType::kI32, {1, 1}), token_of(DType::kI32, {1});
  std::vector<int64_t> counts(4);
  CHECK_THROWS_WITH(permutation_plan(ids, row_of, token_of, counts), Catch::Contains("not in [0, 4)"));
  Context ctx;
  const Owned x(DType::kF32, {2, 3}), y(DType::kF32, {1, 3}), index(DType::kI32, {1}, {2});
  CHECK_THROWS_WITH(permute(ctx, {.x_TD = x, .index_R = index, .y_RD = y}), Catch::Contains("not in [0, 2)"));
}

}  // namespace atoll::test
