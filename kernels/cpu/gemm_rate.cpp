// Rates of the back end's own products on operands that fit the cache hierarchy as training's do.
#include <algorithm>
#include <chrono>

#include "kernels/cpu/gemm.h"

namespace atoll::cpu {
namespace {

void fill(const Tensor& t) {  // values of all mantissas near 1: a constant would flatter the clock
  for (int64_t i = 0; i < t.size(); ++i) {
    const float value = 0.5f + static_cast<float>(i * 2654435761u % 1024) * 0x1p-10f;
    if (t.dtype == DType::kBF16) t.as<bf16>()[i] = bf16(value);
    else t.as<float>()[i] = value;
  }
}

}  // namespace

double measure_gemm(Context& ctx, DType dtype, int64_t n, int repeats) {
  const Buffer x = ctx.memory.workspace.take({n, n}, dtype), w = ctx.memory.workspace.take({n, n}, dtype), y = ctx.memory.workspace.take({n, n}, dtype);
  fill(x);
  fill(w);
  const Gemm product{.a = x, .b = w, .c = y, .transpose_b = true};
  gemm(ctx, product);  // makes the primitives
  double best = 1e30;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    gemm(ctx, product);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  const auto size = static_cast<double>(n);
  return 2 * size * size * size / best * 1e-9;
}

}  // namespace atoll::cpu
