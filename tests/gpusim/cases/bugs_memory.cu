// Planted bugs of memory: bounds, alignment, lifetime, reads of what nobody wrote (global, shared, registers), leaks, unsupported instructions.
#include "tests/gpusim/cases/bugs.h"

__global__ void out_of_bounds_global(float* x, int n, bool fixed) {
  const int i = threadIdx.x + blockIdx.x * blockDim.x;
  if (!fixed || i < n) x[i] = 1;
}
__global__ void out_of_bounds_shared(float* x, int shift) {
  __shared__ float s[32];
  s[threadIdx.x] = 1;
  __syncthreads();
  x[threadIdx.x] = s[threadIdx.x + shift];
}
__global__ void misaligned(char* x, int shift) { *(int*)(x + 4 * threadIdx.x + shift) = 3; }
__global__ void touch(int* x) { x[threadIdx.x] = 1; }
__global__ void sum_global(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x] + 1; }
__global__ void uninitialised_shared(float* x, int n) {
  __shared__ float s[64];
  if (threadIdx.x < n) s[threadIdx.x] = 1;
  __syncthreads();
  x[threadIdx.x] = s[threadIdx.x];
}
__global__ void uninitialised_register(unsigned* x, bool fixed) {
  unsigned v;
  if (fixed)
    asm volatile("{.reg .u32 a, b; mov.u32 a, 7; add.u32 b, a, 1; mov.u32 %0, b;}" : "=r"(v));
  else
    asm volatile("{.reg .u32 a, b; add.u32 b, a, 1; mov.u32 %0, b;}" : "=r"(v));
  x[threadIdx.x] = v;
}
// A tile of which only the first n items are set: moving, swapping and comparing the rest is legal as long as nothing comes of it.
__global__ void unset_items(const int* in, int* out, int n, bool fixed) {
  __shared__ int tile[128];
  int item[2];
  for (int k = 0; k < 2; k++)
    if (threadIdx.x * 2 + k < n) item[k] = in[threadIdx.x * 2 + k];
  for (int k = 0; k < 2; k++) tile[threadIdx.x * 2 + k] = item[k];
  __syncthreads();
  const int i = threadIdx.x, a = tile[127 - i], b = __shfl_xor_sync(~0u, a, 1);
  const bool swap = 127 - i < n && (126 - i) >= 0 && a > b;
  if (!fixed || 127 - i < n) out[i] = swap ? a : a + 1;
}
// An unset condition.
__global__ void unset_condition(int* out, bool fixed) {
  __shared__ int flags[64];
  if (fixed || threadIdx.x < 63) flags[threadIdx.x] = threadIdx.x;
  __syncthreads();
  const int flag = flags[63 - threadIdx.x];
  if (flag * 3 > 70) atomicAdd(out, 1);
}
__device__ __noinline__ void inner(int* p, int i) { p[i] = i; }
__global__ void nested(int* x, int step) { inner(x, threadIdx.x * step); }
__global__ void traps(bool fixed) {
  if (threadIdx.x == 5 && !fixed) __trap();
}
__global__ void count_in_shared(int* x, bool fixed) {
  __shared__ int sum;
  if (fixed && threadIdx.x == 0) sum = 0;
  __syncthreads();
  atomicAdd(&sum, 1);
  __syncthreads();
  if (threadIdx.x == 0) *x = sum;
}
__global__ void atomic_out_of_bounds(int* x, int at) { atomicAdd(x + at, 1); }
// A runtime index keeps the array in local memory.
__global__ void stack_array_overrun(int* x, int shift, int at) {
  int a[10];
  for (int k = 0; k < 10; k++) a[(k + shift) % 10] = k;
  x[threadIdx.x] = a[at];
}
// Loads a tile of which the source holds unwritten bytes: they are unwritten in shared memory, too.
__global__ void uninitialised_by_copy(const float* x, float* y) {
  __shared__ __align__(128) float s[64];
  __shared__ __align__(8) unsigned long long bar;
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.init.shared.b64 [%0], 1; fence.mbarrier_init.release.cluster;" ::"r"(sp(&bar)));
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], 256;" ::"r"(sp(&bar)));
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 256, [%2];" ::"r"(sp(s)), "l"(x), "r"(sp(&bar)) : "memory");
  }
  __syncthreads();
  asm volatile("{ .reg .pred p; W: mbarrier.try_wait.parity.shared.b64 p, [%0], 0; @p bra D; bra W; D: }" ::"r"(sp(&bar)) : "memory");
  y[threadIdx.x] = s[threadIdx.x];
}
#define SYNC(what) must(cudaDeviceSynchronize(), what)

static const Bug kBugs[] = {
    {"out_of_bounds_global", "global memory access out of bounds: .* [0-9]+ bytes past the end of allocation #[0-9]+ .*1024 bytes",
     [](bool fixed) {
       float* x = device_alloc<float>(256);
       out_of_bounds_global<<<3, 100>>>(x, 256, fixed);
       SYNC("kernel");
     }},
    {"out_of_bounds_shared", "shared memory access out of bounds: .*offset 400.*the CTA has 128 bytes",
     [](bool fixed) {
       float* x = device_alloc<float>(32);
       out_of_bounds_shared<<<1, 32>>>(x, fixed ? 0 : 100);
       SYNC("kernel");
     }},
    {"atomic_out_of_bounds", "device_atomic_functions.hpp:[0-9]+, inlined at .*bugs_memory.cu:[0-9]+: atom",
     [](bool fixed) {
       int* x = device_alloc<int>(32);
       must(cudaMemset(x, 0, 128), "cudaMemset");
       atomic_out_of_bounds<<<1, 32>>>(x, fixed ? 31 : 32);
       SYNC("kernel");
     }},
    {"stack_array_overrun",
     "local memory access out of bounds: offset 40, 4 bytes; the stack frame of [A-Za-z0-9_]*stack_array_overrun[A-Za-z0-9_]* has 40 bytes",
     [](bool fixed) {
       stack_array_overrun<<<1, 32>>>(device_alloc<int>(32), 3, fixed ? 9 : 10);
       SYNC("kernel");
     }},
    {"misaligned", "misaligned access: address .* is not a multiple of 4",
     [](bool fixed) {
       char* x = device_alloc<char>(1024);
       misaligned<<<1, 32>>>(x, fixed ? 0 : 1);
       SYNC("kernel");
     }},
    {"use_after_free", "ERROR use after free: .*inside FREED allocation #[0-9]+ .*use after free",
     [](bool fixed) {
       int* x = nullptr;
       must(cudaMalloc(&x, 1024), "cudaMalloc");
       if (!fixed) cudaFree(x);
       touch<<<1, 32>>>(x);
       SYNC("kernel");
       if (fixed) cudaFree(x);
     }},
    {"uninitialised_global", "read of global memory that nobody has written: .*allocation #",
     [](bool fixed) {
       float *x = device_alloc<float>(32), *y = device_alloc<float>(32);
       must(cudaMemset(x, 0, fixed ? 128 : 124), "cudaMemset");
       sum_global<<<1, 32>>>(x, y);
       SYNC("kernel");
     }},
    {"atomic_on_unwritten_shared", "read of shared memory that nobody has written",
     [](bool fixed) {
       count_in_shared<<<1, 64>>>(device_alloc<int>(1), fixed);
       must(cudaDeviceSynchronize(), "kernel");
     }},
    {"uninitialised_shared", "read of shared memory that nobody has written: .*offset 252",
     [](bool fixed) {
       float* x = device_alloc<float>(64);
       uninitialised_shared<<<1, 64>>>(x, fixed ? 64 : 63);
       SYNC("kernel");
     }},
    {"uninitialised_register", "register [%a-z0-9]+ is read, but its value was made of register a, which nothing has written",
     [](bool fixed) {
       unsigned* x = device_alloc<unsigned>(32);
       uninitialised_register<<<1, 32>>>(x, fixed);
       SYNC("kernel");
     }},
    {"unset_items", "is read, but its value was made of (a read of shared memory that nobody has written|register .*, which nothing has written)",
     [](bool fixed) {
       int *x = device_alloc<int>(128), *y = device_alloc<int>(64);
       must(cudaMemset(x, 0, 128 * 4), "cudaMemset");
       unset_items<<<1, 64>>>(x, y, 90, fixed);
       SYNC("kernel");
     }},
    {"unset_condition", "register %p[0-9]+ is read, but its value was made of a read of shared memory that nobody has written: .*offset 252",
     [](bool fixed) {
       int* x = device_alloc<int>(1);
       must(cudaMemset(x, 0, 4), "cudaMemset");
       unset_condition<<<1, 64>>>(x, fixed);
       SYNC("kernel");
     }},
    {"uninitialised_by_copy", "read of shared memory that nobody has written",
     [](bool fixed) {
       float *x = device_alloc<float>(64), *y = device_alloc<float>(64);
       must(cudaMemset(x, 0, fixed ? 256 : 128), "cudaMemset");
       uninitialised_by_copy<<<1, 64>>>(x, y);
       SYNC("kernel");
     }},
    {"in_a_called_function", "called from PTX line [0-9]+, .*bugs_memory.cu",
     [](bool fixed) {
       int* x = device_alloc<int>(256);
       nested<<<1, 32>>>(x, fixed ? 8 : 100);
       SYNC("kernel");
     }},
    {"trap", "trap instruction",
     [](bool fixed) {
       traps<<<1, 32>>>(fixed);
       SYNC("kernel");
     }},
    {"leak", "LEAK allocation #[0-9]+ .*1000 bytes.* was never freed",
     [](bool fixed) {
       void* x = nullptr;
       must(cudaMalloc(&x, 1000), "cudaMalloc");
       if (fixed) cudaFree(x);
     }},
    {"copy_past_the_end", "cudaMemcpy \\(destination\\) of 2048 bytes runs past the allocation",
     [](bool fixed) {
       char host[2048] = {};
       char* x = device_alloc<char>(1024);
       must(cudaMemcpy(x, host, fixed ? 1024 : 2048, cudaMemcpyHostToDevice), "cudaMemcpy");
     }},
    {"too_much_shared_memory", "60000 bytes of dynamic shared memory without cudaFuncAttributeMaxDynamicSharedMemorySize",
     [](bool fixed) {
       float* x = device_alloc<float>(64);
       if (fixed) must(cudaFuncSetAttribute(uninitialised_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, 60000), "attribute");
       uninitialised_shared<<<1, 64, 60000>>>(x, 64);
       SYNC("kernel");
     }},
};
int main(int argc, char** argv) { return run_bug(kBugs, argc, argv); }
