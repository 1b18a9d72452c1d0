// What promotion every 128 of K is worth: FP8 products of K = 4096 against FP64, with it and with one long sum in the tensor cores. On hardware (or the simulator's model
// of it) the long sum is visibly worse; with exact accumulators there is nothing to see, and the test says so.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdio>

#include "kernels/quant.h"
#include "tests/unit/kernels_cuda/oracle.h"

using namespace atoll;
using namespace atoll::gpu_test;

namespace {

// The largest error relative to the RMS of the values, and the RMS of the error relative to it.
struct Errors { double largest, rms; };
Errors errors_of(const Oracle& o, const std::vector<float>& got) {
  double squares = 0, errors = 0, largest = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double e = static_cast<double>(got[i]) - o.value[i];
    squares += o.value[i] * o.value[i];
    errors += e * e;
    largest = std::max(largest, std::abs(e));
  }
  return {largest / std::sqrt(squares / static_cast<double>(got.size())), std::sqrt(errors / squares)};
}

}  // namespace

TEST_CASE("Promotion every 128 of K keeps FP8 products accurate where one long sum does not", "[gemm][fp8][accuracy]") {
  Backends b;
  constexpr int64_t kM = 64, kN = 128, kK = 4096;
  for (Kind kind : {Kind::kNormal, Kind::kOutliers, Kind::kGradient}) {
    Twin x(DType::kF32, kM, kK), w(DType::kF32, kN, kK);
    fill(x, kind, "x");
    fill(w, Kind::kNormal, "w");
    QTwin xq(kM, kK, 1, ScaleFormat::kF32, ScaleLayout::kMnMajor), wq(kN, kK, 128, ScaleFormat::kF32, ScaleLayout::kRowMajor);
    cast_tiles(b.cpu, {x.host(), xq.q});
    cast_blocks(b.cpu, {w.host(), wq.q, {}});
    for (int64_t i = 0; i < xq.q.scales.size(); ++i) xq.q.scales.as<float>()[i] = 1;  // the long sum knows no scales: both products are those of the codes
    for (int64_t i = 0; i < wq.q.scales.size(); ++i) wq.q.scales.as<float>()[i] = 1;
    Twin y(DType::kF32, kM, kN), z(DType::kF32, kM, kN);
    xq.upload(b);
    wq.upload(b);
    fp8_linear(b.gpu, {xq.on_gpu(), wq.on_gpu(), y.gpu(), {}});
    unpromoted_product(b.gpu, xq.codes.gpu(), wq.codes.gpu(), z.gpu());
    const Oracle o = product(kM, kN, 0, kK, 128, kFp8Block, [&](int64_t i, int64_t k) { return static_cast<double>(xq.q.value(i, k)); },
                             [&](int64_t j, int64_t k) { return static_cast<double>(wq.q.value(j, k)); });
    const std::vector<float> promoted = y.values(b), long_sum = z.values(b);
    CHECK(judge(o, promoted, 0).beyond == 0);
    const Errors with = errors_of(o, promoted), without = errors_of(o, long_sum);
    std::printf("figure: FP8 GEMM 64 x 128 x 4096, inputs %d: largest error / RMS of values: promoted %.1e, one long sum %.1e (%s)\n", static_cast<int>(kind), with.largest, without.largest,
                without.rms > 1e-5 ? "13-bit accumulators" : "exact accumulators: nothing to see");
    CHECK(with.rms < 6e-4);
    if (without.rms > 1e-5) CHECK(without.rms > 3 * with.rms);
  }
}
