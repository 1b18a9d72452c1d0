// Less common instructions: vector and packed atomics, 128-bit atomics, st.async, bulk reduce, DSMEM bulk copy, mbarrier
// state tokens, named barriers with arrive, bar.red, match/redux/vote/elect, conversions, integer and double mma.
#include "tests/gpusim/cases/check.h"

#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>
__device__ unsigned sp(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
__device__ void wait(unsigned bar, unsigned ph) {
  asm volatile("{\n.reg .pred P1;\nLAB_WAIT:\nmbarrier.try_wait.parity.shared::cta.b64 P1, [%0], %1;\n@P1 bra DONE;\nbra LAB_WAIT;\nDONE:\n}" ::"r"(bar),
               "r"(ph)
               : "memory");
}
__global__ void atomics(float* f, unsigned* h, unsigned* b, unsigned long long* q, unsigned* o) {
  asm volatile("griddepcontrol.wait;\ngriddepcontrol.launch_dependents;" ::: "memory");  // of a plain launch: nothing to wait for, nobody to release
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(f), "f"(1.f), "f"(2.f), "f"(3.f), "f"(4.f) : "memory");
  unsigned r;
  asm volatile("atom.global.add.noftz.f16x2 %0, [%1], %2;" : "=r"(r) : "l"(h), "r"(0x3c003c00u));
  asm volatile("red.global.add.noftz.bf16x2 [%0], %1;" ::"l"(b), "r"(0x40003f80u) : "memory");
  atomicMax(q, (unsigned long long)threadIdx.x << 33);
  atomicInc(o, 9);
  atomicXor(o + 1, 1u << (threadIdx.x % 32));
  if (threadIdx.x < 32) atomicCAS(o + 2, threadIdx.x, threadIdx.x + 1);  // one warp: warps come in any order
  asm volatile("{.reg .b128 a, b, d; mov.b128 a, {%1, %1}; mov.b128 b, {%2, %1}; atom.global.cas.b128 d, [%0], a, b; }" ::"l"(q + 2),
               "l"((unsigned long long)threadIdx.x), "l"((unsigned long long)threadIdx.x + 1)
               : "memory");
}
__global__ void relu_min_max(const int* x, const int* y, int* r) {  // 8 results a thread
  const int i = threadIdx.x, a = x[i], b = y[i], c = y[31 - i];
  r += 8 * i;
  r[0] = __vimax_s32_relu(a, b), r[1] = __vimin_s32_relu(a, b), r[2] = __vimax3_s32_relu(a, b, c), r[3] = __viaddmin_s32_relu(a, b, c);
  r[4] = __vimax_s16x2_relu(a, b), r[5] = __vimin_s16x2_relu(a, b), r[6] = __vimin3_s16x2_relu(a, b, c), r[7] = __viaddmax_s16x2_relu(a, b, c);
}
__global__ void find_nth_set(const unsigned* mask, const int* base, const int* n, int* r) {
  asm("fns.b32 %0, %1, %2, %3;" : "=r"(r[threadIdx.x]) : "r"(mask[threadIdx.x]), "r"(base[threadIdx.x]), "r"(n[threadIdx.x]));
}
__global__ void __cluster_dims__(2, 1, 1) st_async(int* out) {
  __shared__ __align__(16) int s[64];
  __shared__ __align__(16) int t[64];
  __shared__ __align__(8) unsigned long long b[2];
  auto cl = cooperative_groups::this_cluster();
  unsigned r = cl.block_rank();
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(sp(&b[0])));
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(sp(&b[1])));
    asm volatile("fence.mbarrier_init.release.cluster;");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 128;" ::"r"(sp(&b[0])));
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 128;" ::"r"(sp(&b[1])));
  }
  cl.sync();
  unsigned ra, rb, rt, rb1;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(ra) : "r"(sp(&s[threadIdx.x])), "r"(r ^ 1));
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(rb) : "r"(sp(&b[0])), "r"(r ^ 1));
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];" ::"r"(ra), "r"(r * 1000 + threadIdx.x), "r"(rb) : "memory");
  wait(sp(&b[0]), 0);
  asm volatile("fence.proxy.async.shared::cta;");
  __syncwarp();
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(rt) : "r"(sp(t)), "r"(r ^ 1));
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(rb1) : "r"(sp(&b[1])), "r"(r ^ 1));
  if (threadIdx.x == 0)
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], 128, [%2];" ::"r"(rt), "r"(sp(s)), "r"(rb1) : "memory");
  wait(sp(&b[1]), 0);
  out[blockIdx.x * 64 + threadIdx.x] = s[threadIdx.x];
  out[blockIdx.x * 64 + 32 + threadIdx.x] = t[threadIdx.x];
  cl.sync();
}
__global__ void bulk_reduce(float* g) {
  __shared__ __align__(128) float s[64];
  s[threadIdx.x] = threadIdx.x;
  asm volatile("fence.proxy.async.shared::cta;");
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], 256;" ::"l"(g), "r"(sp(s)) : "memory");
    asm volatile("cp.async.bulk.commit_group;");
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
  }
}
__global__ void tokens(int* out) {
  __shared__ __align__(8) unsigned long long b;
  __shared__ int v;
  if (threadIdx.x == 0) asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(sp(&b)), "r"(blockDim.x));
  __syncthreads();
  int sum = 0;
  for (int k = 0; k < 5; k++) {
    if (threadIdx.x == (unsigned)k * 10) v = k * 7;
    unsigned long long st;
    asm volatile("mbarrier.arrive.shared.b64 %0, [%1];" : "=l"(st) : "r"(sp(&b)) : "memory");
    unsigned ok;
    do {
      asm volatile("{.reg .pred p; mbarrier.test_wait.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}" : "=r"(ok) : "r"(sp(&b)), "l"(st) : "memory");
    } while (!ok);
    sum += v;
    asm volatile("mbarrier.arrive.shared.b64 %0, [%1];" : "=l"(st) : "r"(sp(&b)) : "memory");
    do {
      asm volatile("{.reg .pred p; mbarrier.try_wait.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}" : "=r"(ok) : "r"(sp(&b)), "l"(st) : "memory");
    } while (!ok);
  }
  out[threadIdx.x] = sum;
}
__global__ void named(int* out) {  // producer warp arrives, consumer warps sync; then reductions over the block
  __shared__ int v;
  if (threadIdx.x < 32) {
    if (threadIdx.x == 0) v = 41;
    __threadfence_block();
    asm volatile("barrier.cta.arrive.aligned 3, 96;" ::: "memory");
  } else {
    asm volatile("barrier.cta.sync.aligned 3, 96;" ::: "memory");
    out[threadIdx.x] = v;
  }
  out[96 + threadIdx.x] = __syncthreads_count(threadIdx.x % 3 == 0) * 100 + __syncthreads_and(threadIdx.x < 96) * 10 + __syncthreads_or(threadIdx.x == 95);
}
__global__ void warp_ops(unsigned* o) {
  unsigned l = threadIdx.x;
  unsigned* r = o + l * 10;
  r[0] = __match_any_sync(~0u, l % 5);
  int p;
  r[1] = __match_all_sync(~0u, 7, &p) + p;
  r[2] = __reduce_add_sync(~0u, l);
  r[3] = __reduce_max_sync(~0u, (int)l - 40);
  r[4] = __ballot_sync(~0u, l & 4);
  r[5] = __any_sync(~0u, l == 3) * 2 + __all_sync(~0u, l < 32);
  unsigned e;
  asm volatile("{.reg .pred p; elect.sync _|p, 0xffffffff; selp.u32 %0, 1, 0, p;}" : "=r"(e));
  r[6] = e;
  if (l & 1)
    r[7] = __shfl_sync(0xaaaaaaaa, l * 3, 5);
  else
    r[7] = __shfl_up_sync(0x55555555, l, 2);
  r[8] = __activemask();
  r[9] = __shfl_down_sync(~0u, l, 3, 8);
}
__global__ void cvts(const float* x, unsigned* o) {
  unsigned i = threadIdx.x;
  float a = x[i], b = x[i + 1];
  unsigned* r = o + i * 8;
  unsigned u;
  unsigned short s;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(u) : "f"(a));
  r[0] = u;
  asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(a), "f"(b));
  r[1] = u;
  asm("cvt.rz.f16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(a), "f"(b));
  r[2] = u;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(s) : "f"(a * 100), "f"(b));
  r[3] = s;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(u) : "h"(s));
  r[4] = u;
  asm("cvt.rni.s32.f32 %0, %1;" : "=r"(u) : "f"(a));
  r[5] = u;
  asm("cvt.rzi.sat.u8.f32 %0, %1;" : "=r"(u) : "f"(a * 50));
  r[6] = u;
  asm("{.reg .f32 t; min.NaN.f32 t, %1, %2; max.f32 t, t, %1; abs.f32 t, t; mov.b32 %0, t;}" : "=r"(u) : "f"(a), "f"(b));
  r[7] = u;
}
__global__ void mma_int(const signed char* A, const signed char* B, int* C) {  // m16n8k32 s8
  int l = threadIdx.x;
  unsigned a[4], b[2];
  int c[4] = {1, 2, 3, 4};
  for (int r = 0; r < 4; r++) a[r] = *(const unsigned*)(A + (l / 4 + 8 * (r & 1)) * 32 + (l % 4) * 4 + (r / 2) * 16);
  for (int r = 0; r < 2; r++) b[r] = *(const unsigned*)(B + (l / 4) * 32 + (l % 4) * 4 + r * 16);
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  for (int i = 0; i < 4; i++) C[(l / 4 + 8 * (i / 2)) * 8 + (l % 4) * 2 + (i & 1)] = c[i] - (i + 1);
}
__global__ void mma_f64(const double* A, const double* B, double* C) {
  int l = threadIdx.x;
  double c0 = 0, c1 = 0;
  asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
               : "+d"(c0), "+d"(c1)
               : "d"(A[(l / 4) * 4 + l % 4]), "d"(B[(l / 4) * 4 + l % 4]));
  C[(l / 4) * 8 + (l % 4) * 2] = c0;
  C[(l / 4) * 8 + (l % 4) * 2 + 1] = c1;
}
int main() {
  srand(4);
  auto* f = to_device(std::vector<float>(4));
  auto* h = to_device(std::vector<unsigned>(1));
  auto* b = to_device(std::vector<unsigned>(1));
  auto* q = to_device(std::vector<unsigned long long>(4));
  auto* o = to_device(std::vector<unsigned>(3));
  atomics<<<1, 64>>>(f, h, b, q, o);
  auto F = to_host(f, 4);
  auto O = to_host(o, 3);
  auto Q = to_host(q, 4);
  check(F[0] == 64 && F[3] == 256 && to_host(h, 1)[0] == 0x54005400 && to_host(b, 1)[0] == 0x43004280, "red v4.f32, atom f16x2, red bf16x2");
  check(Q[0] == 63ull << 33 && O[0] == 4 && O[1] == 0 && O[2] == 32, "atom max.u64, inc, xor, cas");
  check(Q[2] == 1 && Q[3] == 0, "atom.cas.b128");
  auto* so = to_device(std::vector<int>(128));
  st_async<<<2, 32>>>(so);
  auto SO = to_host(so, 128);
  bool ok = true;
  for (int c = 0; c < 2; c++)
    for (int i = 0; i < 32; i++) ok &= SO[c * 64 + i] == (c ^ 1) * 1000 + i && SO[c * 64 + 32 + i] == c * 1000 + i;
  check(ok, "st.async, bulk copy between CTAs");
  std::vector<float> g(64, 5);
  auto* dg = to_device(g);
  bulk_reduce<<<3, 64>>>(dg);
  auto G = to_host(dg, 64);
  ok = true;
  for (int i = 0; i < 64; i++) ok &= G[i] == 5 + 3 * i;
  check(ok, "cp.reduce.async.bulk add.f32");
  auto* to = to_device(std::vector<int>(64));
  tokens<<<1, 64>>>(to);
  auto TO = to_host(to, 64);
  ok = true;
  for (int v : TO) ok &= v == 70;
  check(ok, "mbarrier state tokens, test_wait, try_wait");
  auto* no = to_device(std::vector<int>(192));
  named<<<1, 96>>>(no);
  auto NO = to_host(no, 192);
  ok = true;
  for (int i = 32; i < 96; i++) ok &= NO[i] == 41;
  for (int i = 96; i < 192; i++) ok &= NO[i] == 3211;
  check(ok, "named barriers, bar.red popc/and/or");
  auto* wo = to_device(std::vector<unsigned>(320));
  warp_ops<<<1, 32>>>(wo);
  auto W = to_host(wo, 320);
  ok = true;
  for (unsigned l = 0; l < 32; l++) {
    unsigned m = 0;
    for (unsigned k = 0; k < 32; k++)
      if (k % 5 == l % 5) m |= 1u << k;
    const unsigned* r = &W[l * 10];
    ok &= r[0] == m && r[1] == 0u && r[2] == 496 && r[3] == (unsigned)-9 && r[4] == 0xf0f0f0f0 && r[5] == 3 && r[6] == (l == 0) &&
          r[7] == (l & 1    ? 15
                   : l >= 2 ? l - 2
                            : l) &&
          r[8] == ~0u && r[9] == (l % 8 + 3 < 8 ? l + 3 : l);
  }
  check(ok, "match, redux, vote, elect, shfl");
  std::vector<float> x(65);
  for (auto& v : x) v = (rand() % 20001 - 10000) / 1111.f;
  auto* co = to_device(std::vector<unsigned>(512));
  cvts<<<1, 64>>>(to_device(x), co);
  auto C = to_host(co, 512);
  ok = true;
  for (int i = 0; i < 64; i++) {
    float a = x[i], c = x[i + 1];
    unsigned ua;
    memcpy(&ua, &a, 4);
    const unsigned* r = &C[i * 8];
    auto bf = [](float v) {
      v = v < 0 ? 0 : v;
      __nv_bfloat16 t = __float2bfloat16(v);
      unsigned short s;
      memcpy(&s, &t, 2);
      return (unsigned)s;
    };
    auto hz = [](float v) {
      __half t = __float2half_rz(v);
      unsigned short s;
      memcpy(&s, &t, 2);
      return (unsigned)s;
    };
    float mn = fabsf(fmaxf(fminf(a, c), a));
    unsigned um;
    memcpy(&um, &mn, 4);
    ok &= r[0] == ((ua + 0x1000) & 0xffffe000) && r[1] == (bf(a) << 16 | bf(c)) && r[2] == (hz(a) << 16 | hz(c)) && r[5] == (unsigned)lrintf(a) &&
          r[6] == (a <= 0 ? 0u : std::min(255u, (unsigned)(a * 50))) && r[7] == um && (fabsf(a * 100) < 464 || (r[3] >> 8 & 0x7f) == 0x7e);
  }
  check(ok, "cvt tf32, relu, rz, satfinite, rni, sat");
  std::vector<signed char> A(512), B(256);
  for (auto& v : A) v = rand();
  for (auto& v : B) v = rand();
  auto* mc = to_device(std::vector<int>(128));
  mma_int<<<1, 32>>>(to_device(A), to_device(B), mc);
  auto M = to_host(mc, 128);
  ok = true;
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 8; j++) {
      int s = 0;
      for (int k = 0; k < 32; k++) s += A[i * 32 + k] * B[j * 32 + k];
      ok &= s == M[i * 8 + j];
    }
  check(ok, "mma.sync m16n8k32 s8");
  std::vector<double> DA(32), DB(32);
  for (auto& v : DA) v = rand() / 1e8;
  for (auto& v : DB) v = rand() / 1e8;
  auto* dc = to_device(std::vector<double>(64));
  mma_f64<<<1, 32>>>(to_device(DA), to_device(DB), dc);
  auto DC = to_host(dc, 64);
  ok = true;
  for (int i = 0; i < 8; i++)
    for (int j = 0; j < 8; j++) {
      double s = 0;
      for (int k = 0; k < 4; k++) s += DA[i * 4 + k] * DB[j * 4 + k];
      ok &= fabs(s - DC[i * 8 + j]) < 1e-9 * fabs(s) + 1e-12;
    }
  check(ok, "mma.sync m8n8k4 f64");
  std::vector<int> X(32), Y(32);
  for (int i = 0; i < 32; i++) X[i] = (rand() ^ rand() << 8) * (i % 2 ? 1 : -1), Y[i] = (rand() ^ rand() << 8) * (i % 4 < 2 ? 1 : -1);
  auto* rm = to_device(std::vector<int>(256));
  relu_min_max<<<1, 32>>>(to_device(X), to_device(Y), rm);
  auto RM = to_host(rm, 256);
  ok = true;
  for (int i = 0; i < 32; i++) {
    const int a = X[i], b = Y[i], c = Y[31 - i], sum = (int)((unsigned)a + b), *r = &RM[8 * i];
    ok &= r[0] == std::max({a, b, 0}) && r[1] == std::max(std::min(a, b), 0) && r[2] == std::max({a, b, c, 0}) && r[3] == std::max(std::min(sum, c), 0);
    for (int half = 0; half < 32; half += 16) {
      auto part = [&](int v) { return (int)(short)(v >> half); };
      const int p = part(a), q = part(b), s = part(c);
      ok &= part(r[4]) == std::max({p, q, 0}) && part(r[5]) == std::max(std::min(p, q), 0) && part(r[6]) == std::max(std::min({p, q, s}), 0) &&
            part(r[7]) == std::max({(int)(short)(p + q), s, 0});
    }
  }
  check(ok, "min, max .relu of s32 and s16x2");
  // mask 0b10110100: its set bits are 2, 4, 5, 7
  const std::vector<int> base{0, 0, 2, 3, 4, 3, 7, 7, 31, 6, 0, 0}, nth{1, 3, 1, 0, 0, -1, -4, -5, -1, 2, 4, 5}, found{2, 5, 2, -1, 4, 2, 2, -1, 7, -1, 7, -1};
  auto* fr = to_device(std::vector<int>(12));
  find_nth_set<<<1, 12>>>(to_device(std::vector<unsigned>(12, 0xb4)), to_device(base), to_device(nth), fr);
  check(to_host(fr, 12) == found, "fns");
  return finish();
}
