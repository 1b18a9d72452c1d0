// Registry cases of head_loss (forward alone, and with gradients), its books, and its bound on scratch.
#include <catch2/catch.hpp>
#include <cmath>

#include "op_cases.h"

namespace atoll::test {
namespace {

constexpr double kScale = 0.125;

Array labels_of(int64_t T, int64_t V) {
  Array labels;
  for (int64_t t = 0; t < T; ++t) labels.push_back(t % 5 == 3 ? -100.0 : static_cast<double>((t * t + 1) % V));
  return labels;
}

Arrays solve(const Arrays& in, int64_t T, int64_t D, int64_t V, bool gradient, const Rounding& r) {
  const Array &x = in.at("x"), &w = in.at("w"), labels = labels_of(T, V);
  const auto at = [](int64_t i) { return static_cast<size_t>(i); };
  Array loss(at(T)), dx(at(T * D)), dw(at(V * D), 1.0);
  double total = 2;  // is added to
  for (int64_t t = 0; t < T; ++t) {
    const auto label = static_cast<int64_t>(labels[at(t)]);
    if (label < 0) continue;
    Array p(at(V));
    double largest = -1e300, sum = 0;
    for (int64_t v = 0; v < V; ++v) {
      for (int64_t d = 0; d < D; ++d) p[at(v)] = r.acc(p[at(v)] + r.acc(x[at(t * D + d)] * w[at(v * D + d)]));
      largest = std::max(largest, p[at(v)]);
    }
    const double at_label = p[at(label)];
    for (double& e : p) sum = r.acc(sum + (e = r.acc(std::exp(r.acc(e - largest)))));
    loss[at(t)] = r.acc(r.acc(std::log(sum)) + r.acc(largest - at_label));
    total += loss[at(t)];
    Array row(at(D));
    for (int64_t v = 0; v < V; ++v) {
      const double dlogit = r.storage(r.acc(kScale * r.acc(r.acc(p[at(v)] / sum) - (v == label ? 1 : 0))));
      for (int64_t d = 0; d < D; ++d) {
        row[at(d)] = r.acc(row[at(d)] + r.acc(dlogit * w[at(v * D + d)]));
        dw[at(v * D + d)] = r.acc(dw[at(v * D + d)] + r.acc(dlogit * x[at(t * D + d)]));
      }
    }
    for (int64_t d = 0; d < D; ++d) dx[at(t * D + d)] = r.storage(row[at(d)]);
  }
  Arrays out{{"loss", loss}, {"loss_sum", {total}}};
  if (gradient) out.insert({{"dx", dx}, {"dw", dw}});
  return out;
}

void declare_shape(int64_t T, int64_t D, int64_t V, bool gradient, int64_t extra = 0) {
  OpCase c{.op = Op::kHeadLoss, .name = "head_loss " + std::to_string(T) + "x" + std::to_string(D) + "x" + std::to_string(V) + (gradient ? " with gradients" : "") + (extra ? " strided" : ""),
           .inputs = [=] { return Arrays{{"x", draw("x", static_cast<size_t>(T * D))}, {"w", draw("w", static_cast<size_t>(V * D))}}; },
           .oracle = [=](const Arrays& in, const Rounding& r) { return solve(in, T, D, V, gradient, r); },
           .run = [=](Context& ctx, DType storage, const Arrays& in) {
             const DType acc = acc_dtype(storage);
             const Owned x(storage, {T, D}, in.at("x"), extra), w(storage, {V, D}, in.at("w")), labels(DType::kI32, {T}, labels_of(T, V)), loss(acc, {T}), dx(storage, {T, D}, extra);
             const Owned dw(acc, {V, D}, Array(static_cast<size_t>(V * D), 1.0));
             double loss_sum = 2;
             HeadLoss op{.x_TD = x, .w_VD = w, .labels_T = labels, .scale = kScale, .loss_sum = &loss_sum, .loss_T = loss};
             if (gradient) op.dx_TD = dx, op.dw_VD = dw;
             head_loss(ctx, op);
             ATOLL_CHECK(dx.padding_is_untouched() && ctx.memory.workspace.used() == 0, "head_loss wrote between rows or kept scratch");
             Arrays out{{"loss", loss.values()}, {"loss_sum", {loss_sum}}};
             if (gradient) out.insert({{"dx", dx.values()}, {"dw", dw.values()}});
             return out;
           }};
  if (gradient) {
    c.objective = [=](const Arrays& in) {
      double sum = kScale * solve(in, T, D, V, false, Rounding{}).at("loss_sum")[0];
      for (double x : in.at("w")) sum += x;  // dw starts from 1
      return sum;
    };
    c.gradients = {{"x", "dx"}, {"w", "dw"}};
  }
  register_op_case(c);
}

bool declare() {
  declare_shape(0, 3, 5, true);
  declare_shape(1, 1, 1, true);
  declare_shape(7, 9, 13, true, 3);  // rows shorter than a vector
  declare_shape(7, 9, 13, false);
  declare_shape(20, 16, 131, true);
  declare_shape(1030, 2, 33, true);  // more than one block of rows
  return true;
}
[[maybe_unused]] const bool registered = declare();

}  // namespace

TEST_CASE("The head's scratch does not grow with the batch") {
  const auto scratch = [](int64_t T) {
    Context ctx;
    const Owned x(DType::kF32, {T, 1}, Array(static_cast<size_t>(T), 1.0)), w(DType::kF32, {8, 1}, Array(8, 1.0)), labels(DType::kI32, {T}, Array(static_cast<size_t>(T), 0.0));
    double loss = 0;
    head_loss(ctx, {.x_TD = x, .w_VD = w, .labels_T = labels, .loss_sum = &loss});
    CHECK(loss == Approx(static_cast<double>(T) * std::log(8.0)).epsilon(1e-5));
    return ctx.memory.workspace.high_water();
  };
  CHECK(scratch(1024) == scratch(5120));
}

TEST_CASE("The products of the head are booked once, as products") {
  Context ctx;
  const Owned x(DType::kF32, {4, 8}, draw("x", 32)), w(DType::kF32, {16, 8}, draw("w", 128)), labels(DType::kI32, {4}, {1, 2, 3, 4}), dx(DType::kF32, {4, 8}), dw(DType::kF32, {16, 8}, Array(128, 0.0));
  double loss = 0;
  head_loss(ctx, {.x_TD = x, .w_VD = w, .labels_T = labels, .loss_sum = &loss, .dx_TD = dx, .dw_VD = dw});
  const auto flops = [&](Op op) { return ctx.op_stats[static_cast<size_t>(op)].flops; };
  CHECK(flops(Op::kLinear) + flops(Op::kLinearBackwardInput) + flops(Op::kLinearBackwardWeight) == 6.0 * 4 * 8 * 16);
  CHECK(ctx.op_stats[static_cast<size_t>(Op::kHeadLoss)].calls == 1);
}

TEST_CASE("Logits of +-1e4 give the loss of their difference, and finite gradients") {
  for (DType type : {DType::kF64, DType::kF32, DType::kBF16}) {
    Context ctx;
    const int64_t V = 21;
    Array w(static_cast<size_t>(V), -1e4);
    w[4] = 1e4;
    const Owned x(type, {2, 1}, {1, 1}), head(type, {V, 1}, w), labels(DType::kI32, {2}, {4, 5}), loss(acc_dtype(type), {2}), dx(type, {2, 1}), dw(acc_dtype(type), {V, 1}, Array(static_cast<size_t>(V), 0.0));
    double sum = 0;
    head_loss(ctx, {.x_TD = x, .w_VD = head, .labels_T = labels, .loss_sum = &sum, .loss_T = loss, .dx_TD = dx, .dw_VD = dw});
    CHECK(loss.values()[0] == 0);
    CHECK(loss.values()[1] == Approx(2e4).epsilon(0.005));
    CHECK(dx.values()[0] == 0);
    CHECK(dx.values()[1] == Approx(2e4).epsilon(0.01));
    CHECK(dw.values()[4] == Approx(1));
    CHECK(dw.values()[5] == Approx(-1));
  }
}

TEST_CASE("The head refuses a label outside its vocabulary") {
  Context ctx;
  const Owned x(DType::kF32, {1, 2}, {1, 1}), w(DType::kF32, {3, 2}, Array(6, 1.0)), labels(DType::kI32, {1}, {3});
  double loss = 0;
  CHECK_THROWS_WITH(head_loss(ctx, {.x_TD = x, .w_VD = w, .labels_T = labels, .loss_sum = &loss}), Catch::Contains("vocabulary of 3"));
}

}  // namespace atoll::test
