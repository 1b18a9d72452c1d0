// Planted bugs of the asynchronous units: mbarrier counts, TMA and cp.async without a wait, proxy fences, wgmma's fence, wait and sources.
#include <cuda_bf16.h>

#include "tests/gpusim/cases/bugs.h"

__device__ void init(unsigned long long* bar, int n) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1; fence.mbarrier_init.release.cluster;" ::"r"(sp(bar)), "r"(n));
}
__device__ void wait(unsigned long long* bar, int parity) {
  asm volatile("{ .reg .pred p; W: mbarrier.try_wait.parity.shared.b64 p, [%0], %1; @p bra D; bra W; D: }" ::"r"(sp(bar)), "r"(parity) : "memory");
}
__device__ void arrive(unsigned long long* bar) { asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(sp(bar)) : "memory"); }
__device__ void expect(unsigned long long* bar, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(sp(bar)), "r"(bytes) : "memory");
}
__device__ void copy(void* to, const void* from, int bytes, unsigned long long* bar) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(sp(to)), "l"(from), "r"(bytes), "r"(sp(bar))
               : "memory");
}

__global__ void bulk_load(const float* x, float* y, bool fixed) {
  __shared__ __align__(128) float s[256];
  __shared__ __align__(8) unsigned long long bar;
  if (threadIdx.x == 0) init(&bar, 1);
  __syncthreads();
  if (threadIdx.x == 0) expect(&bar, 1024), copy(s, x, 1024, &bar);
  if (fixed) wait(&bar, 0);
  y[threadIdx.x] = s[threadIdx.x] * 2;
  __syncthreads();
  wait(&bar, 0);
}
__global__ void source_rewritten(float* x, float* y, bool fixed) {
  __shared__ __align__(128) float s[32];
  __shared__ __align__(8) unsigned long long bar;
  if (threadIdx.x == 0) init(&bar, 1), expect(&bar, 128), copy(s, x, 128, &bar);
  __syncwarp();
  if (fixed) wait(&bar, 0);
  x[threadIdx.x] = -1;
  wait(&bar, 0);
  y[threadIdx.x] = s[threadIdx.x];
}
// Two stages; the second is read after a wait for the first one's barrier.
__global__ void wrong_stage(const float* x, float* y, int stage) {
  __shared__ __align__(128) float s[2][32];
  __shared__ __align__(8) unsigned long long bar[2];
  if (threadIdx.x == 0) init(&bar[0], 1), init(&bar[1], 1);
  __syncthreads();
  if (threadIdx.x == 0)
    for (int k = 0; k < 2; k++) expect(&bar[k], 128), copy(s[k], x + 32 * k, 128, &bar[k]);
  wait(&bar[stage], 0);
  y[threadIdx.x] = s[1][threadIdx.x];
  __syncthreads();
  wait(&bar[0], 0), wait(&bar[1], 0);
}
// A tile is refilled while warps may still read it: `consumers` arrivals make the slot empty.
__global__ void refill(const float* x, float* y, int consumers) {
  __shared__ __align__(128) float s[32];
  __shared__ __align__(8) unsigned long long full, empty;
  if (threadIdx.x == 0) init(&full, 1), init(&empty, consumers);
  __syncthreads();
  const int warp = threadIdx.x / 32;
  if (warp == 0) {
    if (threadIdx.x == 0)
      for (int k = 0; k < 3; k++) {
        if (k) wait(&empty, (k - 1) & 1);
        expect(&full, 128), copy(s, x + 32 * k, 128, &full);
      }
  } else
    for (int k = 0; k < 3; k++) {
      wait(&full, k & 1);
      y[(k * 2 + warp - 1) * 32 + threadIdx.x % 32] = s[threadIdx.x % 32];
      __syncwarp();
      if (threadIdx.x % 32 == 0 && (consumers == 2 || warp == 1) && k < 2) arrive(&empty);
    }
}
__global__ void arrivals(int* x, int n) {
  __shared__ __align__(8) unsigned long long bar;
  if (threadIdx.x == 0) init(&bar, n);
  __syncthreads();
  if (threadIdx.x == 0) asm volatile("mbarrier.arrive.shared.b64 _, [%0], 4;" ::"r"(sp(&bar)) : "memory");
  __syncthreads();
  x[threadIdx.x] = 1;
}
__global__ void bytes_expected(const float* x, float* y, int bytes) {
  __shared__ __align__(128) float s[256];
  __shared__ __align__(8) unsigned long long bar;
  if (threadIdx.x == 0) init(&bar, 1);
  __syncthreads();
  if (threadIdx.x == 0) expect(&bar, bytes), copy(s, x, 1024, &bar);
  wait(&bar, 0);
  y[threadIdx.x] = s[threadIdx.x];
}
__global__ void too_many_bytes(int* x, int times) {
  __shared__ __align__(8) unsigned long long bar;
  if (threadIdx.x == 0) {
    init(&bar, 2);
    for (int k = 0; k < times; k++) asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], 524288;" ::"r"(sp(&bar)) : "memory");
    for (int k = 0; k < times; k++) asm volatile("mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%0], 524288;" ::"r"(sp(&bar)) : "memory");
  }
  x[threadIdx.x] = 1;
}
__global__ void used_before_init(int* x, bool fixed) {
  __shared__ __align__(8) unsigned long long bar;
  if (threadIdx.x == 0) init(&bar, 64);
  if (fixed)
    __syncthreads();
  else
    __nanosleep(100);
  arrive(&bar);
  x[threadIdx.x] = 1;
}
__global__ void initialised_twice(int* x, bool fixed) {
  __shared__ __align__(8) unsigned long long bar;
  if (fixed ? threadIdx.x == 0 : threadIdx.x < 2) init(&bar, 64);
  __syncthreads();
  arrive(&bar);
  wait(&bar, 0);
  x[threadIdx.x] = 1;
}
// One lane arrives for its warp: without __syncwarp that says nothing of what the other lanes have read.
__global__ void arrival_for_a_warp(int* x, bool fixed) {
  __shared__ int s[32];
  __shared__ __align__(8) unsigned long long bar;
  if (threadIdx.x == 0) init(&bar, 1);
  if (threadIdx.x < 32) s[threadIdx.x] = 7;
  __syncthreads();
  if (threadIdx.x < 32) {
    x[threadIdx.x] = s[threadIdx.x ^ 1];
    if (fixed) __syncwarp();
    if (threadIdx.x == 0) arrive(&bar);
  } else {
    wait(&bar, 0);
    s[threadIdx.x - 32] = 8;
  }
}
__global__ void no_arrival(int* x, bool fixed) {
  __shared__ __align__(8) unsigned long long bar;
  if (threadIdx.x == 0) init(&bar, fixed ? 1 : 2);
  __syncthreads();
  if (threadIdx.x == 0) arrive(&bar);
  if (threadIdx.x >= 32) wait(&bar, 0);
  x[threadIdx.x] = 1;
}
__global__ void thread_copies(const int4* x, int4* y, bool fixed) {
  __shared__ int4 s[64];
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16; cp.async.commit_group;" ::"r"(sp(&s[threadIdx.x])), "l"(x + threadIdx.x) : "memory");
  if (fixed) asm volatile("cp.async.wait_group 0;" ::: "memory");
  __syncthreads();
  y[threadIdx.x] = s[63 - threadIdx.x];
}
// One wgmma m64n8k16 of ones and twos on top of ones: 33 everywhere; its result leaves by a bulk store.
enum WgmmaBug { kNone, kNoWait, kNoProxyFence, kOverwritten, kNoStoreFence, kReused, kNoFence, kNoFenceAtAll, kNoSecondFence, kNoCommit };
__global__ void wgmma(float* out, int bug) {
  __shared__ __align__(1024) __nv_bfloat16 a[64 * 16], b[8 * 16];
  __shared__ __align__(128) float s[128];
  for (int i = threadIdx.x; i < 64 * 16; i += 128) a[i] = __float2bfloat16(1.f);
  for (int i = threadIdx.x; i < 8 * 16; i += 128) b[i] = __float2bfloat16(2.f);
  if (bug != kNoProxyFence) asm volatile("fence.proxy.async.shared::cta;");
  __syncthreads();
  auto desc = [](const void* p) {
    return ((unsigned long long)(sp(p) & 0x3ffff) >> 4) | (unsigned long long)(128 >> 4) << 16 | (unsigned long long)(256 >> 4) << 32;
  };
  float d[4];
  for (int k = 0; k < 4; k++) d[k] = 1 + 0 * (float)threadIdx.x;
  if (bug != kNoFenceAtAll) asm volatile("wgmma.fence.sync.aligned;" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]));
  if (bug == kNoFence)
    for (int k = 0; k < 4; k++) asm volatile("add.f32 %0, %0, 0f00000000;" : "+f"(d[k]));
  asm volatile("{.reg .pred p; setp.ne.b32 p, %6, 0; wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %5, p, 1, 1, 0, 0;}"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "l"(desc(a)), "l"(desc(b)), "r"(1));
  if (bug != kNoCommit) asm volatile("wgmma.commit_group.sync.aligned;");
  if (bug == kOverwritten) __syncthreads(), a[threadIdx.x] = __float2bfloat16(100.f);
  if (bug != kNoWait) asm volatile("wgmma.wait_group.sync.aligned 0;" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]));
  s[threadIdx.x] = d[0];
  // Once more, not added to the first: its registers were read meanwhile.
  if (bug != kNoSecondFence) asm volatile("wgmma.fence.sync.aligned;" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]));
  asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %5, 0, 1, 1, 0, 0; wgmma.commit_group.sync.aligned;"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "l"(desc(a)), "l"(desc(b)));
  asm volatile("wgmma.wait_group.sync.aligned 0;" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]));
  s[threadIdx.x] += d[0] - 32;
  if (bug != kNoStoreFence) asm volatile("fence.proxy.async.shared::cta;");
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 512; cp.async.bulk.commit_group;" ::"l"(out), "r"(sp(s)) : "memory");
    if (bug != kReused) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
  }
  __syncthreads();
  s[threadIdx.x] = -1;
  if (threadIdx.x == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}
// A comes from registers: they belong to the wgmma until it was waited for.
__global__ void wgmma_from_registers(float* out, bool fixed) {
  __shared__ __align__(1024) __nv_bfloat16 b[8 * 16];
  b[threadIdx.x] = __float2bfloat16(2.f);
  asm volatile("fence.proxy.async.shared::cta;");
  __syncthreads();
  const unsigned long long desc = ((unsigned long long)(sp(b) & 0x3ffff) >> 4) | (unsigned long long)(128 >> 4) << 16 | (unsigned long long)(256 >> 4) << 32;
  unsigned a[4];
  float d[4];
  for (int k = 0; k < 4; k++) asm volatile("mov.b32 %0, 0x3f803f80; mov.b32 %1, 0f00000000;" : "=r"(a[k]), "=f"(d[k]));
  asm volatile("wgmma.fence.sync.aligned;");
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, {%4,%5,%6,%7}, %8, 1, 1, 1, 0;\n"
      "wgmma.commit_group.sync.aligned;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(desc));
  if (!fixed) asm volatile("add.u32 %0, %0, 1;" : "+r"(a[0]));
  asm volatile("wgmma.wait_group.sync.aligned 0;" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]));
  if (fixed) asm volatile("add.u32 %0, %0, 1;" : "+r"(a[0]));
  out[threadIdx.x] = d[0] + 0 * (float)a[0];
}
__global__ void __cluster_dims__(2, 1, 1) read_of_an_exited_block(int* x, bool fixed) {
  __shared__ int s[32];
  s[threadIdx.x] = threadIdx.x;
  asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
  if (blockIdx.x == 1) {
    for (int k = 0; k < 50; k++) __nanosleep(100);
    unsigned remote;
    int v;
    asm volatile("mapa.shared::cluster.u32 %0, %1, 0;" : "=r"(remote) : "r"(sp(&s[threadIdx.x])));
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(v) : "r"(remote) : "memory");
    x[threadIdx.x] = v;
  }
  if (fixed) asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
}
__global__ void store_then_flag(float* out, float* copy_of_out, bool fixed) {  // wait_group.read is not enough for the data to be there
  __shared__ __align__(128) float s[32];
  s[threadIdx.x] = 3;
  asm volatile("fence.proxy.async.shared::cta;");
  __syncwarp();
  if (threadIdx.x == 0) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 128; cp.async.bulk.commit_group;" ::"l"(out), "r"(sp(s)) : "memory");
    if (fixed)
      asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    else
      asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
  }
  __syncwarp();
  copy_of_out[threadIdx.x] = out[threadIdx.x];
}
__global__ void __cluster_dims__(2, 1, 1) remote_barrier(int* x, bool fixed) {  // CTA 1 arrives at CTA 0's barrier
  __shared__ __align__(8) unsigned long long bar;
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(sp(&bar)));
    if (fixed) asm volatile("fence.mbarrier_init.release.cluster;");
  }
  asm volatile("barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;" ::: "memory");
  unsigned remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, 0;" : "=r"(remote) : "r"(sp(&bar)));
  if (blockIdx.x == 1 && threadIdx.x == 0) asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(remote) : "memory");
  if (blockIdx.x == 0) wait(&bar, 0);
  x[blockIdx.x * 32 + threadIdx.x] = 1;
  asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
}
// Threads write what TMA reads, or writes again: a barrier orders the threads, a proxy fence of the right memory the proxies.
enum Fence { kAll, kGlobal, kShared, kNothing };
__device__ void proxy_fence(int fence) {
  if (fence == kAll) asm volatile("fence.proxy.async;" ::: "memory");
  if (fence == kGlobal) asm volatile("fence.proxy.async.global;" ::: "memory");
  if (fence == kShared) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__global__ void global_to_tma(float* x, float* y, int fence) {
  __shared__ __align__(128) float s[64];
  __shared__ __align__(8) unsigned long long bar;
  x[threadIdx.x] = threadIdx.x;
  if (threadIdx.x == 0) init(&bar, 1);
  proxy_fence(fence);
  __syncthreads();
  if (threadIdx.x == 0) expect(&bar, 256), copy(s, x, 256, &bar);
  wait(&bar, 0);
  y[threadIdx.x] = s[threadIdx.x];
}
__global__ void message_to_tma(float* x, int* flag, float* y, int fence) {  // from block 0 to block 1
  __shared__ __align__(128) float s[32];
  __shared__ __align__(8) unsigned long long bar;
  if (blockIdx.x == 0) {
    x[threadIdx.x] = threadIdx.x;
    __syncwarp();
    if (threadIdx.x == 0) asm volatile("fence.acq_rel.gpu; st.relaxed.gpu.global.s32 [%0], 1;" ::"l"(flag) : "memory");
    return;
  }
  if (threadIdx.x == 0) {
    init(&bar, 1);
    for (int seen = 0; !seen;) asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
    proxy_fence(fence);
    expect(&bar, 128), copy(s, x, 128, &bar);
  }
  __syncwarp();
  wait(&bar, 0);
  y[threadIdx.x] = s[threadIdx.x];
}
__global__ void load_over_writes(const float* x, float* y, int fence) {
  __shared__ __align__(128) float s[64];
  __shared__ __align__(8) unsigned long long bar;
  s[threadIdx.x] = 0;
  if (threadIdx.x == 0) init(&bar, 1);
  proxy_fence(fence);
  __syncthreads();
  if (threadIdx.x == 0) expect(&bar, 128), copy(s, x, 128, &bar);
  wait(&bar, 0);
  y[threadIdx.x] = s[threadIdx.x];
}
__global__ void add_onto_writes(float* y, int fence) {  // a bulk reduction onto sums that threads have just cleared
  __shared__ __align__(128) float s[32];
  s[threadIdx.x] = 1;
  y[threadIdx.x] = 0;
  proxy_fence(fence);
  __syncwarp();
  if (threadIdx.x == 0)
    asm volatile(
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], 128; cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;" ::"l"(y), "r"(sp(s))
        : "memory");
}
// Arrivals that are .relaxed release only what a fence before them does.
__global__ void __cluster_dims__(2, 1, 1) relaxed_cluster_barrier(int* x, bool fixed) {
  __shared__ int s[32];
  s[threadIdx.x] = threadIdx.x;
  if (fixed) asm volatile("fence.acq_rel.cluster;" ::: "memory");
  asm volatile("barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;" ::: "memory");
  unsigned remote;
  int v;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(sp(&s[threadIdx.x])), "r"(1 - blockIdx.x));
  asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(v) : "r"(remote) : "memory");
  x[blockIdx.x * 32 + threadIdx.x] = v;
  asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
}
__global__ void relaxed_arrival(int* x, bool fixed) {
  __shared__ int s[32];
  __shared__ __align__(8) unsigned long long bar;
  if (threadIdx.x == 0) init(&bar, 32);
  __syncthreads();
  if (threadIdx.x < 32) {
    s[threadIdx.x] = 7;
    if (fixed)
      asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(sp(&bar)) : "memory");
    else
      asm volatile("mbarrier.arrive.relaxed.cta.shared::cta.b64 _, [%0];" ::"r"(sp(&bar)) : "memory");
  } else {
    wait(&bar, 0);
    x[threadIdx.x - 32] = s[threadIdx.x - 32];
  }
}
__global__ void relaxed_wait(int* x, bool fixed) {
  __shared__ int s[32];
  __shared__ __align__(8) unsigned long long bar;
  if (threadIdx.x == 0) init(&bar, 32);
  __syncthreads();
  if (threadIdx.x < 32) {
    s[threadIdx.x] = 7;
    arrive(&bar);
  } else {
    asm volatile("{ .reg .pred p; W: mbarrier.try_wait.parity.relaxed.cta.shared::cta.b64 p, [%0], 0; @p bra D; bra W; D: }" ::"r"(sp(&bar)) : "memory");
    if (fixed) asm volatile("fence.acq_rel.cta;" ::: "memory");
    x[threadIdx.x - 32] = s[threadIdx.x - 32];
  }
}
__global__ void lanes_copies(const int4* x, int4* y, bool fixed) {  // a lane's wait is for its own copies
  __shared__ int4 s[32];
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16; cp.async.commit_group; cp.async.wait_group 0;" ::"r"(sp(&s[threadIdx.x])), "l"(x + threadIdx.x)
               : "memory");
  if (fixed) __syncwarp();
  y[threadIdx.x] = s[31 - threadIdx.x];
}
__global__ void init_for_a_warp(int* x, bool fixed) {
  __shared__ __align__(8) unsigned long long bar;
  if (threadIdx.x == 0) init(&bar, 32);
  if (fixed) __syncwarp();
  arrive(&bar);
  wait(&bar, 0);
  x[threadIdx.x] = 1;
}
#define SYNC(what) must(cudaDeviceSynchronize(), what)
static float* numbers(int n) {
  std::vector<float> v(n);
  for (int i = 0; i < n; i++) v[i] = (float)i;
  return to_device(v);
}
static void run_wgmma(bool fixed, WgmmaBug bug) {
  float* out = device_alloc<float>(128);
  wgmma<<<1, 128>>>(out, fixed ? kNone : bug);
  SYNC("kernel");
  int right = 0;
  for (float v : to_host(out, 128)) right += v == 33;
  check(right == 128, "every sum is 33");
}
static const Bug kBugs[] = {
    {"load_without_wait", "RACE \\(shared memory, read after write\\).*|read of shared memory that nobody has written",
     [](bool fixed) {
       bulk_load<<<1, 256>>>(numbers(256), device_alloc<float>(256), fixed);
       SYNC("kernel");
     }},
    {"load_source_overwritten", "RACE \\(global memory, write after read\\)",
     [](bool fixed) {
       float* y = device_alloc<float>(32);
       source_rewritten<<<1, 32>>>(numbers(32), y, fixed);
       SYNC("kernel");
       if (fixed) check(to_host(y, 32)[31] == 31, "the copy has the old value");
     }},
    {"wait_for_another_stage", "RACE \\(shared memory, read after write\\)|read of shared memory that nobody has written",
     [](bool fixed) {
       wrong_stage<<<1, 32>>>(numbers(64), device_alloc<float>(32), fixed);
       SYNC("kernel");
     }},
    {"slot_freed_too_early", "RACE \\(shared memory, write after read\\)|RACE \\(shared memory, read after write\\)|more arrivals",
     [](bool fixed) {
       refill<<<1, 96>>>(numbers(96), device_alloc<float>(192), fixed ? 2 : 1);
       SYNC("kernel");
     }},
    {"more_arrivals_than_expected", "more arrivals than the 3 expected per phase|more arrivals",
     [](bool fixed) {
       arrivals<<<1, 32>>>(device_alloc<int>(32), fixed ? 4 : 3);
       SYNC("kernel");
     }},
    {"fewer_bytes_expected", "tx-count underflow.* 512 bytes more than expect_tx announced",
     [](bool fixed) {
       bytes_expected<<<1, 256>>>(numbers(256), device_alloc<float>(256), fixed ? 1024 : 512);
       SYNC("kernel");
     }},
    {"more_bytes_expected", "waits on mbarrier at shared offset .* for the phase of parity 0 .*tx-count 1024 bytes",
     [](bool fixed) {
       bytes_expected<<<1, 256>>>(numbers(256), device_alloc<float>(256), fixed ? 1024 : 2048);
       SYNC("kernel");
     }},
    {"tx_count_overflow", "tx-count [0-9]+ is out of its range",
     [](bool fixed) {
       too_many_bytes<<<1, 32>>>(device_alloc<int>(32), fixed ? 1 : 2);
       SYNC("kernel");
     }},
    {"barrier_used_before_init", "uses it, and nothing orders that after its initialisation|was never initialised",
     [](bool fixed) {
       used_before_init<<<1, 64>>>(device_alloc<int>(64), fixed);
       SYNC("kernel");
     }},
    {"barrier_initialised_twice", "has initialised an mbarrier that nobody invalidated",
     [](bool fixed) {
       initialised_twice<<<1, 64>>>(device_alloc<int>(64), fixed);
       SYNC("kernel");
     }},
    {"one_lane_arrives_without_syncwarp", "RACE \\(shared memory, write after read\\)|RACE \\(shared memory, read after write\\)",
     [](bool fixed) {
       arrival_for_a_warp<<<1, 64>>>(device_alloc<int>(64), fixed);
       SYNC("kernel");
     }},
    {"arrival_missing", "waits on mbarrier at shared offset .* for the phase of parity 0 \\(current phase 0: 1 of 2 arrivals pending",
     [](bool fixed) {
       no_arrival<<<1, 64>>>(device_alloc<int>(64), fixed);
       SYNC("kernel");
     }},
    {"cp_async_without_wait", "RACE \\(shared memory, read after write\\).*|against a cp.async",
     [](bool fixed) {
       thread_copies<<<1, 64>>>((int4*)numbers(256), device_alloc<int4>(64), fixed);
       SYNC("kernel");
     }},
    {"wgmma_without_wait", "is (read|written) while the wgmma of PTX line [0-9]+ is in flight: wgmma.wait_group is missing",
     [](bool fixed) { run_wgmma(fixed, kNoWait); }},
    {"wgmma_without_commit", "is in flight: wgmma.wait_group is missing", [](bool fixed) { run_wgmma(fixed, kNoCommit); }},
    {"wgmma_after_a_write_without_fence", "written since the last wgmma.fence: wgmma.fence is missing", [](bool fixed) { run_wgmma(fixed, kNoFence); }},
    {"wgmma_after_a_read_without_fence", "read since the last wgmma.fence: wgmma.fence is missing", [](bool fixed) { run_wgmma(fixed, kNoSecondFence); }},
    {"wgmma_without_any_fence", "first wgmma of a warp comes before any wgmma.fence", [](bool fixed) { run_wgmma(fixed, kNoFenceAtAll); }},
    {"wgmma_without_proxy_fence", "fence.proxy.async missing between a write and its read by the async proxy",
     [](bool fixed) { run_wgmma(fixed, kNoProxyFence); }},
    {"wgmma_source_overwritten", "RACE \\(shared memory, write after read\\)|RACE \\(shared memory, read after write\\)|fence.proxy.async missing",
     [](bool fixed) { run_wgmma(fixed, kOverwritten); }},
    {"store_without_proxy_fence", "fence.proxy.async missing between a write and its read by the async proxy",
     [](bool fixed) { run_wgmma(fixed, kNoStoreFence); }},
    {"store_source_reused", "RACE \\(shared memory, write after read\\).*|against a bulk store", [](bool fixed) { run_wgmma(fixed, kReused); }},
    {"store_not_awaited", "RACE \\(global memory, read after write\\)|read of global memory that nobody has written",
     [](bool fixed) {
       store_then_flag<<<1, 32>>>(device_alloc<float>(32), device_alloc<float>(32), fixed);
       SYNC("kernel");
     }},
    {"wgmma_source_register_changed", "is (read|written) while the wgmma of PTX line [0-9]+ is in flight",
     [](bool fixed) {
       float* out = device_alloc<float>(128);
       wgmma_from_registers<<<1, 128>>>(out, fixed);
       SYNC("kernel");
       if (fixed) check(to_host(out, 128)[77] == 32, "16 products of 1 and 2");
     }},
    {"read_of_an_exited_block", "distributed shared memory access to CTA rank 0 which has exited",
     [](bool fixed) {
       read_of_an_exited_block<<<2, 32>>>(device_alloc<int>(32), fixed);
       SYNC("kernel");
     }},
    {"tma_reads_global_writes_without_fence", "RACE \\(global memory, fence.proxy.async missing between a write and its read by the async proxy",
     [](bool fixed) {
       float* y = device_alloc<float>(64);
       global_to_tma<<<1, 64>>>(device_alloc<float>(64), y, fixed ? kAll : kNothing);
       SYNC("kernel");
       if (fixed) check(to_host(y, 64)[63] == 63, "what the threads wrote");
     }},
    {"tma_reads_global_writes_with_a_fence_of_shared_memory", "RACE \\(global memory, fence.proxy.async missing between a write and its read",
     [](bool fixed) {
       global_to_tma<<<1, 64>>>(device_alloc<float>(64), device_alloc<float>(64), fixed ? kGlobal : kShared);
       SYNC("kernel");
     }},
    {"tma_reads_another_block_without_fence", "RACE \\(global memory, fence.proxy.async missing between a write and its read",
     [](bool fixed) {
       float* y = device_alloc<float>(32);
       message_to_tma<<<2, 32>>>(device_alloc<float>(32), to_device(std::vector<int>(1)), y, fixed ? kGlobal : kNothing);
       SYNC("kernel");
       if (fixed) check(to_host(y, 32)[31] == 31, "what the other block wrote");
     }},
    {"tma_loads_over_writes_without_fence", "RACE \\(shared memory, fence.proxy.async missing between a write and another by the async proxy",
     [](bool fixed) {
       load_over_writes<<<1, 64>>>(numbers(32), device_alloc<float>(64), fixed ? kShared : kGlobal);
       SYNC("kernel");
     }},
    {"tma_reduces_onto_writes_without_fence", "RACE \\(global memory, fence.proxy.async missing between a write and another by the async proxy",
     [](bool fixed) {
       float* y = device_alloc<float>(32);
       add_onto_writes<<<1, 32>>>(y, fixed ? kAll : kShared);
       SYNC("kernel");
       if (fixed) check(to_host(y, 32)[31] == 1, "0 + 1");
     }},
    {"relaxed_cluster_barrier", "RACE \\(shared memory, read after write\\)|read of shared memory that nobody has written",
     [](bool fixed) {
       relaxed_cluster_barrier<<<2, 32>>>(device_alloc<int>(64), fixed);
       SYNC("kernel");
     }},
    {"relaxed_mbarrier_arrival", "RACE \\(shared memory, read after write\\)",
     [](bool fixed) {
       relaxed_arrival<<<1, 64>>>(device_alloc<int>(32), fixed);
       SYNC("kernel");
     }},
    {"relaxed_mbarrier_wait", "RACE \\(shared memory, read after write\\)",
     [](bool fixed) {
       relaxed_wait<<<1, 64>>>(device_alloc<int>(32), fixed);
       SYNC("kernel");
     }},
    {"another_lanes_cp_async", "a lane reads what another lane of its warp wrote \\(__syncwarp missing\\)|read of shared memory that nobody has written",
     [](bool fixed) {
       lanes_copies<<<1, 32>>>((int4*)numbers(128), device_alloc<int4>(32), fixed);
       SYNC("kernel");
     }},
    {"barrier_initialised_by_another_lane", "uses it, and nothing orders that after its initialisation by lane 0 \\(__syncwarp missing\\)",
     [](bool fixed) {
       init_for_a_warp<<<1, 32>>>(device_alloc<int>(32), fixed);
       SYNC("kernel");
     }},
    {"remote_barrier_without_fence", "uses it, and nothing orders that after its initialisation|without fence.mbarrier_init",
     [](bool fixed) {
       remote_barrier<<<2, 32>>>(device_alloc<int>(64), fixed);
       SYNC("kernel");
     }},
};
int main(int argc, char** argv) { return run_bug(kBugs, argc, argv); }
