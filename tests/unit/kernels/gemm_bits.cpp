// Bits of matrix products at sizes where oneDNN's own choices (blocks of k, threads) would show.
#include <algorithm>
#include <catch2/catch.hpp>
#include <vector>

#include "kernels/cpu/gemm.h"
#include "kernels/ops.h"
#include "op_cases.h"

namespace atoll::test {
namespace {

std::vector<char> bytes(const Tensor& t) { return {t.as<char>(), t.as<char>() + t.bytes()}; }
Owned drawn(const char* name, DType dtype, std::initializer_list<int64_t> dims) {
  int64_t n = 1;
  for (int64_t d : dims) n *= d;
  return Owned(dtype, dims, draw(name, static_cast<size_t>(n)));
}
std::vector<Bf16Gemm> bf16_modes() { return cpu::has_native_bf16_gemm() ? std::vector{Bf16Gemm::kNative, Bf16Gemm::kWiden} : std::vector{Bf16Gemm::kWiden}; }

// All three products of one layer at the given thread count.
std::vector<std::vector<char>> layer(int threads, DType dtype, Bf16Gemm mode, const Owned& x, const Owned& w, const Owned& dy) {
  Context ctx(threads);
  ctx.bf16_gemm = mode;
  const int64_t T = x.tensor().dim[0], K = x.tensor().dim[1], N = w.tensor().dim[0];
  const Owned y(dtype, {T, N}), dx(dtype, {T, K}), dw(acc_dtype(dtype), {N, K}, Array(static_cast<size_t>(N * K), 0.25));
  linear(ctx, {.x_TK = x, .w_NK = w, .y_TN = y});
  linear_backward_input(ctx, {.dy_TN = dy, .w_NK = w, .dx_TK = dx});
  linear_backward_weight(ctx, {.dy_TN = dy, .x_TK = x, .dw_NK = dw});
  return {bytes(y), bytes(dx), bytes(dw)};
}

}  // namespace

TEST_CASE("Products of a training layer have the same bits at 1 to 4 threads") {
  for (DType dtype : {DType::kBF16, DType::kF32}) {
    const Owned x = drawn("x", dtype, {1500, 384}), w = drawn("w", dtype, {448, 384}), dy = drawn("dy", dtype, {1500, 448});
    for (Bf16Gemm mode : bf16_modes()) {
      const auto one = layer(1, dtype, mode, x, w, dy);
      for (int threads : {2, 3, 4}) CHECK((layer(threads, dtype, mode, x, w, dy) == one));
    }
  }
}

TEST_CASE("Products cut at a multiple of 1024 rows have the same bits") {
  for (DType dtype : {DType::kBF16, DType::kF32, DType::kF64})
    for (Bf16Gemm mode : bf16_modes()) {
      const int64_t T = 2 * cpu::kRowBlock + 77, N = 40, K = 33;
      const Owned x = drawn("x", dtype, {T, K}), w = drawn("w", dtype, {N, K}), dy = drawn("dy", dtype, {T, N});
      const Owned y(dtype, {T, N}), dx(dtype, {T, K}), dw(acc_dtype(dtype), {N, K}), y_parts(dtype, {T, N}), dx_parts(dtype, {T, K}),
          dw_parts(acc_dtype(dtype), {N, K});
      Context ctx(2);
      ctx.bf16_gemm = mode;
      linear(ctx, {.x_TK = x, .w_NK = w, .y_TN = y});
      linear_backward_input(ctx, {.dy_TN = dy, .w_NK = w, .dx_TK = dx});
      linear_backward_weight(ctx, {.dy_TN = dy, .x_TK = x, .dw_NK = dw, .accumulate = false});
      for (int64_t begin = 0; begin < T; begin += cpu::kRowBlock) {
        const int64_t count = std::min(cpu::kRowBlock, T - begin);
        const Tensor dy_part = dy.tensor().rows(begin, count), x_part = x.tensor().rows(begin, count);
        linear(ctx, {.x_TK = x_part, .w_NK = w, .y_TN = y_parts.tensor().rows(begin, count)});
        linear_backward_input(ctx, {.dy_TN = dy_part, .w_NK = w, .dx_TK = dx_parts.tensor().rows(begin, count)});
        linear_backward_weight(ctx, {.dy_TN = dy_part, .x_TK = x_part, .dw_NK = dw_parts, .accumulate = begin > 0});
      }
      CHECK((bytes(y) == bytes(y_parts)));
      CHECK((bytes(dx) == bytes(dx_parts)));
      CHECK((bytes(dw) == bytes(dw_parts)));
    }
}

TEST_CASE("Grouped products equal the same products one expert at a time, bit for bit") {
  const DType dtype = DType::kBF16;
  const std::vector<int64_t> offsets = {0, 70, 70, 403, 404};
  const int64_t E = 4, N = 96, K = 80, R = offsets.back();
  const Owned x = drawn("x", dtype, {R, K}), w = drawn("w", dtype, {E, N, K}), dy = drawn("dy", dtype, {R, N});
  const Owned y(dtype, {R, N}), dx(dtype, {R, K}), dw(DType::kF32, {E, N, K}), y_one(dtype, {R, N}), dx_one(dtype, {R, K}), dw_one(DType::kF32, {E, N, K});
  Context ctx(2);
  ctx.bf16_gemm = bf16_modes().front();
  grouped_linear(ctx, {.x_RK = x, .w_ENK = w, .y_RN = y, .offsets = offsets});
  grouped_linear_backward_input(ctx, {.dy_RN = dy, .w_ENK = w, .dx_RK = dx, .offsets = offsets});
  grouped_linear_backward_weight(ctx, {.dy_RN = dy, .x_RK = x, .dw_ENK = dw, .offsets = offsets, .accumulate = false});
  for (int64_t e = 0; e < E; ++e) {
    const int64_t begin = offsets[static_cast<size_t>(e)], count = offsets[static_cast<size_t>(e) + 1] - begin;
    const Tensor w_NK = w.tensor().rows(e, 1).view({N, K}), dw_NK = dw_one.tensor().rows(e, 1).view({N, K});
    linear(ctx, {.x_TK = x.tensor().rows(begin, count), .w_NK = w_NK, .y_TN = y_one.tensor().rows(begin, count)});
    linear_backward_input(ctx, {.dy_TN = dy.tensor().rows(begin, count), .w_NK = w_NK, .dx_TK = dx_one.tensor().rows(begin, count)});
    linear_backward_weight(ctx, {.dy_TN = dy.tensor().rows(begin, count), .x_TK = x.tensor().rows(begin, count), .dw_NK = dw_NK, .accumulate = false});
  }
  CHECK((bytes(y) == bytes(y_one)));
  CHECK((bytes(dx) == bytes(dx_one)));
  CHECK((bytes(dw) == bytes(dw_one)));
}

}  // namespace atoll::test
