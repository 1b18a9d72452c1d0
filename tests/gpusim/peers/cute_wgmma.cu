// A CuTe wgmma kernel for each shared-memory layout: K-major and MN-major, swizzle none/32/64/128B, bf16, fp8 and tf32,
// A from shared memory or from registers. The layouts and the descriptors are CuTe's, so this checks the simulator's reading of both.
#include <cutlass/arch/barrier.h>
#include <cutlass/cutlass.h>
#include <cstdio>
#include <cstdlib>
#include <cute/arch/cluster_sm90.hpp>
#include <cute/tensor.hpp>
#include <vector>
#include "tests/gpusim/peers/sum_error.h"
using namespace cute;
template <class T, class LA, class LB, class MMA, bool RS, int M, int N, int K>
__global__ void kern(const T* A, const T* B, float* D) {
  LA la;
  LB lb;
  MMA mma;
  extern __shared__ __align__(1024) char raw[];
  T* pa = (T*)raw;
  T* pb = (T*)(raw + ((cosize_v<LA> * sizeof(T) + 1023) / 1024) * 1024);
  Tensor sA = make_tensor(make_smem_ptr(pa), la);
  Tensor sB = make_tensor(make_smem_ptr(pb), lb);
  for (int i = threadIdx.x; i < M * K; i += blockDim.x) sA(i / K, i % K) = A[i];
  for (int i = threadIdx.x; i < N * K; i += blockDim.x) sB(i / K, i % K) = B[i];
  cutlass::arch::fence_view_async_shared();
  __syncthreads();
  ThrMMA thr = mma.get_thread_slice(threadIdx.x);
  Tensor gC = make_tensor(make_gmem_ptr(D), Shape<Int<M>, Int<N>>{}, Stride<Int<N>, _1>{});
  Tensor tC = thr.partition_C(gC);
  Tensor rC = thr.make_fragment_C(tC);
  Tensor tBs = thr.partition_B(sB);
  Tensor tB = thr.make_fragment_B(tBs);
  clear(rC);
  if constexpr (RS) {
    Tensor gA = make_tensor(make_gmem_ptr(A), Shape<Int<M>, Int<K>>{}, Stride<Int<K>, _1>{});
    Tensor tAg = thr.partition_A(gA);
    Tensor rA = thr.make_fragment_A(tAg);
    copy(tAg, rA);
    warpgroup_fence_operand(rC);
    warpgroup_arrive();
    gemm(mma, rA, tB, rC);
  } else {
    Tensor tA = thr.make_fragment_A(thr.partition_A(sA));
    warpgroup_fence_operand(rC);
    warpgroup_arrive();
    gemm(mma, tA, tB, rC);
  }
  warpgroup_commit_batch();
  warpgroup_wait<0>();
  warpgroup_fence_operand(rC);
  copy(rC, tC);
}
static int fails = 0;
template <class T, bool RS, class MmaAtom, class AtomA, class AtomB, int M, int N, int K>
void test(const char* name, MmaAtom, AtomA, AtomB, cute::Int<M>, cute::Int<N>, cute::Int<K>) {
  auto mma = make_tiled_mma(MmaAtom{});
  auto la = tile_to_shape(AtomA{}, Shape<Int<M>, Int<K>>{});
  auto lb = tile_to_shape(AtomB{}, Shape<Int<N>, Int<K>>{});
  std::vector<T> a(M * K), b(N * K);
  std::vector<float> d(M * N);
  for (auto& v : a) v = T((rand() % 65 - 32) / 16.f);
  for (auto& v : b) v = T((rand() % 65 - 32) / 16.f);
  T *da, *db;
  float* dd;
  cudaMalloc(&da, a.size() * sizeof(T));
  cudaMalloc(&db, b.size() * sizeof(T));
  cudaMalloc(&dd, d.size() * 4);
  cudaMemcpy(da, a.data(), a.size() * sizeof(T), cudaMemcpyHostToDevice);
  cudaMemcpy(db, b.data(), b.size() * sizeof(T), cudaMemcpyHostToDevice);
  auto k = kern<T, decltype(la), decltype(lb), decltype(mma), RS, M, N, K>;
  int smem = (M + N) * K * sizeof(T) + 4096;
  cudaFuncSetAttribute(k, cudaFuncAttributeMaxDynamicSharedMemorySize, smem);
  k<<<1, 128, smem>>>(da, db, dd);
  cudaError_t e = cudaDeviceSynchronize();
  cudaMemcpy(d.data(), dd, d.size() * 4, cudaMemcpyDeviceToHost);
  int bad = 0;
  for (int m = 0; m < M; m++)
    for (int n = 0; n < N; n++) {
      auto x = [&](int k) { return (double)float(a[m * K + k]); };
      auto y = [&](int k) { return (double)float(b[n * K + k]); };
      double s = 0, mag = 0;
      for (int k = 0; k < K; k++) s += x(k) * y(k), mag += fabs(x(k) * y(k));
      const double model = sizeof(T) == 1 && !fp8_sums_are_fp32() ? fp8_sum_error(x, y, K, K) : 0, err = fabs(s - d[m * N + n]);
      if (!(err <= model + fp32_sum_error(mag, K))) bad++;
    }
  printf("%-44s %s\n", name, e ? cudaGetErrorString(e) : bad ? "FAIL" : "ok");
  fails += bad || e;
}
int main() {
  using B = cutlass::bfloat16_t;
  using F8 = cutlass::float_e4m3_t;
  using F5 = cutlass::float_e5m2_t;
  using TF = cutlass::tfloat32_t;
  using H = cutlass::half_t;
  constexpr auto K = GMMA::Major::K, MN = GMMA::Major::MN;
  Int<64> m64;
  Int<128> m128;
  Int<256> n256;
#define T1(T, RS, ATOM, LA, LB, M, N, KK) test<T, RS>(#T " " #LA " x " #LB, ATOM{}, GMMA::LA<T>{}, GMMA::LB<T>{}, M, N, KK)
  using KK = SM90_64x64x16_F32BF16BF16_SS<K, K>;
  using KM = SM90_64x64x16_F32BF16BF16_SS<K, MN>;
  using MK = SM90_64x128x16_F32BF16BF16_SS<MN, K>;
  using MM = SM90_64x128x16_F32BF16BF16_SS<MN, MN>;
  T1(B, false, KK, Layout_K_INTER_Atom, Layout_K_INTER_Atom, m64, m64, m64);
  T1(B, false, KK, Layout_K_SW32_Atom, Layout_K_SW32_Atom, m64, m64, m64);
  T1(B, false, KK, Layout_K_SW64_Atom, Layout_K_SW64_Atom, m128, m64, m64);
  T1(B, false, KK, Layout_K_SW128_Atom, Layout_K_SW128_Atom, m128, m128, m128);
  T1(B, false, KM, Layout_K_SW128_Atom, Layout_MN_INTER_Atom, m64, m64, m64);
  T1(B, false, KM, Layout_K_SW64_Atom, Layout_MN_SW32_Atom, m64, m128, m64);
  T1(B, false, MK, Layout_MN_SW64_Atom, Layout_K_SW32_Atom, m128, m128, m64);
  T1(B, false, MM, Layout_MN_SW128_Atom, Layout_MN_SW128_Atom, m128, m128, m128);
  T1(B, false, MM, Layout_MN_INTER_Atom, Layout_MN_SW64_Atom, m64, m128, m64);
  using RK = SM90_64x256x16_F32F16F16_RS<K, K>;
  using RM = SM90_64x64x16_F32F16F16_RS<K, MN>;
  T1(H, true, RK, Layout_K_SW128_Atom, Layout_K_SW128_Atom, m64, n256, m64);
  T1(H, true, RM, Layout_K_SW128_Atom, Layout_MN_SW128_Atom, m128, m64, m64);
  using Q = SM90_64x128x32_F32E4M3E4M3_SS_TN<>;
  using Q5 = SM90_64x64x32_F32E5M2E5M2_SS_TN<>;
  using QR = SM90_64x128x32_F32E4M3E4M3_RS_TN<>;
  T1(F8, false, Q, Layout_K_SW128_Atom, Layout_K_SW128_Atom, m64, m128, m128);
  T1(F8, false, Q, Layout_K_SW64_Atom, Layout_K_INTER_Atom, m64, m128, m64);
  T1(F8, true, QR, Layout_K_SW128_Atom, Layout_K_SW32_Atom, m64, m128, m128);
  T1(F5, false, Q5, Layout_K_SW128_Atom, Layout_K_SW128_Atom, m64, m64, m128);
  using TT = SM90_64x64x8_F32TF32TF32_SS_TN<>;
  T1(TF, false, TT, Layout_K_SW128_Atom, Layout_K_SW64_Atom, m64, m64, m64);
  printf("%d failures\n", fails);
  return fails;
}
