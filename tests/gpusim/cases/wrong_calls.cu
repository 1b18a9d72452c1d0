// Calls that the runtime must refuse with the code of a card, and go on: bad handles, pointers, sizes, directions and grids.
#include <cooperative_groups.h>
#include <cstring>

#include "tests/gpusim/cases/check.h"

__global__ void nothing() {}
__global__ void together(int* x) {
  cooperative_groups::this_grid().sync();
  if (threadIdx.x == 0 && blockIdx.x == 0) *x = 1;
}
static void refused(cudaError_t got, cudaError_t wanted, const char* fact) {
  check(got == wanted, fact);
  if (got != wanted) std::printf("       %s, not %s\n", cudaGetErrorName(got), cudaGetErrorName(wanted));
  cudaGetLastError();
}
static void copies() {
  int *device = device_alloc<int>(16), *other = device_alloc<int>(16), *managed = nullptr, host[16] = {}, host2[16] = {};
  must(cudaMallocManaged(&managed, 64), "managed");
  must(cudaMemset(device, 0, 64), "fill"), must(cudaMemset(other, 0, 64), "fill");
  refused(cudaMemcpy(nullptr, nullptr, 4, cudaMemcpyDeviceToDevice), cudaErrorInvalidValue, "a copy between null pointers");
  refused(cudaMemset(nullptr, 0, 4), cudaErrorInvalidValue, "a fill of a null pointer");
  refused(cudaMemset(host, 0, 4), cudaErrorInvalidValue, "a fill of host memory");
  refused(cudaMemcpy(device, other, static_cast<size_t>(-1), cudaMemcpyDeviceToDevice), cudaErrorInvalidValue, "a copy of 2^64 - 1 bytes");
  refused(cudaMemcpy(device, other, 65, cudaMemcpyDeviceToDevice), cudaErrorInvalidValue, "a copy of a byte too much");
  refused(cudaMemcpy(host2, host, 64, cudaMemcpyHostToDevice), cudaErrorInvalidValue, "host to device between host pointers");
  refused(cudaMemcpy(device, other, 64, cudaMemcpyDeviceToHost), cudaErrorInvalidValue, "device to host into the device");
  refused(cudaMemcpy(device, host, 64, cudaMemcpyDeviceToDevice), cudaErrorInvalidValue, "device to device from the host");
  refused(cudaMemcpy(managed, host, 64, cudaMemcpyHostToDevice), cudaSuccess, "managed memory is on both sides: to the device");
  refused(cudaMemcpy(managed, device, 64, cudaMemcpyDeviceToHost), cudaSuccess, "managed memory is on both sides: to the host");
  refused(cudaMemcpy(host2, host, 64, cudaMemcpyDefault), cudaSuccess, "a copy of the default direction between host pointers");
  must(cudaFree(managed), "free");
}
static void sizes() {
  void* p = &p;
  refused(cudaMalloc(static_cast<void**>(nullptr), 4), cudaErrorInvalidValue, "memory for nobody");
  for (const size_t n : {size_t{100} << 30, size_t{1} << 43, size_t{1} << 60, static_cast<size_t>(-1)}) {
    refused(cudaMalloc(&p, n), cudaErrorMemoryAllocation, "more memory than the device has");
    check(p == nullptr, "and no pointer to it");
    refused(cudaMallocManaged(&p, n), cudaErrorMemoryAllocation, "more managed memory than the device has");
  }
  refused(cudaMallocHost(&p, static_cast<size_t>(-1)), cudaErrorMemoryAllocation, "more pinned memory than there is");
  must(cudaMalloc(&p, 4), "cudaMalloc");
  refused(cudaFree(static_cast<char*>(p) + 1), cudaErrorInvalidValue, "a free in the middle");
  must(cudaFree(p), "cudaFree");
  refused(cudaFree(p), cudaErrorInvalidValue, "a second free");
  int host = 0;
  refused(cudaFree(&host), cudaErrorInvalidValue, "a free of host memory");
  must(cudaMallocAsync(&p, 4, nullptr), "cudaMallocAsync"), must(cudaFreeAsync(p, nullptr), "cudaFreeAsync"), must(cudaDeviceSynchronize(), "wait");
  refused(cudaFreeAsync(p, nullptr), cudaErrorInvalidValue, "a second free in a stream");
}
static void handles() {
  cudaStream_t s;
  cudaEvent_t e, no_time;
  float ms = 0;
  int* device = device_alloc<int>(1);
  must(cudaStreamCreate(&s), "stream"), must(cudaEventCreate(&e), "event"), must(cudaEventCreateWithFlags(&no_time, cudaEventDisableTiming), "event");
  must(cudaEventRecord(e, s), "record"), must(cudaEventRecord(no_time, s), "record"), must(cudaStreamSynchronize(s), "wait");
  refused(cudaEventElapsedTime(&ms, e, no_time), cudaErrorInvalidResourceHandle, "the time of an event without one");
  for (const cudaEvent_t bad : {cudaEvent_t{nullptr}, no_time}) {
    if (bad != nullptr) must(cudaEventDestroy(bad), "destroy");
    refused(cudaEventRecord(bad, s), cudaErrorInvalidResourceHandle, "a record of no event");
    refused(cudaEventSynchronize(bad), cudaErrorInvalidResourceHandle, "a wait for no event");
    refused(cudaEventQuery(bad), cudaErrorInvalidResourceHandle, "a query of no event");
    refused(cudaStreamWaitEvent(s, bad, 0), cudaErrorInvalidResourceHandle, "a stream that waits for no event");
    refused(cudaEventDestroy(bad), cudaErrorInvalidResourceHandle, "the end of no event");
  }
  must(cudaStreamDestroy(s), "destroy");
  for (const cudaStream_t bad : {s, reinterpret_cast<cudaStream_t>(0x1234)}) {
    refused(cudaStreamSynchronize(bad), cudaErrorInvalidResourceHandle, "a wait for no stream");
    refused(cudaMemsetAsync(device, 0, 4, bad), cudaErrorInvalidResourceHandle, "a fill in no stream");
    refused(cudaMemcpyAsync(device, device, 4, cudaMemcpyDeviceToDevice, bad), cudaErrorInvalidResourceHandle, "a copy in no stream");
    refused(cudaEventRecord(e, bad), cudaErrorInvalidResourceHandle, "a record in no stream");
    nothing<<<1, 1, 0, bad>>>();
    refused(cudaGetLastError(), cudaErrorInvalidResourceHandle, "a launch in no stream");
    refused(cudaStreamDestroy(bad), cudaErrorInvalidResourceHandle, "the end of no stream");
  }
  must(cudaEventDestroy(e), "destroy");
}
static void grids() {
  for (const dim3 grid : {dim3(1, 65536, 1), dim3(1, 1, 65536)}) {
    nothing<<<grid, 1>>>();
    refused(cudaGetLastError(), cudaErrorInvalidConfiguration, "a grid of 65536 blocks in y or z");
  }
  nothing<<<1, dim3(1, 1, 65)>>>();
  refused(cudaGetLastError(), cudaErrorInvalidConfiguration, "a block of 65 threads in z");
  int* x = to_device(std::vector<int>(1));
  void* arguments[] = {&x};
  refused(cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(together), dim3(100000), dim3(1024), arguments, 0, nullptr), cudaErrorCooperativeLaunchTooLarge,
          "a cooperative grid that is not resident at once");
  must(cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(together), dim3(8), dim3(64), arguments, 0, nullptr), "a cooperative launch after it");
  check(to_host(x, 1)[0] == 1, "runs");
}
int main() {
  copies();
  sizes();
  handles();
  grids();
  for (const cudaError_t e : {cudaErrorInvalidResourceHandle, cudaErrorNotReady, cudaErrorCooperativeLaunchTooLarge})
    check(std::strcmp(cudaGetErrorName(e), "cudaErrorUnknown") != 0, "an error that is returned has a name");
  return finish();
}
