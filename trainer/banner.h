// What a run says before its first step and after its last: layout, who holds what, parameters, memory, where time went.
#pragma once
#include <string>

#include "trainer/engine.h"
#include "trainer/run_config.h"

namespace atoll {

struct HostInfo;
// Collective; the text is rank 0's to print. gemm_peak: FLOP/s of all ranks.
std::string banner(const RunConfig& config, Engine& engine, const HostInfo& host, double gemm_peak, int64_t store_tokens, int64_t resumed_step);
// Calls, seconds, share, GFLOP/s of each op of this rank so far.
std::string op_table(const Context& ctx);
std::string memory_table(Context& ctx);

}  // namespace atoll
