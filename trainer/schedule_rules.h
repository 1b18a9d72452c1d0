// What parallel.schedule asks of the rest of the configuration, once the number of data-parallel ranks is known.
#pragma once
#include "trainer/run_config.h"

namespace atoll {

// ConfigError where a step of the run, batch ramp included, has a number of micro-batches that parallel.schedule (parallel.grad_halves) does not admit.
void check_microbatches(const RunConfig& config, int dp);

}  // namespace atoll
