// The skeleton of every GEMM: c[m, n] (+)= sum over k of a[m, k] b[n, k], 128 x 128 a tile, persistent. One producer thread feeds a ring of stages by TMA; two consumer
// warpgroups of 64 x 128 multiply with wgmma. A cluster of two CTAs takes two tiles side by side along m and shares b: each loads half of it for both.
// Policy: a stage is 128 bytes of K (128 E4M3, 64 BF16) of a and b; bits depend neither on the number of SMs nor on the cluster size. Phases, in order: shared
// memory, barriers, roles, producer, consumer (main loop, promotion, epilogue).
// Bound of one stage and SM: tensor cores 512 cycles (128*128*128 E4M3 MAC / 4096 a cycle), promotion 2*64 FFMA-class instructions a thread = 128..256 issue slots.
#pragma once
#include <cuda_bf16.h>

#include "kernels/cuda/gemm_args.h"
#include "kernels/cuda/ptx.h"

namespace atoll::cuda {

constexpr int kTile = 128, kStages = 5, kThreads = 384, kConsumerWarps = 8;
constexpr uint32_t kHalfBytes = 64 * 128, kOperandBytes = 2 * kHalfBytes, kScaleBytes = 128 * 4, kStagingBytes = 64 * 256;

struct __align__(1024) GemmShared {
  uint8_t a[kStages][kOperandBytes];
  uint8_t b[kStages][kOperandBytes];
  uint8_t c[2][kStagingBytes];           // a BF16 tile on its way out, one half a warpgroup
  float a_scales[kStages][kTile];
  float b_scales[kStages][kTile];
  uint64_t full[kStages], empty[kStages];
};

// One tile of the walk: rows [m0, m_end) of a and c, columns from n0, stages [0, num_stages); k0 is where K begins in the maps.
struct GemmTile { int group, m0, m_end, n0, k0, num_stages; };

// The tiles of one cluster in order. Every role walks the same list by itself; m runs fastest, so clusters that run together share b's columns in L2.
template <class Traits>
struct GemmWalk {
  const GemmArgs& args;
  int next, step, rank, size;
  int group = 0, group_begin = 0;        // the first tile of `group`
  __device__ explicit GemmWalk(const GemmArgs& a)
      : args(a), next(static_cast<int>(blockIdx.x / ptx::cluster_size())), step(static_cast<int>(gridDim.x / ptx::cluster_size())), rank(static_cast<int>(ptx::cluster_rank())),
        size(static_cast<int>(ptx::cluster_size())) {}
  __device__ bool get(GemmTile& tile) {
    const int tiles_n = (args.n + kTile - 1) / kTile, span = kTile * size;
    while (group < args.num_groups) {
      const int first = args.offsets[group], last = args.offsets[group + 1];
      const int rows = Traits::kGroups == GroupedBy::kRows ? last - first : args.m;
      const int tiles_m = (rows + span - 1) / span, at = next - group_begin;
      if (at < tiles_m * tiles_n) {
        const int row = Traits::kGroups == GroupedBy::kRows ? first : 0;
        tile.group = group;
        tile.m0 = row + at % tiles_m * span + rank * kTile;
        tile.m_end = row + rows;
        tile.n0 = at / tiles_m * kTile;
        tile.k0 = Traits::kGroups == GroupedBy::kDepth && !Traits::kMapPerGroup ? first : 0;
        const int depth = Traits::kGroups == GroupedBy::kDepth ? last - first : args.k;
        tile.num_stages = (depth + Traits::kStageK - 1) / Traits::kStageK;
        next += step;
        return true;
      }
      group_begin += tiles_m * tiles_n;
      ++group;
    }
    return false;
  }
};

// Where the ring stands: a stage and the parity of its pass.
struct RingPosition {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kStages) { stage = 0; parity ^= 1u; }
  }
};

template <class Traits>
__device__ void produce(const GemmArgs& args, const GemmMaps<Traits::kMaps>& maps, GemmShared& s) {
  const uint32_t rank = ptx::cluster_rank(), size = ptx::cluster_size();
  const uint16_t everyone = static_cast<uint16_t>((1u << size) - 1u);
  RingPosition ring;
  GemmTile tile;
  for (GemmWalk<Traits> walk(args); walk.get(tile);) {
    const CUtensorMap* map_a = &maps.a[Traits::kMapPerGroup ? tile.group : 0];
    const CUtensorMap* map_b = &maps.b[Traits::kMapPerGroup ? tile.group : 0];
    const int b_group = Traits::kGroups == GroupedBy::kRows ? tile.group : 0;
    for (int i = 0; i < tile.num_stages; ++i, ring.advance()) {
      const uint32_t full = ptx::shared_address(&s.full[ring.stage]);
      const uint32_t a = ptx::shared_address(s.a[ring.stage]), b = ptx::shared_address(s.b[ring.stage]);
      const int k = tile.k0 + i * Traits::kStageK;
      ptx::mbarrier_wait(ptx::shared_address(&s.empty[ring.stage]), ring.parity ^ 1u);
      ptx::mbarrier_arrive_expect_tx(full, Traits::kStageBytes);
      for (int half = 0; half < 2; ++half) {
        const int m = tile.m0 + 64 * half;
        if (Traits::kTransposedA) ptx::tma_load_3d(a + half * kHalfBytes, map_a, full, m, k, 0);
        else ptx::tma_load_3d(a + half * kHalfBytes, map_a, full, k, m, 0);
      }
      for (uint32_t half = 0; half < 2; ++half) {
        if (half % size != rank % 2) continue;  // with two CTAs each brings its half to both
        const int n = tile.n0 + 64 * static_cast<int>(half), inner = Traits::kTransposedB ? n : k, outer = Traits::kTransposedB ? k : n;
        if (size == 1) ptx::tma_load_3d(b + half * kHalfBytes, map_b, full, inner, outer, b_group);
        else ptx::tma_load_3d_multicast(b + half * kHalfBytes, map_b, full, inner, outer, b_group, everyone);
      }
      if (Traits::kScales != Scales::kNone) ptx::tma_load_2d(ptx::shared_address(s.a_scales[ring.stage]), &maps.a_scales, full, tile.m0, k / kTile);
      if (Traits::kScales == Scales::kTilesByTiles) ptx::tma_load_2d(ptx::shared_address(s.b_scales[ring.stage]), &maps.b_scales, full, tile.n0, k / kTile);
    }
  }
}

// Lower words of the descriptors of stage 0's tiles. A stage or a step further is an addition to their address field (bits 0-13 hold address / 16, all of shared memory).
struct Descriptors { uint32_t a, b; };
template <class Traits>
__device__ Descriptors first_descriptors(GemmShared& s, int group) {
  return {ptx::descriptor_low(ptx::shared_address(s.a[0]) + group * kHalfBytes, Traits::kTransposedA ? kHalfBytes : 16),
          ptx::descriptor_low(ptx::shared_address(s.b[0]), Traits::kTransposedB ? kHalfBytes : 16)};
}

// The four wgmma of one stage: this warpgroup's 64 rows of a, all 128 of b.
template <class Traits>
__device__ void multiply_stage(float (&d)[64], const Descriptors& first, int stage, bool adds_to_first) {
  const uint32_t offset = static_cast<uint32_t>(stage) * (kOperandBytes / 16);
  ptx::wgmma_fence();
#pragma unroll
  for (uint32_t step = 0; step < 4; ++step) {
    const uint64_t da = ptx::descriptor(first.a + offset + step * (Traits::kStepA / 16), 1024), db = ptx::descriptor(first.b + offset + step * (Traits::kStepB / 16), 1024);
    if constexpr (Traits::kIsFp8) ptx::wgmma_e4m3(d, da, db, step > 0 || adds_to_first);
    else ptx::wgmma_bf16<Traits::kTransposedA, Traits::kTransposedB>(d, da, db, step > 0 || adds_to_first);
  }
  ptx::wgmma_commit();
}

// This warp reads the stage no more: told to every CTA whose TMA writes into it. Where lanes read scales there, once all of them have; wgmma's own reads are over with its wait.
template <class Traits>
__device__ void release(GemmShared& s, int stage) {
  if constexpr (Traits::kScales != Scales::kNone) __syncwarp();
  const uint32_t lane = threadIdx.x % 32;
  if (lane < ptx::cluster_size()) ptx::mbarrier_arrive_at(ptx::shared_address(&s.empty[stage]), lane);
}

// FP8: every stage (128 of K) is its own short sum in the tensor cores, then promoted: sum += scale_a scale_b partial.
template <class Traits>
__device__ void sum_promoted(const GemmArgs& args, GemmShared& s, const GemmTile& tile, RingPosition& ring, int group, float (&sum)[64]) {
  const int lane = threadIdx.x % 32, row = 64 * group + threadIdx.x % 128 / 32 * 16 + lane / 4;
  const int b_scale0 = (tile.group * args.b_scale_rows + tile.n0 / kTile) * args.b_scale_stride;
  const Descriptors descriptors = first_descriptors<Traits>(s, group);
  float partial[64];
  for (int i = 0; i < tile.num_stages; ++i, ring.advance()) {
    float from_b = 0;
    if constexpr (Traits::kScales == Scales::kTilesByBlocks) from_b = __ldg(args.b_scales + b_scale0 + i);
    ptx::mbarrier_wait(ptx::shared_address(&s.full[ring.stage]), ring.parity);
    const float a0 = s.a_scales[ring.stage][row], a1 = s.a_scales[ring.stage][row + 8];
    ptx::touch(partial);
    multiply_stage<Traits>(partial, descriptors, ring.stage, false);
    ptx::wgmma_wait<0>();
    ptx::touch(partial);
    if constexpr (Traits::kScales == Scales::kTilesByBlocks) {
      release<Traits>(s, ring.stage);
      const float s0 = a0 * from_b, s1 = a1 * from_b;
#pragma unroll
      for (int j = 0; j < 64; ++j) sum[j] = fmaf(j % 4 < 2 ? s0 : s1, partial[j], sum[j]);
    } else {
#pragma unroll
      for (int j = 0; j < 64; j += 4) {
        const float2 b = *reinterpret_cast<const float2*>(&s.b_scales[ring.stage][2 * j + 2 * (lane % 4)]);
        sum[j] = fmaf(a0 * b.x, partial[j], sum[j]);
        sum[j + 1] = fmaf(a0 * b.y, partial[j + 1], sum[j + 1]);
        sum[j + 2] = fmaf(a1 * b.x, partial[j + 2], sum[j + 2]);
        sum[j + 3] = fmaf(a1 * b.y, partial[j + 3], sum[j + 3]);
      }
      release<Traits>(s, ring.stage);
    }
  }
}

// BF16: the tensor cores keep the whole sum; one stage is multiplied while the one before it is released.
template <class Traits>
__device__ void sum_plain(GemmShared& s, const GemmTile& tile, RingPosition& ring, int group, float (&sum)[64]) {
  if (tile.num_stages == 0) return;
  ptx::touch(sum);
  const Descriptors descriptors = first_descriptors<Traits>(s, group);
  int before = 0;
  for (int i = 0; i < tile.num_stages; ++i, ring.advance()) {
    ptx::mbarrier_wait(ptx::shared_address(&s.full[ring.stage]), ring.parity);
    multiply_stage<Traits>(sum, descriptors, ring.stage, i > 0);
    ptx::wgmma_wait<1>();
    if (i > 0) release<Traits>(s, before);
    before = ring.stage;
  }
  ptx::wgmma_wait<0>();
  ptx::touch(sum);
  release<Traits>(s, before);
}

// BF16 result: each warp turns its 16 rows round in shared memory (swizzled as 16-byte chunks: no bank conflicts), then stores 16 bytes a lane. Only this warp touches them.
template <class Traits>
__device__ void store_bf16(const GemmArgs& args, GemmShared& s, const GemmTile& tile, int group, const float (&sum)[64]) {
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x % 128 / 32 * 16;
  uint8_t* staging = s.c[group] + warp_row * 256;
  auto* c = static_cast<__nv_bfloat16*>(args.c);
  if constexpr (Traits::kScales == Scales::kNone) __syncwarp();  // the last tile's rows have been read; elsewhere this tile's releases said so
#pragma unroll
  for (int j = 0; j < 64; j += 2) {
    const int r = lane / 4 + (j % 4 < 2 ? 0 : 8), chunk = j / 4;
    float2 value = make_float2(sum[j], sum[j + 1]);
    if (Traits::kMayAdd && args.accumulate) {
      const int row = tile.m0 + 64 * group + warp_row + r, column = tile.n0 + chunk * 8 + lane % 4 * 2;
      if (row < tile.m_end && column < args.n) {
        const float2 old = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(c + row * args.c_stride + column));
        value = make_float2(value.x + old.x, value.y + old.y);
      }
    }
    const __nv_bfloat162 pair = __float22bfloat162_rn(value);
    *reinterpret_cast<__nv_bfloat162*>(staging + r * 256 + (chunk ^ (r & 7)) * 16 + lane % 4 * 4) = pair;
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int r = i * 2 + lane / 16, chunk = lane % 16, row = tile.m0 + 64 * group + warp_row + r, column = tile.n0 + chunk * 8;
    if (row < tile.m_end && column < args.n)
      *reinterpret_cast<uint4*>(c + row * args.c_stride + column) = *reinterpret_cast<const uint4*>(staging + r * 256 + (chunk ^ (r & 7)) * 16);
  }
}

// FP32 result, overwritten or added to. Neighbouring lanes exchange halves, so that each holds four columns side by side: 16 bytes an access.
template <bool kMayAdd>
__device__ void store_fp32(const GemmArgs& args, const GemmTile& tile, int group, const float (&sum)[64]) {
  const int lane = threadIdx.x % 32, odd = lane & 1, first_row = tile.m0 + 64 * group + threadIdx.x % 128 / 32 * 16 + lane / 4;
  float* c = static_cast<float*>(args.c) + tile.group * args.c_group_stride;
#pragma unroll
  for (int j = 0; j < 64; j += 8)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int mine = j + 2 * h, theirs = j + 4 + 2 * h;  // an even lane keeps columns of the first eight, an odd one of the second
      const float x = __shfl_xor_sync(0xffffffffu, odd ? sum[mine] : sum[theirs], 1), y = __shfl_xor_sync(0xffffffffu, odd ? sum[mine + 1] : sum[theirs + 1], 1);
      float4 v = odd ? make_float4(x, y, sum[theirs], sum[theirs + 1]) : make_float4(sum[mine], sum[mine + 1], x, y);
      const int row = first_row + 8 * h, column = tile.n0 + 2 * j + (odd ? 8 : 0) + (lane % 4 / 2) * 4;
      if (row >= tile.m_end || column >= args.n) continue;
      auto* to = reinterpret_cast<float4*>(c + row * args.c_stride + column);
      if (kMayAdd && args.accumulate) {
        const float4 old = *to;
        v = make_float4(old.x + v.x, old.y + v.y, old.z + v.z, old.w + v.w);
      }
      *to = v;
    }
}

template <class Traits>
__global__ void __launch_bounds__(kThreads, 1) gemm_kernel(const __grid_constant__ GemmArgs args, const __grid_constant__ GemmMaps<Traits::kMaps> maps) {
  // ---- shared memory
  extern __shared__ __align__(1024) uint8_t raw[];
  GemmShared& s = *reinterpret_cast<GemmShared*>(raw);

  // ---- barriers
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      ptx::mbarrier_init(ptx::shared_address(&s.full[i]), 1);
      ptx::mbarrier_init(ptx::shared_address(&s.empty[i]), kConsumerWarps * ptx::cluster_size());
    }
    ptx::fence_mbarrier_init();
  }
  ptx::cluster_arrive();
  ptx::cluster_wait();

  // ---- roles: warpgroup 0 produces, 1 and 2 consume
  if (threadIdx.x < 128) {
    ptx::give_registers<40>();
    if (threadIdx.x < 32 && ptx::elect_one()) produce<Traits>(args, maps, s);
  } else {
    ptx::take_registers<232>();
    const int group = static_cast<int>(threadIdx.x) / 128 - 1;
    RingPosition ring;
    GemmTile tile;
    for (GemmWalk<Traits> walk(args); walk.get(tile);) {
      float sum[64];
#pragma unroll
      for (int j = 0; j < 64; ++j) sum[j] = 0;
      if constexpr (Traits::kScales == Scales::kNone) sum_plain<Traits>(s, tile, ring, group, sum);
      else sum_promoted<Traits>(args, s, tile, ring, group, sum);
      if (Traits::kGroups == GroupedBy::kDepth || args.c_is_fp32) store_fp32<Traits::kMayAdd>(args, tile, group, sum);
      else store_bf16<Traits>(args, s, tile, group, sum);
    }
  }
  ptx::cluster_arrive();  // no CTA leaves while its neighbour may still arrive on its barriers; .aligned: the compiler brings the producer's warp together again
  ptx::cluster_wait();
}

}  // namespace atoll::cuda
