// The linear ops of ops.h on a GPU against FP64: three layouts, dense and grouped, BF16 and FP32 results, overwritten and added to, ragged and empty.
#include <catch2/catch.hpp>

#include "kernels/ops.h"
#include "tests/unit/kernels_cuda/oracle.h"

using namespace atoll;
using namespace atoll::gpu_test;

namespace {

double at(const Twin& t, int64_t r, int64_t c) { return static_cast<double>(t.at(r, c)); }

struct Result {
  Twin t;
  std::vector<float> before;
  Result(Backends& b, DType type, int64_t rows, int64_t cols, bool accumulate, int64_t pad) : t(type, rows, cols, pad) {
    if (accumulate) fill(t, Kind::kNormal, "before");  // else NaNs: what is not overwritten shows
    t.upload(b);
    if (accumulate) before = t.values(b);
  }
  void check(Backends& b, const Oracle& o, int64_t first_row, int64_t k) {
    const int64_t cols = o.cols, begin = first_row * cols, end = begin + o.rows * cols;
    const std::vector<float> got = t.values(b);
    const auto part = [&](const std::vector<float>& v) { return v.empty() ? v : std::vector<float>(v.begin() + begin, v.begin() + end); };
    const bool is_bf16 = t.host().dtype == DType::kBF16;
    const Verdict v = judge(o, part(got), is_bf16 ? 0x1p-8 : 0, part(before));
    CHECK(v.beyond == 0);
    CHECK(t.padding_untouched(b));
    if (k > 0 && o.rows * cols >= 1024) CHECK(v.rms < (is_bf16 ? 2.5e-3 : 1e-5));
  }
};

Tensor experts(const Tensor& stacked, int64_t num) {
  Tensor t = stacked;
  t.rank = 3;
  t.dim = {num, stacked.dim[0] / num, stacked.dim[1], 0};
  t.stride = {stacked.dim[0] / num * stacked.stride[0], stacked.stride[0], 1, 0};
  return t;
}

void check_forward(Backends& b, int64_t m, int64_t n, int64_t k, DType out, bool accumulate, const std::vector<int64_t>& offsets, int64_t pad = 24) {
  INFO("forward " << m << " x " << n << " x " << k << " " << name_of(out) << " accumulate " << accumulate << " groups " << offsets.size());
  const int64_t E = offsets.empty() ? 1 : static_cast<int64_t>(offsets.size()) - 1;
  Twin x(DType::kBF16, m, k, 8), w(DType::kBF16, E * n, k, 16);
  fill(x, Kind::kOutliers, "x");
  fill(w, Kind::kNormal, "w");
  x.upload(b);
  w.upload(b);
  Result y(b, out, m, n, accumulate, pad);
  if (offsets.empty()) linear(b.gpu, {x.gpu(), w.gpu(), y.t.gpu(), accumulate});
  else grouped_linear(b.gpu, {x.gpu(), experts(w.gpu(), E), y.t.gpu(), offsets});
  const std::vector<int64_t> all = offsets.empty() ? std::vector<int64_t>{0, m} : offsets;
  for (int64_t e = 0; e < E; ++e) {
    const int64_t first = all[static_cast<size_t>(e)], rows = all[static_cast<size_t>(e) + 1] - first;
    y.check(b, product(rows, n, 0, k, k, bf16_sum(k), [&](int64_t i, int64_t c) { return at(x, first + i, c); }, [&](int64_t j, int64_t c) { return at(w, e * n + j, c); }), first, k);
  }
}

void check_backward_input(Backends& b, int64_t m, int64_t n, int64_t k, DType out, bool accumulate, const std::vector<int64_t>& offsets, int64_t pad = 24) {
  INFO("backward input " << m << " x " << n << " x " << k << " " << name_of(out) << " accumulate " << accumulate << " groups " << offsets.size());
  const int64_t E = offsets.empty() ? 1 : static_cast<int64_t>(offsets.size()) - 1;
  Twin dy(DType::kBF16, m, n, 8), w(DType::kBF16, E * n, k, 16);
  fill(dy, Kind::kGradient, "dy");
  fill(w, Kind::kNormal, "w");
  dy.upload(b);
  w.upload(b);
  Result dx(b, out, m, k, accumulate, pad);
  if (offsets.empty()) linear_backward_input(b.gpu, {dy.gpu(), w.gpu(), dx.t.gpu(), accumulate});
  else grouped_linear_backward_input(b.gpu, {dy.gpu(), experts(w.gpu(), E), dx.t.gpu(), offsets});
  const std::vector<int64_t> all = offsets.empty() ? std::vector<int64_t>{0, m} : offsets;
  for (int64_t e = 0; e < E; ++e) {
    const int64_t first = all[static_cast<size_t>(e)], rows = all[static_cast<size_t>(e) + 1] - first;
    const Oracle o = product(rows, k, 0, n, n, bf16_sum(n), [&](int64_t i, int64_t c) { return at(dy, first + i, c); }, [&](int64_t j, int64_t c) { return at(w, e * n + c, j); });
    dx.check(b, o, first, accumulate ? 0 : n);  // added to values of size 1 the gradients' RMS says nothing
  }
}

void check_weight(Backends& b, int64_t n, int64_t k, bool accumulate, const std::vector<int64_t>& offsets, bool grouped, int64_t pad = 4) {
  INFO("backward weight " << n << " x " << k << ", tokens " << offsets.back() << " in " << offsets.size() - 1 << " groups, accumulate " << accumulate);
  const int64_t E = static_cast<int64_t>(offsets.size()) - 1, tokens = offsets.back();
  Twin dy(DType::kBF16, tokens, n, 8), x(DType::kBF16, tokens, k, 16);
  fill(dy, Kind::kNormal, "dy");
  fill(x, Kind::kOutliers, "x");
  dy.upload(b);
  x.upload(b);
  Result dw(b, DType::kF32, E * n, k, accumulate, pad);
  if (grouped) grouped_linear_backward_weight(b.gpu, {dy.gpu(), x.gpu(), experts(dw.t.gpu(), E), offsets, accumulate});
  else linear_backward_weight(b.gpu, {dy.gpu(), x.gpu(), dw.t.gpu(), accumulate});
  for (int64_t e = 0; e < E; ++e) {
    const int64_t first = offsets[static_cast<size_t>(e)], last = offsets[static_cast<size_t>(e) + 1];
    const Oracle o = product(n, k, first, last, last - first + 1, bf16_sum(last - first), [&](int64_t i, int64_t t) { return at(dy, t, i); }, [&](int64_t j, int64_t t) { return at(x, t, j); });
    dw.check(b, o, e * n, last - first);
  }
}

}  // namespace

TEST_CASE("linear on the GPU equals the FP64 oracle for ragged shapes", "[gemm][bf16]") {
  Backends b;
  for (DType out : {DType::kBF16, DType::kF32})
    for (bool accumulate : {false, true}) {
      check_forward(b, 1, 16, 16, out, accumulate, {});
      check_forward(b, 129, 272, 400, out, accumulate, {});
      check_forward(b, 300, 144, 784, out, accumulate, {});
      for (int64_t n = 16; n < 128; n += 16) check_forward(b, 120 + n / 8, n, n + 8, out, accumulate, {});  // every edge of a tile
    }
}

TEST_CASE("linear_backward_input on the GPU equals the FP64 oracle for ragged shapes", "[gemm][bf16]") {
  Backends b;
  for (DType out : {DType::kBF16, DType::kF32})
    for (bool accumulate : {false, true}) {
      check_backward_input(b, 1, 16, 16, out, accumulate, {});
      check_backward_input(b, 257, 400, 272, out, accumulate, {});
    }
}

TEST_CASE("linear_backward_weight on the GPU equals the FP64 oracle for ragged shapes", "[gemm][bf16]") {
  Backends b;
  for (bool accumulate : {false, true}) {
    check_weight(b, 16, 16, accumulate, {0, 1}, false);
    check_weight(b, 272, 144, accumulate, {0, 777}, false);
    check_weight(b, 128, 256, accumulate, {0, 512}, false);
    for (int64_t k = 16; k < 128; k += 16) check_weight(b, 112 + k / 4 * 2, k, accumulate, {0, 20}, false);  // every edge of a tile
  }
}

// Rows without padding: what reads or writes a column or a row too far leaves the allocation, or spoils the next row.
TEST_CASE("Results on the GPU end at every multiple of 8 columns and at every row of a warp", "[gemm][bf16]") {
  Backends b;
  for (int64_t n = 8; n < 128; n += 8)
    for (DType out : {DType::kBF16, DType::kF32}) {
      const int64_t m = n == 8 ? 144 : 96 + 2 * (n / 8);  // rows 0 and 2 to 14 of the sixteen of a warp
      check_forward(b, m, n, 24, out, true, {}, 0);
      check_backward_input(b, m, 24, n, out, true, {}, 0);
    }
  for (int64_t n = 8; n < 128; n += 8) check_weight(b, 96 + 2 * (n / 8) / 8 * 8, n, true, {0, 20}, false, 0);
}

TEST_CASE("Grouped products on the GPU: ragged, single, empty experts, more than one launch has room for", "[gemm][bf16]") {
  Backends b;
  const std::vector<int64_t> ragged{0, 0, 1, 130, 130, 333, 333}, many{0, 3, 40, 41, 41, 100, 164, 165, 230, 231, 231, 333};
  check_forward(b, 333, 144, 208, DType::kBF16, false, ragged);
  check_forward(b, 333, 80, 64, DType::kF32, false, many);
  check_backward_input(b, 333, 144, 208, DType::kBF16, false, ragged);
  check_backward_input(b, 333, 80, 72, DType::kF32, false, many);
  for (bool accumulate : {false, true}) {
    check_weight(b, 144, 208, accumulate, ragged, true);
    check_weight(b, 80, 64, accumulate, many, true);
  }
}

TEST_CASE("BF16 products of shapes drawn by the seed equal the FP64 oracle", "[gemm][bf16]") {
  Backends b;
  Dice dice("bf16 shapes");
  for (int i = 0; i < 3; ++i) {
    const int64_t m = dice.one_of(1, 300), n = 8 * dice.one_of(1, 40), k = 8 * dice.one_of(1, 60);
    check_forward(b, m, n, k, dice.one_of(0, 1) ? DType::kBF16 : DType::kF32, dice.one_of(0, 1) == 1, {});
    check_backward_input(b, m, n, k, dice.one_of(0, 1) ? DType::kBF16 : DType::kF32, dice.one_of(0, 1) == 1, {});
    const std::vector<int64_t> offsets = dice.offsets(static_cast<int>(dice.one_of(1, 12)), 150);
    const int64_t rows = offsets.back();
    check_forward(b, rows, 8 * dice.one_of(1, 20), 8 * dice.one_of(1, 20), DType::kBF16, false, offsets);
    check_backward_input(b, rows, 8 * dice.one_of(1, 20), 8 * dice.one_of(1, 20), DType::kBF16, false, offsets);
    check_weight(b, 8 * dice.one_of(1, 20), 8 * dice.one_of(1, 20), dice.one_of(0, 1) == 1, offsets, true);
  }
}

TEST_CASE("Grouped BF16 products of more groups than one launch holds, and of groups that are all empty", "[gemm][bf16]") {
  Backends b;
  Dice dice("bf16 groups");
  const std::vector<int64_t> many = dice.offsets(300, 3), none{0, 0, 0, 0};
  check_forward(b, many.back(), 16, 24, DType::kBF16, false, many);
  check_backward_input(b, many.back(), 16, 24, DType::kBF16, false, many);
  check_weight(b, 16, 24, true, many, true);
  check_forward(b, 0, 16, 24, DType::kBF16, false, none);
  check_backward_input(b, 0, 16, 24, DType::kBF16, false, none);
  for (bool accumulate : {false, true}) check_weight(b, 16, 24, accumulate, none, true);  // overwritten with zeros, or left
}

TEST_CASE("Bits of a BF16 product depend on neither the SM budget nor the cluster", "[gemm][bf16]") {
  Backends b;
  Twin x(DType::kBF16, 400, 784), w(DType::kBF16, 272, 784);
  fill(x, Kind::kNormal, "x");
  fill(w, Kind::kNormal, "w");
  x.upload(b);
  w.upload(b);
  std::vector<float> first;
  for (int num_sms : {1, 2, 3, 0}) {
    Twin y(DType::kF32, 400, 272);
    y.upload(b);
    set_num_sms(b.gpu, num_sms);
    linear(b.gpu, {x.gpu(), w.gpu(), y.gpu()});
    const std::vector<float> got = y.values(b);
    if (first.empty()) first = got;
    CHECK(std::memcmp(first.data(), got.data(), got.size() * 4) == 0);
  }
}

TEST_CASE("What a GPU product cannot take is refused by name", "[gemm][bf16]") {
  Backends b;
  Twin x(DType::kF32, 16, 16), w(DType::kF32, 16, 16), y(DType::kF32, 16, 16), odd(DType::kBF16, 16, 12), out(DType::kBF16, 16, 16);
  CHECK_THROWS_WITH(linear(b.gpu, {x.gpu(), w.gpu(), y.gpu()}), Catch::Contains("bf16"));
  CHECK_THROWS_WITH(linear(b.gpu, {odd.gpu(), odd.gpu(), out.gpu()}), Catch::Contains("columns in 8s"));
}
