// libcu++: cuda::barrier, memcpy_async, cuda::pipeline, cuda::atomic between blocks, early exit.
#include "tests/gpusim/cases/check.h"

#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
#include <cassert>
#include <cstdio>
#include <cuda/atomic>
#include <cuda/barrier>
#include <cuda/pipeline>
namespace cg = cooperative_groups;
__global__ void early(int* o) {
  if (threadIdx.x >= 64) return;
  __shared__ int s[64];
  s[threadIdx.x] = threadIdx.x;
  __syncthreads();
  o[threadIdx.x] = s[63 - threadIdx.x];
}
__global__ void cubar(const int* in, int* o) {
  __shared__ cuda::barrier<cuda::thread_scope_block> b;
  __shared__ alignas(16) int s[256];
  auto g = cg::this_thread_block();
  if (g.thread_rank() == 0) init(&b, g.size());
  g.sync();
  cuda::memcpy_async(g, s, in, cuda::aligned_size_t<16>(1024), b);
  b.arrive_and_wait();
  o[g.thread_rank()] = s[255 - g.thread_rank()];
}
__global__ void pipe(const int* in, int* o) {
  __shared__ int s[2][128];
  __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, 2> st;
  auto g = cg::this_thread_block();
  auto p = cuda::make_pipeline(g, &st);
  int acc = 0;
  for (int k = 0; k < 6; k++) {
    if (k == 0) {
      p.producer_acquire();
      cuda::memcpy_async(g, s[0], in, 512, p);
      p.producer_commit();
    }
    if (k < 5) {
      p.producer_acquire();
      cuda::memcpy_async(g, s[(k + 1) & 1], in + (k + 1) * 128, 512, p);
      p.producer_commit();
    }
    p.consumer_wait();
    acc += s[k & 1][127 - threadIdx.x];
    g.sync();
    p.consumer_release();
  }
  o[threadIdx.x] = acc;
}
__global__ void flags(cuda::atomic<int, cuda::thread_scope_device>* f, int* d, int* o) {
  if (blockIdx.x == 0) {
    while (f->load(cuda::memory_order_acquire) < 3) __nanosleep(20);
    if (threadIdx.x == 0) {
      int s = 0;
      for (int i = 1; i < 4; i++) s += d[i];
      o[0] = s;
    }
  } else if (threadIdx.x == 0) {
    d[blockIdx.x] = blockIdx.x * 10;
    f->fetch_add(1, cuda::memory_order_release);
  }
}
int main() {
  int *a, *o;
  must(cudaMallocManaged(&a, 4096), "cudaMallocManaged");
  must(cudaMallocManaged(&o, 4096), "cudaMallocManaged");
  for (int i = 0; i < 1024; i++) a[i] = i;
  early<<<1, 100>>>(o);
  must(cudaDeviceSynchronize(), "early");
  check(o[0] == 63 && o[63] == 0, "threads that exited count as arrived");
  cubar<<<1, 256>>>(a, o);
  must(cudaDeviceSynchronize(), "cubar");
  check(o[0] == 255 && o[255] == 0, "cuda::barrier completes a memcpy_async");
  pipe<<<1, 128>>>(a, o);
  must(cudaDeviceSynchronize(), "pipe");
  bool ok = true;
  for (int t = 0; t < 128; t++) {
    int s = 0;
    for (int k = 0; k < 6; k++) s += k * 128 + 127 - t;
    ok &= o[t] == s;
  }
  check(ok, "cuda::pipeline with two stages");
  cuda::atomic<int, cuda::thread_scope_device>* f;
  must(cudaMallocManaged(&f, 64), "cudaMallocManaged");
  *(int*)f = 0;
  flags<<<4, 32>>>(f, a, o);
  must(cudaDeviceSynchronize(), "flags");
  check(o[0] == 60, "a block waits for later blocks");
  cudaFree(a);
  cudaFree(o);
  cudaFree(f);
  return finish();
}
