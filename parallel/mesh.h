// Mesh: which rank does what. A value, computed from sizes; groups are named by axis.
// world = pp dp tp cp; the expert mesh pp x edp x ep x etp folds over the same ranks: ep etp edp = dp tp cp.
// Rank order, slowest to fastest: pp, dp, cp, tp. ep is the fast part of dp: dp index = edp_index * ep + ep_index, so an EP group is consecutive ranks (one node where it fits).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace atoll {

enum class Axis { kWorld, kPp, kDp, kTp, kCp, kEp, kEdp, kEtp };
const char* name_of(Axis axis);

struct MeshSizes { int pp = 1, tp = 1, cp = 1, ep = 1, etp = 1; };

class Mesh {
 public:
  // Throws ConfigError with the numbers and what would work (every broken rule in one message). tp, cp and etp must be 1 for now.
  Mesh(int world, const MeshSizes& sizes);
  int size(Axis axis) const;
  int index(Axis axis, int rank) const;               // this rank's place on the axis
  std::vector<int> group(Axis axis, int rank) const;  // world ranks of the group that holds `rank`, in axis order
  int world() const { return world_; }
  std::string describe(int rank) const;               // "rank 3: pp 1/2, dp 1/2, ep 1/2, edp 0/1"

 private:
  int stride(Axis axis) const;  // ranks between neighbours on the axis

  int world_ = 1, pp_ = 1, dp_ = 1, tp_ = 1, cp_ = 1, ep_ = 1, edp_ = 1, etp_ = 1;
};

// [begin, end) of part `index` of n things split over `parts` in contiguous runs whose sizes differ by at most one (larger ones first).
struct Range { int64_t begin = 0, end = 0; int64_t size() const { return end - begin; } };
Range split_evenly(int64_t n, int parts, int index);

}  // namespace atoll
