// Registry cases of swiglu and its backward.
#include <catch2/catch.hpp>
#include <cmath>

#include "op_cases.h"

namespace atoll::test {
namespace {

double sigmoid(double x, const Rounding& r) { return r.acc(1 / r.acc(1 + r.acc(std::exp(-x)))); }

void declare_forward(int64_t R, int64_t F, bool has_weight) {
  const auto rows = static_cast<size_t>(R), width = static_cast<size_t>(F);
  register_op_case({.op = Op::kSwiglu, .name = "swiglu " + std::to_string(R) + "x" + std::to_string(F) + (has_weight ? " weighted" : ""),
                    .inputs = [=] { return Arrays{{"gate_up", draw("gate_up", rows * 2 * width, 3.0)}, {"weight", draw("weight", rows)}}; },
                    .oracle = [=](const Arrays& in, const Rounding& r) {
                      Array y(rows * width);
                      for (size_t t = 0; t < rows; ++t)
                        for (size_t f = 0; f < width; ++f) {
                          const double g = in.at("gate_up")[t * 2 * width + f], u = in.at("gate_up")[t * 2 * width + width + f];
                          y[t * width + f] = r.storage(r.acc(r.acc(r.acc(g * sigmoid(g, r)) * u) * (has_weight ? in.at("weight")[t] : 1.0)));
                        }
                      return Arrays{{"y", y}};
                    },
                    .run = [=](Context& ctx, DType storage, const Arrays& in) {
                      const Owned gate_up(storage, {R, 2 * F}, in.at("gate_up")), weight(acc_dtype(storage), {R}, in.at("weight")), y(storage, {R, F});
                      swiglu(ctx, {.gate_up_R2F = gate_up, .weight_R = has_weight ? weight.tensor() : Tensor{}, .y_RF = y});
                      return Arrays{{"y", y.values()}};
                    }});
}

void declare_backward(int64_t R, int64_t F, bool has_weight, bool in_place) {
  const auto rows = static_cast<size_t>(R), width = static_cast<size_t>(F);
  OpCase c{.op = Op::kSwigluBackward, .name = "swiglu_backward " + std::to_string(R) + "x" + std::to_string(F) + (has_weight ? " weighted" : "") + (in_place ? " in place" : ""),
           .inputs = [=] { return Arrays{{"gate_up", draw("gate_up", rows * 2 * width, 2.0)}, {"weight", draw("weight", rows)}, {"dy", draw("dy", rows * width)}}; },
           .oracle = [=](const Arrays& in, const Rounding& r) {
             Array d(rows * 2 * width), dweight(rows);
             for (size_t t = 0; t < rows; ++t)
               for (size_t f = 0; f < width; ++f) {
                 const double g = in.at("gate_up")[t * 2 * width + f], u = in.at("gate_up")[t * 2 * width + width + f], dy = in.at("dy")[t * width + f];
                 const double s = sigmoid(g, r), silu = r.acc(g * s), dw = r.acc(dy * (has_weight ? in.at("weight")[t] : 1.0));
                 d[t * 2 * width + f] = r.storage(r.acc(r.acc(r.acc(dw * s) * u) * r.acc(1 + r.acc(g * r.acc(1 - s)))));
                 d[t * 2 * width + width + f] = r.storage(r.acc(dw * silu));
                 dweight[t] = r.acc(dweight[t] + r.acc(r.acc(dy * silu) * u));
               }
             Arrays out{{"dgate_up", d}};
             if (has_weight) out["dweight"] = dweight;
             return out;
           },
           .run = [=](Context& ctx, DType storage, const Arrays& in) {
             const DType acc = acc_dtype(storage);
             const Owned gate_up(storage, {R, 2 * F}, in.at("gate_up")), weight(acc, {R}, in.at("weight")), dy(storage, {R, F}, in.at("dy")), other(storage, {R, 2 * F}), dweight(acc, {R});
             const Owned& d = in_place ? gate_up : other;
             swiglu_backward(ctx, {.dy_RF = dy, .gate_up_R2F = gate_up, .weight_R = has_weight ? weight.tensor() : Tensor{}, .dgate_up_R2F = d,
                                   .dweight_R = has_weight ? dweight.tensor() : Tensor{}});
             Arrays out{{"dgate_up", d.values()}};
             if (has_weight) out["dweight"] = dweight.values();
             return out;
           }};
  c.objective = [=](const Arrays& in) {
    double sum = 0;
    for (size_t t = 0; t < rows; ++t)
      for (size_t f = 0; f < width; ++f) {
        const double g = in.at("gate_up")[t * 2 * width + f], u = in.at("gate_up")[t * 2 * width + width + f];
        sum += in.at("dy")[t * width + f] * g / (1 + std::exp(-g)) * u * (has_weight ? in.at("weight")[t] : 1.0);
      }
    return sum;
  };
  c.gradients = {{"gate_up", "dgate_up"}};
  if (has_weight) c.gradients.push_back({"weight", "dweight"});
  register_op_case(c);
}

bool declare() {
  declare_forward(0, 8, false);
  declare_forward(1, 1, true);
  declare_forward(5, 67, true);
  declare_forward(31, 256, false);
  declare_backward(0, 8, false, false);
  declare_backward(1, 1, true, false);
  declare_backward(5, 67, true, true);
  declare_backward(31, 256, false, false);
  return true;
}
[[maybe_unused]] const bool registered = declare();

}  // namespace

TEST_CASE("Swiglu of gates of +-200 is gate times up, and nothing; so are its gradients") {
  for (DType type : {DType::kF64, DType::kF32, DType::kBF16}) {
    Context ctx;
    const int64_t F = 19;  // a vector and a rest
    Array gate_up, expected_y, expected_gate, expected_up;
    for (int64_t f = 0; f < F; ++f) {
      gate_up.push_back(f % 2 ? -200.0 : 200.0);
      expected_y.push_back(f % 2 ? 0.0 : 200.0 * 3), expected_gate.push_back(f % 2 ? 0.0 : 3.0), expected_up.push_back(f % 2 ? 0.0 : 200.0);
    }
    gate_up.insert(gate_up.end(), static_cast<size_t>(F), 3.0);
    const Owned x(type, {1, 2 * F}, gate_up), y(type, {1, F}), dy(type, {1, F}, Array(static_cast<size_t>(F), 1.0)), d(type, {1, 2 * F});
    swiglu(ctx, {.gate_up_R2F = x, .y_RF = y});
    swiglu_backward(ctx, {.dy_RF = dy, .gate_up_R2F = x, .dgate_up_R2F = d});
    const Array values = y.values(), gradients = d.values();
    for (size_t f = 0; f < static_cast<size_t>(F); ++f) {
      CHECK(values[f] == Approx(expected_y[f]).margin(1e-30));
      CHECK(gradients[f] == Approx(expected_gate[f]).margin(1e-30));
      CHECK(gradients[static_cast<size_t>(F) + f] == Approx(expected_up[f]).margin(1e-30));
    }
  }
}
}  // namespace atoll::test
