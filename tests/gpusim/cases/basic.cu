// Small CUDA programs with host references: saxpy, block reduction, transpose, atomics, softmax, printf template,
// cooperative groups, dynamic parallel-free recursion, f16/bf16/fp8 conversions, cp.async, ldmatrix + mma.sync.
#include "tests/gpusim/cases/check.h"

#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_pipeline.h>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>
namespace cg = cooperative_groups;
static float rnd() { return (rand() % 20001 - 10000) / 5000.0f; }

__global__ void saxpy(int n, float a, const float* x, float* y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = a * x[i] + y[i];
}
__global__ void reduce_sum(const float* x, int n, float* out) {
  float s = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) s += x[i];
  for (int o = 16; o; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
  __shared__ float w[32];
  if (threadIdx.x % 32 == 0) w[threadIdx.x / 32] = s;
  __syncthreads();
  if (threadIdx.x < 32) {
    s = threadIdx.x < blockDim.x / 32 ? w[threadIdx.x] : 0;
    for (int o = 16; o; o >>= 1) s += __shfl_down_sync(~0u, s, o);
    if (threadIdx.x == 0) atomicAdd(out, s);
  }
}
__global__ void transpose(const float* a, float* b, int w, int h) {
  __shared__ float t[32][33];
  int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
  for (int k = 0; k < 32; k += 8)
    if (x < w && y + k < h) t[threadIdx.y + k][threadIdx.x] = a[(y + k) * w + x];
  __syncthreads();
  x = blockIdx.y * 32 + threadIdx.x;
  y = blockIdx.x * 32 + threadIdx.y;
  for (int k = 0; k < 32; k += 8)
    if (x < h && y + k < w) b[(y + k) * h + x] = t[threadIdx.x][threadIdx.y + k];
}
__global__ void histogram(const int* x, int n, unsigned* h, unsigned long long* sum, int* mx, double* ds) {
  __shared__ unsigned s[64];
  if (threadIdx.x < 64) s[threadIdx.x] = 0;
  __syncthreads();
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) {
    atomicAdd(&s[x[i] & 63], 1u);
    atomicAdd(sum, (unsigned long long)x[i]);
    atomicMax(mx, x[i]);
    atomicAdd(ds, (double)x[i] * 0.5);
  }
  __syncthreads();
  if (threadIdx.x < 64) atomicAdd(&h[threadIdx.x], s[threadIdx.x]);
}
__global__ void softmax_row(const float* x, float* y, int n) {
  extern __shared__ float sm[];
  const float* r = x + (size_t)blockIdx.x * n;
  float m = -INFINITY;
  for (int i = threadIdx.x; i < n; i += blockDim.x) m = fmaxf(m, r[i]);
  sm[threadIdx.x] = m;
  __syncthreads();
  for (int o = blockDim.x / 2; o; o /= 2) {
    if (threadIdx.x < o) sm[threadIdx.x] = fmaxf(sm[threadIdx.x], sm[threadIdx.x + o]);
    __syncthreads();
  }
  m = sm[0];
  __syncthreads();
  float s = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) s += __expf(r[i] - m);
  sm[threadIdx.x] = s;
  __syncthreads();
  for (int o = blockDim.x / 2; o; o /= 2) {
    if (threadIdx.x < o) sm[threadIdx.x] += sm[threadIdx.x + o];
    __syncthreads();
  }
  s = sm[0];
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[(size_t)blockIdx.x * n + i] = __expf(r[i] - m) / s;
}
__device__ __noinline__ int fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
__global__ void recursion(int* out) { out[threadIdx.x] = fib(threadIdx.x % 12); }
template <int N>
struct Poly {
  __device__ static float eval(float x) { return x * Poly<N - 1>::eval(x) + N; }
};
template <>
struct Poly<0> {
  __device__ static float eval(float) { return 0; }
};
template <class T, int N>
__global__ void hello(T v) {
  if (threadIdx.x == 3) printf("  printf from a template: N=%d v=%g s=%s poly=%g u64=%llx\n", N, (double)v, "text", Poly<N>::eval(v), 0x123456789abcdefull);
}
typedef float (*Fn)(float);
__device__ float f1(float x) { return x + 1; }
__device__ float f2(float x) { return x * 3; }
__device__ Fn table[2] = {f1, f2};
__global__ void indirect(float* x) { x[threadIdx.x] = table[threadIdx.x & 1](x[threadIdx.x]); }
struct Base {
  __device__ virtual int f(int x) const { return x; }
};
struct Derived : Base {
  int k;
  __device__ Derived(int q) : k(q) {}
  __device__ int f(int x) const override { return x * k; }
};
__global__ void virt(int* x) {
  Base b;
  Derived d(7);
  const Base* p = (threadIdx.x & 1) ? (const Base*)&d : &b;
  x[threadIdx.x] = p->f(threadIdx.x);
}
__global__ void groups(const float* x, float* out) {
  cg::thread_block b = cg::this_thread_block();
  auto t = cg::tiled_partition<8>(b);
  float s = cg::reduce(t, x[b.thread_rank()], cg::plus<float>());
  if (t.thread_rank() == 0) out[b.thread_rank() / 8] = s;
  __syncwarp();
  auto c = cg::coalesced_threads();
  if (b.thread_rank() == 0) out[8] = c.size();
}
__global__ void grid_sync(int* x, int n) {
  auto g = cg::this_grid();
  int i = g.thread_rank();
  x[i] = i;
  g.sync();
  int v = x[(i + 97) % n];
  g.sync();
  x[i] = v;
}
__global__ void spin_lock(int* lock, int* count) {
  for (int k = 0; k < 2; k++) {
    bool done = false;
    while (!done) {
      if (atomicCAS(lock, 0, 1) == 0) {
        volatile int* c = count;
        *c = *c + 1;
        __threadfence();
        atomicExch(lock, 0);
        done = true;
      }
    }
  }
}
__global__ void halves(const float* x, float* y, int n) {
  int i = threadIdx.x;
  if (i >= n) return;
  __half2 h = __floats2half2_rn(x[i], -x[i]);
  h = __hfma2(h, h, __float2half2_rn(0.5f));
  __nv_bfloat162 b = __floats2bfloat162_rn(x[i], 2 * x[i]);
  b = __hadd2(b, __hmul2(b, b));
  __nv_fp8_e4m3 q(x[i]);
  __nv_fp8_e5m2 r(x[i]);
  y[i * 6] = __low2float(h);
  y[i * 6 + 1] = __high2float(h);
  y[i * 6 + 2] = __low2float(b);
  y[i * 6 + 3] = __high2float(b);
  y[i * 6 + 4] = float(q);
  y[i * 6 + 5] = float(r);
}
__global__ void async_copy(const int4* x, int4* y) {
  __shared__ int4 s[128];
  __pipeline_memcpy_async(&s[threadIdx.x], &x[threadIdx.x], 16);
  __pipeline_commit();
  __pipeline_wait_prior(0);
  __syncthreads();
  y[threadIdx.x] = s[127 - threadIdx.x];
}
__global__ void int_ops(const unsigned* a, const unsigned* b, unsigned* o) {
  int i = threadIdx.x;
  unsigned x = a[i], y = b[i];
  o[i * 12] = __brev(x) ^ __popc(y);
  o[i * 12 + 1] = __clz(x) + __ffs(y);
  o[i * 12 + 2] = __byte_perm(x, y, 0x5140);
  o[i * 12 + 3] = __funnelshift_l(x, y, x & 63);
  o[i * 12 + 4] = __umulhi(x, y);
  o[i * 12 + 5] = (unsigned)__mulhi((int)x, (int)y);
  o[i * 12 + 6] = __vadd2(x, y);
  o[i * 12 + 7] = x / (y | 1);
  o[i * 12 + 8] = (unsigned)((long long)(int)x % ((int)y | 1));
  o[i * 12 + 9] = __dp4a((int)x, (int)y, 5);
  o[i * 12 + 10] = __usad(x, y, 3);
  o[i * 12 + 11] = (unsigned)(((unsigned long long)x * y) >> 13);
}
__global__ void mma_bf16(const __nv_bfloat16* A, const __nv_bfloat16* B, float* C) {  // 16x8x16, B column-major
  __shared__ __align__(16) __nv_bfloat16 sa[16][16], sb[8][16];
  int l = threadIdx.x;
  for (int i = l; i < 256; i += 32) sa[i / 16][i % 16] = A[i];
  for (int i = l; i < 128; i += 32) sb[i / 16][i % 16] = B[i];
  __syncwarp();
  unsigned a[4], b[2];
  float c[4] = {0, 0, 0, 0};
  unsigned pa = __cvta_generic_to_shared(&sa[l % 16][(l / 16) * 8]), pb = __cvta_generic_to_shared(&sb[l % 8][((l / 8) & 1) * 8]);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(pa));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(b[0]), "=r"(b[1]) : "r"(pb));
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  for (int i = 0; i < 4; i++) C[(l / 4 + 8 * (i / 2)) * 8 + (l % 4) * 2 + (i & 1)] = c[i];
}
__global__ void dsmem(int* out) {
  __shared__ int s[32];
  cg::cluster_group c = cg::this_cluster();
  s[threadIdx.x] = c.block_rank() * 100 + threadIdx.x;
  c.sync();
  int* r = c.map_shared_rank(s, (c.block_rank() + 1) % c.num_blocks());
  out[blockIdx.x * 32 + threadIdx.x] = r[threadIdx.x];
  c.sync();
}
int main() {
  srand(3);
  const int n = 5000;
  std::vector<float> x(n), y(n);
  for (auto& v : x) v = rnd();
  for (auto& v : y) v = rnd();
  float *dx = to_device(x), *dy = to_device(y);
  saxpy<<<(n + 255) / 256, 256>>>(n, 2.5f, dx, dy);
  auto r = to_host(dy, n);
  bool ok = true;
  for (int i = 0; i < n; i++) ok &= r[i] == fmaf(2.5f, x[i], y[i]);
  check(ok, "saxpy");
  float z = 0;
  float* ds = to_device(std::vector<float>{z});
  reduce_sum<<<4, 256>>>(dx, n, ds);
  double ref = 0;
  for (float v : x) ref += v;
  check(fabs(to_host(ds, 1)[0] - ref) < 1e-2, "block reduction, shuffles");
  int w = 70, h = 45;
  float* dt = to_device(std::vector<float>(w * h));
  transpose<<<dim3(3, 2), dim3(32, 8)>>>(dx, dt, w, h);
  auto t = to_host(dt, w * h);
  ok = true;
  for (int i = 0; i < h; i++)
    for (int j = 0; j < w; j++) ok &= t[j * h + i] == x[i * w + j];
  check(ok, "shared-memory transpose");
  std::vector<int> xi(n);
  for (auto& v : xi) v = rand() % 1000;
  std::vector<unsigned> hr(64, 0);
  unsigned long long sr = 0;
  int mr = 0;
  for (int v : xi) {
    hr[v & 63]++;
    sr += v;
    mr = std::max(mr, v);
  }
  auto* dh = to_device(std::vector<unsigned>(64, 0));
  auto* dsum = to_device(std::vector<unsigned long long>(1, 0));
  auto* dm = to_device(std::vector<int>(1, 0));
  auto* dd = to_device(std::vector<double>(1, 0));
  histogram<<<(n + 127) / 128, 128>>>(to_device(xi), n, dh, dsum, dm, dd);
  check(to_host(dh, 64) == hr && to_host(dsum, 1)[0] == sr && to_host(dm, 1)[0] == mr && to_host(dd, 1)[0] == sr * 0.5, "atomics, histogram");
  float* dsm = to_device(std::vector<float>(8 * 333));
  softmax_row<<<8, 128, 512>>>(dx, dsm, 333);
  auto so = to_host(dsm, 8 * 333);
  ok = true;
  for (int q = 0; q < 8; q++) {
    double mx = -1e9, s = 0;
    for (int i = 0; i < 333; i++) mx = std::max(mx, (double)x[q * 333 + i]);
    for (int i = 0; i < 333; i++) s += exp(x[q * 333 + i] - mx);
    for (int i = 0; i < 333; i++) ok &= fabs(so[q * 333 + i] - exp(x[q * 333 + i] - mx) / s) < 1e-6;
  }
  check(ok, "softmax, dynamic shared memory");
  int* dr = to_device(std::vector<int>(64));
  recursion<<<1, 64>>>(dr);
  auto rr = to_host(dr, 64);
  ok = true;
  int fibs[12] = {0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89};
  for (int i = 0; i < 64; i++) ok &= rr[i] == fibs[i % 12];
  check(ok, "divergent recursion");
  hello<float, 4><<<1, 32>>>(1.5f);
  cudaDeviceSynchronize();
  float* df = to_device(std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8});
  indirect<<<1, 8>>>(df);
  auto fr = to_host(df, 8);
  ok = true;
  for (int i = 0; i < 8; i++) ok &= fr[i] == (i & 1 ? (i + 1) * 3 : i + 2);
  check(ok, "function pointers");
  virt<<<1, 32>>>(dr);
  auto vr = to_host(dr, 32);
  ok = true;
  for (int i = 0; i < 32; i++) ok &= vr[i] == (i & 1 ? i * 7 : i);
  check(ok, "virtual functions");
  float* dg = to_device(std::vector<float>(16));
  groups<<<1, 64>>>(dx, dg);
  auto gr = to_host(dg, 9);
  ok = gr[8] == 32;
  for (int q = 0; q < 8; q++) {
    double s = 0;
    for (int i = 0; i < 8; i++) s += x[q * 8 + i];
    ok &= fabs(s - gr[q]) < 1e-4;
  }
  check(ok, "cooperative groups");
  int gn = 6 * 64;
  int* dgi = to_device(std::vector<int>(gn));
  void* ga[] = {&dgi, &gn};
  cudaError_t ge = cudaLaunchCooperativeKernel((void*)grid_sync, dim3(6), dim3(64), ga);
  auto gg = to_host(dgi, gn);
  ok = ge == cudaSuccess;
  for (int i = 0; i < gn; i++) ok &= gg[i] == (i + 97) % gn;
  check(ok, "grid.sync (cooperative launch)");
  int *dl = to_device(std::vector<int>{0}), *dc = to_device(std::vector<int>{0});
  spin_lock<<<2, 64>>>(dl, dc);
  check(to_host(dc, 1)[0] == 256, "spin lock between lanes of a warp");
  float* dhf = to_device(std::vector<float>(64 * 6));
  halves<<<1, 64>>>(dx, dhf, 64);
  auto hf = to_host(dhf, 64 * 6);
  ok = true;
  for (int i = 0; i < 64; i++) {
    __half a = __float2half(x[i]);
    float fa = __half2float(a);
    float e = __half2float(__float2half(fmaf(fa, fa, 0.5f)));
    __nv_bfloat16 p = __float2bfloat16(x[i]);
    float fp = __bfloat162float(p);
    float pp = __bfloat162float(__float2bfloat16(fp * fp));
    float s = __bfloat162float(__float2bfloat16(fp + pp));
    ok &= hf[i * 6] == e && hf[i * 6 + 1] == e && hf[i * 6 + 2] == s && hf[i * 6 + 4] == float(__nv_fp8_e4m3(x[i])) &&
          hf[i * 6 + 5] == float(__nv_fp8_e5m2(x[i]));
  }
  check(ok, "f16, bf16, e4m3, e5m2");
  std::vector<int4> v4(128);
  for (int i = 0; i < 128; i++) v4[i] = make_int4(i, i + 1, i * 2, -i);
  int4* o4 = to_device(std::vector<int4>(128));
  async_copy<<<1, 128>>>(to_device(v4), o4);
  auto r4 = to_host(o4, 128);
  ok = true;
  for (int i = 0; i < 128; i++) ok &= r4[i].x == 127 - i && r4[i].w == i - 127;
  check(ok, "cp.async");
  std::vector<unsigned> ia(64), ib(64);
  for (auto& v : ia) v = rand() * 2654435761u;
  for (auto& v : ib) v = rand() * 40503u;
  unsigned* io = to_device(std::vector<unsigned>(64 * 12));
  int_ops<<<1, 64>>>(to_device(ia), to_device(ib), io);
  auto iv = to_host(io, 64 * 12);
  ok = true;
  for (int i = 0; i < 64; i++) {
    unsigned a = ia[i], b = ib[i];
    unsigned br = 0;
    for (int k = 0; k < 32; k++) br |= ((a >> k) & 1) << (31 - k);
    unsigned long long fs = ((unsigned long long)b << 32 | a) << (a & 31);
    int dp = 5;
    for (int k = 0; k < 4; k++) dp += (signed char)(a >> 8 * k) * (signed char)(b >> 8 * k);
    unsigned bp = 0;
    unsigned char by[8];
    for (int k = 0; k < 4; k++) {
      by[k] = a >> 8 * k;
      by[4 + k] = b >> 8 * k;
    }
    int sel[4] = {0, 4, 1, 5};
    for (int k = 0; k < 4; k++) bp |= by[sel[k]] << 8 * k;
    ok &= iv[i * 12] == (br ^ __builtin_popcount(b)) && iv[i * 12 + 1] == (a ? __builtin_clz(a) : 32u) + __builtin_ffs(b) && iv[i * 12 + 2] == bp &&
          iv[i * 12 + 3] == (unsigned)(fs >> 32) && iv[i * 12 + 4] == (unsigned)(((unsigned long long)a * b) >> 32) &&
          iv[i * 12 + 5] == (unsigned)(((long long)(int)a * (int)b) >> 32) && iv[i * 12 + 6] == (((a + b) & 0xffff) | ((a & 0xffff0000) + (b & 0xffff0000))) &&
          iv[i * 12 + 7] == a / (b | 1) && iv[i * 12 + 8] == (unsigned)((long long)(int)a % ((int)b | 1)) && iv[i * 12 + 9] == (unsigned)dp &&
          iv[i * 12 + 10] == 3 + (a > b ? a - b : b - a) && iv[i * 12 + 11] == (unsigned)(((unsigned long long)a * b) >> 13);
  }
  check(ok, "integer intrinsics");
  std::vector<__nv_bfloat16> ma(256), mb(128);
  for (auto& v : ma) v = __float2bfloat16(rnd());
  for (auto& v : mb) v = __float2bfloat16(rnd());
  float* mc = to_device(std::vector<float>(128));
  mma_bf16<<<1, 32>>>(to_device(ma), to_device(mb), mc);
  auto mv = to_host(mc, 128);
  ok = true;
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 8; j++) {
      double s = 0;
      for (int k = 0; k < 16; k++) s += (double)__bfloat162float(ma[i * 16 + k]) * __bfloat162float(mb[j * 16 + k]);
      ok &= fabs(s - mv[i * 8 + j]) < 1e-4;
    }
  check(ok, "ldmatrix + mma.sync bf16");
  int* dsm2 = to_device(std::vector<int>(8 * 32));
  cudaLaunchConfig_t cfg = {};
  cfg.gridDim = 8;
  cfg.blockDim = 32;
  cudaLaunchAttribute at[1];
  at[0].id = cudaLaunchAttributeClusterDimension;
  at[0].val.clusterDim.x = 4;
  at[0].val.clusterDim.y = at[0].val.clusterDim.z = 1;
  cfg.attrs = at;
  cfg.numAttrs = 1;
  cudaLaunchKernelEx(&cfg, dsmem, dsm2);
  auto dv = to_host(dsm2, 256);
  ok = true;
  for (int b = 0; b < 8; b++)
    for (int i = 0; i < 32; i++) ok &= dv[b * 32 + i] == ((b % 4 + 1) % 4) * 100 + i;
  check(ok, "clusters, distributed shared memory");
  return finish();
}
