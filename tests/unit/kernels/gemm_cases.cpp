// Registry cases of the linear ops and their grouped forms.
#include <cmath>

#include "op_cases.h"

namespace atoll::test {
namespace {

// c[m, n] = sum over k of a(m, k) b(k, n), the accumulator rounded after every addition.
template <class A, class B>
Array product(int64_t m, int64_t n, int64_t k, const A& a, const B& b, const Rounding& r, const Array* start) {
  Array c(static_cast<size_t>(m * n));
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = start ? (*start)[static_cast<size_t>(i * n + j)] : 0;
      for (int64_t l = 0; l < k; ++l) sum = r.acc(sum + r.acc(a(i, l) * b(l, j)));
      c[static_cast<size_t>(i * n + j)] = sum;
    }
  return c;
}
auto rows(const Array& a, int64_t width, int64_t first = 0) {
  return [&a, width, first](int64_t i, int64_t j) { return a[static_cast<size_t>((first + i) * width + j)]; };
}
auto columns(const Array& a, int64_t width, int64_t first = 0) {
  return [&a, width, first](int64_t i, int64_t j) { return a[static_cast<size_t>((first + j) * width + i)]; };
}
Array stored(Array a, const Rounding& r, bool is_acc) {
  for (double& value : a) value = is_acc ? r.acc(value) : r.storage(value);
  return a;
}
double dot(const Array& a, const Array& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

struct Size {
  int64_t T, N, K;
  bool accumulate, is_acc;  // is_acc: the output has the acc type
  int64_t extra;            // of row stride
  std::string text() const {
    return std::to_string(T) + "x" + std::to_string(N) + "x" + std::to_string(K) + (accumulate ? " accumulating" : "") + (is_acc ? " into acc" : "") +
           (extra ? " strided" : "");
  }
};
size_t count(int64_t a, int64_t b) { return static_cast<size_t>(a * b); }

void declare_linear(const Size& s) {
  const auto [T, N, K, accumulate, is_acc, extra] = s;
  const auto out = [is_acc = is_acc](DType storage) { return is_acc ? acc_dtype(storage) : storage; };
  register_op_case(
      {.op = Op::kLinear,
       .name = "linear " + s.text(),
       .inputs =
           [=] {
             return Arrays{{"x", draw("x", count(T, K))}, {"w", draw("w", count(N, K))}, {"y", draw("y", count(T, N))}};
           },
       .oracle =
           [=](const Arrays& in, const Rounding& r) {
             return Arrays{{"y", stored(product(T, N, K, rows(in.at("x"), K), columns(in.at("w"), K), r, accumulate ? &in.at("y") : nullptr), r, is_acc)}};
           },
       .run =
           [=](Context& ctx, DType storage, const Arrays& in) {
             const Owned x(storage, {T, K}, in.at("x"), extra), w(storage, {N, K}, in.at("w"), extra);
             const Owned y = accumulate ? Owned(out(storage), {T, N}, in.at("y"), extra) : Owned(out(storage), {T, N}, extra);
             linear(ctx, {.x_TK = x, .w_NK = w, .y_TN = y, .accumulate = accumulate});
             ATOLL_CHECK(y.padding_is_untouched(), "linear wrote between rows");
             return Arrays{{"y", y.values()}};
           }});
  const auto objective = [=](const Arrays& in) { return dot(in.at("dy"), product(T, N, K, rows(in.at("x"), K), columns(in.at("w"), K), Rounding{}, nullptr)); };
  using Gradients = std::vector<std::pair<std::string, std::string>>;
  register_op_case(
      {.op = Op::kLinearBackwardInput,
       .name = "linear_backward_input " + s.text(),
       .inputs =
           [=] {
             return Arrays{{"dy", draw("dy", count(T, N))}, {"w", draw("w", count(N, K))}, {"x", draw("x", count(T, K))}};
           },
       .oracle =
           [=](const Arrays& in, const Rounding& r) {
             return Arrays{{"dx", stored(product(T, K, N, rows(in.at("dy"), N), rows(in.at("w"), K), r, accumulate ? &in.at("x") : nullptr), r, is_acc)}};
           },
       .run =
           [=](Context& ctx, DType storage, const Arrays& in) {
             const Owned dy(storage, {T, N}, in.at("dy"), extra), w(storage, {N, K}, in.at("w"), extra);
             const Owned dx = accumulate ? Owned(out(storage), {T, K}, in.at("x"), extra) : Owned(out(storage), {T, K}, extra);
             linear_backward_input(ctx, {.dy_TN = dy, .w_NK = w, .dx_TK = dx, .accumulate = accumulate});
             ATOLL_CHECK(dx.padding_is_untouched(), "linear_backward_input wrote between rows");
             return Arrays{{"dx", dx.values()}};
           },
       .objective = accumulate ? std::function<double(const Arrays&)>() : objective,
       .gradients = Gradients{{"x", "dx"}}});
  register_op_case(
      {.op = Op::kLinearBackwardWeight,
       .name = "linear_backward_weight " + s.text(),
       .inputs =
           [=] {
             return Arrays{{"dy", draw("dy", count(T, N))}, {"x", draw("x", count(T, K))}, {"w", draw("w", count(N, K))}};
           },
       .oracle =
           [=](const Arrays& in, const Rounding& r) {
             return Arrays{{"dw", stored(product(N, K, T, columns(in.at("dy"), N), rows(in.at("x"), K), r, accumulate ? &in.at("w") : nullptr), r, true)}};
           },
       .run =
           [=](Context& ctx, DType storage, const Arrays& in) {
             const Owned dy(storage, {T, N}, in.at("dy"), extra), x(storage, {T, K}, in.at("x"), extra);
             const Owned dw = accumulate ? Owned(acc_dtype(storage), {N, K}, in.at("w"), extra) : Owned(acc_dtype(storage), {N, K}, extra);
             linear_backward_weight(ctx, {.dy_TN = dy, .x_TK = x, .dw_NK = dw, .accumulate = accumulate});
             ATOLL_CHECK(dw.padding_is_untouched(), "linear_backward_weight wrote between rows");
             return Arrays{{"dw", dw.values()}};
           },
       .objective = accumulate ? std::function<double(const Arrays&)>() : objective,
       .gradients = Gradients{{"w", "dw"}}});
}

struct Groups {
  std::vector<int64_t> counts;
  int64_t N, K;
  bool accumulate;
  std::vector<int64_t> offsets() const {
    std::vector<int64_t> o{0};
    for (int64_t c : counts) o.push_back(o.back() + c);
    return o;
  }
  std::string text() const {
    std::string s = std::to_string(N) + "x" + std::to_string(K) + " rows";
    for (int64_t c : counts) s += " " + std::to_string(c);
    return s + (accumulate ? " accumulating" : "");
  }
};

void append(Array& to, const Array& from) { to.insert(to.end(), from.begin(), from.end()); }
Array part(const Array& a, int64_t begin, int64_t n) { return Array(a.begin() + begin, a.begin() + begin + n); }

Array grouped_forward(const Groups& g, const Arrays& in, const Rounding& r) {
  const std::vector<int64_t> offsets = g.offsets();
  Array y;
  for (size_t e = 0; e < g.counts.size(); ++e)
    append(y, product(g.counts[e], g.N, g.K, rows(in.at("x"), g.K, offsets[e]), columns(in.at("w"), g.K, static_cast<int64_t>(e) * g.N), r, nullptr));
  return y;
}

void declare_grouped(const Groups& g) {
  const int64_t N = g.N, K = g.K, E = static_cast<int64_t>(g.counts.size()), R = g.offsets().back();
  const auto objective = [=](const Arrays& in) { return dot(in.at("dy"), grouped_forward(g, in, Rounding{})); };
  const auto inputs = [=] { return Arrays{{"x", draw("x", count(R, K))}, {"w", draw("w", count(E * N, K))}, {"dy", draw("dy", count(R, N))}}; };
  using Gradients = std::vector<std::pair<std::string, std::string>>;
  if (!g.accumulate) {
    register_op_case({.op = Op::kGroupedLinear,
                      .name = "grouped_linear " + g.text(),
                      .inputs = inputs,
                      .oracle =
                          [=](const Arrays& in, const Rounding& r) {
                            return Arrays{{"y", stored(grouped_forward(g, in, r), r, false)}};
                          },
                      .run =
                          [=](Context& ctx, DType storage, const Arrays& in) {
                            const Owned x(storage, {R, K}, in.at("x"), 3), w(storage, {E, N, K}, in.at("w")), y(storage, {R, N}, 5);
                            const std::vector<int64_t> offsets = g.offsets();
                            grouped_linear(ctx, {.x_RK = x, .w_ENK = w, .y_RN = y, .offsets = offsets});
                            ATOLL_CHECK(y.padding_is_untouched(), "grouped_linear wrote between rows");
                            return Arrays{{"y", y.values()}};
                          }});
    register_op_case(
        {.op = Op::kGroupedLinearBackwardInput,
         .name = "grouped_linear_backward_input " + g.text(),
         .inputs = inputs,
         .oracle =
             [=](const Arrays& in, const Rounding& r) {
               const std::vector<int64_t> offsets = g.offsets();
               Array dx;
               for (size_t e = 0; e < g.counts.size(); ++e)
                 append(dx, product(g.counts[e], K, N, rows(in.at("dy"), N, offsets[e]), rows(in.at("w"), K, static_cast<int64_t>(e) * N), r, nullptr));
               return Arrays{{"dx", stored(dx, r, false)}};
             },
         .run =
             [=](Context& ctx, DType storage, const Arrays& in) {
               const Owned dy(storage, {R, N}, in.at("dy")), w(storage, {E, N, K}, in.at("w")), dx(storage, {R, K}, 1);
               const std::vector<int64_t> offsets = g.offsets();
               grouped_linear_backward_input(ctx, {.dy_RN = dy, .w_ENK = w, .dx_RK = dx, .offsets = offsets});
               return Arrays{{"dx", dx.values()}};
             },
         .objective = objective,
         .gradients = Gradients{{"x", "dx"}}});
  }
  register_op_case(
      {.op = Op::kGroupedLinearBackwardWeight,
       .name = "grouped_linear_backward_weight " + g.text(),
       .inputs = inputs,
       .oracle =
           [=](const Arrays& in, const Rounding& r) {
             const std::vector<int64_t> offsets = g.offsets();
             Array dw;
             for (size_t e = 0; e < g.counts.size(); ++e) {
               const Array start = part(in.at("w"), static_cast<int64_t>(e) * N * K, N * K);
               append(dw, product(N, K, g.counts[e], columns(in.at("dy"), N, offsets[e]), rows(in.at("x"), K, offsets[e]), r, g.accumulate ? &start : nullptr));
             }
             return Arrays{{"dw", stored(dw, r, true)}};
           },
       .run =
           [=](Context& ctx, DType storage, const Arrays& in) {
             const Owned dy(storage, {R, N}, in.at("dy")), x(storage, {R, K}, in.at("x"), 2);
             const Owned dw = g.accumulate ? Owned(acc_dtype(storage), {E, N, K}, in.at("w")) : Owned(acc_dtype(storage), {E, N, K});
             const std::vector<int64_t> offsets = g.offsets();
             grouped_linear_backward_weight(ctx, {.dy_RN = dy, .x_RK = x, .dw_ENK = dw, .offsets = offsets, .accumulate = g.accumulate});
             return Arrays{{"dw", dw.values()}};
           },
       .objective = g.accumulate ? std::function<double(const Arrays&)>() : objective,
       .gradients = Gradients{{"w", "dw"}}});
}

bool declare() {
  for (const Size& s : {Size{1, 1, 1, false, false, 0}, Size{3, 5, 7, false, true, 0}, Size{3, 5, 7, true, true, 2}, Size{17, 33, 65, true, false, 3},
                        Size{0, 4, 3, false, false, 0}, Size{64, 16, 32, false, false, 0}, Size{37, 3, 0, false, true, 0}, Size{300, 31, 70, true, true, 0},
                        Size{2, 96, 128, false, false, 8}})
    declare_linear(s);
  for (const Groups& g : {Groups{{3, 0, 5, 1}, 5, 7, false}, Groups{{0, 0}, 4, 4, false}, Groups{{0, 37, 260, 0, 16}, 24, 32, false},
                          Groups{{9, 0, 2}, 6, 5, true}, Groups{{1}, 1, 1, false}})
    declare_grouped(g);
  return true;
}
const bool declared = declare();

}  // namespace
}  // namespace atoll::test
