// From a step's length to hours, dollars, failures, power and the cost of owning the machines. Policy: every assumption is a named quantity of the plan or the
// cluster with its source; what the headline of a run leaves out stands beside it, line by line.
#pragma once
#include "trainer/plan/step_time.h"

namespace atoll::plan {
constexpr double kLeastGoodput = 0.01;  // of a run that never ends

// Puts its lines into the ledger: gpu_hours_*, cost.*, failures.*, power.*, own.*, tco.*. context: steps of the context stages, in order.
void price_run(const PlanInput& input, const StepPrediction& step, const std::vector<StepPrediction>& context, Ledger& ledger);
// The checkpoint interval that loses least (Young, then Daly's correction), s.
double young_interval(double stall, double mtbf);
double daly_interval(double stall, double mtbf);

}  // namespace atoll::plan
