// See schedule_rules.h. Policy: every batch size of the ramp is tried before the first step, so that no run ends on its way.
#include "trainer/schedule_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "kernels/base/error.h"
#include "trainer/schedule_file.h"

namespace atoll {
namespace {
// Why the schedule does not admit n micro-batches in a step; empty: it does.
std::string objection(const ParallelConfig& parallel, const Schedule* custom, int n) {
  if (custom) return n == custom->num_microbatches ? "" : fmt::format("the schedule of {} is for {}", parallel.schedule, custom->num_microbatches);
  try {
    const Schedule whole = schedule_frame(parallel.schedule, parallel.mesh.pp, parallel.grad_halves == 1 ? n : 2 * parallel.mesh.pp, static_cast<int>(parallel.vpp));
    if (int64_t{whole.num_stages} * n > kMaxSchedulePairs) return fmt::format("on {} stages: {}", whole.num_stages, kScheduleBound);
    if (parallel.grad_halves == 1) return "";
    if (n % 2 != 0) return "parallel.grad_halves = 2 needs an even number";
    schedule_frame(parallel.schedule, parallel.mesh.pp, whole.is_mirrored ? n : n / 2, static_cast<int>(parallel.vpp));
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "";
}
}  // namespace

std::shared_ptr<const Schedule> custom_schedule(const RunConfig& c) {
  const std::string& path = c.parallel.schedule;
  if (!is_schedule_file(path)) return nullptr;
  auto schedule = std::make_shared<Schedule>(read_schedule_file(path));
  std::string why;
  if (const std::vector<std::string> violations = check(*schedule); !violations.empty())
    why = fmt::format("not sound: {}{}", violations.front(), violations.size() > 1 ? fmt::format(" (and {} more; `atoll plan schedule {}` lists them)", violations.size() - 1, path) : "");
  else if (schedule->num_ranks != c.parallel.mesh.pp)
    why = fmt::format("for {} ranks, parallel.pp is {}", schedule->num_ranks, c.parallel.mesh.pp);
  else if (schedule->num_stages > c.model.num_hidden_layers)
    why = fmt::format("{} stages, the model has {} layers (model.num_hidden_layers)", schedule->num_stages, c.model.num_hidden_layers);
  else if (!c.parallel.stage_layers.empty() && std::ssize(c.parallel.stage_layers) != schedule->num_stages)
    why = fmt::format("{} stages, parallel.stage_layers has {} entries", schedule->num_stages, c.parallel.stage_layers.size());
  else if (c.parallel.grad_halves != 1)
    why = "a schedule from a file is for a fixed number of micro-batches: parallel.grad_halves must be 1";
  for (int r = 0; why.empty() && r < schedule->num_ranks; ++r)
    if (schedule->stages_of(r).empty()) why = fmt::format("no stage lies on rank {}", r);
  if (!why.empty()) throw ConfigError(fmt::format("parallel.schedule = {}: {}", path, why));
  return schedule;
}

void check_microbatches(const RunConfig& c, int dp, const Schedule* custom) {
  const BatchRamp ramp = c.batch();
  const int64_t per_microbatch = c.train.micro_batch * dp, last_token = ramp.after(c.total_steps()).tokens;
  int64_t checked = 0;
  for (int64_t tokens = 0; tokens == 0 || tokens < last_token;) {
    const int64_t sequences = ramp.sequences(tokens), n = std::max<int64_t>(1, (sequences + per_microbatch - 1) / per_microbatch);
    if (n != checked)
      if (const std::string why = objection(c.parallel, custom, static_cast<int>(n)); !why.empty())
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
