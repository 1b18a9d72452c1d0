// See schedule_rules.h. Policy: every batch size of the ramp is tried before the first step, so that no run ends on its way.
#include "trainer/schedule_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "kernels/base/error.h"
#include "parallel/schedule.h"

namespace atoll {
namespace {
// Why the schedule does not admit n micro-batches in a step; empty: it does.
std::string objection(const ParallelConfig& parallel, int n) {
  try {
    const Schedule whole = schedule_frame(parallel.schedule, parallel.mesh.pp, parallel.grad_halves == 1 ? n : 2 * parallel.mesh.pp, static_cast<int>(parallel.vpp));
    if (parallel.grad_halves == 1) return "";
    if (n % 2 != 0) return "parallel.grad_halves = 2 needs an even number";
    schedule_frame(parallel.schedule, parallel.mesh.pp, whole.is_mirrored ? n : n / 2, static_cast<int>(parallel.vpp));
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "";
}
}  // namespace

void check_microbatches(const RunConfig& c, int dp) {
  const BatchRamp ramp = c.batch();
  const int64_t per_microbatch = c.train.micro_batch * dp, last_token = ramp.after(c.total_steps()).tokens;
  int64_t checked = 0;
  for (int64_t tokens = 0; tokens == 0 || tokens < last_token;) {
    const int64_t sequences = ramp.sequences(tokens), n = std::max<int64_t>(1, (sequences + per_microbatch - 1) / per_microbatch);
    if (n != checked)
      if (const std::string why = objection(c.parallel, static_cast<int>(n)); !why.empty())
        throw ConfigError(fmt::format("a step of {} sequences ({}) makes {} micro-batch{} of train.micro_batch = {} on dp = {} ranks: {}", sequences,
                                      sequences == c.train.global_batch ? "train.global_batch" : "train.batch_ramp", n, n == 1 ? "" : "es", c.train.micro_batch, dp, why));
    checked = n;
    const int64_t until = ramp.holds_until(tokens);
    if (until == std::numeric_limits<int64_t>::max()) break;
    const int64_t per_step = sequences * c.data.seq_len;
    tokens += ((until - tokens - 1) / per_step + 1) * per_step;  // where the first step of another size starts
  }
}

}  // namespace atoll
