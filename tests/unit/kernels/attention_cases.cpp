// Registry cases of attention and its backward: k_nope and v interleaved per head in one buffer, q heads [nope | rope], documents of all lengths.
#include <catch2/catch.hpp>
#include <cmath>

#include "op_cases.h"

namespace atoll::test {
namespace {

struct Shape {
  int64_t H, N, R, V;
  std::vector<int32_t> cu_docs;
  int64_t extra = 0;
  int64_t T() const { return cu_docs.back(); }
  int64_t Q() const { return N + R; }
  double scale() const { return 1.25 / std::sqrt(static_cast<double>(Q())); }
  std::string name() const {
    return std::to_string(T()) + " tokens, " + std::to_string(cu_docs.size() - 1) + " documents, " + std::to_string(H) + " heads " + std::to_string(N) + "+" + std::to_string(R) + "/" + std::to_string(V);
  }
  double q(const Arrays& in, int64_t t, int64_t h, int64_t d) const { return in.at("q")[static_cast<size_t>((t * H + h) * Q() + d)]; }
  double v(const Arrays& in, int64_t t, int64_t h, int64_t d) const { return in.at("v")[static_cast<size_t>((t * H + h) * V + d)]; }
  double k(const Arrays& in, int64_t t, int64_t h, int64_t d) const {
    return d < N ? in.at("k_nope")[static_cast<size_t>((t * H + h) * N + d)] : in.at("k_rope")[static_cast<size_t>(t * R + d - N)];
  }
};

Arrays draw_inputs(const Shape& s, bool backward) {
  const auto n = [&](int64_t width) { return static_cast<size_t>(s.T() * width); };
  Arrays in{{"q", draw("q", n(s.H * s.Q()))}, {"k_nope", draw("k_nope", n(s.H * s.N))}, {"k_rope", draw("k_rope", n(s.R))}, {"v", draw("v", n(s.H * s.V))}};
  if (backward) in["do"] = draw("do", n(s.H * s.V));
  return in;
}

// Every output there is; a document and head at a time, with the whole matrix of probabilities.
Arrays solve(const Shape& s, const Arrays& in, const Rounding& r) {
  const auto zeros = [&](int64_t width) { return Array(static_cast<size_t>(s.T() * width)); };
  Arrays out{{"o", zeros(s.H * s.V)}, {"lse", zeros(s.H)}};
  const bool backward = in.count("do") > 0;
  if (backward) out.insert({{"dq", zeros(s.H * s.Q())}, {"dk_nope", zeros(s.H * s.N)}, {"dk_rope", zeros(s.R)}, {"dv", zeros(s.H * s.V)}});
  for (size_t doc = 0; doc + 1 < s.cu_docs.size(); ++doc)
    for (int64_t h = 0; h < s.H; ++h) {
      const int64_t begin = s.cu_docs[doc], L = s.cu_docs[doc + 1] - begin;
      Array dk(static_cast<size_t>(L * s.Q())), dv(static_cast<size_t>(L * s.V));
      for (int64_t i = 0; i < L; ++i) {
        const auto head = [&](Array& a, int64_t t, int64_t width) { return a.data() + ((begin + t) * s.H + h) * width; };
        Array p(static_cast<size_t>(i + 1));
        double largest = -1e300, sum = 0;
        for (int64_t j = 0; j <= i; ++j) {
          double dot = 0;
          for (int64_t d = 0; d < s.Q(); ++d) dot = r.acc(dot + r.acc(r.acc(s.q(in, begin + i, h, d) * s.scale()) * s.k(in, begin + j, h, d)));
          p[static_cast<size_t>(j)] = dot;
          largest = std::max(largest, dot);
        }
        for (double& x : p) sum = r.acc(sum + (x = r.acc(std::exp(r.acc(x - largest)))));
        out["lse"][static_cast<size_t>((begin + i) * s.H + h)] = r.acc(largest + r.acc(std::log(sum)));
        double* o = head(out["o"], i, s.V);
        for (int64_t d = 0; d < s.V; ++d) {
          for (int64_t j = 0; j <= i; ++j) o[d] = r.acc(o[d] + r.acc(p[static_cast<size_t>(j)] * s.v(in, begin + j, h, d)));
          o[d] = r.storage(r.acc(o[d] / sum));
        }
        if (!backward) continue;
        const double* d_o = in.at("do").data() + ((begin + i) * s.H + h) * s.V;
        double delta = 0;
        for (int64_t d = 0; d < s.V; ++d) delta = r.acc(delta + r.acc(d_o[d] * o[d]));
        double* dq = head(out["dq"], i, s.Q());
        for (int64_t j = 0; j <= i; ++j) {
          const double prob = r.acc(p[static_cast<size_t>(j)] / sum);
          double dp = 0;
          for (int64_t d = 0; d < s.V; ++d) {
            dp = r.acc(dp + r.acc(d_o[d] * s.v(in, begin + j, h, d)));
            double& x = dv[static_cast<size_t>(j * s.V + d)];
            x = r.acc(x + r.acc(prob * d_o[d]));
          }
          const double ds = r.acc(prob * r.acc(dp - delta));
          for (int64_t d = 0; d < s.Q(); ++d) {
            dq[d] = r.acc(dq[d] + r.acc(ds * s.k(in, begin + j, h, d)));
            double& x = dk[static_cast<size_t>(j * s.Q() + d)];
            x = r.acc(x + r.acc(ds * r.acc(s.q(in, begin + i, h, d) * s.scale())));
          }
        }
        for (int64_t d = 0; d < s.Q(); ++d) dq[d] = r.storage(r.acc(dq[d] * s.scale()));
      }
      for (int64_t j = 0; j < L && backward; ++j) {
        for (int64_t d = 0; d < s.N; ++d) out["dk_nope"][static_cast<size_t>(((begin + j) * s.H + h) * s.N + d)] = r.storage(dk[static_cast<size_t>(j * s.Q() + d)]);
        for (int64_t d = 0; d < s.R; ++d) {
          double& x = out["dk_rope"][static_cast<size_t>((begin + j) * s.R + d)];
          x = r.acc(x + dk[static_cast<size_t>(j * s.Q() + s.N + d)]);
          if (h == s.H - 1) x = r.storage(x);
        }
        for (int64_t d = 0; d < s.V; ++d) out["dv"][static_cast<size_t>(((begin + j) * s.H + h) * s.V + d)] = r.storage(dv[static_cast<size_t>(j * s.V + d)]);
      }
    }
  return out;
}

// Heads of a and b side by side: [T, H, A + B].
Array interleave(const Array& a, int64_t A, const Array& b, int64_t B) {
  Array both;
  for (size_t head = 0; head * static_cast<size_t>(A + B) < a.size() + b.size(); ++head) {
    both.insert(both.end(), a.begin() + static_cast<int64_t>(head) * A, a.begin() + static_cast<int64_t>(head + 1) * A);
    both.insert(both.end(), b.begin() + static_cast<int64_t>(head) * B, b.begin() + static_cast<int64_t>(head + 1) * B);
  }
  return both;
}

Array part(const Owned& both, int64_t begin, int64_t count, int64_t width) {
  const Array all = both.values();
  Array a;
  for (size_t row = 0; row < all.size(); row += static_cast<size_t>(width))
    a.insert(a.end(), all.begin() + static_cast<int64_t>(row) + begin, all.begin() + static_cast<int64_t>(row) + begin + count);
  return a;
}

Arrays run(const Shape& s, Context& ctx, DType storage, const Arrays& in) {
  const DType acc = acc_dtype(storage);
  const int64_t T = s.T(), H = s.H;
  const Owned q(storage, {T, H, s.Q()}, in.at("q"), s.extra), kv(storage, {T, H, s.N + s.V}, interleave(in.at("k_nope"), s.N, in.at("v"), s.V), s.extra);
  const Owned k_rope(storage, {T, s.R}, in.at("k_rope"), s.extra), o(storage, {T, H, s.V}, s.extra), lse(acc, {T, H});
  const Tensor k_nope = kv.tensor().cols(0, s.N), v = kv.tensor().cols(s.N, s.V);
  attention(ctx, {.q_THQ = q, .k_nope_THN = k_nope, .k_rope_TR = k_rope, .v_THV = v, .o_THV = o, .lse_TH = lse, .cu_docs = s.cu_docs, .scale = s.scale()});
  ATOLL_CHECK(o.padding_is_untouched() && ctx.memory.workspace.used() == 0, "attention wrote between rows or kept scratch");
  Arrays out{{"o", o.values()}, {"lse", lse.values()}};
  if (!in.count("do")) return out;
  const Owned d_o(storage, {T, H, s.V}, in.at("do"), s.extra), dq(storage, {T, H, s.Q()}, s.extra), dkv(storage, {T, H, s.N + s.V}, s.extra), dk_rope(storage, {T, s.R}, s.extra);
  attention_backward(ctx, {.do_THV = d_o, .q_THQ = q, .k_nope_THN = k_nope, .k_rope_TR = k_rope, .v_THV = v, .o_THV = o, .lse_TH = lse, .cu_docs = s.cu_docs, .scale = s.scale(),
                           .dq_THQ = dq, .dk_nope_THN = dkv.tensor().cols(0, s.N), .dk_rope_TR = dk_rope, .dv_THV = dkv.tensor().cols(s.N, s.V)});
  ATOLL_CHECK(dq.padding_is_untouched() && dkv.padding_is_untouched() && dk_rope.padding_is_untouched() && ctx.memory.workspace.used() == 0, "attention_backward wrote between rows");
  out["dq"] = dq.values();
  out["dk_nope"] = part(dkv, 0, s.N, s.N + s.V);
  out["dv"] = part(dkv, s.N, s.V, s.N + s.V);
  out["dk_rope"] = dk_rope.values();
  return out;
}

void declare_shape(const Shape& s) {
  register_op_case({.op = Op::kAttention, .name = "attention " + s.name(),
                    .inputs = [=] { return draw_inputs(s, false); },
                    .oracle = [=](const Arrays& in, const Rounding& r) { return solve(s, in, r); },
                    .run = [=](Context& ctx, DType storage, const Arrays& in) { return run(s, ctx, storage, in); }});
  OpCase c{.op = Op::kAttentionBackward, .name = "attention_backward " + s.name(),
           .inputs = [=] { return draw_inputs(s, true); },
           .oracle = [=](const Arrays& in, const Rounding& r) { return solve(s, in, r); },
           .run = [=](Context& ctx, DType storage, const Arrays& in) { return run(s, ctx, storage, in); }};
  if (s.T() <= 24) {
    c.objective = [=](const Arrays& in) {
      Arrays forward = in;
      forward.erase("do");
      const Array o = solve(s, forward, Rounding{}).at("o");
      double sum = 0;
      for (size_t i = 0; i < o.size(); ++i) sum += o[i] * in.at("do")[i];
      return sum;
    };
    c.gradients = {{"q", "dq"}, {"k_nope", "dk_nope"}, {"k_rope", "dk_rope"}, {"v", "dv"}};
  }
  register_op_case(c);
}

bool declare() {
  declare_shape({2, 4, 2, 3, {0, 0}});
  declare_shape({1, 2, 2, 1, {0, 1}});
  declare_shape({3, 8, 4, 12, {0, 1, 2, 2, 9, 10, 23}, 3});  // documents of one token, and an empty one
  declare_shape({2, 16, 8, 24, {0, 17}, 8});
  declare_shape({2, 5, 0, 7, {0, 20}, 1});                   // no rope part
  declare_shape({1, 10, 6, 12, {0, 63, 127, 192}, 0});       // around a block
  declare_shape({3, 13, 6, 17, {0, 65, 66, 211}, 3});
  declare_shape({1, 64, 32, 64, {0, 150}, 0});
  return true;
}
[[maybe_unused]] const bool registered = declare();

}  // namespace

TEST_CASE("Scores of +-1e4 choose one key, and give finite gradients") {
  const Shape s{1, 4, 2, 3, {0, 70}};
  for (DType type : {DType::kF64, DType::kF32, DType::kBF16}) {
    Arrays in = draw_inputs(s, true);
    for (double& q : in.at("q")) q = 100;
    for (int64_t t = 0; t < s.T(); ++t)
      for (int64_t n = 0; n < s.N; ++n) in.at("k_nope")[static_cast<size_t>(t * s.N + n)] = (t == 2 ? 50.0 : -50.0) / s.scale();
    for (double& k : in.at("k_rope")) k = 0;
    Context ctx;
    const Arrays out = run(s, ctx, type, in);
    for (int64_t t = 2; t < s.T(); ++t)
      for (int64_t v = 0; v < s.V; ++v) CHECK(out.at("o")[static_cast<size_t>(t * s.V + v)] == in.at("v")[static_cast<size_t>(2 * s.V + v)]);
    for (const auto& [name, values] : out)
      for (double v : values) CHECK(std::isfinite(v));
  }
}

}  // namespace atoll::test
