// Bit fields, comparisons of packed halves, and conversions with directed rounding and saturation: one instruction a line, its operands and its result.
#include <cstdint>
#include <vector>

#include "tests/gpusim/cases/check.h"

#define UNARY(text, type, constraint, in) \
  {                                       \
    unsigned d;                           \
    type a = in;                          \
    asm volatile(text : "=r"(d) : constraint(a)); \
    out[n++] = d;                         \
  }
#define TERNARY(text, a, b, c)                                        \
  {                                                                   \
    unsigned d;                                                       \
    asm volatile(text : "=r"(d) : "r"(a), "r"(b), "r"(c)); \
    out[n++] = d;                                                     \
  }

// The results of one lane; zero is 0, unknown to the compiler.
__global__ void bit_fields(unsigned* out, unsigned zero) {
  int n = 0;
  UNARY("bfind.u32 %0, %1;", unsigned, "r", zero + 0x00012345u);
  UNARY("bfind.u32 %0, %1;", unsigned, "r", zero);
  UNARY("bfind.s32 %0, %1;", unsigned, "r", zero + 0xfffffff0u);
  UNARY("bfind.shiftamt.u32 %0, %1;", unsigned, "r", zero + 0x00012345u);
  UNARY("bfind.u64 %0, %1;", unsigned long long, "l", zero + (1ull << 40));
  UNARY("bfind.s64 %0, %1;", unsigned long long, "l", zero + ~(1ull << 33));
  UNARY("bfind.shiftamt.u64 %0, %1;", unsigned long long, "l", zero + (1ull << 40));
  TERNARY("bfi.b32 %0, %1, %2, %3, 8;", zero + 0xabcdu, zero + 0xffffffffu, zero + 4u);
  TERNARY("bfe.u32 %0, %1, %2, %3;", zero + 0xdeadbeefu, zero + 8u, zero + 12u);
  TERNARY("bfe.s32 %0, %1, %2, %3;", zero + 0xdeadbeefu, zero + 8u, zero + 12u);
  TERNARY("bfe.s32 %0, %1, %2, %3;", zero + 0x80000000u, zero + 28u, zero + 8u);
  TERNARY("bmsk.clamp.b32 %0, %1, %2; add.u32 %0, %0, %3;", zero + 4u, zero + 8u, zero);
  TERNARY("bmsk.clamp.b32 %0, %1, %2; add.u32 %0, %0, %3;", zero + 28u, zero + 40u, zero);
  TERNARY("bmsk.wrap.b32 %0, %1, %2; add.u32 %0, %0, %3;", zero + 36u, zero + 8u, zero);
}
static const std::vector<unsigned> kBitFields = {16, 0xffffffff, 3, 15, 40, 33, 23, 0xfffffcdf, 0xdbe, 0xfffffdbe, 0xfffffff8, 0xff0, 0xf0000000, 0xff0};

// 1.0 is 3c00, 2.0 is 4000, NaN is 7e00 in FP16; 3f80, 4000, 7fc0 in BF16. Low half, then high half.
#define HALVES(cmp, type, a, b)                                                                                                              \
  {                                                                                                                                          \
    unsigned d;                                                                                                                              \
    asm volatile("{.reg .pred p, q; .reg .u32 x, y; setp." cmp "." type " p|q, %1, %2; selp.u32 x, 1, 0, p; selp.u32 y, 2, 0, q; or.b32 %0, x, y;}" \
                 : "=r"(d)                                                                                                                   \
                 : "r"(zero + a), "r"(zero + b));                                                                                            \
    out[n++] = d;                                                                                                                            \
  }
__global__ void halves(unsigned* out, unsigned zero) {
  int n = 0;
  HALVES("lt", "f16x2", 0x40003c00u, 0x40004000u);
  HALVES("ge", "f16x2", 0x40003c00u, 0x40004000u);
  HALVES("eq", "bf16x2", 0x7fc03f80u, 0x7fc03f80u);
  HALVES("neu", "bf16x2", 0x7fc03f80u, 0x7fc03f80u);
  HALVES("nan", "f16x2", 0x7e003c00u, 0x3c003c00u);
  HALVES("num", "f16x2", 0x7e003c00u, 0x3c003c00u);
  TERNARY("set.gt.f16x2.f16x2 %0, %1, %2; add.u32 %0, %0, %3;", zero + 0x40003c00u, zero + 0x3c003c00u, zero);
}
static const std::vector<unsigned> kHalves = {1, 2, 1, 2, 2, 1, 0x3c000000};

#define TO_FLOAT(text, type, constraint, in) UNARY("{.reg .f32 f; " text " f, %1; mov.b32 %0, f;}", type, constraint, in)
__global__ void conversions(unsigned* out, unsigned zero) {
  int n = 0;
  TO_FLOAT("cvt.rz.f32.s32", int, "r", (int)zero + 16777217);
  TO_FLOAT("cvt.rp.f32.s32", int, "r", (int)zero + 16777217);
  TO_FLOAT("cvt.rm.f32.s32", int, "r", (int)zero - 16777217);
  TO_FLOAT("cvt.rz.f32.s32", int, "r", (int)zero - 16777217);
  TO_FLOAT("cvt.rz.f32.u64", unsigned long long, "l", zero + ~0ull);
  TO_FLOAT("cvt.rn.f32.u64", unsigned long long, "l", zero + ~0ull);
  TO_FLOAT("cvt.rm.f32.f64", double, "d", zero + 1.0 + 0x1p-30);
  TO_FLOAT("cvt.rp.f32.f64", double, "d", zero + 1.0 + 0x1p-30);
  TO_FLOAT("cvt.rz.f32.f64", double, "d", zero - 1.0 - 0x1p-24 - 0x1p-30);
  TO_FLOAT("cvt.rn.f32.f64", double, "d", zero - 1.0 - 0x1p-24 - 0x1p-30);
  UNARY("cvt.rni.s32.f32 %0, %1;", float, "f", zero + 2.5f);
  UNARY("cvt.rzi.u32.f32 %0, %1;", float, "f", zero - 1.f);
  UNARY("cvt.rzi.s32.f32 %0, %1;", float, "f", zero + 3e9f);
  UNARY("cvt.rpi.s32.f32 %0, %1;", float, "f", zero - 3.5f);
  UNARY("{.reg .b16 h; cvt.sat.u8.s32 h, %1; cvt.u32.u16 %0, h;}", int, "r", (int)zero + 300);
  UNARY("{.reg .b16 h; cvt.sat.u8.s32 h, %1; cvt.u32.u16 %0, h;}", int, "r", (int)zero - 5);
  UNARY("{.reg .b16 h; cvt.sat.s8.u32 h, %1; cvt.u32.u16 %0, h;}", unsigned, "r", zero + 200u);
}
static const std::vector<unsigned> kConversions = {0x4b800000, 0x4b800001, 0xcb800001, 0xcb800000, 0x5f7fffff, 0x5f800000, 0x3f800000, 0x3f800001, 0xbf800000,
                                                   0xbf800001, 2,          0,          0x7fffffff, 0xfffffffd, 255,        0,          127};

static void run(void (*kernel)(unsigned*, unsigned), const std::vector<unsigned>& want, const char* what) {
  auto* out = device_alloc<unsigned>(want.size());
  kernel<<<1, 1>>>(out, 0);
  must(cudaDeviceSynchronize(), what);
  const auto got = to_host(out, want.size());
  for (size_t k = 0; k < want.size(); k++)
    if (got[k] != want[k]) std::printf("  line %zu of %s: 0x%x instead of 0x%x\n", k + 1, what, got[k], want[k]);
  check(got == want, what);
}
int main() {
  run(bit_fields, kBitFields, "bfind, bfi, bfe, bmsk");
  run(halves, kHalves, "setp and set of packed halves");
  run(conversions, kConversions, "cvt: directed rounding, saturation");
  return finish();
}
