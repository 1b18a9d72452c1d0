// `atoll plan schedule`: one pipeline schedule, proven, timed and drawn from given costs. Policy: costs are per stage, in any one unit of time; b is the full backward, w its part.
#pragma once
#include <string>
#include <vector>

#include "parallel/simulator.h"

namespace atoll {

struct SchedulePlan {
  Schedule schedule;
  SimulationCosts costs;
  Simulation simulation;
  double forward = 1, full_backward = 2, weight = 1, pair = -1, message = 0;  // pair -1: none, one after the other
};
// name: a schedule of schedule_names(), or a file (*.yaml, *.csv). assignments: key=value, of kPlanScheduleKeys. ConfigError: what is wrong with them; a schedule that is not sound.
SchedulePlan plan_schedule(const std::string& name, const std::vector<std::string>& assignments);

std::string schedule_text(const SchedulePlan& plan);   // counts, bubble, memory, a row a rank
std::string schedule_json(const SchedulePlan& plan);   // and every rank's actions with begin and end
// Chrome's trace format (also Perfetto's), a thread a rank; one unit of time is a millisecond.
std::string schedule_trace(const Schedule& schedule, const Simulation& simulation);

}  // namespace atoll
