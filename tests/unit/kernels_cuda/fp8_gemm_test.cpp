// FP8 products on the GPU against FP64: dense, grouped, weight gradients; ragged and empty shapes; bits that depend on neither the SM budget nor the seed of the schedule.
#include <catch2/catch.hpp>
#include <cstdio>

#include "kernels/quant.h"
#include "tests/unit/kernels_cuda/oracle.h"
#include "tests/unit/base/golden_file.h"

using namespace atoll;
using namespace atoll::gpu_test;

namespace {

// RMS of the error that any of these inputs may show: block sums of 13 bits (2^-13 and a little), and for BF16 results their rounding.
constexpr double kRms = 6e-4, kRmsBf16 = 2.5e-3;

QTwin quantised(Backends& b, int64_t rows, int64_t cols, int block_rows, Kind kind, const std::string& purpose, int64_t pad = 0) {
  Twin x(DType::kF32, rows, cols);
  fill(x, kind, purpose);
  QTwin q(rows, cols, block_rows, ScaleFormat::kF32, block_rows == 1 ? ScaleLayout::kMnMajor : ScaleLayout::kRowMajor, pad);
  if (block_rows == 1) cast_tiles(b.cpu, {x.host(), q.q});
  else cast_blocks(b.cpu, {x.host(), q.q, {}});
  q.upload(b);
  return q;
}
// Weights of several experts: each is cast alone, so its blocks begin at its first row.
struct Experts {
  QTwin all;
  int64_t num, n, k;
  Experts(Backends& b, int64_t num_, int64_t n_, int64_t k_) : all(num_ * n_, k_, 128, ScaleFormat::kF32, ScaleLayout::kRowMajor), num(num_), n(n_), k(k_) {
    Twin w(DType::kF32, num * n, k);
    fill(w, Kind::kNormal, "w");
    all.scales = Twin(DType::kF32, 1, num * blocks_of(n) * blocks_of(k));
    all.q.scales = Tensor(all.scales.host().data, DType::kF32, {all.scales.host().dim[1]});
    for (int64_t e = 0; e < num; ++e) cast_blocks(b.cpu, {Tensor(w.host().as<float>() + e * n * k, DType::kF32, {n, k}), one(e), {}});
    all.upload(b);
  }
  QTensor one(int64_t e) const {
    QTensor q = all.q;
    q.codes = Tensor(all.q.codes.as<uint8_t>() + e * n * k, DType::kU8, {n, k});
    q.scales = Tensor(all.q.scales.as<float>() + e * blocks_of(n) * blocks_of(k), DType::kF32, {blocks_of(n) * blocks_of(k)});
    return q;
  }
};
// On the simulator, whose tensor cores are the model that the CPU has too, a product's bits are the CPU's; a card may differ where the model does.
void check_bits(Backends& b, const Twin& y) {
  if (gpu_name().find("GPUSIM") == std::string::npos) return;
  CHECK(y.same_bits(b));
}

struct LinearCase { int64_t m, n, k; };

void check_linear(Backends& b, const LinearCase& s, Kind kind, DType out, const std::vector<int64_t>& offsets = {}) {
  INFO(s.m << " x " << s.n << " x " << s.k << " kind " << static_cast<int>(kind) << " out " << name_of(out) << " groups " << offsets.size());
  const int64_t experts = offsets.empty() ? 1 : static_cast<int64_t>(offsets.size()) - 1;
  QTwin x = quantised(b, s.m, s.k, 1, kind, "x", 16);
  Experts w(b, experts, s.n, s.k);
  Twin y(out, s.m, s.n, 8);
  y.upload(b);
  fp8_linear(b.gpu, {x.on_gpu(), w.all.on_gpu(), y.gpu(), offsets});
  b.cpu.fp8_sums = Fp8Sums::kHopper;
  fp8_linear(b.cpu, {x.q, w.all.q, y.host(), offsets});
  check_bits(b, y);
  const std::vector<float> got = y.values(b);
  const std::vector<int64_t> all = offsets.empty() ? std::vector<int64_t>{0, s.m} : offsets;
  for (size_t e = 0; e + 1 < all.size(); ++e) {
    const int64_t first = all[e], rows = all[e + 1] - first;
    const QTensor one = w.one(static_cast<int64_t>(e));
    const Oracle o = product(rows, s.n, 0, s.k, 128, kFp8Block, [&](int64_t i, int64_t k) { return static_cast<double>(x.q.value(first + i, k)); },
                             [&](int64_t j, int64_t k) { return static_cast<double>(one.value(j, k)); });
    const Verdict v = judge(o, std::vector<float>(got.begin() + first * s.n, got.begin() + (first + rows) * s.n), out == DType::kBF16 ? 0x1p-8 : 0);
    CHECK(v.beyond == 0);
    if (rows * s.n >= 1024) CHECK(v.rms < (out == DType::kBF16 ? kRmsBf16 : kRms));
  }
  CHECK(y.padding_untouched(b));
}

}  // namespace

TEST_CASE("FP8 products equal the FP64 oracle within the derived bound, for ragged shapes", "[gemm][fp8]") {
  Backends b;
  for (const LinearCase& s : std::vector<LinearCase>{{1, 16, 16}, {64, 128, 128}, {128, 128, 256}, {129, 272, 400}, {257, 384, 1168}, {300, 144, 784}})
    for (DType out : {DType::kBF16, DType::kF32}) check_linear(b, s, Kind::kNormal, out);
}

TEST_CASE("FP8 products end at every multiple of 16 columns and next to every tile's last row", "[gemm][fp8]") {
  Backends b;
  for (int64_t n = 16; n < 128; n += 16)
    for (DType out : {DType::kBF16, DType::kF32}) check_linear(b, {120 + n / 8, n, 16 + n}, Kind::kNormal, out);
}

TEST_CASE("FP8 products hold their bound for outliers and gradient-like inputs", "[gemm][fp8]") {
  Backends b;
  for (Kind kind : {Kind::kOutliers, Kind::kGradient}) check_linear(b, {200, 256, 912}, kind, DType::kF32);
}

TEST_CASE("FP8 products of experts' rows: ragged, single and empty groups", "[gemm][fp8]") {
  Backends b;
  check_linear(b, {333, 128, 272}, Kind::kNormal, DType::kBF16, {0, 0, 1, 130, 130, 333, 333});
  check_linear(b, {390, 256, 656}, Kind::kNormal, DType::kF32, {0, 128, 257, 390});
  check_linear(b, {5, 128, 128}, Kind::kNormal, DType::kBF16, {0, 0, 5, 5});
}

TEST_CASE("FP8 products of shapes and groups drawn by the seed", "[gemm][fp8]") {
  Backends b;
  Dice dice("fp8 shapes");
  for (int i = 0; i < 3; ++i) {
    const DType out = dice.one_of(0, 1) ? DType::kBF16 : DType::kF32;
    check_linear(b, {dice.one_of(1, 300), 16 * dice.one_of(1, 20), 16 * dice.one_of(1, 40)}, Kind::kNormal, out);
    const std::vector<int64_t> offsets = dice.offsets(static_cast<int>(dice.one_of(2, 9)), 200);
    check_linear(b, {offsets.back(), 16 * dice.one_of(1, 18), 16 * dice.one_of(1, 20)}, Kind::kOutliers, out, offsets);
  }
}

TEST_CASE("FP8 products of more groups than one launch holds, and of groups that are all empty", "[gemm][fp8]") {
  Backends b;
  Dice dice("fp8 groups");
  const std::vector<int64_t> many = dice.offsets(300, 3);
  check_linear(b, {many.back(), 16, 144}, Kind::kNormal, DType::kBF16, many);
  check_linear(b, {0, 144, 144}, Kind::kNormal, DType::kBF16, {0, 0, 0, 0});
}

TEST_CASE("FP8 products of no rows at all are legal", "[gemm][fp8]") {
  Backends b;
  QTwin x(0, 128, 1, ScaleFormat::kF32, ScaleLayout::kMnMajor), w = quantised(b, 128, 128, 128, Kind::kNormal, "w");
  Twin y(DType::kBF16, 0, 128);
  fp8_linear(b.gpu, {x.on_gpu(), w.on_gpu(), y.gpu(), {}});
  synchronize(b.gpu);
}

TEST_CASE("Bits of an FP8 product depend on neither the SM budget nor the cluster", "[gemm][fp8]") {
  Backends b;
  QTwin x = quantised(b, 400, 784, 1, Kind::kNormal, "x"), w = quantised(b, 272, 784, 128, Kind::kNormal, "w");
  std::vector<float> first;
  for (int num_sms : {1, 2, 3, 0}) {  // 1: no clusters
    Twin y(DType::kF32, 400, 272);
    y.upload(b);
    set_num_sms(b.gpu, num_sms);
    fp8_linear(b.gpu, {x.on_gpu(), w.on_gpu(), y.gpu(), {}});
    const std::vector<float> got = y.values(b);
    if (first.empty()) first = got;
    CHECK(std::memcmp(first.data(), got.data(), got.size() * 4) == 0);
  }
}

TEST_CASE("The published blockwise product is reproduced", "[gemm][fp8][golden]") {
  Backends b;
  const GoldenFile file("gemm");
  const auto a_codes = file.get<uint8_t>("A.codes"), b_codes = file.get<uint8_t>("B.codes");
  const auto a_scale = file.get<float>("A.scale"), b_scale = file.get<float>("B.scale");
  const auto want = file.get<double>("C_f64");
  QTwin x(64, 384, 1, ScaleFormat::kF32, ScaleLayout::kMnMajor), w(256, 384, 128, ScaleFormat::kF32, ScaleLayout::kRowMajor);
  std::memcpy(x.codes.host().data, a_codes.data(), a_codes.size());
  std::memcpy(w.codes.host().data, b_codes.data(), b_codes.size());
  for (int64_t r = 0; r < 64; ++r)
    for (int64_t k = 0; k < 3; ++k) x.scales.set(0, k * 64 + r, a_scale[static_cast<size_t>(r * 3 + k)]);
  std::memcpy(w.scales.host().data, b_scale.data(), b_scale.size() * 4);
  x.upload(b);
  w.upload(b);
  Twin y(DType::kF32, 64, 256);
  y.upload(b);
  fp8_linear(b.gpu, {x.on_gpu(), w.on_gpu(), y.gpu(), {}});
  fp8_linear(b.cpu, {x.q, w.q, y.host(), {}});
  const Oracle o = product(64, 256, 0, 384, 128, kFp8Block, [&](int64_t i, int64_t k) { return static_cast<double>(x.q.value(i, k)); },
                           [&](int64_t j, int64_t k) { return static_cast<double>(w.q.value(j, k)); });
  Oracle published = o;
  published.value = want;
  const Verdict v = judge(published, y.values(b), 0);
  CHECK(v.beyond == 0);
  CHECK(v.rms < kRms);
  std::vector<float> cpu(y.host().as<float>(), y.host().as<float>() + 64 * 256);
  CHECK(judge(published, cpu, 0).rms < 1e-6);
}

namespace {

void check_weight_gradient(Backends& b, int64_t n, int64_t k, const std::vector<int64_t>& offsets, bool accumulate) {
  INFO(n << " x " << k << ", tokens " << offsets.back() << " in " << offsets.size() - 1 << " groups, accumulate " << accumulate);
  const int64_t tokens = offsets.back(), columns = transposed_columns(offsets), experts = static_cast<int64_t>(offsets.size()) - 1;
  Twin dy(DType::kBF16, tokens, n), x(DType::kBF16, tokens, k);
  fill(dy, Kind::kGradient, "dy");
  fill(x, Kind::kOutliers, "x");
  QTwin dyt(n, columns, 1, ScaleFormat::kF32, ScaleLayout::kMnMajor), xt(k, columns, 1, ScaleFormat::kF32, ScaleLayout::kMnMajor);
  cast_transposed(b.cpu, {dy.host(), {}, dyt.q, offsets});
  cast_transposed(b.cpu, {x.host(), {}, xt.q, offsets});
  dyt.upload(b);
  xt.upload(b);
  Twin dw(DType::kF32, experts * n, k, 16);
  fill(dw, Kind::kGradient, "dw");
  dw.upload(b);
  const std::vector<float> before = accumulate ? dw.values(b) : std::vector<float>{};
  const auto by_expert = [&](Tensor out) {
    out.rank = 3;
    out.dim = {experts, n, k, 0};
    out.stride = {n * (k + 16), k + 16, 1, 0};
    return out;
  };
  fp8_weight_gradient(b.gpu, {dyt.on_gpu(), xt.on_gpu(), by_expert(dw.gpu()), offsets, accumulate});
  b.cpu.fp8_sums = Fp8Sums::kHopper;
  fp8_weight_gradient(b.cpu, {dyt.q, xt.q, by_expert(dw.host()), offsets, accumulate});
  check_bits(b, dw);
  const std::vector<float> got = dw.values(b);
  CHECK(dw.padding_untouched(b));
  int64_t column = 0;
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t end = column + blocks_of(offsets[static_cast<size_t>(e) + 1] - offsets[static_cast<size_t>(e)]) * 128;
    const Oracle o = product(n, k, column, end, 128, kFp8Block, [&](int64_t i, int64_t t) { return static_cast<double>(dyt.q.value(i, t)); },
                             [&](int64_t j, int64_t t) { return static_cast<double>(xt.q.value(j, t)); });
    const auto part = [&](const std::vector<float>& v) { return v.empty() ? v : std::vector<float>(v.begin() + e * n * k, v.begin() + (e + 1) * n * k); };
    const Verdict v = judge(o, part(got), 0, part(before));
    CHECK(v.beyond == 0);
    if (end > column && n * k >= 1024) CHECK(v.rms < kRms);
    column = end;
  }
}

}  // namespace

TEST_CASE("FP8 weight gradients equal the FP64 oracle, added to what was there or overwriting it", "[gemm][fp8]") {
  Backends b;
  for (bool accumulate : {true, false}) {
    check_weight_gradient(b, 128, 128, {0, 128}, accumulate);
    check_weight_gradient(b, 144, 400, {0, 777}, accumulate);
    check_weight_gradient(b, 272, 112, {0, 1, 1, 300, 428, 428}, accumulate);
    for (int64_t k = 16; k < 128; k += 16) check_weight_gradient(b, 112 + k / 4, k, {0, 20}, accumulate);  // every edge of a tile
  }
}

TEST_CASE("FP8 weight gradients of shapes and groups drawn by the seed, of many groups, of none that has tokens", "[gemm][fp8]") {
  Backends b;
  Dice dice("fp8 weight shapes");
  for (int i = 0; i < 3; ++i)
    check_weight_gradient(b, dice.one_of(1, 200), 16 * dice.one_of(1, 14), dice.offsets(static_cast<int>(dice.one_of(1, 6)), 300), dice.one_of(0, 1) == 1);
  check_weight_gradient(b, 5, 16, dice.offsets(300, 3), true);
  for (bool accumulate : {true, false}) check_weight_gradient(b, 20, 48, {0, 0, 0}, accumulate);
}
