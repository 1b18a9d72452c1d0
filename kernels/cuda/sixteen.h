// Sixteen neighbouring values of a row: what one thread of a memory-bound kernel holds. Loads and stores are 16 bytes each; arithmetic is FP32.
// Policy: codes are those of kernels/base/formats.h, bit by bit (tests compare every pattern).
#pragma once
#include "kernels/base/formats.h"
#include "kernels/base/qtensor.h"
#include "kernels/cuda/ptx.h"
#include "kernels/cuda/state.h"

namespace atoll::cuda {

struct Sixteen {
  float v[16];
};

__device__ inline void unpack_bf16(uint32_t word, float& low, float& high) {
  low = __uint_as_float(word << 16);
  high = __uint_as_float(word & 0xffff0000u);
}
__device__ inline Sixteen load16(const bf16* p) {
  Sixteen x;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint4 u = ptx::load_once(p + 8 * i);
    unpack_bf16(u.x, x.v[8 * i], x.v[8 * i + 1]);
    unpack_bf16(u.y, x.v[8 * i + 2], x.v[8 * i + 3]);
    unpack_bf16(u.z, x.v[8 * i + 4], x.v[8 * i + 5]);
    unpack_bf16(u.w, x.v[8 * i + 6], x.v[8 * i + 7]);
  }
  return x;
}
__device__ inline Sixteen load16(const float* p) {
  Sixteen x;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint4 u = ptx::load_once(p + 4 * i);
    x.v[4 * i] = __uint_as_float(u.x);
    x.v[4 * i + 1] = __uint_as_float(u.y);
    x.v[4 * i + 2] = __uint_as_float(u.z);
    x.v[4 * i + 3] = __uint_as_float(u.w);
  }
  return x;
}
__device__ inline Sixteen zeros16() {
  Sixteen x;
#pragma unroll
  for (int i = 0; i < 16; ++i) x.v[i] = 0;
  return x;
}
__device__ inline uint32_t pack_bf16(float low, float high) { return uint32_t{bf16(low).bits} | uint32_t{bf16(high).bits} << 16; }
__device__ inline void store16(bf16* p, const Sixteen& x) {
#pragma unroll
  for (int i = 0; i < 2; ++i)
    reinterpret_cast<uint4*>(p)[i] = make_uint4(pack_bf16(x.v[8 * i], x.v[8 * i + 1]), pack_bf16(x.v[8 * i + 2], x.v[8 * i + 3]), pack_bf16(x.v[8 * i + 4], x.v[8 * i + 5]),
                                                pack_bf16(x.v[8 * i + 6], x.v[8 * i + 7]));
}
__device__ inline void store16(float* p, const Sixteen& x) {
#pragma unroll
  for (int i = 0; i < 4; ++i) reinterpret_cast<float4*>(p)[i] = make_float4(x.v[4 * i], x.v[4 * i + 1], x.v[4 * i + 2], x.v[4 * i + 3]);
}

__device__ inline float amax16(const Sixteen& x) {
  float a = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) a = amax_step(a, x.v[i]);
  return a;
}
// The largest over kLanes neighbouring lanes, in each of them. All lanes of the warp take part.
template <int kLanes>
__device__ float max_over(float a) {
#pragma unroll
  for (int d = 1; d < kLanes; d *= 2) a = fmaxf(a, __shfl_xor_sync(0xffffffffu, a, d));
  return a;
}

// Four codes; the signs of NaNs, which the instruction drops, are put back.
__device__ inline uint32_t cast4(float a, float b, float c, float d, float multiplier) {
  const uint32_t codes = ptx::cvt_e4m3x2(a * multiplier, b * multiplier) | ptx::cvt_e4m3x2(c * multiplier, d * multiplier) << 16;
  const uint32_t ab = __byte_perm(__float_as_uint(a), __float_as_uint(b), 0x0073), cd = __byte_perm(__float_as_uint(c), __float_as_uint(d), 0x0073);
  return codes | (__byte_perm(ab, cd, 0x5410) & 0x80808080u);
}
__device__ inline uint4 cast16(const Sixteen& x, float multiplier) {
  return make_uint4(cast4(x.v[0], x.v[1], x.v[2], x.v[3], multiplier), cast4(x.v[4], x.v[5], x.v[6], x.v[7], multiplier),
                    cast4(x.v[8], x.v[9], x.v[10], x.v[11], multiplier), cast4(x.v[12], x.v[13], x.v[14], x.v[15], multiplier));
}

// A QTensor as a kernel sees it.
struct QOut {
  uint8_t* codes = nullptr;
  void* scales = nullptr;
  int64_t stride = 0, rows = 0, blocks = 0;
  int block_rows = 1;
  ScaleFormat format = ScaleFormat::kF32;
  ScaleLayout layout = ScaleLayout::kRowMajor;
  QOut() = default;
  explicit QOut(const QTensor& q)
      : codes(q.codes.as<uint8_t>()), scales(q.scales.data), stride(q.codes.stride[0]), rows(q ? q.rows() : 0), blocks(q ? blocks_of(q.cols()) : 0), block_rows(q.block_rows),
        format(q.format), layout(q.layout) {}
  __device__ float multiplier(float amax) const { return (format == ScaleFormat::kF32 ? e4m3_scale(amax) : pow2_scale(amax, kE4m3Max)).multiplier; }
  __device__ void put_scale(int64_t row, int64_t block, float amax) const {
    const float scale = (format == ScaleFormat::kF32 ? e4m3_scale(amax) : pow2_scale(amax, kE4m3Max)).scale;
    const int64_t i = layout == ScaleLayout::kMnMajor ? block * padded_scale_rows(rows) + row : row / block_rows * blocks + block;
    if (format == ScaleFormat::kUE8M0) static_cast<uint8_t*>(scales)[i] = encode_ue8m0(scale);
    else static_cast<float*>(scales)[i] = scale;
  }
};

inline void check_launch(const char* what) { check(cudaGetLastError(), what); }
// What 16-byte accesses ask of a matrix.
inline void check_rows16(const char* what, const Tensor& t) {
  const auto size = static_cast<int64_t>(size_of(t.dtype));
  ATOLL_CHECK(t.dim[1] % 16 == 0 && reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && (t.dim[0] <= 1 || t.stride[0] * size % 16 == 0), what, " ", t.shape(), ", row stride ",
              t.stride[0], ": a GPU wants columns in 16s and rows that begin at multiples of 16 bytes");
}

}  // namespace atoll::cuda
