// The inner product of mma.sync and wgmma: the accumulator fragment of 32 lanes is updated in register layout. Element (h, b) of the
// 8-column block j of lane l is row l/4 + 8h, column 8j + 2(l%4) + b. A is expanded to AE[h][k][lane], B is packed as
// B4[j][b][k][l%4], so that one register of 32 lanes is two 16-wide FMAs with a 4-float broadcast.
#ifdef __AVX512F__
#include <immintrin.h>
#endif
#include "kernels/base/fp8_accumulate.h"
#include "tests/gpusim/tensor_product.h"

namespace atoll::gpusim {
float kE4M3[256], kE5M2[256];
namespace {
struct InitTables {
  InitTables() {
    for (int k = 0; k < 256; k++) {
      kE4M3[k] = e4m3f(k);
      kE5M2[k] = e5m2f(k);
    }
  }
} init_tables;

typedef float v16 __attribute__((vector_size(64), aligned(64)));
typedef float v4 __attribute__((vector_size(16), aligned(4)));

inline v16 repeat4(const float* p) {  // four floats, four times
  const v4 b = *(const v4*)p;
  return __builtin_shufflevector(b, b, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
}
inline v16 fma16(v16 a, v16 b, v16 c) {
#ifdef __AVX512F__
  return (v16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
  for (int k = 0; k < 16; ++k) c[k] = __builtin_fmaf(a[k], b[k], c[k]);
  return c;
#endif
}

}  // namespace

void expand_a(Frag& f, const float (*a)[32], int K) {
  for (int r = 0; r < 16; r++)
    for (int k = 0; k < K; k++) *(v4*)&f.ae[r / 8][k][(r % 8) * 4] = v4{a[r][k], a[r][k], a[r][k], a[r][k]};
}
namespace {
// acc: pointers to the accumulator registers (f32, 32 lanes each), N/2 of them
void inner(const Frag& f, const float* b4, float* const* acc, int N, int K) {
  for (int j = 0; j < N / 8; j += 2) {
    int nj = std::min(2, N / 8 - j);
    if (nj == 2) {
      v16 c[4][4];  // [j,b][h,half]
      for (int q = 0; q < 4; q++)
        for (int h = 0; h < 2; h++)
          for (int s = 0; s < 2; s++) c[q][h * 2 + s] = *(v16*)(acc[(j + q / 2) * 4 + 2 * h + (q & 1)] + 16 * s);
      const float* bp[4];
      for (int q = 0; q < 4; q++) bp[q] = b4 + ((j + q / 2) * 2 + (q & 1)) * K * 4;
      for (int k = 0; k < K; k++) {
        v16 a0 = *(v16*)&f.ae[0][k][0], a1 = *(v16*)&f.ae[0][k][16], a2 = *(v16*)&f.ae[1][k][0], a3 = *(v16*)&f.ae[1][k][16];
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++) {
          v16 b = repeat4(bp[q] + k * 4);
          c[q][0] = fma16(a0, b, c[q][0]);
          c[q][1] = fma16(a1, b, c[q][1]);
          c[q][2] = fma16(a2, b, c[q][2]);
          c[q][3] = fma16(a3, b, c[q][3]);
        }
      }
      for (int q = 0; q < 4; q++)
        for (int h = 0; h < 2; h++)
          for (int s = 0; s < 2; s++) *(v16*)(acc[(j + q / 2) * 4 + 2 * h + (q & 1)] + 16 * s) = c[q][h * 2 + s];
    } else {
      for (int b = 0; b < 2; b++)
        for (int h = 0; h < 2; h++)
          for (int s = 0; s < 2; s++) {
            v16* d = (v16*)(acc[j * 4 + 2 * h + b] + 16 * s);
            v16 c = *d;
            const float* bp = b4 + (j * 2 + b) * K * 4;
            for (int k = 0; k < K; k++) c = fma16(*(const v16*)&f.ae[h][k][16 * s], repeat4(bp + k * 4), c);
            *d = c;
          }
    }
  }
}
// FP8 as fp8_accumulate (kernels/base) says, 16 lanes at a time; its bits, but not its order of evaluation. Whatever is not finite is left to it.
typedef int i16 __attribute__((vector_size(64), aligned(64)));
float power_of(float x, int min_exponent) { return x == 0 ? 0 : bitsf((u32)(fp8_exponent(x, min_exponent) + 127) << 23); }
void inner_fp8(const Frag& f, const float* b4, float* const* acc, int N, int K, int min_a, int min_b) {
  alignas(64) static thread_local float pa[2][32][32];
  static thread_local std::vector<float> pb;
  pb.resize((size_t)N * K);
  bool finite = true;
  for (int h = 0; h < 2; h++)
    for (int k = 0; k < K; k++)
      for (int l = 0; l < 32; l++) {
        pa[h][k][l] = power_of(f.ae[h][k][l], min_a);
        finite &= std::isfinite(f.ae[h][k][l]);
      }
  for (int k = 0; k < N * K; k++) {
    pb[k] = power_of(b4[k], min_b);
    finite &= std::isfinite(b4[k]);
  }
  for (int j = 0; j < N / 8; j++)
    for (int h = 0; h < 2; h++)
      for (int b = 0; b < 2; b++) {
        float* d = acc[j * 4 + 2 * h + b];
        const float *bp = b4 + (j * 2 + b) * K * 4, *bq = pb.data() + (j * 2 + b) * K * 4;
        bool plain = finite;
        for (int l = 0; l < 32; l++) plain &= std::fabs(d[l]) < 0x1p126f;
        if (!plain) {
          for (int l = 0; l < 32; l++) {
            float x[32], y[32];
            for (int k = 0; k < K; k++) x[k] = f.ae[h][k][l], y[k] = bp[k * 4 + l % 4];
            d[l] = fp8_accumulate(d[l], x, y, K, min_a, min_b);
          }
          continue;
        }
        for (int s = 0; s < 32; s += 16) {
          const v16 c = *(const v16*)(d + s);
          i16 bits = (i16)c & 0x7f800000;
          const i16 floor = bits * 0 + ((127 - 100) << 23);
          v16 top = (v16)(bits > floor ? bits : floor);
          for (int k = 0; k < K; k++) {
            const v16 p = *(const v16*)&pa[h][k][s] * repeat4(bq + k * 4);
            top = p > top ? p : top;
          }
          const v16 scale = (v16)(((13 + 254) << 23) - (i16)top);
          i16 sum = __builtin_convertvector(c * scale, i16);  // cuts towards zero
          for (int k = 0; k < K; k++) sum += __builtin_convertvector(*(const v16*)&f.ae[h][k][s] * repeat4(bp + k * 4) * scale, i16);
          const v16 value = __builtin_convertvector(sum, v16) * (top * 0x1p-13f);
          *(v16*)(d + s) = (v16)((i16)value & ~((1 << 10) - 1));
        }
      }
}
// Hopper accumulation: all K products and the accumulator are aligned to the largest exponent (a product's exponent is
// the sum of its operands' exponents, subnormal operands keep the minimum exponent), F fraction bits are kept (the rest
// truncated), summed exactly, and the sum is truncated to the output's fraction bits: F = 25, output 23 bits (not FP8 in wgmma: inner_fp8).
inline int exp_of(float x, int min_exp) {
  u32 e = (fbits(x) >> 23) & 255;
  return x == 0 ? -120 : std::max((int)e - 127, min_exp);
}
int min_exp_of(Ty t) { return t == Ty::E4M3 ? -6 : t == Ty::E5M2 || t == Ty::F16 ? -14 : -126; }
void inner_hopper(const Frag& f, const float* b4, float* const* acc, int N, int K, int min_a, int min_b) {
  using R = double;
  constexpr int F = 25;
  static thread_local int ea[2][32][32];
  static thread_local std::vector<int> eb;
  eb.resize((size_t)N * K);
  for (int h = 0; h < 2; h++)
    for (int k = 0; k < K; k++)
      for (int l = 0; l < 32; l++) ea[h][k][l] = exp_of(f.ae[h][k][l], min_a);
  for (int k = 0; k < N * K; k++) eb[k] = exp_of(b4[k], min_b);
  for (int j = 0; j < N / 8; j++)
    for (int h = 0; h < 2; h++)
      for (int b = 0; b < 2; b++) {
        float* d = acc[j * 4 + 2 * h + b];
        const float* bp = b4 + (j * 2 + b) * K * 4;
        const int* be = eb.data() + (j * 2 + b) * K * 4;
        int em[32];
        R sc[32], sum[32], plain[32];
        for (int l = 0; l < 32; l++) {
          em[l] = exp_of(d[l], -126);
          plain[l] = d[l];
        }
        for (int k = 0; k < K; k++)
          for (int l = 0; l < 32; l++) { em[l] = std::max(em[l], ea[h][k][l] + be[k * 4 + l % 4]); }
        for (int l = 0; l < 32; l++) {
          em[l] = std::max(em[l], -100);
          sc[l] = (R)std::ldexp(1.0, F - em[l]);
          sum[l] = std::trunc((R)d[l] * sc[l]);
        }
        for (int k = 0; k < K; k++)
          for (int l = 0; l < 32; l++) {
            R p = (R)f.ae[h][k][l] * (R)bp[k * 4 + l % 4];
            sum[l] += std::trunc(p * sc[l]);
            plain[l] += p;
          }
        for (int l = 0; l < 32; l++) {
          if (em[l] >= 127) {
            d[l] = (float)plain[l];
            if (d[l] != d[l]) d[l] = bitsf(0x7fffffff);
            continue;
          }
          double r = (double)sum[l] * std::ldexp(1.0, em[l] - F);
          float x = (float)r;
          if (std::fabs((double)x) > std::fabs(r)) x = std::nextafterf(x, 0.f);
          d[l] = x;
        }
      }
}
bool is_fp8(Ty t) { return t == Ty::E4M3 || t == Ty::E5M2; }
}  // namespace
// acc += A B in the selected accumulation mode
void product(const Frag& f, const float* b4, float* const* acc, int N, int K, Ty ta, Ty tb, bool wgmma) {
  int mode = options().tc_acc;  // 0 f32, 1 Hopper for FP8 wgmma, 2 Hopper for all
  if (mode && wgmma && is_fp8(ta))
    inner_fp8(f, b4, acc, N, K, min_exp_of(ta), min_exp_of(tb));
  else if (mode == 2 && ta != Ty::S8 && ta != Ty::U8)
    inner_hopper(f, b4, acc, N, K, min_exp_of(ta), min_exp_of(tb));
  else
    inner(f, b4, acc, N, K);
}

// A fragment from registers -> a[16][K]
void load_a_regs(Warp& w, const std::vector<u32>& regs, Ty t, float (*a)[32]) {
  int eb = e_bytes(t), per = 4 / eb;  // elements per register
  for (size_t r = 0; r < regs.size(); r++) {
    const u32* s = w.reg<u32>(regs[r]);
    for (int l = 0; l < 32; l++)
      for (int e = 0; e < per; e++) a[l / 4 + 8 * (r & 1)][(l % 4) * per + e + (r >> 1) * 4 * per] = elem(t, (const u8*)&s[l], e);
  }
}
}  // namespace atoll::gpusim
