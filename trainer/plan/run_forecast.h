// A run's own forecast: what this machine's ranks will hold, send and need, printed before the first step; and the same beside what was measured, printed after
// the last. Policy: the forecast is made from the options alone; what routing decides (rows received) is assumed balanced before the run and taken as it was
// after it.
#pragma once
#include <string>

#include "trainer/engine.h"
#include "trainer/plan/this_machine.h"
#include "trainer/run_config.h"

namespace atoll::plan {

// Collective; the text is rank 0's to print.
std::string forecast_text(const RunConfig& config, Engine& engine, const MachineRates& rates);

struct Measured {                // of the last step
  int64_t step = 0, tokens = 0;  // where the run is
  std::vector<int64_t> microbatch_tokens;
  std::vector<int64_t> peak_tokens;             // those of the step of the routed segment's peak: along a batch ramp not as many
  std::vector<std::vector<int64_t>> peak_rows;  // [micro-batch][block] that this rank received in that step
  int64_t longest_document = 0;  // of any step
  int64_t bytes_sent = 0, dispatch_bytes = 0, combine_bytes = 0;
  double seconds = 0;  // a step, as the steps of this run took on average
};
struct Comparison {
  std::string text;  // rank 0's to print
  std::string json;  // one object: segments and wire of every rank
};
// Collective.
Comparison compare_forecast(const RunConfig& config, Engine& engine, const MachineRates& rates, const Measured& measured);

}  // namespace atoll::plan
