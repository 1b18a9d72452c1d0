// This machine as the planner's cluster: rates measured at a run's start, by running the model's own ops and messages for a moment. Policy: what a run forecasts of its
// time rests on these alone; nothing is assumed but that the seconds stay what they were.
#pragma once
#include "model/stage_ops.h"
#include "trainer/engine.h"
#include "trainer/plan/settings.h"

namespace atoll::plan {

struct MachineRates {
  double gemm_peak = 0;                    // FLOP/s of all ranks, of large products
  StageOpsTimes ops;                       // of this rank, while all ranks measured
  double link_rate = 0, link_latency = 0;  // bytes/s that a rank sends while all send; seconds of a message
};
// Collective. About a second.
MachineRates measure_machine(const RunConfig& config, Engine& engine, double gemm_peak);
// The planner's input for this run: one node of `world` devices.
PlanInput this_machine(const RunConfig& config, int world, const MachineRates& rates);

}  // namespace atoll::plan
