// FP64 products for the GEMM tests, and how far a kernel may be from them. Policy: per element the bound is derived (docs/kernels.md), over a matrix the RMS must be far below it.
#pragma once
#include <vector>

#include "tests/unit/kernels_cuda/fixture.h"

namespace atoll::gpu_test {

struct Oracle {
  int64_t rows = 0, cols = 0;
  std::vector<double> value, bound;  // of each element; bound: of a product in FP32 out of the tensor cores
};
// c[m, n] = sum over k of a(m, k) b(n, k), k in [begin, end). relative: error of a sum of up to `block` products relative to their absolute sum.
template <class A, class B>
Oracle product(int64_t m, int64_t n, int64_t begin, int64_t end, int64_t block, double relative, const A& a, const B& b) {
  Oracle o{m, n, std::vector<double>(static_cast<size_t>(m * n)), std::vector<double>(static_cast<size_t>(m * n))};
  std::vector<double> rows(static_cast<size_t>(m * (end - begin))), cols(static_cast<size_t>(n * (end - begin)));
  const int64_t depth = end - begin;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t k = 0; k < depth; ++k) rows[static_cast<size_t>(i * depth + k)] = a(i, begin + k);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = 0; k < depth; ++k) cols[static_cast<size_t>(i * depth + k)] = b(i, begin + k);
  const double promotions = static_cast<double>((depth + block - 1) / block + 2) * 0x1p-23;  // FP32 additions, and the two products of scales
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0, magnitude = 0;
      for (int64_t k = 0; k < depth; ++k) {
        const double p = rows[static_cast<size_t>(i * depth + k)] * cols[static_cast<size_t>(j * depth + k)];
        sum += p;
        magnitude += p < 0 ? -p : p;
      }
      o.value[static_cast<size_t>(i * n + j)] = sum;
      o.bound[static_cast<size_t>(i * n + j)] = magnitude * (relative + promotions);
    }
  return o;
}
// E4M3 on Hopper: each wgmma aligns 32 products and the accumulator to the largest and truncates at 13 bits (reference: arXiv 2511.10909): 4 of them a block, 33 terms each of
// at most the absolute sum of the block. BF16: 25 bits, and the whole of K in one sum.
constexpr double kFp8Block = 4 * 33 * 0x1p-13;
constexpr double bf16_sum(int64_t k) { return static_cast<double>(k / 16 + 1) * 17 * 0x1p-25; }

struct Verdict {
  int64_t beyond = 0;   // elements beyond their bound
  double rms = 0;       // of the error, relative to the RMS of the values
};
// got: the kernel's result in FP32; rounding: of the result's type (2^-9 for BF16, 0 for FP32); before: what it was added to (or empty).
Verdict judge(const Oracle& o, const std::vector<float>& got, double rounding, const std::vector<float>& before = {});

// c = a b^T of E4M3 codes in one long sum of the tensor cores, without scales and promotion: what the recipe avoids (unpromoted.cu).
void unpromoted_product(Context& ctx, const Tensor& a_MK, const Tensor& b_NK, const Tensor& c_MN);

}  // namespace atoll::gpu_test
