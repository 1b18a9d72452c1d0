// Sums over the threads of a CTA that has one row, in a fixed order: bits depend on the row's width alone. And how such a CTA is cut: sixteen values a thread and round.
#pragma once
#include "kernels/cuda/sixteen.h"

namespace atoll::cuda {

constexpr int kMostRowThreads = 256, kMostRounds = 4;
constexpr int kMostRowColumns = kMostRowThreads * kMostRounds * 16;

inline int row_threads(int64_t columns) { return static_cast<int>(std::min<int64_t>(kMostRowThreads, (columns / 16 + 31) / 32 * 32)); }

// `shared`: kMostRowThreads / 32 floats. Ends with a barrier before, so that it can be called in a loop.
__device__ inline float sum_over_cta(float x, float* shared) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(0xffffffffu, x, d);
  __syncthreads();  // the last call's readers are done
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0;
  for (unsigned w = 0; w < blockDim.x / 32; ++w) sum += shared[w];
  return sum;
}

}  // namespace atoll::cuda
