// atoll train --dry-run world=N: everything that a start of N ranks does but the steps, in one process: configuration, mesh, every rank's groups and
// neighbours, the schedule proven, memory by segment, who saves what. Policy: nothing is written; what a start would refuse is refused with its words;
// everything else is still shown.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "parallel/mesh.h"
#include "trainer/plan/memory_walk.h"
#include "trainer/run_config.h"

namespace atoll::plan {

constexpr int64_t kMaxWorld = 65536;  // ranks of a dry run: DeepSeek-V3 takes 6 s and 2.5 GB there

using Group = std::shared_ptr<const std::vector<int>>;  // world ranks, in order; one object, which all of its members name
struct RankPlace {
  int previous = -1, next = -1;    // pipeline neighbours (world ranks); -1: none
  Group pp, dp, ep, edp, mirror;   // mirror null: the schedule is not mirrored
};
struct DryRun {
  RunConfig config;
  int world = 0;
  std::vector<RankPlace> ranks;
  Schedule schedule;
  std::vector<RankForecast> forecasts;  // [pipeline rank], of its first data-parallel rank: nobody owns more rows
  std::vector<std::string> problems;    // what a start would end with, in the order in which it would find it
  ExitCode exit = ExitCode::kDone;      // of the first of them
  int64_t checkpoint_tensors = 0, checkpoint_shards = 0, checkpoint_bytes = 0, least_file = 0, largest_file = 0;
};
// ConfigError where the mesh or the schedule cannot be; other problems are collected.
DryRun dry_run(const RunConfig& config, int64_t world);
// Throws where a rank is not once in its own groups, where members of a group disagree on it, or where a start would make another one.
void check_groups(const Mesh& mesh, const std::vector<RankPlace>& ranks);
std::string dry_run_text(const DryRun& run);
std::string dry_run_json(const DryRun& run);

}  // namespace atoll::plan
