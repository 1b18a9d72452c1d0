// What parallel.schedule asks of the rest of the configuration, once its file is read and the number of data-parallel ranks is known.
#pragma once
#include <memory>

#include "parallel/schedule.h"
#include "trainer/run_config.h"

namespace atoll {

// The schedule in the file that parallel.schedule names, proven and fit for the model and parallel.pp; null where it is a schedule's name. ConfigError.
std::shared_ptr<const Schedule> custom_schedule(const RunConfig& config);

// ConfigError where a step of the run, batch ramp included, has a number of micro-batches that the schedule (parallel.grad_halves) does not admit.
void check_microbatches(const RunConfig& config, int dp, const Schedule* custom = nullptr);

}  // namespace atoll
