// Registry cases of router, router_backward and balance_loss, and what an oracle does not show: ties, excluded groups, NaN, extreme logits.
#include <catch2/catch.hpp>
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "op_cases.h"

namespace atoll::test {
namespace {

const RouterConfig kV3{.num_experts = 16, .topk = 4, .num_groups = 4, .topk_groups = 2, .scaling = 2.5};
const RouterConfig kV2{.score = ScoreFunction::kSoftmax, .group_score = GroupScore::kMax, .num_experts = 12, .topk = 3, .num_groups = 4, .topk_groups = 2, .normalize = false, .scaling = 16};
const RouterConfig kV2Lite{.score = ScoreFunction::kSoftmax, .group_score = GroupScore::kNone, .num_experts = 7, .topk = 2, .normalize = false};
const RouterConfig kSoftmaxNormalised{.score = ScoreFunction::kSoftmax, .num_experts = 12, .topk = 3, .num_groups = 3, .topk_groups = 2, .scaling = 2.5};
const RouterConfig kSigmoidPlain{.num_experts = 12, .topk = 3, .num_groups = 3, .topk_groups = 2, .normalize = false, .scaling = 1.5};
const RouterConfig kSingles{.num_experts = 5, .topk = 2, .num_groups = 5, .topk_groups = 3};  // groups of one

Array scores_of(const Array& logits, const RouterConfig& c, const Rounding& r) {
  const auto E = static_cast<size_t>(c.num_experts);
  Array s = logits;
  for (size_t row = 0; row < s.size(); row += E) {
    if (c.score == ScoreFunction::kSigmoid) {
      for (size_t e = row; e < row + E; ++e) s[e] = r.acc(1 / r.acc(1 + r.acc(std::exp(-s[e]))));
      continue;
    }
    const double largest = *std::max_element(s.begin() + static_cast<int64_t>(row), s.begin() + static_cast<int64_t>(row + E));
    double sum = 0;
    for (size_t e = row; e < row + E; ++e) sum = r.acc(sum + (s[e] = r.acc(std::exp(r.acc(s[e] - largest)))));
    for (size_t e = row; e < row + E; ++e) s[e] = r.acc(s[e] / sum);
  }
  return s;
}

// The k best of `candidates` by value: a stable sort puts the lowest index first among equals.
std::vector<int> best(std::vector<int> candidates, const std::vector<double>& value, int k) {
  std::stable_sort(candidates.begin(), candidates.end(), [&](int a, int b) { return value[static_cast<size_t>(a)] > value[static_cast<size_t>(b)]; });
  candidates.resize(static_cast<size_t>(k));
  std::sort(candidates.begin(), candidates.end());
  return candidates;
}

std::vector<int> choose(const double* scores, const Array& bias, const RouterConfig& c) {
  std::vector<double> value(scores, scores + c.num_experts);
  for (size_t e = 0; e < bias.size(); ++e) value[e] += bias[e];
  std::vector<int> all(static_cast<size_t>(c.num_experts));
  std::iota(all.begin(), all.end(), 0);
  if (c.group_score == GroupScore::kNone) return best(all, value, c.topk);
  const int size = c.num_experts / c.num_groups;
  std::vector<double> group_value;
  for (int g = 0; g < c.num_groups; ++g) {
    std::vector<double> v(value.begin() + g * size, value.begin() + (g + 1) * size);
    std::sort(v.rbegin(), v.rend());
    group_value.push_back(c.group_score == GroupScore::kMax || size == 1 ? v[0] : v[0] + v[1]);
  }
  std::vector<int> groups(all.begin(), all.begin() + c.num_groups), candidates;
  for (int g : best(groups, group_value, c.topk_groups)) candidates.insert(candidates.end(), all.begin() + g * size, all.begin() + (g + 1) * size);
  return best(candidates, value, c.topk);
}

Array weights_of(const double* scores, const std::vector<int>& ids, const RouterConfig& c, const Rounding& r) {
  double sum = 1e-20;
  for (int id : ids) sum = r.acc(sum + scores[id]);
  Array w;
  for (int id : ids) w.push_back(r.acc(r.acc(c.normalize ? scores[id] / sum : scores[id]) * c.scaling));
  return w;
}

Arrays solve(const Arrays& in, const RouterConfig& c, const Rounding& r) {
  Arrays out{{"scores", scores_of(in.at("logits"), c, r)}, {"ids", {}}, {"weight", {}}};
  for (size_t row = 0; row < out["scores"].size(); row += static_cast<size_t>(c.num_experts)) {
    const double* scores = out["scores"].data() + row;
    const std::vector<int> ids = choose(scores, in.at("bias"), c);
    const Array w = weights_of(scores, ids, c, r);
    out["ids"].insert(out["ids"].end(), ids.begin(), ids.end());
    out["weight"].insert(out["weight"].end(), w.begin(), w.end());
  }
  return out;
}

struct Routed {
  Owned scores, ids, weight;
  Routed(Context& ctx, DType acc, int64_t T, const Arrays& in, const RouterConfig& c)
      : scores(acc, {T, c.num_experts}), ids(DType::kI32, {T, c.topk}), weight(acc, {T, c.topk}) {
    const Owned logits(acc, {T, c.num_experts}, in.at("logits"));
    const Array& b = in.at("bias");
    const Owned bias(acc, {static_cast<int64_t>(b.size())}, b);
    router(ctx, {.logits_TE = logits, .bias_E = b.empty() ? Tensor{} : bias.tensor(), .scores_TE = scores, .topk_idx_TK = ids, .weight_TK = weight, .config = c});
  }
};

void declare_router(const std::string& name, const RouterConfig& c, int64_t T, bool has_bias) {
  const auto n = static_cast<size_t>(T * c.num_experts);
  const auto inputs = [=] { return Arrays{{"logits", draw("logits", n)}, {"bias", has_bias ? draw("bias", static_cast<size_t>(c.num_experts), 0.25) : Array{}}}; };
  register_op_case({.op = Op::kRouter, .name = "router " + name, .inputs = inputs,
                    .oracle = [=](const Arrays& in, const Rounding& r) { return solve(in, c, r); },
                    .run = [=](Context& ctx, DType storage, const Arrays& in) {
                      const Routed routed(ctx, acc_dtype(storage), T, in, c);
                      return Arrays{{"scores", routed.scores.values()}, {"ids", routed.ids.values()}, {"weight", routed.weight.values()}};
                    },
                    .exact = {"ids"}, .dtypes = {DType::kF64, DType::kF32}});
}

struct Balance { Array f; double loss = 0; };
Balance balance_of(const Array& scores, const std::vector<int32_t>& cu_seqs, int E, int K) {
  Balance out;
  for (size_t b = 0; b + 1 < cu_seqs.size(); ++b) {
    Array f(static_cast<size_t>(E)), P(static_cast<size_t>(E));
    const double n = cu_seqs[b + 1] - cu_seqs[b];
    for (int t = cu_seqs[b]; t < cu_seqs[b + 1]; ++t) {
      const double* s = scores.data() + t * E;
      for (int id : choose(s, {}, {.group_score = GroupScore::kNone, .num_experts = E, .topk = K})) f[static_cast<size_t>(id)] += E / (K * n);
      const double sum = std::accumulate(s, s + E, 0.0);
      for (int e = 0; e < E; ++e) P[static_cast<size_t>(e)] += s[e] / sum / n;
    }
    for (size_t e = 0; e < f.size(); ++e) out.loss += f[e] * P[e];
    out.f.insert(out.f.end(), f.begin(), f.end());
  }
  return out;
}

void declare_balance(int E, int K, const std::vector<int32_t>& cu_seqs) {
  const int64_t T = cu_seqs.back(), B = static_cast<int64_t>(cu_seqs.size()) - 1;
  register_op_case({.op = Op::kBalanceLoss, .name = "balance_loss " + std::to_string(T) + " tokens, " + std::to_string(B) + " sequences, top " + std::to_string(K) + " of " + std::to_string(E),
                    .inputs = [=] {
                      Array s = draw("scores", static_cast<size_t>(T * E));
                      for (double& x : s) x = std::abs(x) + 0.125;
                      return Arrays{{"scores", s}};
                    },
                    .oracle = [=](const Arrays& in, const Rounding& r) {
                      Balance b = balance_of(in.at("scores"), cu_seqs, E, K);
                      for (double& f : b.f) f = r.acc(f);
                      return Arrays{{"f", b.f}, {"loss", {r.acc(1 + b.loss)}}};
                    },
                    .run = [=](Context& ctx, DType storage, const Arrays& in) {
                      const DType acc = acc_dtype(storage);
                      const Owned scores(acc, {T, E}, in.at("scores")), f(acc, {B, E});
                      double loss = 1;  // is added to
                      balance_loss(ctx, {.scores_TE = scores, .cu_seqs = cu_seqs, .topk = K, .f_BE = f, .loss_sum = &loss});
                      ATOLL_CHECK(ctx.memory.workspace.used() == 0, "balance_loss kept scratch");
                      return Arrays{{"f", f.values()}, {"loss", {loss}}};
                    },
                    .dtypes = {DType::kF64, DType::kF32}});
}

// The gradient's oracle differentiates numerically nothing: it applies the Jacobian of (scores -> weights, balance term) as full matrices.
Array gradient_of(const Arrays& in, const RouterConfig& c, const std::vector<int32_t>& cu_seqs, double balance_scale, const Rounding& r) {
  const auto E = static_cast<size_t>(c.num_experts);
  const Arrays routed = solve(in, c, Rounding{});
  const Array f = balance_of(routed.at("scores"), cu_seqs, c.num_experts, c.topk).f;
  Array d(in.at("logits").size());
  for (size_t b = 0; b + 1 < cu_seqs.size(); ++b)
    for (auto t = static_cast<size_t>(cu_seqs[b]); t < static_cast<size_t>(cu_seqs[b + 1]); ++t) {
      const double* s = routed.at("scores").data() + t * E;
      const double total = std::accumulate(s, s + E, 0.0), n = cu_seqs[b + 1] - cu_seqs[b];
      Array ds(E);
      double kept = 1e-20;
      for (int k = 0; k < c.topk; ++k) kept += s[static_cast<size_t>(routed.at("ids")[t * static_cast<size_t>(c.topk) + static_cast<size_t>(k)])];
      for (int k = 0; k < c.topk; ++k) {
        const double dw = in.at("dweight")[t * static_cast<size_t>(c.topk) + static_cast<size_t>(k)];
        const auto from = static_cast<size_t>(routed.at("ids")[t * static_cast<size_t>(c.topk) + static_cast<size_t>(k)]);
        for (int j = 0; j < c.topk; ++j) {
          const auto to = static_cast<size_t>(routed.at("ids")[t * static_cast<size_t>(c.topk) + static_cast<size_t>(j)]);
          const double same = from == to ? 1 : 0;
          ds[to] += dw * c.scaling * (c.normalize ? same / kept - s[from] / (kept * kept) : same);
        }
      }
      for (size_t e = 0; e < E; ++e)
        for (size_t j = 0; j < E; ++j) ds[j] += balance_scale / n * f[b * E + e] * ((e == j ? 1 / total : 0) - s[e] / (total * total));
      for (size_t e = 0; e < E; ++e) ds[e] = r.acc(ds[e]);
      for (size_t e = 0; e < E; ++e)
        for (size_t j = 0; j < E; ++j)
          d[t * E + j] += ds[e] * (c.score == ScoreFunction::kSigmoid ? (e == j ? s[e] * (1 - s[e]) : 0) : s[e] * ((e == j ? 1 : 0) - s[j]));
      for (size_t e = 0; e < E; ++e) d[t * E + e] = r.acc(d[t * E + e]);
    }
  return d;
}

void declare_backward(const std::string& name, const RouterConfig& c, const std::vector<int32_t>& cu_seqs, bool has_bias, bool has_balance = true) {
  const int64_t T = cu_seqs.back(), B = static_cast<int64_t>(cu_seqs.size()) - 1;
  const double scale = has_balance ? 3.0 : 0.0;
  const auto n = static_cast<size_t>(T * c.num_experts);
  OpCase op{.op = Op::kRouterBackward, .name = "router_backward " + name,
            .inputs = [=] {
              return Arrays{{"logits", draw("logits", n)}, {"bias", has_bias ? draw("bias", static_cast<size_t>(c.num_experts), 0.25) : Array{}}, {"dweight", draw("dweight", static_cast<size_t>(T * c.topk))}};
            },
            .oracle = [=](const Arrays& in, const Rounding& r) { return Arrays{{"dlogits", gradient_of(in, c, cu_seqs, scale, r)}}; },
            .run = [=](Context& ctx, DType storage, const Arrays& in) {
              const DType acc = acc_dtype(storage);
              const Routed routed(ctx, acc, T, in, c);
              const Owned f(acc, {B, c.num_experts}), dweight(acc, {T, c.topk}, in.at("dweight")), dlogits(acc, {T, c.num_experts});
              double loss = 0;
              balance_loss(ctx, {.scores_TE = routed.scores, .cu_seqs = cu_seqs, .topk = c.topk, .f_BE = f, .loss_sum = &loss});
              router_backward(ctx, {.scores_TE = routed.scores, .topk_idx_TK = routed.ids, .dweight_TK = dweight, .f_BE = has_balance ? f.tensor() : Tensor{},
                                    .cu_seqs = cu_seqs, .balance_scale = scale, .config = c, .dlogits_TE = dlogits});
              return Arrays{{"dlogits", dlogits.values()}};
            },
            .dtypes = {DType::kF64, DType::kF32}};
  op.objective = [=](const Arrays& in) {
    const Arrays routed = solve(in, c, Rounding{});
    double sum = scale * balance_of(routed.at("scores"), cu_seqs, c.num_experts, c.topk).loss;
    for (size_t i = 0; i < routed.at("weight").size(); ++i) sum += routed.at("weight")[i] * in.at("dweight")[i];
    return sum;
  };
  op.gradients = {{"logits", "dlogits"}};
  register_op_case(op);
}

bool declare() {
  declare_router("of nothing", kV3, 0, true);
  declare_router("sigmoid, top-2 groups, bias", kV3, 301, true);
  declare_router("sigmoid, top-2 groups", kV3, 1, false);
  declare_router("softmax, max groups", kV2, 97, false);
  declare_router("softmax, no groups", kV2Lite, 50, false);
  declare_router("sigmoid, groups of one", kSingles, 33, true);
  declare_balance(6, 2, {0});
  declare_balance(6, 2, {0, 1, 1, 7, 40});
  declare_balance(33, 5, {0, 300, 301});
  declare_backward("sigmoid, normalised", kV3, {0, 1, 1, 9, 12}, true);
  declare_backward("softmax, not normalised", kV2, {0, 8, 11}, false);
  declare_backward("softmax, normalised", kSoftmaxNormalised, {0, 3, 10}, false);
  declare_backward("sigmoid, not normalised", kSigmoidPlain, {0, 6, 11}, true);
  declare_backward("sigmoid, normalised, without balance loss", kV3, {0, 5, 9}, true, false);
  declare_backward("softmax, without balance loss", kV2Lite, {0, 13}, false, false);
  declare_backward("of nothing", kV2Lite, {0}, false);
  return true;
}
[[maybe_unused]] const bool registered = declare();

Array ids_for(const Array& logits, const Array& bias, const RouterConfig& c) {
  Context ctx;
  return Routed(ctx, DType::kF32, static_cast<int64_t>(logits.size()) / c.num_experts, {{"logits", logits}, {"bias", bias}}, c).ids.values();
}

}  // namespace

TEST_CASE("Ties of the router go to the lowest expert, and to the lowest group") {
  CHECK(ids_for(Array(16, 0.5), {}, kV3) == Array{0, 1, 2, 3});
  CHECK(ids_for({0, 0, 2, 2, 2, 0, 0}, {}, kV2Lite) == Array{2, 3});
  CHECK(ids_for({1, 1, 1, 1, 1}, {}, kSingles) == Array{0, 1});
  // Groups 1, 2 and 3 tie: the first two are kept, and group 3's expert, though equal, is not taken.
  Array logits(16, -1.0);
  for (size_t e : {4, 5, 8, 9, 12, 13}) logits[e] = 1;
  CHECK(ids_for(logits, {}, kV3) == Array{4, 5, 8, 9});
}

TEST_CASE("Excluded groups stay excluded when all biased scores are negative") {
  Array bias(16, -3.0);
  bias[0] = bias[1] = -1.5;
  bias[4] = bias[5] = -2;
  CHECK(ids_for(Array(16, 0.0), bias, kV3) == Array{0, 1, 4, 5});
  const Array ids = ids_for(Array(16, 0.0), Array(16, -2.0), kV3);
  CHECK(*std::max_element(ids.begin(), ids.end()) < 8);
}

TEST_CASE("The bias chooses experts but never enters their weights") {
  Context ctx;
  Array bias(16, 0.0);
  bias[3] = 100;
  const Routed routed(ctx, DType::kF64, 1, {{"logits", Array(16, 0.25)}, {"bias", bias}}, kV3);
  CHECK(routed.weight.values() == Array(4, 2.5 / 4));
}

TEST_CASE("A NaN logit gives valid expert ids and a NaN weight is not hidden") {
  Array logits(16, std::numeric_limits<double>::quiet_NaN());
  Context ctx;
  const Routed all(ctx, DType::kF32, 1, {{"logits", logits}, {"bias", {}}}, kV3);
  CHECK(all.ids.values() == Array{0, 1, 2, 3});
  for (double w : all.weight.values()) CHECK(std::isnan(w));
  Array one(5, 0.5);
  one[1] = std::numeric_limits<double>::quiet_NaN();  // softmax: one NaN is everybody's
  const Routed soft(ctx, DType::kF32, 1, {{"logits", {0.5, one[1], 0.25, 0, 0, 0, 0}}, {"bias", {}}}, kV2Lite);
  for (double w : soft.weight.values()) CHECK(std::isnan(w));
}

TEST_CASE("Logits of +-1e4 give finite scores, weights and gradients") {
  Array logits;
  for (int e = 0; e < 3 * 16; ++e) logits.push_back(e < 16 ? 1e4 : e < 32 ? -1e4 : e % 3 == 0 ? 1e4 : -1e4);
  for (const RouterConfig& c : {kV3, kSigmoidPlain, kSoftmaxNormalised, kV2Lite})
    for (DType type : {DType::kF32, DType::kF64}) {
      const int64_t E = c.num_experts, T = static_cast<int64_t>(logits.size()) / E;
      const Array some(logits.begin(), logits.begin() + T * E);
      Context ctx;
      const Routed routed(ctx, type, T, {{"logits", some}, {"bias", {}}}, c);
      const Owned dweight(type, {T, c.topk}, Array(static_cast<size_t>(T * c.topk), 1.0)), d(type, {T, E});
      router_backward(ctx, {.scores_TE = routed.scores, .topk_idx_TK = routed.ids, .dweight_TK = dweight, .config = c, .dlogits_TE = d});
      for (const Array& values : {routed.scores.values(), routed.weight.values(), d.values()})
        for (double v : values) CHECK(std::isfinite(v));
      const Array ids = routed.ids.values();
      for (size_t i = 1; i < ids.size(); ++i) CHECK((i % static_cast<size_t>(c.topk) == 0 || ids[i] > ids[i - 1]));
    }
}

TEST_CASE("Forced routing recomputes the weights of the ids it is given") {
  Context ctx;
  const Owned logits(DType::kF64, {1, 7}, {0, 1, 2, 3, 4, 5, 6}), scores(DType::kF64, {1, 7}), ids(DType::kI32, {1, 2}, {0, 3}), weight(DType::kF64, {1, 2});
  router(ctx, {.logits_TE = logits, .scores_TE = scores, .topk_idx_TK = ids, .weight_TK = weight, .config = kV2Lite, .forced = true});
  CHECK(ids.values() == Array{0, 3});
  CHECK(weight.values() == Array{scores.values()[0], scores.values()[3]});
}

TEST_CASE("A router that cannot be is refused with its numbers") {
  RouterConfig c = kV3;
  c.num_groups = 3;
  CHECK_THROWS_WITH(ids_for(Array(16, 0.0), {}, c), Catch::Contains("num_groups = 3"));
  c = kV3;
  c.topk = 9;
  CHECK_THROWS_WITH(ids_for(Array(16, 0.0), {}, c), Catch::Contains("topk = 9"));
}

}  // namespace atoll::test
