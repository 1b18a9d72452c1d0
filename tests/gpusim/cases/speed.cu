// Loops whose speed is quoted: arithmetic, global memory, shared memory with barriers, wgmma in BF16 and FP8. GPUSIM_COUNTERS takes the figures.
#include "tests/gpusim/cases/check.h"

#include <cstdio>
__global__ void alu(float* x, int n) {
  float a = threadIdx.x, b = 1.0001f;
  unsigned u = threadIdx.x;
  for (int i = 0; i < n; i++) {
    a = a * b + 0.5f;
    u = u * 1664525u + 1013904223u;
    b += a * 1e-9f;
    u ^= u >> 3;
  }
  x[blockIdx.x * blockDim.x + threadIdx.x] = a + b + u;
}
__global__ void copy(const float4* x, float4* y, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) y[i] = x[i];
}
__global__ void smem(float* x, int n) {
  __shared__ float s[256];
  s[threadIdx.x] = threadIdx.x;
  __syncthreads();
  float a = 0;
  for (int i = 0; i < n; i++) {
    a += s[(threadIdx.x + i) & 255];
    __syncthreads();
    s[threadIdx.x] = a;
    __syncthreads();
  }
  x[threadIdx.x] = a;
}
#define ACCUMULATORS                                                                                                                                 \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),  \
      "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), \
      "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
template <bool kFp8>
__global__ void tensor(float* x, int n) {  // m64n64: no swizzle, core matrices of 128 bytes
  __shared__ __align__(1024) unsigned a[64 * 8], b[64 * 8];
  for (int i = threadIdx.x; i < 64 * 8; i += 128) a[i] = b[i] = 0x38383838;
  asm volatile("fence.proxy.async.shared::cta;");
  __syncthreads();
  auto desc = [](const void* p) {
    unsigned long long s = __cvta_generic_to_shared(p);
    return ((s & 0x3ffff) >> 4) | (unsigned long long)(128 >> 4) << 16 | (unsigned long long)(256 >> 4) << 32;
  };
  float d[32] = {};
  for (int k = 0; k < n; k++) {
    asm volatile("wgmma.fence.sync.aligned;" : ACCUMULATORS);
    for (int j = 0; j < 4; j++)
      if (kFp8)
        asm volatile(
            "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
            "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, 1, 1, 1;"
            : ACCUMULATORS
            : "l"(desc(a)), "l"(desc(b)));
      else
        asm volatile(
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
            "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, 1, 1, 1, 0, 0;"
            : ACCUMULATORS
            : "l"(desc(a)), "l"(desc(b)));
    asm volatile("wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;" : ACCUMULATORS);
  }
  x[threadIdx.x] = d[0] + d[31];
}
int main() {
  float* d;
  must(cudaMalloc(&d, 32 << 20), "cudaMalloc");
  must(cudaMemset(d, 0, 32 << 20), "cudaMemset");
  alu<<<8, 256>>>(d, 4000);
  copy<<<64, 256>>>((float4*)d, (float4*)d + (1 << 20), 1 << 18);
  smem<<<1, 256>>>(d, 1000);
  tensor<false><<<1, 128>>>(d, 1000);
  tensor<true><<<1, 128>>>(d, 1000);
  must(cudaDeviceSynchronize(), "the loops");
  cudaFree(d);
  return finish();
}
