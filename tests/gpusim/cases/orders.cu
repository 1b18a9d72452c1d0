// In what order things happen that nothing orders: prints it, a line each, for orders_test, which asks for another with another seed.
#include "tests/gpusim/cases/check.h"

__global__ void draw(int* next, int* drawn, int first) {
  if (threadIdx.x % 32 == 0) drawn[atomicAdd(next, 1)] = first + static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) / 32;
}
__global__ void draw_often(int* next, int* drawn, int me) {
  for (int k = 0; k < 6; k++) {
    drawn[atomicAdd(next, 1)] = me;
    __nanosleep(20);
  }
}

template <class Launch>
static void print_order(const char* what, int draws, const Launch& launch) {
  int *next = to_device(std::vector<int>(1)), *drawn = device_alloc<int>(draws);
  launch(next, drawn);
  must(cudaDeviceSynchronize(), what);
  printf("%s", what);
  for (const int id : to_host(drawn, draws)) printf(" %d", id);
  printf("\n");
}

int main() {
  cudaStream_t a, b;
  must(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking), "stream");
  must(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking), "stream");
  print_order("warps", 8, [](int* next, int* drawn) { draw<<<1, 256>>>(next, drawn, 0); });
  print_order("blocks", 8, [](int* next, int* drawn) { draw<<<8, 32>>>(next, drawn, 0); });
  print_order("launches", 4, [&](int* next, int* drawn) {
    draw<<<1, 64, 0, a>>>(next, drawn, 0);
    draw<<<1, 64, 0, b>>>(next, drawn, 2);
  });
  print_order("turns", 12, [&](int* next, int* drawn) {
    draw_often<<<1, 1, 0, a>>>(next, drawn, 1);
    draw_often<<<1, 1, 0, b>>>(next, drawn, 2);
  });
  must(cudaStreamDestroy(a), "stream"), must(cudaStreamDestroy(b), "stream");
  return finish();
}
