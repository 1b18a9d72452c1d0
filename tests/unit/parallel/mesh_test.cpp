// The mesh: groups partition the world on every axis; broken sizes are all named in one error.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <set>

#include "kernels/base/error.h"
#include "parallel/mesh.h"

using namespace atoll;

namespace {
constexpr Axis kAxes[] = {Axis::kWorld, Axis::kPp, Axis::kDp, Axis::kTp, Axis::kCp, Axis::kEp, Axis::kEdp, Axis::kEtp};
std::string message_of(int world, const MeshSizes& sizes) {
  try {
    Mesh mesh(world, sizes);
  } catch (const ConfigError& error) { return error.what(); }
  return "";
}
}  // namespace

TEST_CASE("Groups partition the world on every axis") {
  int num_meshes = 0;
  for (int pp = 1; pp <= 6; ++pp)
    for (int ep = 1; ep <= 6; ++ep)
      for (int edp = 1; edp <= 4; ++edp, ++num_meshes) {
        const Mesh mesh(pp * ep * edp, {.pp = pp, .ep = ep});
        REQUIRE(mesh.size(Axis::kDp) == ep * edp);
        REQUIRE(mesh.size(Axis::kEdp) == edp);
        for (Axis axis : kAxes) {
          std::multiset<int> seen;
          for (int rank = 0; rank < mesh.world(); ++rank) {
            const std::vector<int> group = mesh.group(axis, rank);
            REQUIRE(static_cast<int>(group.size()) == mesh.size(axis));
            REQUIRE(group[static_cast<size_t>(mesh.index(axis, rank))] == rank);
            REQUIRE(std::is_sorted(group.begin(), group.end()));
            for (int member : group) REQUIRE(mesh.group(axis, member) == group);
            if (group.front() == rank) seen.insert(group.begin(), group.end());
          }
          REQUIRE(seen.size() == static_cast<size_t>(mesh.world()));
          REQUIRE(std::set<int>(seen.begin(), seen.end()).size() == static_cast<size_t>(mesh.world()));
        }
      }
  CHECK(num_meshes == 144);
}

TEST_CASE("EP groups are consecutive ranks and ep is the fast part of dp") {
  const Mesh mesh(24, {.pp = 2, .ep = 4});
  for (int rank = 0; rank < 24; ++rank) {
    const auto group = mesh.group(Axis::kEp, rank);
    for (size_t i = 0; i < group.size(); ++i) REQUIRE(group[i] == rank / 4 * 4 + static_cast<int>(i));
    REQUIRE(mesh.index(Axis::kDp, rank) == mesh.index(Axis::kEdp, rank) * 4 + mesh.index(Axis::kEp, rank));
  }
  CHECK(mesh.group(Axis::kPp, 5) == std::vector<int>{5, 17});
  CHECK(mesh.group(Axis::kEdp, 13) == std::vector<int>{13, 17, 21});
  CHECK(Mesh(4, {.pp = 2, .ep = 2}).describe(3) == "rank 3: pp 1/2, dp 1/2, ep 1/2, edp 0/1");
}

TEST_CASE("An impossible mesh is refused with the numbers and what would work") {
  CHECK(message_of(6, {.pp = 4}) == "impossible mesh: 6 ranks are not divisible by pp=4; use 4 or 8 ranks, or pp in {1,2,3,6}");
  CHECK(message_of(8, {.pp = 2, .ep = 3}) == "impossible mesh: dp=4 (8 ranks / pp=2) is not divisible by ep=3; use ep in {1,2,4}, or 6 or 12 ranks");
  CHECK(message_of(2, {.pp = 4}) == "impossible mesh: 2 ranks are not divisible by pp=4; use 4 ranks, or pp in {1,2}");
  const std::string all = message_of(6, {.pp = 4, .tp = 2, .cp = 0, .ep = 5, .etp = 3});
  for (const char* part : {"pp=4", "tp=2 is not supported yet; use tp=1", "cp=0 must be at least 1", "ep=5", "etp=3 is not supported yet"}) CHECK_THAT(all, Catch::Contains(part));
  CHECK_THAT(message_of(0, {}), Catch::Contains("world=0"));
  CHECK(message_of(12, {.pp = 3, .ep = 2}).empty());
  CHECK_THAT(message_of(2, {.pp = 1 << 20, .ep = 1 << 20}), Catch::Contains("a multiple of pp*ep=1099511627776"));
}

TEST_CASE("An even split covers everything, larger parts first") {
  for (int64_t n : {0, 1, 2, 7, 16, 1000003})
    for (int parts = 1; parts <= 9; ++parts) {
      int64_t at = 0, previous = n + 1;
      for (int i = 0; i < parts; ++i) {
        const Range range = split_evenly(n, parts, i);
        REQUIRE(range.begin == at);
        REQUIRE((range.size() == n / parts || range.size() == n / parts + 1));
        REQUIRE(range.size() <= previous);
        previous = range.size();
        at = range.end;
      }
      REQUIRE(at == n);
    }
  CHECK_THROWS_AS(split_evenly(4, 2, 2), Error);
}
