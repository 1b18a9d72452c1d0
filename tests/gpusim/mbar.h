// Layout of the simulated 64-bit mbarrier object.
#pragma once
#include <cstdint>
namespace atoll::gpusim {
struct MBar {
  uint32_t pending, expected;
  int32_t tx;
  uint32_t phase;
  static MBar load(uint64_t v) { return {uint32_t(v & 0xfffff), uint32_t((v >> 20) & 0xfffff), int32_t((v >> 40) & 0x7fffff) - (1 << 22), uint32_t(v >> 63)}; }
  uint64_t store() const {
    return (uint64_t)(pending & 0xfffff) | (uint64_t)(expected & 0xfffff) << 20 | (uint64_t)((tx + (1 << 22)) & 0x7fffff) << 40 | (uint64_t)phase << 63;
  }
};
}  // namespace atoll::gpusim
