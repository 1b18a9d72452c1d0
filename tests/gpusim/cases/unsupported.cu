// An instruction that the simulator does not know: named when the program is loaded, and the launch is refused.
#include "tests/gpusim/cases/check.h"

__global__ void unsupported(int* x) { asm volatile("{ .reg .b32 a; vadd.s32.s32.s32 a, 1, 2; st.global.u32 [%0], a; }" ::"l"(x)); }
__global__ void supported(int* x) { x[threadIdx.x] = 7; }
int main() {
  int* x = device_alloc<int>(32);
  supported<<<1, 32>>>(x);
  check(to_host(x, 32)[31] == 7, "another kernel of the same program runs");
  unsupported<<<1, 1>>>(x);
  check(cudaGetLastError() == cudaErrorInvalidPtx, "the launch is refused");
  return finish();
}
