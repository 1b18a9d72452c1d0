// The PTX vocabulary of sm_90a: the only place with inline PTX. One short function an instruction, named after it; the comment says what it orders and what it does not.
// Policy: addresses of shared memory are 32-bit (shared_address); every asm that touches memory or ordering is volatile with a memory clobber.
#pragma once
#include <cuda.h>

#include <cstdint>

namespace atoll::cuda::ptx {

#define ATOLL_DEVICE __device__ __forceinline__

ATOLL_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
ATOLL_DEVICE uint32_t cluster_rank() { uint32_t r; asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r)); return r; }
ATOLL_DEVICE uint32_t cluster_size() { uint32_t n; asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(n)); return n; }
// Exactly one lane of a converged warp gets true.
ATOLL_DEVICE bool elect_one() {
  uint32_t p;
  asm volatile("{\n.reg .pred P;\nelect.sync _|P, 0xffffffff;\nselp.u32 %0, 1, 0, P;\n}" : "=r"(p));
  return p != 0;
}
template <int kRegisters> ATOLL_DEVICE void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters)); }
template <int kRegisters> ATOLL_DEVICE void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters)); }

// ---- Barriers of a cluster: all threads of all its CTAs. Also what keeps a CTA alive while others still arrive on its mbarriers.
ATOLL_DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
ATOLL_DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// ---- mbarrier. A phase ends when its arrivals are in and the expected bytes have landed.
ATOLL_DEVICE void mbarrier_init(uint32_t bar, uint32_t arrivals) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory"); }
// After the inits, before a cluster barrier: makes them visible to the async proxy and to the cluster.
ATOLL_DEVICE void fence_mbarrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
ATOLL_DEVICE void mbarrier_arrive_expect_tx(uint32_t bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
// Arrives at the barrier of the same offset in CTA `rank` of the cluster (its own included). No .release.cluster: it costs a MEMBAR.GPU, and what is ordered here are
// this warp's reads of shared memory, which are complete, against a TMA write that waits for the phase.
ATOLL_DEVICE void mbarrier_arrive_at(uint32_t bar, uint32_t rank) {
  asm volatile("{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(bar), "r"(rank)
               : "memory");
}
// No .acquire.cluster: it invalidates L1 at every phase; what is waited for came by TMA, or is the permission to start one.
ATOLL_DEVICE bool mbarrier_try_wait(uint32_t bar, uint32_t parity) {
  uint32_t done;
  asm volatile("{\n.reg .pred P;\nmbarrier.try_wait.parity.shared::cta.b64 P, [%1], %2;\nselp.u32 %0, 1, 0, P;\n}" : "=r"(done) : "r"(bar), "r"(parity) : "memory");
  return done != 0;
}
// Returns when the phase of this parity has ended. On a fresh barrier parity 1 returns at once.
ATOLL_DEVICE void mbarrier_wait(uint32_t bar, uint32_t parity) {
  while (!mbarrier_try_wait(bar, parity)) {
  }
}

// ---- TMA: a box from global to shared memory, completing on `bar` with its bytes (out of bounds elements are zeros and count). Issued by one thread.
ATOLL_DEVICE void prefetch_map(const CUtensorMap* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }
ATOLL_DEVICE void tma_load_2d(uint32_t to, const CUtensorMap* map, uint32_t bar, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(to), "l"(map), "r"(bar), "r"(c0), "r"(c1)
               : "memory");
}
ATOLL_DEVICE void tma_load_3d(uint32_t to, const CUtensorMap* map, uint32_t bar, int c0, int c1, int c2) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to), "l"(map), "r"(bar), "r"(c0),
               "r"(c1), "r"(c2)
               : "memory");
}
// To the same offset of every CTA in `ctas`, each completing on its own barrier of that offset.
ATOLL_DEVICE void tma_load_3d_multicast(uint32_t to, const CUtensorMap* map, uint32_t bar, int c0, int c1, int c2, uint16_t ctas) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(to), "l"(map),
               "r"(bar), "r"(c0), "r"(c1), "r"(c2), "h"(ctas)
               : "memory");
}

// ---- wgmma: 64 x 128 (x 32 bytes of K) by the four warps of a warpgroup. fence: before the first one and after the registers were touched; commit closes a group;
// wait<N> leaves the N newest groups pending. Until then neither accumulators nor the tiles may be touched.
ATOLL_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
ATOLL_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending> ATOLL_DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory"); }
// For the compiler alone: accumulators are read or written by what stands here, so that it moves no use of theirs across.
ATOLL_DEVICE void touch(float (&d)[64]) {
#pragma unroll
  for (int i = 0; i < 64; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
// Descriptor of a tile in shared memory with 128-byte swizzle. K-major: 8 rows are `stride` = 1024 bytes. MN-major: 64 of MN are `leading`, 8 of K are `stride` bytes.
ATOLL_DEVICE uint32_t descriptor_low(uint32_t address, uint32_t leading) { return (address & 0x3ffffu) >> 4 | leading >> 4 << 16; }
ATOLL_DEVICE uint64_t descriptor(uint32_t low, uint32_t stride) { return uint64_t{low} | uint64_t{stride >> 4 | 1u << 30} << 32; }
// The 64 accumulators of a 64 x 128 tile: as they stand in the text of an instruction, and as its operands.
#define ATOLL_D_TEXT \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
#define ATOLL_D_OPERANDS(d) \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
  "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
  "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), \
  "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), \
  "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), \
  "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), \
  "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), \
  "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
// d = a b^T (+ d if `adds`), E4M3, K = 32.
ATOLL_DEVICE void wgmma_e4m3(float (&d)[64], uint64_t a, uint64_t b, bool adds) {
  asm volatile("{\n.reg .pred P;\nsetp.ne.b32 P, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 " ATOLL_D_TEXT ", %64, %65, P, 1, 1;\n}"
               : ATOLL_D_OPERANDS(d)
               : "l"(a), "l"(b), "r"(static_cast<int>(adds)));
}
// The same for BF16, K = 16; an MN-major operand is transposed by the instruction.
template <int kTransposeA, int kTransposeB>
ATOLL_DEVICE void wgmma_bf16(float (&d)[64], uint64_t a, uint64_t b, bool adds) {
  asm volatile("{\n.reg .pred P;\nsetp.ne.b32 P, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " ATOLL_D_TEXT ", %64, %65, P, 1, 1, %67, %68;\n}"
               : ATOLL_D_OPERANDS(d)
               : "l"(a), "l"(b), "r"(static_cast<int>(adds)), "n"(kTransposeA), "n"(kTransposeB));
}
#undef ATOLL_D_TEXT
#undef ATOLL_D_OPERANDS

// ---- Conversions. Two FP32 to two E4M3 codes, saturating, the first in the low byte. A NaN loses its sign: encode_e4m3x4 restores it.
ATOLL_DEVICE uint32_t cvt_e4m3x2(float low, float high) {
  uint16_t r;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(r) : "f"(high), "f"(low));
  return r;
}

// Two E4M3 codes to two FP16, exactly; the low byte is the low half.
ATOLL_DEVICE uint32_t cvt_f16x2(uint32_t two_codes) {
  uint32_t r;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(r) : "h"(static_cast<uint16_t>(two_codes)));
  return r;
}

// ---- 16 bytes of global memory that are read once: they do not displace what others keep in L1. Not .nc: outputs may alias inputs element by element.
ATOLL_DEVICE uint4 load_once(const void* p) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
  return v;
}

}  // namespace atoll::cuda::ptx
