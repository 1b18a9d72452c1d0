// Contracts of the linear ops that the registry does not see: refused arguments, NaN next door, the probe, what is counted, what is allocated.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "allocations.h"
#include "kernels/cpu/gemm.h"
#include "kernels/ops.h"
#include "op_cases.h"

namespace atoll::test {
namespace {

Bf16Gemm fixed_mode() { return cpu::has_native_bf16_gemm() ? Bf16Gemm::kNative : Bf16Gemm::kWiden; }
Owned drawn(const char* name, DType dtype, std::initializer_list<int64_t> dims) {
  int64_t n = 1;
  for (int64_t d : dims) n *= d;
  return Owned(dtype, dims, draw(name, static_cast<size_t>(n)));
}

}  // namespace

TEST_CASE("Linear ops refuse shapes and types that do not fit, and say both") {
  Context ctx;
  const Owned x(DType::kF32, {4, 6}), w(DType::kF32, {5, 6}), w_bad(DType::kF32, {5, 7}), y(DType::kF32, {4, 5}), y_bf16(DType::kBF16, {4, 5}),
      w_bf16(DType::kBF16, {5, 6}), y_3(DType::kF32, {3, 5});
  CHECK_THROWS_WITH(linear(ctx, {.x_TK = x, .w_NK = w_bad, .y_TN = y}), Catch::Contains("fp32[5, 7]") && Catch::Contains("[5, 6]"));
  CHECK_THROWS_WITH(linear(ctx, {.x_TK = x, .w_NK = w_bf16, .y_TN = y}), Catch::Contains("one storage type"));
  CHECK_THROWS_WITH(linear(ctx, {.x_TK = x, .w_NK = w, .y_TN = y_bf16}), Catch::Contains("expected fp32"));
  CHECK_THROWS_AS(linear(ctx, {.x_TK = x, .w_NK = w, .y_TN = y_3}), Error);
  CHECK_THROWS_WITH(linear_backward_weight(ctx, {.dy_TN = y_bf16, .x_TK = w_bf16, .dw_NK = w_bf16}), Catch::Contains("expected"));
  const Owned w_E(DType::kF32, {2, 5, 6});
  const std::vector<int64_t> descends = {0, 5, 4}, too_few = {0, 4}, short_of = {0, 1, 3};
  CHECK_THROWS_WITH(grouped_linear(ctx, {.x_RK = x, .w_ENK = w_E, .y_RN = y, .offsets = descends}), Catch::Contains("descend"));
  CHECK_THROWS_WITH(grouped_linear(ctx, {.x_RK = x, .w_ENK = w_E, .y_RN = y, .offsets = too_few}), Catch::Contains("E + 1"));
  CHECK_THROWS_WITH(grouped_linear(ctx, {.x_RK = x, .w_ENK = w_E, .y_RN = y, .offsets = short_of}), Catch::Contains("expected 0 to 4"));
}

TEST_CASE("NaN in one expert's rows stays with that expert") {
  for (DType dtype : {DType::kBF16, DType::kF32, DType::kF64}) {
    Context ctx(2);
    ctx.bf16_gemm = fixed_mode();
    const std::vector<int64_t> offsets = {0, 13, 14, 40};
    const int64_t R = 40, E = 3, N = 24, K = 20;
    Array x_values = draw("x", static_cast<size_t>(R * K)), dy_values = draw("dy", static_cast<size_t>(R * N));
    for (int64_t k = 0; k < K; ++k) x_values[static_cast<size_t>(13 * K + k)] = std::nan("");
    for (int64_t n = 0; n < N; ++n) dy_values[static_cast<size_t>(13 * N + n)] = std::numeric_limits<double>::infinity();
    const Owned x(dtype, {R, K}, x_values), dy(dtype, {R, N}, dy_values), w = drawn("w", dtype, {E, N, K}), y(dtype, {R, N}), dw(acc_dtype(dtype), {E, N, K});
    grouped_linear(ctx, {.x_RK = x, .w_ENK = w, .y_RN = y, .offsets = offsets});
    grouped_linear_backward_weight(ctx, {.dy_RN = dy, .x_RK = x, .dw_ENK = dw, .offsets = offsets, .accumulate = false});
    const Array y_got = y.values(), dw_got = dw.values();
    for (int64_t r = 0; r < R; ++r) CHECK(std::isnan(y_got[static_cast<size_t>(r * N)]) == (r == 13));
    for (int64_t e = 0; e < E; ++e) CHECK(std::isnan(dw_got[static_cast<size_t>(e * N * K)]) == (e == 1));
  }
}

TEST_CASE("The probe decides how BF16 is multiplied, unless it was forced") {
  Context ctx(1);
  probe_gemm(ctx);
  CHECK(ctx.bf16_gemm != Bf16Gemm::kAuto);
  CHECK(ctx.probe.fp32 > 0);
  CHECK(ctx.probe.widened > 0);
  for (Bf16Gemm forced : {Bf16Gemm::kNative, Bf16Gemm::kWiden}) {
    Context other(1);
    other.bf16_gemm = forced;
    probe_gemm(other);
    CHECK(other.bf16_gemm == forced);
    CHECK(other.probe.widened > 0);
  }
  Context lazy(1);
  const Owned x = drawn("x", DType::kBF16, {4, 8}), w = drawn("w", DType::kBF16, {4, 8}), y(DType::kBF16, {4, 4});
  linear(lazy, {.x_TK = x, .w_NK = w, .y_TN = y});
  CHECK(lazy.bf16_gemm != Bf16Gemm::kAuto);
}

TEST_CASE("Measuring products takes nothing of a run's scratch, however little that is") {
  Context ctx(1, {.workspace = 1 << 20});
  probe_gemm(ctx);
  CHECK(ctx.probe.fp32 > 0);
  CHECK(measure_gemm_peak(ctx, false) > 0);
  CHECK(ctx.memory.workspace.high_water() == 0);
  for (const Context::OpStat& stat : ctx.op_stats) CHECK(stat.calls == 0);
}

TEST_CASE("Calls, arithmetic and weight-gradient products are counted") {
  Context ctx;
  const Owned x = drawn("x", DType::kF32, {4, 6}), w = drawn("w", DType::kF32, {5, 6}), y(DType::kF32, {4, 5}), dw(DType::kF32, {5, 6}, Array(30, 0.0));
  linear(ctx, {.x_TK = x, .w_NK = w, .y_TN = y});
  linear(ctx, {.x_TK = x, .w_NK = w, .y_TN = y});
  CHECK(ctx.num_weight_gradient_gemms == 0);
  linear_backward_weight(ctx, {.dy_TN = y, .x_TK = x, .dw_NK = dw});
  CHECK(ctx.num_weight_gradient_gemms == 1);
  const Context::OpStat& stat = ctx.op_stats[static_cast<size_t>(Op::kLinear)];
  CHECK(stat.calls == 2);
  CHECK(stat.flops == 2 * 2.0 * 4 * 5 * 6);
  CHECK(stat.seconds > 0);
}

TEST_CASE("Repeated products of known shapes allocate nothing of ours") {
  for (DType dtype : {DType::kBF16, DType::kF32, DType::kF64}) {
    Context ctx(2);
    ctx.bf16_gemm = fixed_mode();
    const std::vector<int64_t> offsets = {0, 37, 37, 70, 90};
    const Owned x = drawn("x", dtype, {90, 48}), w = drawn("w", dtype, {4, 32, 48}), y(dtype, {90, 32}), dx(dtype, {90, 48}),
                dw(acc_dtype(dtype), {4, 32, 48}, Array(4 * 32 * 48, 0.0));
    const auto step = [&] {
      grouped_linear(ctx, {.x_RK = x, .w_ENK = w, .y_RN = y, .offsets = offsets});
      grouped_linear_backward_input(ctx, {.dy_RN = y, .w_ENK = w, .dx_RK = dx, .offsets = offsets});
      grouped_linear_backward_weight(ctx, {.dy_RN = y, .x_RK = x, .dw_ENK = dw, .offsets = offsets});
      linear(ctx, {.x_TK = x, .w_NK = w.tensor().rows(0, 1).view({32, 48}), .y_TN = y});
      sum_of_squares(ctx, dw);
    };
    step();
    const long before = num_own_allocations();
    step();
    step();
    CHECK(num_own_allocations() == before);
    CHECK(ctx.memory.workspace.used() == 0);
  }
}

TEST_CASE("Once settled, grouped products take the same scratch and compile nothing, however many rows an expert has") {
  constexpr int64_t kMost = 2300, kExperts = 3, kIn = 48, kOut = 32;
  const auto allocations_of = [&](Context& ctx, DType dtype, const std::vector<int64_t>& counts) {
    const std::vector<int64_t> offsets = {0, counts[0], counts[0] + counts[1], counts[0] + counts[1] + counts[2]};
    const Buffer x = ctx.memory.activations.take({offsets.back(), kIn}, dtype), y = ctx.memory.activations.take({offsets.back(), kOut}, dtype),
                 w = ctx.memory.activations.take({kExperts, kOut, kIn}, dtype), dw = ctx.memory.activations.take({kExperts, kOut, kIn}, acc_dtype(dtype));
    const long before = num_own_allocations();
    grouped_linear(ctx, {.x_RK = x, .w_ENK = w, .y_RN = y, .offsets = offsets});
    grouped_linear_backward_input(ctx, {.dy_RN = y, .w_ENK = w, .dx_RK = x, .offsets = offsets});
    for (const bool accumulate : {false, true}) grouped_linear_backward_weight(ctx, {.dy_RN = y, .x_RK = x, .dw_ENK = dw, .offsets = offsets, .accumulate = accumulate});
    return num_own_allocations() - before;
  };
  for (const DType dtype : {DType::kBF16, DType::kF32, DType::kF64})
    for (const Bf16Gemm mode : {fixed_mode(), Bf16Gemm::kWiden})
      for (const int threads : {1, 4}) {
        INFO(name_of(dtype) << ", BF16 mode " << static_cast<int>(mode) << ", threads " << threads);
        Context sized(threads), ctx(threads);
        sized.is_sizing = true;
        sized.bf16_gemm = ctx.bf16_gemm = mode;
        allocations_of(sized, dtype, {1, 0, 0});
        settle_grouped(sized, kMost);
        allocations_of(ctx, dtype, {kMost, kMost, kMost});  // as many tiles as there can be
        settle_grouped(ctx, kMost);
        const int64_t scratch = ctx.memory.workspace.high_water();
        CHECK(scratch == sized.memory.workspace.high_water());
        for (const std::vector<int64_t>& counts : std::vector<std::vector<int64_t>>{
                 {0, 0, 1}, {1, 7, 8}, {9, 255, 256}, {257, 513, 767}, {993, 1001, 1023}, {1024, 1025, 1031}, {2017, 2047, 2048}, {2056, 2299, 2300}}) {
          INFO("rows " << counts[0] << ", " << counts[1] << ", " << counts[2]);
          CHECK(allocations_of(ctx, dtype, counts) == 0);
          CHECK(ctx.memory.workspace.high_water() == scratch);
        }
      }
}

}  // namespace atoll::test
