// The simulated tensor map: what cuTensorMapEncodeTiled writes into the 128 opaque bytes.
#pragma once
#include <cstdint>
#include <string>
namespace atoll::gpusim {
constexpr uint32_t kTmapMagic = 0x50545873;
struct TensorMap {
  uint64_t addr;
  uint32_t dim[5];  // size - 1, so that 2^32 fits
  uint32_t pad;
  uint64_t stride[4];  // bytes, dimensions 1..4
  uint16_t box[5];
  uint8_t estride[5];
  uint8_t rank, dtype, interleave, swizzle, oob, elem;
  uint32_t magic;
  uint8_t fill[128 - 8 - 24 - 32 - 10 - 5 - 6 - 4 - 3];
};
static_assert(sizeof(TensorMap) <= 128);
int elem_bytes(int dtype);
// 0 or a text saying which rule is broken
std::string encode_tiled(TensorMap& t, int dtype, uint32_t rank, uint64_t addr, const uint64_t* dims, const uint64_t* strides, const uint32_t* box,
                         const uint32_t* estr, int interleave, int swizzle, int l2, int oob);
}  // namespace atoll::gpusim
