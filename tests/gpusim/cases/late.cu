// What a program reads that does not wait or fence: stale bytes, NaN accumulators, tiles already refilled. Every check is off (GPUSIM_LAZY_ASYNC alone), so the values
// themselves must be wrong.
// Policy: each kernel runs as it should be, with the right result, and with one instruction missing, with exactly the wrong one that the simulator promises.
#include <cuda_bf16.h>

#include <cmath>

#include "tests/gpusim/cases/check.h"

__device__ unsigned at(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
__device__ unsigned long long descriptor(const void* p) {
  return ((unsigned long long)(at(p) & 0x3ffff) >> 4) | (unsigned long long)(128 >> 4) << 16 | (unsigned long long)(256 >> 4) << 32;
}
enum Missing { kNothing, kWait, kProxyFence, kSourceWait };
// A 64 x 16 of ones, B 8 x 16 of twos, both visible to the async proxy; then A becomes threes. Sums: 32 a one, 96 a three.
__global__ void product(float* out, int missing) {
  __shared__ __align__(1024) __nv_bfloat16 a[64 * 16], b[8 * 16];
  for (int i = threadIdx.x; i < 64 * 16; i += 128) a[i] = __float2bfloat16(1.f);
  b[threadIdx.x] = __float2bfloat16(2.f);
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  for (int i = threadIdx.x; i < 64 * 16; i += 128) a[i] = __float2bfloat16(3.f);
  if (missing != kProxyFence) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  float d[4] = {5, 5, 5, 5};
  asm volatile("wgmma.fence.sync.aligned;" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])::"memory");
  asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %5, 1, 1, 1, 0, 0; wgmma.commit_group.sync.aligned;"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "l"(descriptor(a)), "l"(descriptor(b))
               : "memory");
  if (missing == kSourceWait) {  // the tile changes before the wait
    __syncthreads();
    for (int i = threadIdx.x; i < 64 * 16; i += 128) a[i] = __float2bfloat16(7.f);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
  }
  if (missing != kWait) asm volatile("wgmma.wait_group.sync.aligned 0;" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])::"memory");
  for (int k = 0; k < 4; k++) out[threadIdx.x * 4 + k] = d[k];
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}
// A bulk store of what was written before the fence, or of the older bytes.
__global__ void bulk_store(float* out, bool fence) {
  __shared__ __align__(128) float s[32];
  s[threadIdx.x] = 1;
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncwarp();
  s[threadIdx.x] = 2;
  if (fence) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncwarp();
  if (threadIdx.x == 0)
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 128; cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;" ::"l"(out), "r"(at(s)) : "memory");
}
static bool all_are(const std::vector<float>& v, float want) {
  for (float x : v)
    if (std::isnan(want) ? !std::isnan(x) : x != want) return false;
  return true;
}
static void run_product(Missing missing, float want, const char* what) {
  float* out = device_alloc<float>(512);
  product<<<1, 128>>>(out, missing);
  must(cudaDeviceSynchronize(), what);
  check(all_are(to_host(out, 512), want), what);
}
int main() {
  run_product(kNothing, 5 + 96, "wgmma sees what was fenced");
  run_product(kProxyFence, 5 + 32, "without fence.proxy.async wgmma sees the older tile");
  run_product(kSourceWait, 5 + 224, "a tile overwritten before the wait is read overwritten");
  run_product(kWait, NAN, "accumulators are NaN until wait_group");
  for (bool fence : {true, false}) {
    float* out = device_alloc<float>(32);
    bulk_store<<<1, 32>>>(out, fence);
    must(cudaDeviceSynchronize(), "bulk store");
    check(all_are(to_host(out, 32), fence ? 2.f : 1.f), fence ? "a bulk store sends what was fenced" : "a bulk store without fence.proxy.async sends the older bytes");
  }
  return finish();
}
