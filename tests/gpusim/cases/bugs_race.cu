// Planted bugs of order: races in shared memory, between lanes, between blocks, between launches of different streams; barriers and deadlocks.
#include "tests/gpusim/cases/bugs.h"

__global__ void read_after_write(float* x, bool fixed) {
  __shared__ float s[64];
  s[threadIdx.x] = 0;
  __syncthreads();
  s[threadIdx.x] = threadIdx.x;
  if (fixed) __syncthreads();
  x[threadIdx.x] = s[63 - threadIdx.x];
}
__global__ void write_after_read(float* x, bool fixed) {
  __shared__ float s[64];
  for (int k = 0; k < 2; k++) {
    s[threadIdx.x] = k;
    __syncthreads();
    x[threadIdx.x] = s[63 - threadIdx.x];
    if (fixed) __syncthreads();
  }
}
__global__ void lanes_of_a_warp(int* x, bool fixed) {
  __shared__ int s[32];
  s[threadIdx.x] = threadIdx.x;
  if (fixed) __syncwarp();
  x[threadIdx.x] = s[31 - threadIdx.x];
}
__global__ void lanes_write_one_word(int* x, bool fixed) {
  if (fixed ? threadIdx.x == 0 : true) x[0] = threadIdx.x;
}
__global__ void blocks_write_one_word(int* x, bool fixed) {
  if (threadIdx.x == 0) x[fixed ? blockIdx.x : 0] = blockIdx.x;
}
// Block 0 hands data to block 1 through a flag.
__global__ void message(volatile int* flag, int* data, int* out, bool producer_fence, bool consumer_fence) {
  if (threadIdx.x) return;
  if (blockIdx.x == 0) {
    data[0] = 42;
    if (producer_fence) __threadfence();
    *flag = 1;
  } else {
    while (*flag == 0) __nanosleep(20);
    if (consumer_fence) __threadfence();
    out[0] = data[0];
  }
}
// The last block sums what all wrote; the counter alone orders nothing.
__global__ void last_block(int* parts, unsigned* count, int* out, bool fixed) {
  parts[blockIdx.x] = 1;
  if (fixed) __threadfence();
  if (atomicAdd(count, 1) != gridDim.x - 1) return;
  if (fixed) __threadfence();
  int s = 0;
  for (int k = 0; k < gridDim.x; k++) s += parts[k];
  out[0] = s;
}
// The same with many threads: each fences, a barrier, and thread 0 counts for all.
__global__ void last_block_of_many(int* parts, unsigned* count, int* out, bool before, bool after) {
  __shared__ bool last;
  parts[blockIdx.x * blockDim.x + threadIdx.x] = 1;
  if (before) __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(count, 1) == gridDim.x - 1;
  __syncthreads();
  if (!last) return;
  if (after) __threadfence();
  int s = 0;
  for (int k = 0; k < gridDim.x; k++) s += parts[k * blockDim.x + threadIdx.x];
  out[threadIdx.x] = s;
}
__global__ void fill(int* x, int v) { x[threadIdx.x] = v; }
__global__ void add(const int* x, int* y) { y[threadIdx.x] = x[threadIdx.x] + 1; }
__global__ void two_barriers(int* x, bool fixed) {
  if (threadIdx.x < 32 || fixed)
    asm volatile("bar.sync 1, 64;");
  else
    asm volatile("bar.sync 2, 64;");
  x[threadIdx.x] = 1;
}
__global__ void barrier_counts(int* x, bool fixed) {
  if (threadIdx.x < 32 || fixed)
    asm volatile("bar.sync 1, 64;");
  else
    asm volatile("bar.sync 1, 96;");
  x[threadIdx.x] = 1;
}
__global__ void lanes_diverge_at_shuffle(int* x, bool fixed) {
  if (fixed || threadIdx.x < 16)
    x[threadIdx.x] = __shfl_sync(~0u, threadIdx.x, 0);
  else
    while (*(volatile int*)(x + 32) == 0) __nanosleep(20);
}
// Released and acquired by a scope that holds the other block, or does not.
__global__ void message_of_scope(int* flag, int* data, int* out, bool release_wide, bool acquire_wide) {
  int seen = 0;
  if (blockIdx.x == 0) {
    data[0] = 7;
    if (release_wide)
      asm volatile("st.release.gpu.global.s32 [%0], 1;" ::"l"(flag) : "memory");
    else
      asm volatile("st.release.cta.global.s32 [%0], 1;" ::"l"(flag) : "memory");
  } else {
    while (!seen) {
      __nanosleep(20);
      if (acquire_wide)
        asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
      else
        asm volatile("ld.acquire.cta.global.s32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
    }
    out[0] = data[0];
  }
}
static void scope(bool release_wide, bool acquire_wide) {
  message_of_scope<<<2, 1>>>(to_device(std::vector<int>(1)), to_device(std::vector<int>(1)), device_alloc<int>(1), release_wide, acquire_wide);
  must(cudaDeviceSynchronize(), "kernel");
}
// Every block counts in one word: the scope must hold all of them.
__global__ void counts_of_scope(int* n, bool wide) {
  if (wide)
    atomicAdd(n, 1);
  else
    atomicAdd_block(n, 1);
}
__global__ void shuffle_from_the_dead(int* x, bool fixed) {
  const int v = threadIdx.x;
  if (!fixed && threadIdx.x == 31) return;
  x[threadIdx.x] = __shfl_sync(fixed ? ~0u : 0x7fffffffu, v, 31);
}
__global__ void shuffle_with(unsigned mask, int* x) {
  if (threadIdx.x < 8) x[threadIdx.x] = __shfl_sync(mask, threadIdx.x, 0);
}
#define SYNC(what) must(cudaDeviceSynchronize(), what)

static void many_last(bool before, bool after) {
  int* out = device_alloc<int>(64);
  last_block_of_many<<<6, 64>>>(device_alloc<int>(384), to_device(std::vector<unsigned>(1)), out, before, after);
  SYNC("kernel");
  if (before && after) check(to_host(out, 64)[63] == 6, "the last block sums all parts");
}
static void stream_order(bool fixed, bool non_blocking) {
  int *x = device_alloc<int>(32), *y = device_alloc<int>(32);
  cudaStream_t a, b;
  cudaEvent_t e;
  must(cudaStreamCreateWithFlags(&a, non_blocking ? cudaStreamNonBlocking : 0), "stream");
  must(cudaStreamCreateWithFlags(&b, non_blocking ? cudaStreamNonBlocking : 0), "stream");
  must(cudaEventCreate(&e), "event");
  fill<<<1, 32, 0, a>>>(x, 5);
  must(cudaEventRecord(e, a), "record");
  if (fixed) must(cudaStreamWaitEvent(b, e, 0), "wait");
  add<<<1, 32, 0, b>>>(x, y);
  SYNC("kernels");
  check(to_host(y, 32)[31] == 6, "the second stream sees the first one's values");
  cudaEventDestroy(e), cudaStreamDestroy(a), cudaStreamDestroy(b);
}
static const Bug kBugs[] = {
    {"shared_read_after_write", "RACE \\(shared memory, read after write\\).*bugs_race.cu",
     [](bool fixed) {
       read_after_write<<<1, 64>>>(device_alloc<float>(64), fixed);
       SYNC("kernel");
     }},
    {"shared_write_after_read", "RACE \\(shared memory, write after read\\)|RACE \\(shared memory, read after write\\)",
     [](bool fixed) {
       write_after_read<<<1, 64>>>(device_alloc<float>(64), fixed);
       SYNC("kernel");
     }},
    {"lanes_without_syncwarp", "a lane reads what another lane of its warp wrote \\(__syncwarp missing\\)",
     [](bool fixed) {
       lanes_of_a_warp<<<1, 32>>>(device_alloc<int>(32), fixed);
       SYNC("kernel");
     }},
    {"lanes_write_one_word", "RACE \\(global memory, write after write\\)",
     [](bool fixed) {
       lanes_write_one_word<<<1, 32>>>(device_alloc<int>(1), fixed);
       SYNC("kernel");
     }},
    {"blocks_write_one_word", "RACE \\(global memory, write after write\\)",
     [](bool fixed) {
       blocks_write_one_word<<<4, 32>>>(device_alloc<int>(4), fixed);
       SYNC("kernel");
     }},
    {"no_fence_before_the_flag", "RACE \\(global memory, read after write\\).*allocation #",
     [](bool fixed) {
       int* x = to_device(std::vector<int>(3));
       message<<<2, 32>>>(x, x + 1, x + 2, fixed, true);
       SYNC("kernel");
       if (fixed) check(to_host(x, 3)[2] == 42, "the message arrives");
     }},
    {"no_fence_after_the_flag", "RACE \\(global memory, read after write\\)",
     [](bool fixed) {
       int* x = to_device(std::vector<int>(3));
       message<<<2, 32>>>(x, x + 1, x + 2, true, fixed);
       SYNC("kernel");
     }},
    {"last_block_without_fence", "RACE \\(global memory, read after write\\)",
     [](bool fixed) {
       int* parts = device_alloc<int>(6);
       unsigned* count = to_device(std::vector<unsigned>(1));
       int* out = device_alloc<int>(1);
       last_block<<<6, 1>>>(parts, count, out, fixed);
       SYNC("kernel");
       if (fixed) check(to_host(out, 1)[0] == 6, "the last block sums all parts");
     }},
    {"last_block_without_fence_before_the_barrier", "RACE \\(global memory, read after write\\)", [](bool fixed) { many_last(fixed, true); }},
    {"last_block_without_fence_after_the_barrier", "RACE \\(global memory, read after write\\)", [](bool fixed) { many_last(true, fixed); }},
    {"no_wait_for_an_event", "RACE \\(global memory.*|read of global memory that nobody has written", [](bool fixed) { stream_order(fixed, true); }},
    {"no_wait_between_blocking_streams", "RACE \\(global memory.*|read of global memory that nobody has written",
     [](bool fixed) { stream_order(fixed, false); }},
    {"copy_in_another_stream", "RACE \\(global memory\\).*cudaMemcpyAsync|RACE \\(global memory, ",
     [](bool fixed) {
       int* x = device_alloc<int>(32);
       int* pinned = nullptr;
       must(cudaMallocHost(&pinned, 128), "cudaMallocHost");
       cudaStream_t a, b;
       must(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking), "stream");
       must(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking), "stream");
       fill<<<1, 32, 0, a>>>(x, 5);
       must(cudaMemcpyAsync(pinned, x, 128, cudaMemcpyDeviceToHost, fixed ? a : b), "copy");
       SYNC("stream");
       cudaFreeHost(pinned);
       cudaStreamDestroy(a), cudaStreamDestroy(b);
     }},
    {"host_does_not_wait", "FAILED the copy has arrived",
     [](bool fixed) {
       int* x = to_device(std::vector<int>(32, 9));
       int* pinned = nullptr;
       must(cudaMallocHost(&pinned, 128), "cudaMallocHost");
       cudaStream_t a;
       must(cudaStreamCreate(&a), "stream");
       must(cudaMemcpyAsync(pinned, x, 128, cudaMemcpyDeviceToHost, a), "copy");
       if (fixed) must(cudaStreamSynchronize(a), "synchronize");
       check(pinned[31] == 9, "the copy has arrived");
       SYNC("all");
       cudaFreeHost(pinned), cudaStreamDestroy(a);
     }},
    {"different_barriers", "deadlock: every warp waits.*|waits on barrier 1 \\(32 of 64 threads arrived\\)",
     [](bool fixed) {
       two_barriers<<<1, 64>>>(device_alloc<int>(64), fixed);
       SYNC("kernel");
     }},
    {"different_barrier_counts", "barrier 1 is used with the thread counts (64 and 96|96 and 64) in one phase",
     [](bool fixed) {
       barrier_counts<<<1, 64>>>(device_alloc<int>(64), fixed);
       SYNC("kernel");
     }},
    {"release_of_block_scope", "RACE \\(global memory, read after write\\)", [](bool fixed) { scope(fixed, true); }},
    {"acquire_of_block_scope", "RACE \\(global memory, read after write\\)", [](bool fixed) { scope(true, fixed); }},
    {"atomics_of_block_scope", "RACE \\(global memory, write after write\\)",
     [](bool fixed) {
       int* n = to_device(std::vector<int>(1));
       counts_of_scope<<<2, 32>>>(n, fixed);
       SYNC("kernel");
       if (fixed) check(to_host(n, 1)[0] == 64, "64 threads were counted");
     }},
    {"shuffle_from_an_exited_lane", "shuffled from a lane that does not take part",
     [](bool fixed) {
       shuffle_from_the_dead<<<1, 32>>>(device_alloc<int>(32), fixed);
       SYNC("kernel");
     }},
    {"lane_outside_of_its_mask", "not in its own member mask",
     [](bool fixed) {
       shuffle_with<<<1, 32>>>(fixed ? 0xffu : 0xff00u, device_alloc<int>(32));
       SYNC("kernel");
     }},
    {"lanes_missing_at_a_shuffle", "deadlock|livelock",
     [](bool fixed) {
       lanes_diverge_at_shuffle<<<1, 32>>>(to_device(std::vector<int>(33)), fixed);
       SYNC("kernel");
     }},
};
int main(int argc, char** argv) { return run_bug(kBugs, argc, argv); }
