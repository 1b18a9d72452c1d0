// CUTLASS SM90 GEMM through the CollectiveBuilder, checked against a double reference on the host.
// Macros: ELEM 0 bf16, 1 e4m3; SCHED 0 cooperative, 1 pingpong, 2 fp8 blockwise; CLM/CLN cluster shape; BT: B row-major (transposed)
#include <cstdio>
#include <cstdlib>
#include <vector>
#include "cutlass/cutlass.h"
#include "cutlass/detail/blockwise_scale_layout.hpp"
#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/device/gemm_universal_adapter.h"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "cutlass/util/packed_stride.hpp"
#include "tests/gpusim/peers/sum_error.h"
using namespace cute;
#ifndef CLM
#define CLM 1
#endif
#ifndef CLN
#define CLN 1
#endif
#ifndef BT
#define BT 0
#endif
#ifndef FASTACC
#define FASTACC 0
#endif
#if ELEM == 0
using ElT = cutlass::bfloat16_t;
constexpr int TK = 64;
#else
using ElT = cutlass::float_e4m3_t;
constexpr int TK = 128;
#endif
using OutT = cutlass::bfloat16_t;
using LA = cutlass::layout::RowMajor;
using LB = std::conditional_t<BT, cutlass::layout::RowMajor, cutlass::layout::ColumnMajor>;
using LC = cutlass::layout::RowMajor;
#if SCHED == 1
using TileT = Shape<_64, _128, Int<TK>>;
using KS = std::conditional_t<
    ELEM == 1, std::conditional_t<FASTACC, cutlass::gemm::KernelTmaWarpSpecializedPingpongFP8FastAccum, cutlass::gemm::KernelTmaWarpSpecializedPingpong>,
    cutlass::gemm::KernelTmaWarpSpecializedPingpong>;
using ES = cutlass::epilogue::TmaWarpSpecialized;
#elif SCHED == 0
using TileT = Shape<_128, _128, Int<TK>>;
using KS = std::conditional_t<ELEM == 1 && FASTACC, cutlass::gemm::KernelTmaWarpSpecializedCooperativeFP8FastAccum,
                              cutlass::gemm::KernelTmaWarpSpecializedCooperative>;
using ES = cutlass::epilogue::TmaWarpSpecializedCooperative;
#else
using TileT = Shape<_128, _128, Int<TK>>;
using KS = cutlass::gemm::KernelTmaWarpSpecializedCooperativeFP8BlockScaledAccum;
using ES = cutlass::epilogue::TmaWarpSpecializedCooperative;
using ScaleConfig = decltype(cutlass::detail::sm90_trivial_blockwise_scale_config(Shape<_1, _128, _128>{}));
using LSFA = decltype(ScaleConfig::deduce_layoutSFA());
using LSFB = decltype(ScaleConfig::deduce_layoutSFB());
#endif
using ClusT = Shape<Int<CLM>, Int<CLN>, _1>;
using EpiT = typename cutlass::epilogue::collective::CollectiveBuilder<cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, TileT, ClusT,
                                                                       cutlass::epilogue::collective::EpilogueTileAuto, float, float, OutT, LC, 8, OutT, LC, 8,
                                                                       ES>::CollectiveOp;
#if SCHED == 2
using MainT = typename cutlass::gemm::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, ElT, cute::tuple<LA, LSFA>, 16, ElT, cute::tuple<LB, LSFB>, 16, float, TileT, ClusT,
    cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(typename EpiT::SharedStorage))>, KS>::CollectiveOp;
#else
using MainT = typename cutlass::gemm::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, ElT, LA, 16 / sizeof(ElT), ElT, LB, 16 / sizeof(ElT), float, TileT, ClusT,
    cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(typename EpiT::SharedStorage))>, KS>::CollectiveOp;
#endif
using KernT = cutlass::gemm::kernel::GemmUniversal<Shape<int, int, int, int>, MainT, EpiT>;
using GemmT = cutlass::gemm::device::GemmUniversalAdapter<KernT>;

// CUTLASS adds FP8 sums to FP32 ones every 128 of K, unless they are to be fast; the scales of the blockwise kernel are 128 wide, too.
constexpr int kPromote = ELEM == 1 && !FASTACC ? 128 : 1 << 30;
static float rnd() { return (rand() % 2001 - 1000) / 1000.0f; }
int run(int M, int N, int K, float alpha, float beta) {
  std::vector<ElT> A(M * K), B(N * K);
  std::vector<OutT> C(M * N), O(M * N);
  for (auto& x : A) x = ElT(rnd());
  for (auto& x : B) x = ElT(rnd());
  for (auto& x : C) x = OutT(rnd());
  ElT *dA, *dB;
  OutT *dC, *dD;
  cudaMalloc(&dA, A.size() * sizeof(ElT));
  cudaMalloc(&dB, B.size() * sizeof(ElT));
  cudaMalloc(&dC, C.size() * sizeof(OutT));
  cudaMalloc(&dD, O.size() * sizeof(OutT));
  cudaMemcpy(dA, A.data(), A.size() * sizeof(ElT), cudaMemcpyHostToDevice);
  cudaMemcpy(dB, B.data(), B.size() * sizeof(ElT), cudaMemcpyHostToDevice);
  cudaMemcpy(dC, C.data(), C.size() * sizeof(OutT), cudaMemcpyHostToDevice);
  using SA = typename KernT::StrideA;
  using SB = typename KernT::StrideB;
  using SC = typename KernT::StrideC;
  using SD = typename KernT::StrideD;
  auto sa = cutlass::make_cute_packed_stride(SA{}, make_shape(M, K, 1));
  auto sb = cutlass::make_cute_packed_stride(SB{}, make_shape(N, K, 1));
  auto sc = cutlass::make_cute_packed_stride(SC{}, make_shape(M, N, 1));
  auto sd = cutlass::make_cute_packed_stride(SD{}, make_shape(M, N, 1));
  cutlass::KernelHardwareInfo hw;
  hw.device_id = 0;
  hw.sm_count = cutlass::KernelHardwareInfo::query_device_multiprocessor_count(0);
#if SCHED == 2
  auto lsa = ScaleConfig::tile_atom_to_shape_SFA(make_shape(M, N, K, 1));
  auto lsb = ScaleConfig::tile_atom_to_shape_SFB(make_shape(M, N, K, 1));
  std::vector<float> sfa(size(filter_zeros(lsa))), sfb(size(filter_zeros(lsb)));
  for (auto& x : sfa) x = 0.5f + (rand() % 100) / 100.f;
  for (auto& x : sfb) x = 0.5f + (rand() % 100) / 100.f;
  float *dsa, *dsb;
  cudaMalloc(&dsa, sfa.size() * 4);
  cudaMalloc(&dsb, sfb.size() * 4);
  cudaMemcpy(dsa, sfa.data(), sfa.size() * 4, cudaMemcpyHostToDevice);
  cudaMemcpy(dsb, sfb.data(), sfb.size() * 4, cudaMemcpyHostToDevice);
  auto tsa = make_tensor(sfa.data(), lsa);
  auto tsb = make_tensor(sfb.data(), lsb);
  typename GemmT::Arguments args{
      cutlass::gemm::GemmUniversalMode::kGemm, {M, N, K, 1}, {dA, sa, dB, sb, dsa, lsa, dsb, lsb}, {{alpha, beta}, dC, sc, dD, sd}, hw};
#else
  typename GemmT::Arguments args{cutlass::gemm::GemmUniversalMode::kGemm, {M, N, K, 1}, {dA, sa, dB, sb}, {{alpha, beta}, dC, sc, dD, sd}, hw};
#endif
  GemmT g;
  size_t ws = GemmT::get_workspace_size(args);
  void* w = nullptr;
  if (ws) cudaMalloc(&w, ws);
  auto st = g.can_implement(args);
  if (st != cutlass::Status::kSuccess) {
    printf("can_implement: %s\n", cutlassGetStatusString(st));
    return 1;
  }
  st = g.initialize(args, w);
  if (st == cutlass::Status::kSuccess) st = g.run();
  cudaError_t e = cudaDeviceSynchronize();
  if (st != cutlass::Status::kSuccess || e != cudaSuccess) {
    printf("run: %s, %s\n", cutlassGetStatusString(st), cudaGetErrorString(e));
    return 1;
  }
  cudaMemcpy(O.data(), dD, O.size() * sizeof(OutT), cudaMemcpyDeviceToHost);
  double worst = 0;
  int bad = 0;
  for (int m = 0; m < M; m++)
    for (int n = 0; n < N; n++) {
      auto a = [&](int k) { return (double)float(A[m * K + k]); };
      auto b = [&](int k) { return (double)float(BT ? B[k * N + n] : B[n * K + k]); };
      double s = 0, mag = 0, error = 0;
      for (int k0 = 0; k0 < K; k0 += std::min(kPromote, K)) {  // a block of K has one pair of scales
        const int size = std::min(kPromote, K - k0);
        double scale = 1, block_mag = 0;
#if SCHED == 2
        scale = (double)tsa(m, k0, 0) * tsb(n, k0, 0);
#endif
        for (int k = k0; k < k0 + size; k++) {
          s += scale * a(k) * b(k);
          block_mag += fabs(a(k) * b(k));
        }
        mag += scale * block_mag;
        if (ELEM == 1 && !fp8_sums_are_fp32()) error += scale * fp8_sum_error([&](int k) { return a(k0 + k); }, [&](int k) { return b(k0 + k); }, size, size);
      }
      const double c = beta * (double)float(C[m * N + n]);
      s = alpha * s + c;
      error = alpha * (error + fp32_sum_error(mag, K)) + fp32_sum_error(fabs(c), 0);
      const double err = fabs(s - (double)float(O[m * N + n])), tol = error + (fabs(s) + error) / 256;  // the output is rounded to BF16
      if (!(err <= tol)) {
        if (bad++ < 5) printf("  (%d,%d) got %f want %f\n", m, n, float(O[m * N + n]), s);
      }
      worst = std::max(worst, err / tol);
    }
  printf("%s M=%d N=%d K=%d alpha=%g beta=%g, %s sums: %s (worst error / tolerance %.3f)\n", NAME, M, N, K, alpha, beta,
         ELEM == 0 || fp8_sums_are_fp32() ? "FP32" : "13-bit", bad ? "FAIL" : "ok", worst);
  cudaFree(dA);
  cudaFree(dB);
  cudaFree(dC);
  cudaFree(dD);
  return bad != 0;
}
int main(int argc, char** argv) {
  srand(1);
  if (argc == 4) return run(atoi(argv[1]), atoi(argv[2]), atoi(argv[3]), 1, 0);
  int r = run(128, 128, 256, 1, 0);
  r |= run(256, 384, 512, 1, 0);
  r |= run(200, 136, 336, 1.5f, 0.5f);  // odd sizes
  return r;
}
