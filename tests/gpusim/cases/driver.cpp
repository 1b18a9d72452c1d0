// PTX text through the driver API, from plain C++: nvcc has no part in it, so this program shows the simulator on any host (tests/gpusim/aarch64 runs it there).
// Kernels: an mbarrier with a bulk copy and shuffles, a wgmma from shared memory, conversions, and one that leaves its allocation.
#include <cuda.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

static const char kPtx[] = R"(
.version 8.4
.target sm_90a
.address_size 64
.visible .entry tile_sum(.param .u64 x, .param .u64 out) {
  .reg .pred %p<3>;
  .reg .b32 %r<12>;
  .reg .b64 %rd<6>;
  .reg .f32 %f<12>;
  .shared .align 128 .b8 tile[1024];
  .shared .align 8 .b8 bar[8];
  .shared .align 4 .f32 sum;
  ld.param.u64 %rd1, [x];
  ld.param.u64 %rd2, [out];
  mov.u32 %r1, %tid.x;
  mov.u32 %r2, %ctaid.x;
  mul.wide.u32 %rd3, %r2, 1024;
  add.s64 %rd1, %rd1, %rd3;
  setp.ne.u32 %p1, %r1, 0;
  @%p1 bra LOADED;
  mov.f32 %f1, 0f00000000;
  st.shared.f32 [sum], %f1;
  mbarrier.init.shared::cta.b64 [bar], 1;
  fence.mbarrier_init.release.cluster;
  mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 1024;
  cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [tile], [%rd1], 1024, [bar];
LOADED:
  bar.sync 0;
WAIT:
  mbarrier.try_wait.parity.shared::cta.b64 %p2, [bar], 0;
  @!%p2 bra WAIT;
  mov.u32 %r3, tile;
  shl.b32 %r4, %r1, 2;
  add.u32 %r3, %r3, %r4;
  ld.shared.f32 %f2, [%r3];
  mov.u32 %r5, 16;
STEP:
  mov.b32 %r6, %f2;
  shfl.sync.bfly.b32 %r7, %r6, %r5, 31, 0xffffffff;
  mov.b32 %f3, %r7;
  add.f32 %f2, %f2, %f3;
  shr.u32 %r5, %r5, 1;
  setp.ne.u32 %p2, %r5, 0;
  @%p2 bra STEP;
  and.b32 %r8, %r1, 31;
  setp.eq.u32 %p2, %r8, 0;
  @%p2 red.shared.add.f32 [sum], %f2;
  bar.sync 0;
  @%p1 bra DONE;
  ld.shared.f32 %f4, [sum];
  mul.wide.u32 %rd4, %r2, 4;
  add.s64 %rd2, %rd2, %rd4;
  st.global.f32 [%rd2], %f4;
DONE:
  ret;
}
.visible .entry product(.param .u64 a, .param .u64 b, .param .u64 d) {  // D[64][8] = A[64][16] B[8][16]^T, BF16
  .reg .pred %p<4>;
  .reg .b32 %r<20>;
  .reg .b64 %rd<16>;
  .reg .f32 %f<5>;
  .shared .align 1024 .b8 sa[2048];
  .shared .align 1024 .b8 sb[256];
  ld.param.u64 %rd1, [a];
  ld.param.u64 %rd2, [b];
  ld.param.u64 %rd3, [d];
  mov.u32 %r1, %tid.x;
  mul.wide.u32 %rd4, %r1, 16;
  add.s64 %rd5, %rd1, %rd4;
  ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd5];
  shr.u32 %r6, %r1, 1;   // row; the thread holds half of it: one row of a core matrix of 8 x 16 bytes
  and.b32 %r7, %r1, 1;
  shr.u32 %r8, %r6, 3;
  and.b32 %r9, %r6, 7;
  mad.lo.u32 %r8, %r7, 8, %r8;
  shl.b32 %r8, %r8, 7;
  mad.lo.u32 %r8, %r9, 16, %r8;
  mov.u32 %r10, sa;
  add.u32 %r11, %r10, %r8;
  st.shared.v4.u32 [%r11], {%r2, %r3, %r4, %r5};
  mov.u32 %r12, sb;
  setp.gt.u32 %p1, %r1, 15;
  @%p1 bra STORED;
  add.s64 %rd6, %rd2, %rd4;
  ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd6];
  shl.b32 %r13, %r7, 7;
  mad.lo.u32 %r13, %r6, 16, %r13;
  add.u32 %r13, %r13, %r12;
  st.shared.v4.u32 [%r13], {%r2, %r3, %r4, %r5};
STORED:
  fence.proxy.async;
  bar.sync 0;
  shr.u32 %r10, %r10, 4;
  cvt.u64.u32 %rd7, %r10;
  or.b64 %rd7, %rd7, 0x0000000800400000;  // core matrices: 1024 bytes apart along K, 128 along M
  shr.u32 %r12, %r12, 4;
  cvt.u64.u32 %rd8, %r12;
  or.b64 %rd8, %rd8, 0x0000000800080000;
  setp.ne.u32 %p2, 0, 0;
  wgmma.fence.sync.aligned;
  wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1, %f2, %f3, %f4}, %rd7, %rd8, %p2, 1, 1, 0, 0;
  wgmma.commit_group.sync.aligned;
  wgmma.wait_group.sync.aligned 0;
  shr.u32 %r14, %r1, 5;
  and.b32 %r15, %r1, 31;
  shr.u32 %r16, %r15, 2;
  mad.lo.u32 %r16, %r14, 16, %r16;
  and.b32 %r17, %r15, 3;
  shl.b32 %r17, %r17, 1;
  mad.lo.u32 %r18, %r16, 8, %r17;
  mul.wide.u32 %rd9, %r18, 4;
  add.s64 %rd3, %rd3, %rd9;
  st.global.v2.f32 [%rd3], {%f1, %f2};
  st.global.v2.f32 [%rd3+256], {%f3, %f4};
  ret;
}
.visible .entry convert(.param .u64 x, .param .u64 out) {  // x rounded to BF16 and back, rounded to E4M3 (its byte), 2^x, x / 3
  .reg .b16 %h<4>;
  .reg .b32 %r<4>;
  .reg .b64 %rd<6>;
  .reg .f32 %f<6>;
  ld.param.u64 %rd1, [x];
  ld.param.u64 %rd2, [out];
  mov.u32 %r1, %tid.x;
  mul.wide.u32 %rd3, %r1, 4;
  add.s64 %rd1, %rd1, %rd3;
  ld.global.f32 %f1, [%rd1];
  cvt.rn.bf16.f32 %h1, %f1;
  cvt.f32.bf16 %f2, %h1;
  mov.f32 %f3, 0f00000000;
  cvt.rn.satfinite.e4m3x2.f32 %h2, %f3, %f1;
  cvt.u32.u16 %r2, %h2;
  ex2.approx.f32 %f4, %f1;
  div.rn.f32 %f5, %f1, 0f40400000;
  mul.wide.u32 %rd4, %r1, 16;
  add.s64 %rd2, %rd2, %rd4;
  mov.b32 %r3, %f2;
  st.global.u32 [%rd2], %r3;
  st.global.u32 [%rd2+4], %r2;
  st.global.f32 [%rd2+8], %f4;
  st.global.f32 [%rd2+12], %f5;
  ret;
}
.visible .entry stray(.param .u64 out) {
  .reg .b32 %r<2>;
  .reg .b64 %rd<3>;
  ld.param.u64 %rd1, [out];
  mov.u32 %r1, %tid.x;
  mul.wide.u32 %rd2, %r1, 4;
  add.s64 %rd1, %rd1, %rd2;
  st.global.u32 [%rd1], %r1;
  ret;
}
)";

namespace {
int num_failed = 0;
void check(bool ok, const char* fact) {
  num_failed += !ok;
  std::printf("%s %s\n", ok ? "ok    " : "FAILED", fact);
}
void must(CUresult e, const char* what) {
  if (e != CUDA_SUCCESS) std::printf("FAILED %s: error %d\n", what, (int)e), ++num_failed;
}
struct DeviceBuffer {
  CUdeviceptr at = 0;
  explicit DeviceBuffer(size_t bytes) { must(cuMemAlloc(&at, bytes), "cuMemAlloc"); }
  ~DeviceBuffer() { cuMemFree(at); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  template <class T>
  explicit DeviceBuffer(const std::vector<T>& v) : DeviceBuffer(v.size() * sizeof(T)) {
    must(cuMemcpyHtoD(at, v.data(), v.size() * sizeof(T)), "cuMemcpyHtoD");
  }
  template <class T>
  std::vector<T> get(size_t n) const {
    std::vector<T> v(n);
    must(cuMemcpyDtoH(v.data(), at, n * sizeof(T)), "cuMemcpyDtoH");
    return v;
  }
};
template <class... Buffers>
CUresult launch(CUmodule module, const char* name, unsigned blocks, unsigned threads, Buffers&... buffers) {
  CUfunction f;
  must(cuModuleGetFunction(&f, module, name), "cuModuleGetFunction");
  void* args[] = {&buffers.at...};
  const CUresult at_once = cuLaunchKernel(f, blocks, 1, 1, threads, 1, 1, 0, nullptr, args, nullptr);  // the simulator runs it now, unless streams are asynchronous
  const CUresult later = cuCtxSynchronize();
  return at_once != CUDA_SUCCESS ? at_once : later;
}
uint16_t bf16(float x) { return (uint16_t)(std::bit_cast<uint32_t>(x) >> 16); }  // of small integers: exact

void test_tile_sum(CUmodule module) {
  std::vector<float> x(3 * 256), want(3);
  for (size_t i = 0; i < x.size(); i++) want[i / 256] += x[i] = (float)((int)(i * 37 % 101) - 50);
  DeviceBuffer in(x), out(3 * sizeof(float));
  must(launch(module, "tile_sum", 3, 256, in, out), "tile_sum");
  check(out.get<float>(3) == want, "bulk copy, mbarrier, shuffles, atomics");
}
void test_product(CUmodule module) {
  std::vector<uint16_t> a(64 * 16), b(8 * 16);
  std::vector<float> want(64 * 8);
  auto value = [](int row, int k, int salt) { return (float)((row * 7 + k * 5 + salt) % 13 - 6); };
  for (int m = 0; m < 64; m++)
    for (int k = 0; k < 16; k++) a[m * 16 + k] = bf16(value(m, k, 1));
  for (int n = 0; n < 8; n++)
    for (int k = 0; k < 16; k++) b[n * 16 + k] = bf16(value(n, k, 4));
  for (int m = 0; m < 64; m++)
    for (int n = 0; n < 8; n++)
      for (int k = 0; k < 16; k++) want[m * 8 + n] += value(m, k, 1) * value(n, k, 4);
  DeviceBuffer da(a), db(b), dd(want.size() * sizeof(float));
  must(launch(module, "product", 1, 128, da, db, dd), "product");
  check(dd.get<float>(want.size()) == want, "wgmma m64n8k16 from shared memory");
}
void test_convert(CUmodule module) {
  const std::vector<float> x = {1.00390625f, -3.7f, 500.f, 0.0009f};
  const std::vector<uint32_t> want_bf16 = {0x3f800000, 0xc06d0000, 0x43fa0000, 0x3a6c0000}, want_e4m3 = {0x38, 0xc7, 0x7e, 0x00};
  DeviceBuffer in(x), out(x.size() * 16);
  must(launch(module, "convert", 1, (unsigned)x.size(), in, out), "convert");
  const auto bits = out.get<uint32_t>(x.size() * 4);
  bool exact = true, close = true;
  for (size_t i = 0; i < x.size(); i++) {
    exact &= bits[4 * i] == want_bf16[i] && bits[4 * i + 1] == want_e4m3[i] && bits[4 * i + 3] == std::bit_cast<uint32_t>(x[i] / 3);
    const float power = std::exp2(x[i]), got = std::bit_cast<float>(bits[4 * i + 2]);
    close &= power == got || std::fabs(got - power) <= std::ldexp(power, -21);
  }
  check(exact, "BF16, E4M3 and division are exact");
  check(close, "ex2.approx within 4 ulp");
}
}  // namespace

int main() {
  CUdevice device;
  CUcontext context;
  CUmodule module;
  must(cuInit(0), "cuInit");
  must(cuDeviceGet(&device, 0), "cuDeviceGet");
  must(cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
  must(cuCtxSetCurrent(context), "cuCtxSetCurrent");
  must(cuModuleLoadData(&module, kPtx), "cuModuleLoadData");
  if (num_failed) return 1;
  test_tile_sum(module);
  test_product(module);
  test_convert(module);
  {
    DeviceBuffer out(4 * 32);
    check(launch(module, "stray", 1, 33, out) == CUDA_ERROR_ILLEGAL_ADDRESS, "a store behind an allocation is reported");
  }
  std::printf("%s\n", num_failed ? "FAILED" : "all ok");
  return num_failed != 0;
}
