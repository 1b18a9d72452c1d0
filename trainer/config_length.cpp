// Rules on how long a run may be: every count of steps, sequences and tokens along it must fit 64 bits, and its length in steps must be found at once.
#include "kernels/base/error.h"
#include "trainer/config_schema.h"
#include "trainer/config_values.h"

namespace atoll {
namespace {
constexpr __int128 kMaxStepTokens = 100'000'000'000'000'000, kMaxRunTokens = 1'000'000'000'000'000'000;
constexpr int64_t kMaxBatchSizes = 10'000'000;
}  // namespace

std::vector<ConfigProblem> length_problems(const RunConfig& c) {
  std::vector<ConfigProblem> problems;
  const auto say = [&](const char* key, int64_t value, const std::string& why) { problems.push_back({key, detail::concat(key, " = ", print_count(value), ": ", why)}); };
  const TrainConfig& t = c.train;
  const __int128 per_step = static_cast<__int128>(t.global_batch) * c.data.seq_len;
  if (per_step > kMaxStepTokens) say("train.global_batch", t.global_batch, detail::concat("more than 10^17 tokens a step (data.seq_len = ", print_count(c.data.seq_len), ")"));
  else if (per_step * t.steps > kMaxRunTokens) say("train.steps", t.steps, "more than 10^18 tokens in the whole run (train.global_batch x data.seq_len each step)");
  if (t.batch_ramp.start > 0 && t.batch_ramp.start <= t.global_batch && c.batch().num_sizes() > kMaxBatchSizes)
    say("train.batch_ramp.multiple", t.batch_ramp.multiple, "the batch would grow through more than 10M sizes; take a larger multiple");
  return problems;
}

}  // namespace atoll
