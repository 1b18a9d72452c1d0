// Custom pipeline schedules from a file: YAML (*.yaml, *.yml) or CSV (*.csv); docs/schedules.md has the format. Policy: a file says what each rank computes, in which order; where
// stages lie is read off that, sends and receives are derived unless the file has its own. Soundness is the checker's business, not the reader's.
#pragma once
#include <cstdint>
#include <string>

#include "parallel/schedule.h"

namespace atoll {

// What a schedule may be, wherever it comes from: more would take the memory of the machine that looks at it.
constexpr int64_t kMaxScheduleStages = 4096, kMaxSchedulePairs = 4'000'000;
constexpr const char* kScheduleBound = "at most 4096 stages, and 4 million (stage, micro-batch) pairs";

// ConfigError with every mistake as FILE:LINE: what.
Schedule read_schedule_file(const std::string& path);
bool is_schedule_file(const std::string& name);  // by its ending

// The same from text; `path` names it in messages, its ending decides the format.
Schedule parse_schedule_file(const std::string& text, const std::string& path);
std::string print_schedule_yaml(const Schedule& schedule);  // reads back to the same schedule

}  // namespace atoll
