// Tensor-core accumulation modes: one wgmma m64n8k32 e4m3 whose products need more than 13 aligned fraction bits.
#include "kernels/base/fp8_accumulate.h"
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
// One m64n8k32 of raw E4M3 codes: row-major a (64 x 32) and b (8 x 32), accumulators c.
__global__ void product(const unsigned char* a_in, const unsigned char* b_in, const float* c, float* out) {
  __shared__ __align__(1024) unsigned char a[64 * 32], b[8 * 32];
  for (int i = threadIdx.x; i < 64 * 32; i += 128) a[(i / 256) * 256 + (i % 32 / 16) * 128 + (i / 32 % 8) * 16 + i % 16] = a_in[i];
  for (int i = threadIdx.x; i < 8 * 32; i += 128) b[(i % 32 / 16) * 128 + (i / 32 % 8) * 16 + i % 16] = b_in[i];
  asm volatile("fence.proxy.async.shared::cta;");
  __syncthreads();
  auto desc = [](const void* p) {
    unsigned long long s = __cvta_generic_to_shared(p);
    return ((s & 0x3ffff) >> 4) | (unsigned long long)(128 >> 4) << 16 | (unsigned long long)(256 >> 4) << 32;
  };
  const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
  float d[4];
  for (int k = 0; k < 4; k++) d[k] = c[(row + 8 * (k / 2)) * 8 + column + k % 2];
  asm volatile("wgmma.fence.sync.aligned;" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]));
  asm volatile("{.reg .pred p; setp.ne.b32 p, %6, 0; wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%0,%1,%2,%3}, %4, %5, p, 1, 1;}"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "l"(desc(a)), "l"(desc(b)), "r"(1));
  asm volatile("wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]));
  for (int k = 0; k < 4; k++) out[(row + 8 * (k / 2)) * 8 + column + k % 2] = d[k];
}
// The simulator's vector code against the one function that says what the model is, in kernels/base.
void compare(int seed, bool with_nan) {
  std::srand(seed);
  std::vector<unsigned char> a(64 * 32), b(8 * 32);
  std::vector<float> c(64 * 8);
  for (auto* v : {&a, &b})
    for (auto& x : *v) {
      x = std::rand() % 8 ? std::rand() & 0xbf : 0;
      if ((x & 0x7f) == 0x7f || (with_nan && std::rand() % 500 == 0)) x = with_nan ? 0x7f : 0x70;
    }
  for (auto& x : c) x = std::rand() % 5 ? (std::rand() % 2001 - 1000) * std::exp2f(std::rand() % 24 - 16) : 0;
  const float* dc = to_device(c);
  float* out = device_alloc<float>(64 * 8);
  product<<<1, 128>>>(to_device(a), to_device(b), dc, out);
  const std::vector<float> got = to_host(out, 64 * 8);
  int different = 0;
  for (int i = 0; i < 64; i++)
    for (int j = 0; j < 8; j++) {
      float x[32], y[32];
      for (int k = 0; k < 32; k++) {
        __nv_fp8_e4m3 u, v;
        u.__x = a[i * 32 + k], v.__x = b[j * 32 + k];
        x[k] = float(u), y[k] = float(v);
      }
      const float want = atoll::fp8_accumulate(c[i * 8 + j], x, y, 32);
      different += std::memcmp(&want, &got[i * 8 + j], 4) != 0;
    }
  check(different == 0, with_nan ? "NaN among the operands: the bits of fp8_accumulate" : "random operands: the bits of fp8_accumulate");
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
  if (!exact)
    for (int seed = 1; seed <= 20; seed++) compare(seed, seed % 4 == 0);
  return finish();
}
