// The communicators of one rank, one an axis of the Mesh. Built once; the world's communicator is the caller's.
#pragma once
#include <algorithm>
#include <memory>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/mesh.h"

namespace atoll {

struct ProcessGroups {
  // is_mirrored: pipeline ranks r and pp - 1 - r hold the same stages (DualPipe) and form a group of two, the lower one first.
  ProcessGroups(const Mesh& mesh, Communicator& world_, bool is_mirrored = false)
      : world(world_), pp(split(mesh, Axis::kPp)), dp(split(mesh, Axis::kDp)), ep(split(mesh, Axis::kEp)), edp(split(mesh, Axis::kEdp)) {
    if (!is_mirrored) return;
    const std::vector<int> pipeline = mesh.group(Axis::kPp, world.rank());
    const int at = mesh.index(Axis::kPp, world.rank()), last = mesh.size(Axis::kPp) - 1;
    mirror = world.split(pipeline[static_cast<size_t>(std::min(at, last - at))], at);
  }
  Communicator& world;
  std::unique_ptr<Communicator> pp, dp, ep, edp;
  std::unique_ptr<Communicator> mirror;  // or null
  int64_t bytes_sent() const {
    return pp->bytes().sent + dp->bytes().sent + ep->bytes().sent + edp->bytes().sent + (mirror ? mirror->bytes().sent : 0) + world.bytes().sent;
  }

 private:
  std::unique_ptr<Communicator> split(const Mesh& mesh, Axis axis) const {
    return world.split(mesh.group(axis, world.rank()).front(), mesh.index(axis, world.rank()));  // a group's color is its first rank
  }
};

}  // namespace atoll
