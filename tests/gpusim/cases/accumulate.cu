// Tensor-core accumulation modes: one wgmma m64n8k32 e4m3 whose products need more than 13 aligned fraction bits.
#include "tests/gpusim/cases/check.h"

#include <cuda_fp8.h>
#include <cstdio>
#include <cstring>
#include <string>
__global__ void k(float* out, float c0) {
  __shared__ __align__(1024) unsigned char a[64 * 32], b[8 * 32];  // no swizzle: 8x16-byte core matrices
  for (int i = threadIdx.x; i < 64 * 32; i += 128) a[i] = 0;
  for (int i = threadIdx.x; i < 8 * 32; i += 128) b[i] = 0;
  __syncthreads();
  if (threadIdx.x == 0) {  // row 0: 256*1 + 31 * (2^-6 * 1); core matrix (row group, k chunk): 128 bytes each
    for (int c = 0; c < 32; c++) {
      a[(c / 16) * 128 + c % 16] = __nv_fp8_e4m3(c == 0 ? 256.f : 0.015625f).__x;
      b[(c / 16) * 128 + c % 16] = __nv_fp8_e4m3(1.0f).__x;
    }
  }
  asm volatile("fence.proxy.async.shared::cta;");
  __syncthreads();
  auto desc = [](const void* p, unsigned lbo, unsigned sbo) {
    unsigned long long s = __cvta_generic_to_shared(p);
    return ((s & 0x3ffff) >> 4) | (unsigned long long)(lbo >> 4) << 16 | (unsigned long long)(sbo >> 4) << 32;
  };
  float d[4] = {c0, c0, c0, c0};
  asm volatile("wgmma.fence.sync.aligned;");
  asm volatile("{.reg .pred p; setp.ne.b32 p, %6, 0; wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%0,%1,%2,%3}, %4, %5, p, 1, 1;}"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "l"(desc(a, 128, 256)), "l"(desc(b, 128, 256)), "r"(1));
  asm volatile("wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;");
  if (threadIdx.x == 0) out[0] = d[0];
}
int main() {
  float* d;
  must(cudaMalloc(&d, 4), "cudaMalloc");
  const char* mode = std::getenv("GPUSIM_ACC");
  const bool exact = mode && std::string(mode) == "f32";
  for (float c : {0.f, 1024.f}) {
    k<<<1, 128>>>(d, c);
    const float sum = to_host(d, 1)[0];
    check(sum == (exact ? 256.484375f : 256.f) + c, c ? "256 + 31/64 + 1024" : "256 + 31/64: the small products are below the 13 fraction bits of the largest");
  }
  cudaFree(d);
  return finish();
}
