// The host's part of a step: it launches every kernel, and in an MoE layer it waits for the counts of routed rows. Policy: launches are counted (a published
// trace, or the source of the software that is planned), the time of one is a named input; what a host that is behind costs follows from the order of events.
#pragma once
#include "trainer/plan/chunk_time.h"

namespace atoll::plan {

// Launches of a layer's phase on one device.
double host_launches(const PlanInput& input, WorkPhase phase, bool is_moe, double local_experts);
// F alone of one layer where the host waits for the counts: from the arrival of its rows to the arrival of the next layer's. The device's queue is empty at the
// start, so it gets experts and attention no sooner than they are launched, and the dispatch comes after both.
double waiting_forward(const LayerTimes& layer);
void explain_host(const LayerTimes& layer, double local_experts, Ledger& ledger);

}  // namespace atoll::plan
