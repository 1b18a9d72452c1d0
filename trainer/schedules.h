// What changes along a run: learning rate, batch, MTP lambda, balance gamma. Policy: pure functions of a Position, the place the run has reached at the END
// of a step (step 1-based, tokens fed including this step); so a resumed run needs nothing but its step and token counters.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace atoll {

struct Position {
  int64_t step = 0;    // steps finished
  int64_t tokens = 0;  // tokens fed to the main model (global)
};

// A point of the run as the user wrote it: "2000 steps", "10T tokens" or "end" (the run's own length).
struct RunPoint {
  enum class Unit { kSteps, kTokens, kEnd };
  int64_t value = 0;
  Unit unit = Unit::kTokens;
  bool operator==(const RunPoint&) const = default;
  static RunPoint steps(int64_t n) { return {n, Unit::kSteps}; }
  static RunPoint tokens(int64_t n) { return {n, Unit::kTokens}; }
  static RunPoint end() { return {0, Unit::kEnd}; }
};
std::string to_string(const RunPoint& point);             // "2000 steps", "10T tokens", "end": parses back to the same
bool is_past(const Position& at, const RunPoint& point);  // at > point, in the point's own unit; "end" is never past

struct PointValue {
  RunPoint at;
  double value = 0;
  bool operator==(const PointValue&) const = default;
};

// values[i].value holds for positions in (values[i].at, values[i+1].at]: a step that ends exactly at a point still belongs to what came before it.
// The first entry holds from the beginning.
struct PiecewiseConstant {
  std::vector<PointValue> values;
  double at(const Position& position) const;
  bool operator==(const PiecewiseConstant&) const = default;
};

// DeepSeek-V3 section 4.2: linear warm-up, constant, cosine to `min`, then constant plateaus.
// lr = max * min(1, p / warmup) while p <= max(warmup, constant_until); min + (max - min) (1 + cos(pi x)) / 2 with x from 0 to 1 between the end of the
// constant part and decay_until; then `min`, and past each plateau's point that plateau's value.
struct LrConfig {
  double max = 1e-3, min = 1e-4;
  RunPoint warmup = RunPoint::steps(0);
  RunPoint constant_until = RunPoint::steps(0);  // 0: the decay starts where the warm-up ends
  RunPoint decay_until = RunPoint::end();
  std::vector<PointValue> plateaus;  // ascending, after decay_until
  bool operator==(const LrConfig&) const = default;
};

class LrSchedule {
 public:
  // run_length: train.steps or train.tokens, what "end" stands for.
  LrSchedule(const LrConfig& config, const RunPoint& run_length);
  double at(const Position& end_of_step) const;
  // Every reason why the schedule cannot be evaluated (points out of order, units that cannot be compared), each "key = value: why".
  static std::vector<std::string> problems(const LrConfig& config, const RunPoint& run_length);

 private:
  LrConfig config_;
};

// The global batch in sequences. DeepSeek-V3's goes from 3072 to 15360 over the first 469B tokens; the shape is not published. Ours: linear in the tokens fed
// before the step, rounded down to a multiple of `multiple`, never below start nor above the full batch.
struct BatchRampConfig {
  int64_t start = 0;         // 0: no ramp
  int64_t until_tokens = 0;  // from here on the full batch
  int64_t multiple = 1;
  bool operator==(const BatchRampConfig&) const = default;
};

class BatchRamp {
 public:
  BatchRamp(const BatchRampConfig& config, int64_t full_batch, int64_t seq_len) : config_(config), full_(full_batch), seq_len_(seq_len) {}
  int64_t sequences(int64_t tokens_before) const;  // of the step that starts there
  Position next(const Position& position) const;   // the position at the end of the step that starts at `position`
  Position after(int64_t steps) const;             // the position after that many steps from the beginning
  int64_t steps_until(int64_t tokens) const;       // the first number of steps that has fed at least `tokens`
  int64_t num_sizes() const;                       // at most so many batch sizes: what after() and steps_until() walk over
  int64_t holds_until(int64_t tokens) const;  // the batch of the step that starts at `tokens` is that of all steps that start before this

 private:
  BatchRampConfig config_;
  int64_t full_, seq_len_;
};

}  // namespace atoll
