// Registry cases of rms_norm and its backward.
#include <cmath>

#include "op_cases.h"

namespace atoll::test {
namespace {

constexpr double kEps = 1e-3;  // large enough to be seen

struct Normed { Array h, y, rstd; };
Normed norm(const Array& x, const Array& residual, const Array& gain, size_t T, size_t D, const Rounding& r) {
  Normed n{x, Array(T * D), Array(T)};
  for (size_t i = 0; i < residual.size(); ++i) n.h[i] = r.storage(x[i] + residual[i]);
  for (size_t t = 0; t < T; ++t) {
    double sum = 0;
    for (size_t d = 0; d < D; ++d) sum = r.acc(sum + r.acc(n.h[t * D + d] * n.h[t * D + d]));
    n.rstd[t] = r.acc(1 / r.acc(std::sqrt(r.acc(sum / static_cast<double>(D) + kEps))));
    for (size_t d = 0; d < D; ++d) n.y[t * D + d] = r.storage(r.acc(r.acc(n.h[t * D + d] * n.rstd[t]) * gain[d]));
  }
  return n;
}

void declare_forward(int64_t T, int64_t D, bool has_residual, int64_t extra, bool in_place) {
  const auto rows = static_cast<size_t>(T), width = static_cast<size_t>(D);
  const std::string name = "rms_norm " + std::to_string(T) + "x" + std::to_string(D) + (has_residual ? " + residual" : "") + (extra ? " strided" : "") + (in_place ? " in place" : "");
  register_op_case({.op = Op::kRmsNorm, .name = name,
                    .inputs = [=] {
                      Arrays in{{"x", draw("x", rows * width)}, {"gain", draw("gain", width)}};
                      if (has_residual) in["residual"] = draw("residual", rows * width);
                      return in;
                    },
                    .oracle = [=](const Arrays& in, const Rounding& r) {
                      const Normed n = norm(in.at("x"), has_residual ? in.at("residual") : Array{}, in.at("gain"), rows, width, r);
                      Arrays out{{"y", n.y}, {"rstd", n.rstd}};
                      if (has_residual) out["h"] = n.h;
                      return out;
                    },
                    .run = [=](Context& ctx, DType storage, const Arrays& in) {
                      const Owned x(storage, {T, D}, in.at("x"), extra), gain(storage, {D}, in.at("gain")), y(storage, {T, D}, extra), rstd(acc_dtype(storage), {T});
                      if (!has_residual) {
                        rms_norm(ctx, {.x_TD = x, .gain_D = gain, .y_TD = y, .rstd_T = rstd, .eps = kEps});
                        ATOLL_CHECK(y.padding_is_untouched(), "rms_norm wrote between rows");
                        return Arrays{{"y", y.values()}, {"rstd", rstd.values()}};
                      }
                      const Owned residual(storage, {T, D}, in.at("residual"), extra), other(storage, {T, D}, extra);
                      const Owned& h = in_place ? residual : other;
                      rms_norm(ctx, {.x_TD = x, .residual_TD = residual, .gain_D = gain, .h_TD = h, .y_TD = y, .rstd_T = rstd, .eps = kEps});
                      ATOLL_CHECK(y.padding_is_untouched() && h.padding_is_untouched(), "rms_norm wrote between rows");
                      return Arrays{{"y", y.values()}, {"rstd", rstd.values()}, {"h", h.values()}};
                    }});
}

void declare_backward(int64_t T, int64_t D, bool has_add, bool has_dgain, int64_t extra, bool in_place) {
  const auto rows = static_cast<size_t>(T), width = static_cast<size_t>(D);
  const std::string name = "rms_norm_backward " + std::to_string(T) + "x" + std::to_string(D) + (has_add ? " + add" : "") + (has_dgain ? "" : " without dgain") +
                           (extra ? " strided" : "") + (in_place ? " in place" : "");
  OpCase c{.op = Op::kRmsNormBackward, .name = name,
           .inputs = [=] {
             Arrays in{{"h", draw("h", rows * width)}, {"gain", draw("gain", width)}, {"dy", draw("dy", rows * width)}};
             if (has_add) in["add"] = draw("add", rows * width);
             return in;
           },
           .oracle = [=](const Arrays& in, const Rounding& r) {
             const Array &h = in.at("h"), &dy = in.at("dy"), &gain = in.at("gain");
             const Normed n = norm(h, {}, gain, rows, width, r);
             Array dx(rows * width), dgain(width, 1.0);
             for (size_t t = 0; t < rows; ++t) {
               double dot = 0;
               for (size_t d = 0; d < width; ++d) dot = r.acc(dot + r.acc(r.acc(dy[t * width + d] * gain[d]) * r.acc(h[t * width + d] * n.rstd[t])));
               dot = r.acc(dot / static_cast<double>(width));
               for (size_t d = 0; d < width; ++d) {
                 const double normed = r.acc(h[t * width + d] * n.rstd[t]);
                 dx[t * width + d] = r.acc(n.rstd[t] * r.acc(r.acc(dy[t * width + d] * gain[d]) - r.acc(normed * dot)));
                 if (has_add) dx[t * width + d] += in.at("add")[t * width + d];
                 dx[t * width + d] = r.storage(r.acc(dx[t * width + d]));
                 dgain[d] = r.acc(dgain[d] + r.acc(dy[t * width + d] * normed));
               }
             }
             Arrays out{{"dx", dx}};
             if (has_dgain) out["dgain"] = dgain;
             return out;
           },
           .run = [=](Context& ctx, DType storage, const Arrays& in) {
             const DType acc = acc_dtype(storage);
             const Owned h(storage, {T, D}, in.at("h"), extra), gain(storage, {D}, in.at("gain")), dy(storage, {T, D}, in.at("dy"), extra), other(storage, {T, D}, extra);
             const Owned y(storage, {T, D}), rstd(acc, {T}), dgain(acc, {D}, Array(width, 1.0));
             const Owned& dx = in_place ? dy : other;
             Tensor add;
             const Owned add_memory(storage, {T, D}, has_add ? in.at("add") : Array(rows * width));
             if (has_add) add = add_memory;
             rms_norm(ctx, {.x_TD = h, .gain_D = gain, .y_TD = y, .rstd_T = rstd, .eps = kEps});
             rms_norm_backward(ctx, {.dy_TD = dy, .h_TD = h, .gain_D = gain, .rstd_T = rstd, .add_TD = add, .dx_TD = dx, .dgain_D = has_dgain ? dgain.tensor() : Tensor{}});
             ATOLL_CHECK(dx.padding_is_untouched() && ctx.memory.workspace.used() == 0, "rms_norm_backward wrote between rows or kept scratch");
             Arrays out{{"dx", dx.values()}};
             if (has_dgain) out["dgain"] = dgain.values();
             return out;
           }};
  c.objective = [=](const Arrays& in) {
    const Normed n = norm(in.at("h"), {}, in.at("gain"), rows, width, Rounding{});
    double sum = 0;
    for (size_t i = 0; i < n.y.size(); ++i) sum += n.y[i] * in.at("dy")[i] + (has_add ? in.at("add")[i] * in.at("h")[i] : 0.0);
    for (double g : in.at("gain")) sum += g;  // dgain starts from 1
    return sum;
  };
  c.gradients = {{"h", "dx"}};
  if (has_dgain) c.gradients.push_back({"gain", "dgain"});
  register_op_case(c);
}

bool declare() {
  declare_forward(0, 8, false, 0, false);
  declare_forward(1, 1, false, 0, false);
  declare_forward(5, 67, false, 3, false);
  declare_forward(5, 67, true, 3, false);
  declare_forward(9, 128, true, 0, true);
  declare_forward(70, 1000, true, 0, false);
  declare_backward(0, 8, false, true, 0, false);
  declare_backward(1, 1, true, true, 0, false);
  declare_backward(5, 67, true, true, 3, true);
  declare_backward(7, 33, false, false, 3, false);
  declare_backward(200, 300, true, true, 0, false);  // several blocks of dgain
  return true;
}
[[maybe_unused]] const bool registered = declare();

}  // namespace
}  // namespace atoll::test
