// Tensor-core instructions: mma.sync and wgmma.
//
// Both use one inner product: the accumulator fragment of 32 lanes is updated in register layout. Element (h, b) of the
// 8-column block j of lane l is row l/4 + 8h, column 8j + 2(l%4) + b. A is expanded to AE[h][k][lane], B is packed as
// B4[j][b][k][l%4], so that one register of 32 lanes is two 16-wide FMAs with a 4-float broadcast.
#ifdef __AVX512F__
#include <immintrin.h>
#endif
#include "tests/gpusim/decode.h"
#include "tests/gpusim/halfs.h"

namespace atoll::gpusim {
void park_current(Warp& w, St st);
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

struct Frag {
  alignas(64) float ae[2][32][32];
};  // A expanded: [h][k][lane]

inline __attribute__((always_inline)) float elem(Ty t, const u8* p, int k) {  // k-th element of packed data
  switch (t) {
    case Ty::BF16: {
      u16 v;
      memcpy(&v, p + 2 * k, 2);
      return bf16f(v);
    }
    case Ty::F16: {
      u16 v;
      memcpy(&v, p + 2 * k, 2);
      return f16f(v);
    }
    case Ty::E4M3: return kE4M3[p[k]];
    case Ty::E5M2: return kE5M2[p[k]];
    case Ty::TF32: {
      u32 v;
      memcpy(&v, p + 4 * k, 4);
      return tf32f(v);
    }
    case Ty::S8: return (s8)p[k];
    case Ty::U8: return p[k];
    default: return 0;
  }
}
constexpr int e_bytes(Ty t) { return t == Ty::TF32 ? 4 : (t == Ty::BF16 || t == Ty::F16) ? 2 : 1; }

void expand_a(Frag& f, const float (*a)[32], int K) {
  for (int r = 0; r < 16; r++)
    for (int k = 0; k < K; k++) *(v4*)&f.ae[r / 8][k][(r % 8) * 4] = v4{a[r][k], a[r][k], a[r][k], a[r][k]};
}
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
// Hopper accumulation: all K products and the accumulator are aligned to the largest exponent (a product's exponent is
// the sum of its operands' exponents, subnormal operands keep the minimum exponent), F fraction bits are kept (the rest
// truncated), summed exactly, and the sum is truncated to the output's fraction bits. wgmma FP8: F = 13, output 13 bits;
// everything else: F = 25, output 23 bits.
inline int exp_of(float x, int min_exp) {
  u32 e = (fbits(x) >> 23) & 255;
  return x == 0 ? -120 : std::max((int)e - 127, min_exp);
}
int min_exp_of(Ty t) { return t == Ty::E4M3 ? -6 : t == Ty::E5M2 || t == Ty::F16 ? -14 : -126; }
template <class R>
void inner_hopper(const Frag& f, const float* b4, float* const* acc, int N, int K, int F, int out_drop, int min_a, int min_b) {
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
          d[l] = bitsf(fbits(x) & ~((1u << out_drop) - 1));
        }
      }
}
bool is_fp8(Ty t) { return t == Ty::E4M3 || t == Ty::E5M2; }
// acc += A B in the selected accumulation mode
void product(const Frag& f, const float* b4, float* const* acc, int N, int K, Ty ta, Ty tb, bool wgmma) {
  int mode = options().tc_acc;  // 0 f32, 1 Hopper for FP8 wgmma, 2 Hopper for all
  if (mode && wgmma && is_fp8(ta))
    inner_hopper<float>(f, b4, acc, N, K, 13, 10, min_exp_of(ta), min_exp_of(tb));
  else if (mode == 2 && ta != Ty::S8 && ta != Ty::U8)
    inner_hopper<double>(f, b4, acc, N, K, 25, 0, min_exp_of(ta), min_exp_of(tb));
  else
    inner(f, b4, acc, N, K);
}

// A fragment from registers -> a[16][K]
void load_a_regs(Warp& w, const std::vector<u32>& regs, Ty t, int K, float (*a)[32]) {
  int eb = e_bytes(t), per = 4 / eb;  // elements per register
  for (size_t r = 0; r < regs.size(); r++) {
    const u32* s = w.reg<u32>(regs[r]);
    for (int l = 0; l < 32; l++)
      for (int e = 0; e < per; e++) a[l / 4 + 8 * (r & 1)][(l % 4) * per + e + (r >> 1) * 4 * per] = elem(t, (const u8*)&s[l], e);
  }
}
// B fragment (8 columns) of mma.sync -> b4
void load_b_regs(Warp& w, const std::vector<u32>& regs, Ty t, int K, float* b4) {
  int eb = e_bytes(t), per = 4 / eb;
  for (size_t r = 0; r < regs.size(); r++) {
    const u32* s = w.reg<u32>(regs[r]);
    for (int l = 0; l < 32; l++)
      for (int e = 0; e < per; e++) {
        int k = (l % 4) * per + e + r * 4 * per, n = l / 4;
        b4[((n & 1) * K + k) * 4 + n / 2] = elem(t, (const u8*)&s[l], e);
      }
  }
}

// ---- mma.sync --------------------------------------------------------------------
// x: v[0] D, v[1] A, v[2] B, v[3] C; aux A type, aux2 B type; n = K; rw: accumulator 0 f32, 1 f16, 2 s32
void mma_h(Warp& w, const Inst& i, u32 m) {
  if (!converge(w, i, m, w.live)) return;
  alignas(64) float acc[4][32], b4[2 * 32 * 4] = {};
  float a[16][32] = {};
  Frag f;
  const InstExt& x = *i.x;
  int K = i.n;
  load_a_regs(w, x.v[1], (Ty)i.aux, K, a);
  load_b_regs(w, x.v[2], (Ty)i.aux2, K, b4);
  expand_a(f, a, K);
  float* p[4] = {acc[0], acc[1], acc[2], acc[3]};
  if (i.rw == 0)
    for (int r = 0; r < 4; r++) memcpy(acc[r], w.reg<float>(x.v[3][r]), 128);
  else if (i.rw == 1)
    for (int r = 0; r < 4; r++)
      for (int l = 0; l < 32; l++) acc[r][l] = f16f(w.reg<u32>(x.v[3][r / 2])[l] >> (16 * (r & 1)));
  else
    memset(acc, 0, sizeof acc);
  product(f, b4, p, 8, K, (Ty)i.aux, (Ty)i.aux2, false);
  if (i.rw == 0)
    for (int r = 0; r < 4; r++) memcpy(w.reg<float>(x.v[0][r]), acc[r], 128);
  else if (i.rw == 1)
    for (int r = 0; r < 2; r++)
      for (int l = 0; l < 32; l++) w.reg<u32>(x.v[0][r])[l] = (u32)f2h(acc[2 * r][l]) | (u32)f2h(acc[2 * r + 1][l]) << 16;
  else
    for (int r = 0; r < 4; r++)
      for (int l = 0; l < 32; l++) w.reg<s32>(x.v[0][r])[l] = w.reg<s32>(x.v[3][r])[l] + (s32)acc[r][l];
  w.st.macs += 16 * 8 * K;
  w.cur.pc++;
}
void regs(Decoder& d, const AstOp& o, std::vector<u32>& out) {
  if (o.kind == AstOp::Vec)
    for (auto& s : o.sub) out.push_back(d.src(s, 32, true));
  else
    out.push_back(d.src(o, 32));
}
void mma_f64(Warp& w, const Inst& i, u32 m) {
  if (!converge(w, i, m, w.live)) return;
  const InstExt& x = *i.x;
  double r[2][32];
  for (int l = 0; l < 32; l++)
    for (int b = 0; b < 2; b++) {
      double s = w.reg<double>(x.v[3][b])[l];
      for (int k = 0; k < 4; k++) s = std::fma(w.reg<double>(x.v[1][0])[(l / 4) * 4 + k], w.reg<double>(x.v[2][0])[((l % 4) * 2 + b) * 4 + k], s);
      r[b][l] = s;
    }
  for (int b = 0; b < 2; b++) memcpy(w.reg<double>(x.v[0][b]), r[b], 256);
  w.st.macs += 8 * 8 * 4;
  w.cur.pc++;
}
void dec_mma(Decoder& d, Inst& i) {
  i.cls = kClassTensor;
  i.flags |= kFlagCtrl;
  if (d.has("sp") || d.part(1) != "sync" || !d.has("row") || !d.has("col")) d.bad("unsupported form");
  auto& x = d.ext(i);
  auto ty = d.types();
  if (d.has("m8n8k4") && ty.size() == 4 && ty[0] == Ty::F64) {
    for (int k = 0; k < 4; k++) {
      const AstOp& o = d.op(k);
      if (o.kind == AstOp::Vec)
        for (auto& s : o.sub) x.v[k].push_back(d.src(s, 64, true));
      else
        x.v[k].push_back(d.src(o, 64, true));
    }
    i.fn = &mma_f64;
    return;
  }
  std::string shape;
  for (auto p : d.a->parts)
    if (p.size() > 4 && p[0] == 'm' && p.find('n') != std::string_view::npos && p.find('k') != std::string_view::npos) shape = std::string(p);
  if (shape.substr(0, 6) != "m16n8k" || ty.size() != 4) d.bad("unsupported shape");
  i.n = atoi(shape.c_str() + 6);
  if (i.n > 32) d.bad("unsupported shape");
  i.aux = (u32)ty[1];
  i.aux2 = (u32)ty[2];
  for (int k = 1; k <= 2; k++)
    if (ty[k] != Ty::BF16 && ty[k] != Ty::F16 && ty[k] != Ty::TF32 && ty[k] != Ty::E4M3 && ty[k] != Ty::E5M2 && ty[k] != Ty::S8 && ty[k] != Ty::U8)
      d.bad("unsupported type");
  i.rw = ty[0] == Ty::F32 ? 0 : ty[0] == Ty::F16 ? 1 : ty[0] == Ty::S32 ? 2 : 99;
  if (i.rw == 99) d.bad("unsupported type");
  for (int k = 0; k < 4; k++) regs(d, d.op(k), x.v[k]);
  i.fn = &mma_h;
}

// ---- wgmma -----------------------------------------------------------------------------
struct Desc {
  u32 start, lbo, sbo, base;
  int mode;
};  // mode: bytes of a swizzle row 16, 32, 64, 128
Desc parse_desc(u64 v) {
  static const int rows[4] = {16, 128, 64, 32};
  return {(u32)(v & 0x3fff) << 4, (u32)((v >> 16) & 0x3fff) << 4, (u32)((v >> 32) & 0x3fff) << 4, (u32)(v >> 49) & 7, rows[v >> 62]};
}
inline u32 swizzled(const Desc& d, u32 a) {
  if (d.mode == 16) return a;
  u32 phase = ((a >> 7) - d.base) & (d.mode / 16 - 1);
  return a ^ (phase << 4);
}
// 16-byte chunk of the operand: K-major: row r (of M or N), chunk c along K. MN-major: chunk c along MN, row k.
inline u32 chunk_k(const Desc& d, u32 r, u32 c) {
  u32 o = d.mode == 16 ? (r & 7) * 16 + (r >> 3) * d.sbo + c * d.lbo : (r & 7) * d.mode + (r >> 3) * d.sbo + c * 16;
  return swizzled(d, d.start + o);
}
inline u32 chunk_mn(const Desc& d, u32 c, u32 k) {
  u32 per = d.mode / 16;
  u32 o = d.mode == 16 ? c * d.sbo + (k & 7) * 16 + (k >> 3) * d.lbo : (c % per) * 16 + (k & 7) * d.mode + (c / per) * d.lbo + (k >> 3) * d.sbo;
  return swizzled(d, d.start + o);
}
[[gnu::noinline]] void chunk_slow(Warp& w, u32 a, const Inst& i) {
  Cta& c = *w.cta;
  if (a < kSmemBase || a + 16 > kSmemBase + c.smem_size) {
    char b[160];
    snprintf(b, sizeof b, "wgmma: matrix descriptor reaches shared offset %d, the CTA has %u bytes", (int)a - (int)kSmemBase, c.smem_size);
    throw SimError(kIllegalAddress, b);
  }
  if (options().uninit)
    for (int k = 0; k < 16; k++)
      if (!c.written[a + k]) throw SimError(kIllegalAddress, "wgmma reads shared memory that nobody has written, offset " + std::to_string(a + k - kSmemBase));
  if (w.cluster->race) {
    race_read(w, a | c.rank << kRankShift, 16, i, 0);
    race_proxy_read(w, a | c.rank << kRankShift, 16, i.ast->line);
  }
}
// Reads 16-byte chunks of the CTA's shared memory with bounds checks.
struct Chunks {
  Warp& w;
  const Inst& i;
  const u8* base;
  u32 size;
  bool checks;
  Chunks(Warp& w_, const Inst& i_) : w(w_), i(i_), base(w_.cta->smem.data()), size(w_.cta->smem_size), checks(options().uninit || w_.cluster->race) {}
  const u8* at(u32 a) const {
    if (__builtin_expect(checks || a - kSmemBase + 16 > size || a < kSmemBase, 0)) chunk_slow(w, a, i);
    return base + a;
  }
};
template <Ty T>
inline float elem_t(const u8* p, int k) {
  return elem(T, p, k);
}
template <Ty T>
void pack_b(float* q, const u8* raw, int N, int K, bool trans) {
  for (int n = 0; n < N; n++) {
    float* dst = q + ((n / 8 * 2 + (n & 1)) * K) * 4 + (n % 8) / 2;
    if (!trans) {
      const u8* s = raw + (size_t)n * 32;
      for (int k = 0; k < K; k++) dst[k * 4] = elem_t<T>(s, k);
    } else
      for (int k = 0; k < K; k++) dst[k * 4] = elem_t<T>(raw, k * N + n);
  }
}
template <Ty T>
void pack_a(const Chunks& ch, const Desc& d, u32 row0, int K, bool trans, float (*a)[32]) {
  const int per = 16 / e_bytes(T);
  if (!trans)
    for (int r = 0; r < 16; r++)
      for (int c = 0; c < 2; c++) {
        const u8* s = ch.at(chunk_k(d, row0 + r, c));
        for (int e = 0; e < per; e++) a[r][c * per + e] = elem_t<T>(s, e);
      }
  else
    for (int k = 0; k < K; k++)
      for (int c = 0; c < 2; c++) {
        const u8* s = ch.at(chunk_mn(d, row0 / 8 + c, k));
        for (int e = 0; e < 8; e++) a[c * 8 + e][k] = elem_t<T>(s, e);
      }
}
#define BY_TYPE(t, CALL)         \
  switch (t) {                   \
    case Ty::BF16: {             \
      constexpr Ty T = Ty::BF16; \
      CALL;                      \
      break;                     \
    }                            \
    case Ty::F16: {              \
      constexpr Ty T = Ty::F16;  \
      CALL;                      \
      break;                     \
    }                            \
    case Ty::E4M3: {             \
      constexpr Ty T = Ty::E4M3; \
      CALL;                      \
      break;                     \
    }                            \
    case Ty::E5M2: {             \
      constexpr Ty T = Ty::E5M2; \
      CALL;                      \
      break;                     \
    }                            \
    default: {                   \
      constexpr Ty T = Ty::TF32; \
      CALL;                      \
      break;                     \
    }                            \
  }
// The four warps of a warpgroup (and often two warpgroups) read the same B: keep decoded tiles, compare the raw bytes.
struct BCache {
  u64 key = ~0ull;
  std::vector<u8> raw;
  std::vector<float> b4;
};
thread_local BCache g_b[128];

const float* decode_b(Warp& w, const Inst& i, u64 desc, Ty t, int N, int K, bool trans) {
  thread_local std::vector<u8> raw;
  Desc d = parse_desc(desc);
  Chunks ch(w, i);
  raw.resize((size_t)N * 32);
  u8* o = raw.data();
  if (!trans)
    for (int n = 0; n < N; n++)
      for (int c = 0; c < 2; c++, o += 16) memcpy(o, ch.at(chunk_k(d, n, c)), 16);
  else
    for (int k = 0; k < K; k++)
      for (int c = 0; c < N / 8; c++, o += 16) memcpy(o, ch.at(chunk_mn(d, c, k)), 16);
  u64 key = (u64)t | (u64)N << 8 | (u64)K << 20 | (u64)trans << 32;
  BCache& b = g_b[(u32)((u32)desc * 2654435761u) >> 25];
  if (b.key == key && !memcmp(b.raw.data(), raw.data(), raw.size())) return b.b4.data();
  b.key = key;
  b.raw = raw;
  b.b4.resize((size_t)N * K + 16);
  BY_TYPE(t, pack_b<T>(b.b4.data(), raw.data(), N, K, trans))
  return b.b4.data();
}
// x: v[0] D, v[1] A registers (empty: descriptor in o[1]); o[2] B descriptor; o[3] scale-d predicate
// p: 0 N, 1 K, 2 A type, 3 B type, 4 sign, 5 transpose A, 6 transpose B, 7 scale-d negated, 8 f16 accumulator
void wgmma_run(Warp& w, char* R, const Inst& i) {
  char* keep = w.R;
  w.R = R;
  const InstExt& x = *i.x;
  const int N = x.p[0], K = x.p[1];
  Ty ta = (Ty)x.p[2], tb = (Ty)x.p[3];
  float a[16][32];
  if (x.v[1].empty()) {
    Desc d = parse_desc(w.reg<u64>(i.o[1])[0]);
    u32 row0 = (w.id % 4) * 16;
    Chunks ch(w, i);
    BY_TYPE(ta, pack_a<T>(ch, d, row0, K, x.p[5], a))
  } else
    load_a_regs(w, x.v[1], ta, K, a);
  if (x.p[4] < 0)
    for (auto& r : a)
      for (int k = 0; k < K; k++) r[k] = -r[k];
  const float* b4 = decode_b(w, i, w.reg<u64>(i.o[2])[0], tb, N, K, x.p[6]);
  Frag f;
  expand_a(f, a, K);
  u32 sd = *w.reg<u32>(i.o[3]);
  if (x.p[7]) sd = ~sd;
  bool scale = sd & 1;
  float* acc[128];
  alignas(64) float tmp[128][32];
  int nr = N / 2;
  if (x.p[8]) {
    for (int r = 0; r < nr; r++) {
      acc[r] = tmp[r];
      if (scale)
        for (int l = 0; l < 32; l++) tmp[r][l] = f16f(w.reg<u32>(x.v[0][r / 2])[l] >> (16 * (r & 1)));
      else
        memset(tmp[r], 0, 128);
    }
  } else
    for (int r = 0; r < nr; r++) {
      acc[r] = w.reg<float>(x.v[0][r]);
      if (!scale) memset(acc[r], 0, 128);
    }
  product(f, b4, acc, N, K, ta, tb, true);
  if (x.p[8])
    for (int r = 0; r < nr / 2; r++)
      for (int l = 0; l < 32; l++) w.reg<u32>(x.v[0][r])[l] = (u32)f2h(tmp[2 * r][l]) | (u32)f2h(tmp[2 * r + 1][l]) << 16;
  w.st.macs += (u64)16 * N * K;
  w.R = keep;
}
template <class F>
void wgmma_drain(Warp& v, F more) {
  while (!v.wg.empty() && more(v)) {
    if (options().race == 1) race_acquire(v, v.cta->wg_vc[v.id / 4]);
    auto f = v.wg.front().run;
    v.wg.pop_front();
    v.wg_done++;
    f();
  }
}
void wgmma_h(Warp& w, const Inst& i, u32 m) {
  if (!converge(w, i, m, w.live)) return;
  if (w.live != kFullMask) throw SimError(kIllegalInstruction, "wgmma in a warp with exited threads");
  if ((w.id | 3) >= (int)w.cta->warps.size()) throw SimError(kIllegalInstruction, "wgmma outside a complete warpgroup");
  char* R = w.R;
  const Inst* ip = &i;
  Warp* wp = &w;
  // the operands that the instruction reads at issue (descriptors, scale-d) are kept; the rest is read late
  u64 da = i.x->v[1].empty() ? w.reg<u64>(i.o[1])[0] : 0, db = w.reg<u64>(i.o[2])[0];
  u32 sd = *w.reg<u32>(i.o[3]), clk = w.cluster->race ? race_clock(w) : 0;
  w.wg.push_back({[wp, R, ip, da, db, sd, clk] {
                    u64 ka = 0, kb;
                    u32 ks;
                    if (ip->x->v[1].empty()) {
                      ka = *(u64*)(R + ip->o[1]);
                      *(u64*)(R + ip->o[1]) = da;
                    }
                    kb = *(u64*)(R + ip->o[2]);
                    *(u64*)(R + ip->o[2]) = db;
                    ks = *(u32*)(R + ip->o[3]);
                    *(u32*)(R + ip->o[3]) = sd;
                    u32 now = wp->cluster->race ? race_swap_clock(*wp, clk) : 0;
                    wgmma_run(*wp, R, *ip);
                    if (wp->cluster->race) race_swap_clock(*wp, now);
                    *(u32*)(R + ip->o[3]) = ks;
                    *(u64*)(R + ip->o[2]) = kb;
                    if (ip->x->v[1].empty()) *(u64*)(R + ip->o[1]) = ka;
                  },
                  w.wg_open});
  w.wg_issued++;
  int wg = w.id / 4;
  if (options().race == 1) race_release(w, w.cta->wg_vc[wg]);
  if (!options().lazy) {  // starts when all four warps have issued it
    int least = w.wg_issued;
    for (int k = wg * 4; k < wg * 4 + 4; k++)
      if (w.cta->warps[k]->live) least = std::min(least, w.cta->warps[k]->wg_issued);
    for (int k = wg * 4; k < wg * 4 + 4; k++) wgmma_drain(*w.cta->warps[k], [&](Warp& v) { return v.wg_done < least; });
  }
  w.cur.pc++;
}
// wgmma is one operation of the warpgroup: it starts when its four warps have issued it, and when one warp has waited
// for it the tiles are free. Programs rely on both (FlashMLA: one warp refills a tile right after its own wait).
void wgmma_wait(Warp& w, const Inst& i, u32 m) {
  if (!converge(w, i, m, w.live)) return;
  int wg = w.id / 4;
  if (i.aux == 0) {
    int upto = w.wg_open - (int)i.aux2;
    if (!wgmma_ready(w, upto)) {
      w.cur.wait_addr = (u64)upto;
      park_current(w, St::Wgmma);
      return;
    }
    if (options().lazy)
      for (int k = wg * 4; k < wg * 4 + 4 && k < (int)w.cta->warps.size(); k++)
        wgmma_drain(*w.cta->warps[k], [&](Warp& v) { return v.wg.front().group < upto; });
    if (options().race == 1 && !w.cta->wg_vc[wg].empty()) race_acquire(w, w.cta->wg_vc[wg]);
  } else if (i.aux == 1) {
    w.wg_open++;
    if (options().race == 1) race_release(w, w.cta->wg_vc[wg]);
  }
  w.cur.pc++;
}
void dec_wgmma(Decoder& d, Inst& i) {
  i.cls = kClassTensor;
  i.flags |= kFlagCtrl;
  if (d.part(1) != "mma_async") {
    i.aux = d.part(1) == "wait_group" ? 0 : d.part(1) == "commit_group" ? 1 : 2;
    if (i.aux == 0) i.aux2 = d.op(0).imm;
    i.fn = &wgmma_wait;
    return;
  }
  if (d.has("sp")) d.bad("unsupported form (sparse)");
  auto& x = d.ext(i);
  auto ty = d.types();
  std::string shape;
  for (auto p : d.a->parts)
    if (p.substr(0, 4) == "m64n") shape = std::string(p);
  if (shape.empty() || ty.size() != 3) d.bad("unsupported form");
  x.p[0] = atoi(shape.c_str() + 4);
  x.p[1] = atoi(shape.c_str() + shape.find('k') + 1);
  x.p[2] = (int)ty[1];
  x.p[3] = (int)ty[2];
  for (int k = 1; k <= 2; k++)
    if (ty[k] != Ty::BF16 && ty[k] != Ty::F16 && ty[k] != Ty::TF32 && ty[k] != Ty::E4M3 && ty[k] != Ty::E5M2) d.bad("unsupported operand type");
  if (ty[0] != Ty::F32 && ty[0] != Ty::F16) d.bad("unsupported accumulator type");
  x.p[8] = ty[0] == Ty::F16;
  if (x.p[0] % 8 || x.p[0] < 8 || x.p[0] > 256 || x.p[1] * e_bytes(ty[1]) != 32) d.bad("illegal shape");
  for (auto& s : d.op(0).sub) x.v[0].push_back(d.src(s, 32, true));
  if ((int)x.v[0].size() != x.p[0] / (x.p[8] ? 4 : 2)) d.bad("number of accumulator registers");
  if (d.op(1).kind == AstOp::Vec)
    for (auto& s : d.op(1).sub) x.v[1].push_back(d.src(s, 32));
  else
    i.o[1] = d.src(d.op(1), 64);
  i.o[2] = d.src(d.op(2), 64);
  bool n = false;
  i.o[3] = d.psrc(d.op(3), n);
  x.p[7] = n;
  x.p[4] = 1;
  size_t k = 4;
  if (d.nops() > k) {
    if ((s64)d.op(k).imm == -1) x.p[4] = -x.p[4];
    k++;
  }
  if (d.nops() > k) {
    if ((s64)d.op(k).imm == -1) x.p[4] = -x.p[4];
    k++;
  }
  if (x.v[1].empty() && d.nops() > k) x.p[5] = d.op(k++).imm;
  if (d.nops() > k) x.p[6] = d.op(k++).imm;
  if ((x.p[5] || x.p[6]) && e_bytes(ty[1]) != 2) d.bad("transposition needs 16-bit operands");
  i.fn = &wgmma_h;
}
}  // namespace

bool wgmma_ready(Warp& w, int upto) {
  int wg = w.id / 4;
  for (int k = wg * 4; k < wg * 4 + 4 && k < (int)w.cta->warps.size(); k++) {
    Warp& v = *w.cta->warps[k];
    if (v.live && v.wg_open < upto) return false;
  }
  return true;
}

void register_tensor(DecodeTable& t) {
  t["mma"] = dec_mma;
  t["wgmma"] = dec_wgmma;
}

}  // namespace atoll::gpusim
