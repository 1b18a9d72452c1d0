// atoll train --dry-run world=N: everything that a start of N ranks does but the steps, in one process: configuration, mesh, every rank's groups and
// neighbours, the schedule proven, memory by segment, who saves what. Policy: nothing is written; what a start would refuse is refused with its words;
// everything else is still shown.
#pragma once
#include <string>
#include <vector>

#include "trainer/plan/memory_walk.h"
#include "trainer/run_config.h"

namespace atoll::plan {

struct RankPlace {
  int previous = -1, next = -1;              // pipeline neighbours (world ranks); -1: none
  std::vector<int> pp, dp, ep, edp, mirror;  // world ranks of its groups, in order
};
struct DryRun {
  RunConfig config;
  int world = 0;
  std::vector<RankPlace> ranks;
  Schedule schedule;
  std::vector<RankForecast> forecasts;  // [pipeline rank], of its first data-parallel rank: nobody owns more rows
  std::vector<std::string> problems;    // what a start would end with
  bool is_data_problem = false;         // exit 65, not 64
  int64_t checkpoint_tensors = 0, checkpoint_shards = 0, checkpoint_bytes = 0, least_file = 0, largest_file = 0;
};
// ConfigError where the mesh or the schedule cannot be; other problems are collected.
DryRun dry_run(const RunConfig& config, int world);
std::string dry_run_text(const DryRun& run);
std::string dry_run_json(const DryRun& run);

}  // namespace atoll::plan
