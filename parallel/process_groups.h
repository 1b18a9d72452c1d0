// The communicators of one rank, one an axis of the Mesh. Built once; the world's communicator is the caller's.
#pragma once
#include <memory>

#include "parallel/communicator.h"
#include "parallel/mesh.h"

namespace atoll {

struct ProcessGroups {
  ProcessGroups(const Mesh& mesh, Communicator& world_)
      : world(world_), pp(split(mesh, Axis::kPp)), dp(split(mesh, Axis::kDp)), ep(split(mesh, Axis::kEp)), edp(split(mesh, Axis::kEdp)) {}
  Communicator& world;
  std::unique_ptr<Communicator> pp, dp, ep, edp;
  int64_t bytes_sent() const { return pp->bytes().sent + dp->bytes().sent + ep->bytes().sent + edp->bytes().sent + world.bytes().sent; }

 private:
  std::unique_ptr<Communicator> split(const Mesh& mesh, Axis axis) const {
    return world.split(mesh.group(axis, world.rank()).front(), mesh.index(axis, world.rank()));  // a group's color is its first rank
  }
};

}  // namespace atoll
