// What host and device of a GEMM agree on: the arguments, and the traits of the five kernels that share the skeleton of gemm_kernel.h.
#pragma once
#include <cuda.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <limits>

namespace atoll::cuda {

enum class Scales { kNone, kTilesByBlocks, kTilesByTiles };  // BF16; a 1x128, b 128x128; both 1x128
enum class GroupedBy { kRows, kDepth };                      // experts' rows of a and c; experts' part of K, one c each

constexpr int kMostRowGroups = 256, kMostMappedGroups = 8;   // a launch; more groups are more launches

struct GemmArgs {
  int m = 0, n = 0, k = 0;             // m of a c (grouped by depth), k of a group (grouped by rows)
  int num_groups = 1;
  int offsets[kMostRowGroups + 1];     // rows, or elements of K; group g has [offsets[g], offsets[g + 1]). Beyond the last group: INT_MAX, so that a walk too far is no quiet one
  void* c = nullptr;
  int64_t c_stride = 0, c_group_stride = 0;  // elements
  bool c_is_fp32 = false, accumulate = false;
  const float* b_scales = nullptr;     // kTilesByBlocks: [group][n / 128][k / 128]
  int b_scale_stride = 0, b_scale_rows = 0;  // a launch has fewer than 2^31 scales
  GemmArgs() {
    std::fill(std::begin(offsets), std::end(offsets), std::numeric_limits<int>::max());
    offsets[0] = 0;
  }
};
template <int kMaps>
struct GemmMaps {
  CUtensorMap a[kMaps], b[kMaps], a_scales, b_scales;
};

template <bool kFp8, bool kTransposeA, bool kTransposeB, Scales kScaling, GroupedBy kGrouping, bool kMappedGroups>
struct GemmTraits {
  static constexpr bool kIsFp8 = kFp8, kTransposedA = kTransposeA, kTransposedB = kTransposeB, kMapPerGroup = kMappedGroups;
  static constexpr bool kMayAdd = !kFp8 || kGrouping == GroupedBy::kDepth;  // FP8 products of activations always overwrite
  static constexpr Scales kScales = kScaling;
  static constexpr GroupedBy kGroups = kGrouping;
  static constexpr int kStageK = kFp8 ? 128 : 64;                      // 128 bytes
  static constexpr int kMaps = kMappedGroups ? kMostMappedGroups : 1;  // a map a group where groups end between two stages
  static constexpr uint32_t kStepA = kTransposeA ? 2048 : 32, kStepB = kTransposeB ? 2048 : 32;  // one wgmma of K further: 32 bytes of a row, or 16 rows of 128 bytes
  static constexpr uint32_t kStageBytes = 4 * 64 * 128 + (kScaling == Scales::kNone ? 0 : 512) + (kScaling == Scales::kTilesByTiles ? 512 : 0);
};

}  // namespace atoll::cuda
