// Planted bugs between kernels in flight on two streams: flags and fences, copies that release a kernel, lost updates, a missing event, a deadlock.
#include "tests/gpusim/cases/bugs.h"

__device__ void await(volatile int* flag, int value) {
  while (*flag != value) __nanosleep(20);
}
// Two kernels hand a value to and fro; each waits for the other's flag.
__global__ void ping(volatile int* flags, int* data, bool fence) {
  for (int k = 1; k <= 4; k++) {
    data[0] = data[1] + 1;
    if (fence) __threadfence();
    flags[0] = k;
    await(flags + 1, k);
    __threadfence();
  }
}
__global__ void pong(volatile int* flags, int* data) {
  for (int k = 1; k <= 4; k++) {
    await(flags, k);
    __threadfence();
    data[1] = data[0] * 2;
    __threadfence();
    flags[1] = k;
  }
}
__global__ void await_then_read(volatile int* flag, const int* data, int* out) {
  if (threadIdx.x == 0) await(flag, 1);
  __syncthreads();
  __threadfence();
  out[threadIdx.x] = data[threadIdx.x];
}
// Two of these begin together, so that neither can be over before the other begins; the turn ends between a read and its write.
__global__ void count_up(int* x, volatile int* begun, int me, bool atomic) {
  begun[me] = 1;
  await(begun + 1 - me, 1);
  for (int k = 0; k < 4000; k++)
    if (atomic)
      atomicAdd(x, 1);
    else {
      const int old = *(volatile int*)x;
      __nanosleep(20);
      *(volatile int*)x = old + 1;
    }
}
__global__ void first_waiter(volatile int* flags) {
  await(flags + 1, 1);
  flags[0] = 1;
}
__global__ void second_waiter(volatile int* flags, bool fixed) {
  if (fixed) flags[1] = 1;
  await(flags, 1);
  flags[1] = 1;
}
__global__ void write_late(int* x, int* y) {
  for (int k = 0; k < 300; k++) y[threadIdx.x] = k;
  x[threadIdx.x] = 7;
}
__global__ void read_all(const int* x, int* y) { y[threadIdx.x] = x[threadIdx.x]; }
__global__ void out_of_bounds(int* x, int at) {
  for (int k = 0; k < 50; k++) x[0] = k;
  x[at] = 1;
}
__global__ void bystander(int* x) {
  for (int k = 0; k < 2000; k++) x[0] = k;
}
__global__ void read_long(const volatile int* x) {
  for (int k = 0; k < 20000; k++) {
    (void)*x;
    __nanosleep(20);
  }
}
struct Streams {
  cudaStream_t a, b;
  Streams() {
    must(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking), "stream");
    must(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking), "stream");
  }
  ~Streams() { cudaStreamDestroy(a), cudaStreamDestroy(b); }
};
#define SYNC(what) must(cudaDeviceSynchronize(), what)

// Reported once, with the waits of both kernels: two entries ask for one name each.
static void wait_for_each_other(bool fixed) {
  Streams s;
  int* flags = to_device(std::vector<int>(2));
  first_waiter<<<1, 1, 0, s.a>>>(flags);
  second_waiter<<<1, 1, 0, s.b>>>(flags, fixed);
  SYNC("kernels");
}

static const Bug kBugs[] = {
    {"kernels_shake_hands_without_a_fence", "RACE \\(global memory, (read after write|write after read|write after write)\\)",
     [](bool fixed) {
       Streams s;
       int *flags = to_device(std::vector<int>(2)), *data = to_device(std::vector<int>(2));
       ping<<<1, 1, 0, s.a>>>(flags, data, fixed);
       pong<<<1, 1, 0, s.b>>>(flags, data);
       SYNC("kernels");
       check(to_host(data, 2)[1] == 30, "the handshake computes 2 (x + 1) four times");
     }},
    {"copy_releases_a_kernel_before_its_data", "RACE \\(global memory",
     [](bool fixed) {
       Streams s;
       int *flag = to_device(std::vector<int>(1)), *data = to_device(std::vector<int>(32)), *out = device_alloc<int>(32), *pinned = nullptr;
       must(cudaMallocHost(&pinned, 33 * 4), "cudaMallocHost");
       for (int k = 0; k < 33; k++) pinned[k] = 1;
       await_then_read<<<1, 32, 0, s.a>>>(flag, data, out);
       if (!fixed) must(cudaMemcpyAsync(flag, pinned + 32, 4, cudaMemcpyHostToDevice, s.b), "the flag");
       must(cudaMemcpyAsync(data, pinned, 128, cudaMemcpyHostToDevice, s.b), "the data");
       if (fixed) must(cudaMemcpyAsync(flag, pinned + 32, 4, cudaMemcpyHostToDevice, s.b), "the flag");
       SYNC("kernel");
       if (fixed) check(to_host(out, 32)[31] == 1, "the kernel reads what was copied before its flag");
       cudaFreeHost(pinned);
     }},
    {"kernels_lose_updates", "FAILED no update is lost",
     [](bool fixed) {
       Streams s;
       int *x = to_device(std::vector<int>(1)), *begun = to_device(std::vector<int>(2));
       count_up<<<1, 1, 0, s.a>>>(x, begun, 0, fixed);
       count_up<<<1, 1, 0, s.b>>>(x, begun, 1, fixed);
       SYNC("kernels");
       check(to_host(x, 1)[0] == 8000, "no update is lost");
     }},
    {"no_event_between_kernels_in_flight", "RACE \\(global memory.*|read of global memory that nobody has written",
     [](bool fixed) {
       Streams s;
       int *x = device_alloc<int>(32), *y = device_alloc<int>(32), *z = device_alloc<int>(32);
       cudaEvent_t e;
       must(cudaEventCreate(&e), "event");
       write_late<<<1, 32, 0, s.a>>>(x, y);
       must(cudaEventRecord(e, s.a), "record");
       if (fixed) must(cudaStreamWaitEvent(s.b, e, 0), "wait");
       read_all<<<1, 32, 0, s.b>>>(x, z);
       SYNC("kernels");
       check(to_host(z, 32)[31] == 7, "the second kernel reads what the first wrote");
       cudaEventDestroy(e);
     }},
    {"first_kernel_of_a_deadlock", "kernel first_waiter\\(", wait_for_each_other},
    {"second_kernel_of_a_deadlock", "kernel second_waiter\\(", wait_for_each_other},
    {"error_beside_another_kernel", "kernel out_of_bounds\\(",
     [](bool fixed) {
       Streams s;
       int *x = device_alloc<int>(1), *y = device_alloc<int>(1);
       out_of_bounds<<<1, 1, 0, s.a>>>(x, fixed ? 0 : 100000);
       bystander<<<1, 1, 0, s.b>>>(y);
       SYNC("kernels");
     }},
    {"async_allocation_in_another_stream", "RACE \\(global memory, use before its allocation\\)",
     [](bool fixed) {
       Streams s;
       int* x = nullptr;
       cudaEvent_t e;
       must(cudaEventCreate(&e), "event");
       must(cudaMallocAsync(&x, 4, s.a), "cudaMallocAsync");
       must(cudaEventRecord(e, s.a), "record");
       if (fixed) must(cudaStreamWaitEvent(s.b, e, 0), "wait");
       bystander<<<1, 1, 0, s.b>>>(x);
       SYNC("kernel");
       must(cudaFreeAsync(x, s.a), "cudaFreeAsync");
       SYNC("free");
       cudaEventDestroy(e);
     }},
    {"async_allocation_filled_in_another_stream", "RACE \\(global memory\\): cudaMemsetAsync writes .*puts cudaMallocAsync .* before it",
     [](bool fixed) {
       Streams s;
       int* x = nullptr;
       must(cudaMallocAsync(&x, 4, s.a), "cudaMallocAsync");
       if (fixed) must(cudaStreamSynchronize(s.a), "allocation");
       must(cudaMemsetAsync(x, 0, 4, s.b), "fill");
       SYNC("fill");
       must(cudaFreeAsync(x, s.a), "cudaFreeAsync");
       SYNC("free");
     }},
    {"freed_in_another_stream", "RACE \\(global memory\\): cudaFreeAsync frees allocation .* which .* used|use after free",
     [](bool fixed) {
       Streams s;
       int* x = nullptr;
       cudaEvent_t e;
       must(cudaEventCreate(&e), "event");
       must(cudaMallocAsync(&x, 4, s.a), "cudaMallocAsync");
       bystander<<<1, 1, 0, s.a>>>(x);
       must(cudaEventRecord(e, s.a), "record");
       if (fixed)
         while (cudaEventQuery(e) == cudaErrorNotReady) {}
       must(cudaFreeAsync(x, s.b), "cudaFreeAsync");
       SYNC("free");
       cudaEventDestroy(e);
     }},
    {"freed_under_a_kernel", "ERROR use after free.*|RACE \\(global memory\\): cudaFreeAsync frees",
     [](bool fixed) {
       Streams s;
       int* x = nullptr;
       must(cudaMallocAsync(&x, 4, s.a), "cudaMallocAsync");
       must(cudaMemsetAsync(x, 0, 4, s.a), "fill");
       must(cudaStreamSynchronize(s.a), "fill");
       read_long<<<1, 1, 0, s.a>>>(x);
       must(cudaFreeAsync(x, fixed ? s.a : s.b), "cudaFreeAsync");
       SYNC("kernel");
     }},
    {"freed_beside_a_kernel", "ERROR use after free.*",
     [](bool fixed) {
       Streams s;
       int* x = nullptr;
       must(cudaMallocAsync(&x, 4, s.a), "cudaMallocAsync");
       int *flag = to_device(std::vector<int>(1)), *out = device_alloc<int>(1), *pinned = nullptr;
       must(cudaMallocHost(&pinned, 4), "cudaMallocHost");
       *pinned = 1;
       must(cudaMemcpyAsync(x, pinned, 4, cudaMemcpyHostToDevice, s.a), "copy");
       must(cudaStreamSynchronize(s.a), "copy");
       await_then_read<<<1, 1, 0, s.a>>>(flag, x, out);
       if (!fixed) must(cudaFreeAsync(x, s.b), "cudaFreeAsync");
       must(cudaMemcpyAsync(flag, pinned, 4, cudaMemcpyHostToDevice, s.b), "the flag");
       if (fixed) must(cudaFreeAsync(x, s.a), "cudaFreeAsync");
       SYNC("kernel");
       cudaFreeHost(pinned);
     }},
};
int main(int argc, char** argv) { return run_bug(kBugs, argc, argv); }
