// Tensor copies 1D..5D against a host model written from the documentation, all swizzles, out-of-bounds fill, stores,
// reductions, multicast in a cluster, and the encoder's argument checks.
#include "tests/gpusim/cases/check.h"

#include <cooperative_groups.h>
#include <cuda.h>
#include <cuda_runtime.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>
typedef CUresult (*Enc)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*, const cuuint32_t*, const cuuint32_t*,
                        CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
static Enc enc;
struct C5 {
  int c[5];
};
__device__ void init(unsigned bar, int n) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(n));
  asm volatile("fence.mbarrier_init.release.cluster;");
}
__device__ void wait(unsigned bar, unsigned ph) {
  asm volatile("{\n.reg .pred P1;\nLAB_WAIT:\nmbarrier.try_wait.parity.shared::cta.b64 P1, [%0], %1;\n@P1 bra DONE;\nbra LAB_WAIT;\nDONE:\n}" ::"r"(bar),
               "r"(ph)
               : "memory");
}
template <int R>
__global__ void load_k(const __grid_constant__ CUtensorMap m, C5 c, int bytes, unsigned char* out) {
  extern __shared__ __align__(1024) unsigned char s[];
  __shared__ __align__(8) unsigned long long b;
  unsigned bar = __cvta_generic_to_shared(&b), d = __cvta_generic_to_shared(s);
  if (threadIdx.x == 0) init(bar, 1);
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes));
    if (R == 1)
      asm volatile("cp.async.bulk.tensor.1d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3}], [%2];" ::"r"(d), "l"(&m), "r"(bar),
                   "r"(c.c[0])
                   : "memory");
    if (R == 2)
      asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(d), "l"(&m), "r"(bar),
                   "r"(c.c[0]), "r"(c.c[1])
                   : "memory");
    if (R == 3)
      asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(d), "l"(&m), "r"(bar),
                   "r"(c.c[0]), "r"(c.c[1]), "r"(c.c[2])
                   : "memory");
    if (R == 4)
      asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(d), "l"(&m),
                   "r"(bar), "r"(c.c[0]), "r"(c.c[1]), "r"(c.c[2]), "r"(c.c[3])
                   : "memory");
    if (R == 5)
      asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(d), "l"(&m),
                   "r"(bar), "r"(c.c[0]), "r"(c.c[1]), "r"(c.c[2]), "r"(c.c[3]), "r"(c.c[4])
                   : "memory");
  }
  wait(bar, 0);
  for (int i = threadIdx.x; i < bytes; i += blockDim.x) out[i] = s[i];
}
__global__ void store_k(const __grid_constant__ CUtensorMap m, C5 c, const float* in, int n, int red) {
  extern __shared__ __align__(1024) unsigned char raw[];
  float* s = (float*)raw;
  for (int i = threadIdx.x; i < n; i += blockDim.x) s[i] = in[i];
  asm volatile("fence.proxy.async.shared::cta;");
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned d = __cvta_generic_to_shared(s);
    if (red)
      asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&m), "r"(d), "r"(c.c[0]), "r"(c.c[1])
                   : "memory");
    else
      asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&m), "r"(d), "r"(c.c[0]), "r"(c.c[1]) : "memory");
    asm volatile("cp.async.bulk.commit_group;");
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }
}
__global__ void __cluster_dims__(4, 1, 1) multi(const __grid_constant__ CUtensorMap m, int bytes, unsigned char* out) {
  extern __shared__ __align__(1024) unsigned char s[];
  __shared__ __align__(8) unsigned long long b;
  unsigned bar = __cvta_generic_to_shared(&b), d = __cvta_generic_to_shared(s);
  auto cl = cooperative_groups::this_cluster();
  if (threadIdx.x == 0) {
    init(bar, 1);
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(4 * bytes));
  }
  cl.sync();
  int r = cl.block_rank();
  if (threadIdx.x == 0)  // each CTA loads its quarter for all four
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(d + r * bytes),
        "l"(&m), "r"(bar), "r"(0), "r"(r * 8), "h"((unsigned short)15)
        : "memory");
  wait(bar, 0);
  for (int i = threadIdx.x; i < 4 * bytes; i += blockDim.x) out[blockIdx.x * 4 * bytes + i] = s[i];
  cl.sync();
}
static const int kBytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2};
bool test_load(int rank, CUtensorMapDataType dt, std::vector<int> dims, std::vector<int> box, std::vector<int> coord, int swz,
               std::vector<int> es = {1, 1, 1, 1, 1}) {
  int eb = kBytes[dt];
  std::vector<cuuint64_t> gd(rank), gs(rank);
  std::vector<cuuint32_t> gb(rank), ge(rank);
  size_t pitch = eb;
  for (int i = 0; i < rank; i++) {
    gd[i] = dims[i];
    gb[i] = box[i];
    ge[i] = es[i];
    pitch = (i == 0 ? (size_t)dims[0] * eb : pitch * dims[i]);
    if (i + 1 < rank) {
      pitch = (pitch + 15) / 16 * 16;
      gs[i] = pitch;
    }
  }
  std::vector<unsigned char> g(pitch + 64);
  for (auto& v : g) v = rand();
  unsigned char *dg, *dout;
  cudaMalloc(&dg, g.size());
  cudaMemcpy(dg, g.data(), g.size(), cudaMemcpyHostToDevice);
  CUtensorMap m;
  if (enc(&m, dt, rank, dg, gd.data(), gs.data(), gb.data(), ge.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, (CUtensorMapSwizzle)swz, CU_TENSOR_MAP_L2_PROMOTION_NONE,
          CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE))
    return false;
  int n[5] = {1, 1, 1, 1, 1}, bytes = eb;
  for (int i = 0; i < rank; i++) {
    n[i] = (box[i] + es[i] - 1) / es[i];
    bytes *= n[i];
  }
  cudaMalloc(&dout, bytes);
  C5 c = {};
  for (int i = 0; i < rank; i++) c.c[i] = coord[i];
  int sm = bytes + 1024;
  switch (rank) {
    case 1: load_k<1><<<1, 64, sm>>>(m, c, bytes, dout); break;
    case 2: load_k<2><<<1, 64, sm>>>(m, c, bytes, dout); break;
    case 3: load_k<3><<<1, 64, sm>>>(m, c, bytes, dout); break;
    case 4: load_k<4><<<1, 64, sm>>>(m, c, bytes, dout); break;
    default: load_k<5><<<1, 64, sm>>>(m, c, bytes, dout);
  }
  std::vector<unsigned char> o(bytes);
  if (cudaMemcpy(o.data(), dout, bytes, cudaMemcpyDeviceToHost)) return false;
  bool ok = true;
  for (int lin = 0; lin < bytes / eb; lin++) {
    int t = lin;
    bool in = true;
    size_t off = 0;
    for (int i = 0; i < rank; i++) {
      long x = coord[i] + (long)(t % n[i]) * es[i];
      t /= n[i];
      if (x < 0 || x >= dims[i]) in = false;
      off += x * (i ? gs[i - 1] : eb);
    }
    unsigned a = lin * eb, width = swz == 1 ? 32 : swz == 2 ? 64 : 128;
    if (swz) {
      unsigned row = a / 128, chunk = a / 16 % 8;
      unsigned mask = width / 16 - 1;
      a = row * 128 + (chunk ^ (row & mask)) * 16 + a % 16;
    }  // 16-byte chunks within 128-byte rows
    unsigned char zero[8] = {};
    ok &= !memcmp(&o[a], in ? &g[off] : zero, eb);
  }
  cudaFree(dg);
  cudaFree(dout);
  return ok;
}
int main() {
  cudaDriverEntryPointQueryResult q;
  cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", (void**)&enc, 12000, cudaEnableDefault, &q);
  check(enc != nullptr && q == cudaDriverEntryPointSuccess, "cudaGetDriverEntryPointByVersion");
  auto U8 = CU_TENSOR_MAP_DATA_TYPE_UINT8;
  auto BF = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  auto F32 = CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  check(test_load(1, F32, {1000}, {64}, {960}, 0), "1D, end out of bounds");
  check(test_load(2, BF, {200, 50}, {64, 32}, {64, 16}, 0), "2D inside");
  check(test_load(2, BF, {200, 50}, {64, 32}, {168, 40}, 3), "2D 128B swizzle, corner out of bounds");
  check(test_load(2, BF, {200, 50}, {64, 32}, {-8, -3}, 3), "2D negative coordinates");
  check(test_load(2, BF, {200, 50}, {32, 32}, {5, 1}, 2), "2D 64B swizzle, odd coordinate");
  check(test_load(2, BF, {200, 50}, {16, 64}, {7, 3}, 1), "2D 32B swizzle");
  check(test_load(2, U8, {300, 40}, {128, 40}, {100, 0}, 3), "2D bytes, 128B swizzle");
  check(test_load(3, BF, {72, 20, 7}, {64, 8, 3}, {8, 15, 5}, 3), "3D");
  check(test_load(4, F32, {40, 9, 6, 5}, {32, 4, 3, 2}, {8, 6, 4, 4}, 3), "4D");
  check(test_load(5, BF, {24, 5, 4, 3, 6}, {16, 3, 2, 2, 3}, {8, 3, -1, 2, 4}, 0), "5D");
  check(test_load(2, F32, {100, 30}, {16, 8}, {3, 5}, 0, {1, 3, 1, 1, 1}), "2D element strides");
  int W = 80, H = 20;
  std::vector<float> g(W * H), in(32 * 16);
  for (auto& v : g) v = rand() % 100;
  for (auto& v : in) v = rand() % 100;
  float *dg, *di;
  cudaMalloc(&dg, g.size() * 4);
  cudaMalloc(&di, in.size() * 4);
  cudaMemcpy(dg, g.data(), g.size() * 4, cudaMemcpyHostToDevice);
  cudaMemcpy(di, in.data(), in.size() * 4, cudaMemcpyHostToDevice);
  CUtensorMap m;
  cuuint64_t gd[2] = {(cuuint64_t)W, (cuuint64_t)H}, gs[1] = {(cuuint64_t)W * 4};
  cuuint32_t gb[2] = {32, 16}, ge[2] = {1, 1};
  enc(&m, F32, 2, dg, gd, gs, gb, ge, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  for (int red = 0; red < 2; red++) {
    C5 c = {{60, 10}};
    store_k<<<1, 64, 4096>>>(m, c, di, 512, red);
    for (int y = 0; y < 16; y++)
      for (int x = 0; x < 32; x++)
        if (60 + x < W && 10 + y < H) {
          float v = in[y * 32 + ((x / 4) ^ (y & 7)) * 4 + x % 4];
          float& d = g[(10 + y) * W + 60 + x];
          d = red ? d + v : v;
        }
    std::vector<float> o(W * H);
    cudaMemcpy(o.data(), dg, o.size() * 4, cudaMemcpyDeviceToHost);
    check(o == g, red ? "tensor reduce add, clipped" : "tensor store, 128B swizzle, clipped");
  }
  std::vector<unsigned short> mg(64 * 32);
  for (auto& v : mg) v = rand();
  unsigned char *dm, *dout;
  cudaMalloc(&dm, mg.size() * 2);
  cudaMalloc(&dout, 4 * 4096);
  cudaMemcpy(dm, mg.data(), mg.size() * 2, cudaMemcpyHostToDevice);
  cuuint64_t md[2] = {64, 32}, ms[1] = {128};
  cuuint32_t mb[2] = {64, 8};
  enc(&m, BF, 2, dm, md, ms, mb, ge, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_NONE,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  multi<<<4, 64, 5120>>>(m, 1024, dout);
  std::vector<unsigned short> mo(4 * 2048);
  cudaMemcpy(mo.data(), dout, mo.size() * 2, cudaMemcpyDeviceToHost);
  bool ok = true;
  for (int i = 0; i < 4; i++) ok &= !memcmp(&mo[i * 2048], mg.data(), 4096);
  check(ok, "multicast to a cluster of 4");
  cuuint64_t bad[1] = {24};
  cuuint32_t big_box[2] = {300, 8}, wide[2] = {128, 8};
  check(enc(&m, BF, 2, dm, md, bad, mb, ge, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_NONE,
            CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) &&
            enc(&m, BF, 2, dm, md, ms, big_box, ge, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) &&
            enc(&m, BF, 2, dm, md, ms, wide, ge, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
        "encoder refuses bad arguments");
  for (void* p : {(void*)dg, (void*)di, (void*)dm, (void*)dout}) cudaFree(p);
  return finish();
}
