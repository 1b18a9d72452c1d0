// Three loops whose speed is quoted: arithmetic, global memory, shared memory with barriers. Printed by GPUSIM_STATS=1; checks nothing but success.
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
int main() {
  float* d;
  must(cudaMalloc(&d, 32 << 20), "cudaMalloc");
  must(cudaMemset(d, 0, 32 << 20), "cudaMemset");
  alu<<<8, 256>>>(d, 4000);
  copy<<<64, 256>>>((float4*)d, (float4*)d + (1 << 20), 1 << 18);
  smem<<<1, 256>>>(d, 1000);
  must(cudaDeviceSynchronize(), "the loops");
  cudaFree(d);
  return finish();
}
