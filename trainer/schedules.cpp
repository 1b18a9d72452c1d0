// See schedules.h: everything here is a pure function of a Position.
#include "trainer/schedules.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/base/error.h"
#include "trainer/config_values.h"

namespace atoll {
namespace {

int64_t in_unit(const Position& at, RunPoint::Unit unit) { return unit == RunPoint::Unit::kSteps ? at.step : at.tokens; }
const char* word(RunPoint::Unit unit) { return unit == RunPoint::Unit::kSteps ? "steps" : "tokens"; }

LrConfig resolved(LrConfig config, const RunPoint& run_length) {
  for (RunPoint* point : {&config.warmup, &config.constant_until, &config.decay_until})
    if (point->unit == RunPoint::Unit::kEnd) *point = run_length;
  for (RunPoint* point : {&config.warmup, &config.constant_until})  // zero means the same in every unit
    if (point->value == 0) point->unit = config.decay_until.unit;
  if (config.constant_until.value == 0) config.constant_until = config.warmup;
  return config;
}

}  // namespace

std::string to_string(const RunPoint& point) {
  if (point.unit == RunPoint::Unit::kEnd) return "end";
  return print_count(point.value) + (point.unit == RunPoint::Unit::kSteps ? " steps" : " tokens");
}

bool is_past(const Position& at, const RunPoint& point) { return point.unit != RunPoint::Unit::kEnd && in_unit(at, point.unit) > point.value; }

double PiecewiseConstant::at(const Position& position) const {
  ATOLL_CHECK(!values.empty(), "a piecewise constant needs at least one value");
  double value = values[0].value;
  for (size_t i = 1; i < values.size(); ++i)
    if (is_past(position, values[i].at)) value = values[i].value;
  return value;
}

LrSchedule::LrSchedule(const LrConfig& config, const RunPoint& run_length) : config_(resolved(config, run_length)) {
  const auto broken = problems(config, run_length);
  if (!broken.empty()) throw ConfigError("learning rate: " + broken[0]);
}

double LrSchedule::at(const Position& position) const {
  const LrConfig& c = config_;
  const auto warm = static_cast<double>(in_unit(position, c.warmup.unit)), warmup = static_cast<double>(c.warmup.value);
  if (warm < warmup) return c.max * (warm / warmup);
  const auto p = static_cast<double>(in_unit(position, c.decay_until.unit));
  const auto begin = static_cast<double>(c.constant_until.value), end = static_cast<double>(c.decay_until.value);
  if (p <= begin) return c.max;
  if (p < end) return c.min + (c.max - c.min) * 0.5 * (1.0 + std::cos(M_PI * ((p - begin) / (end - begin))));
  double lr = c.min;
  for (const PointValue& plateau : c.plateaus)
    if (is_past(position, plateau.at)) lr = plateau.value;
  return lr;
}

std::vector<std::string> LrSchedule::problems(const LrConfig& config, const RunPoint& run_length) {
  std::vector<std::string> out;
  const LrConfig c = resolved(config, run_length);
  const auto say = [&](const std::string& key, const std::string& value, const std::string& why) { out.push_back(key + " = " + value + ": " + why); };
  if (!(c.max >= 0)) say("max", print_real(c.max), "must not be negative");
  if (!(c.min >= 0 && c.min <= c.max)) say("min", print_real(c.min), "must lie in 0.." + print_real(c.max) + " (max)");
  if (config.warmup.unit == RunPoint::Unit::kEnd) say("warmup", "end", "must be steps or tokens");
  if (c.constant_until.unit != c.decay_until.unit)
    say("constant_until", to_string(config.constant_until),
        "the decay ends at " + to_string(c.decay_until) + ", so where it begins must be given in " + word(c.decay_until.unit) + " too");
  else if (config.decay_until.unit != RunPoint::Unit::kEnd && c.decay_until.value < c.constant_until.value)
    say("decay_until", to_string(config.decay_until), "lies before the end of the constant part, " + to_string(c.constant_until));
  if (config.constant_until.value > 0 && c.warmup.unit == c.constant_until.unit && c.constant_until.value < c.warmup.value)
    say("constant_until", to_string(config.constant_until), "lies before the end of the warm-up, " + to_string(c.warmup));
  RunPoint last = config.decay_until;
  for (const PointValue& plateau : c.plateaus) {
    if (plateau.at.unit != c.decay_until.unit || (last.unit == plateau.at.unit && plateau.at.value < last.value))
      say("plateaus", print_points(config.plateaus), "points must be in " + std::string(word(c.decay_until.unit)) + ", ascend, and lie after decay_until");
    if (!(plateau.value >= 0)) say("plateaus", print_points(config.plateaus), "a learning rate must not be negative");
    last = plateau.at;
  }
  return out;
}

int64_t BatchRamp::sequences(int64_t tokens_before) const {
  if (config_.start <= 0 || tokens_before >= config_.until_tokens) return full_;
  const auto grown = static_cast<__int128>(full_ - config_.start) * tokens_before / config_.until_tokens;
  const int64_t wanted = config_.start + static_cast<int64_t>(grown);
  return std::clamp(wanted / config_.multiple * config_.multiple, config_.start, full_);
}

Position BatchRamp::next(const Position& position) const { return {position.step + 1, position.tokens + sequences(position.tokens) * seq_len_}; }

int64_t BatchRamp::holds_until(int64_t tokens) const {
  if (config_.start <= 0 || tokens >= config_.until_tokens) return std::numeric_limits<int64_t>::max();
  const int64_t next = (sequences(tokens) / config_.multiple + 1) * config_.multiple, growth = full_ - config_.start;
  if (growth == 0 || next > full_) return config_.until_tokens;
  const auto at = (static_cast<__int128>(next - config_.start) * config_.until_tokens + growth - 1) / growth;  // the first token where `next` is wanted
  return static_cast<int64_t>(std::min<__int128>(at, config_.until_tokens));
}

int64_t BatchRamp::num_sizes() const { return config_.start > 0 ? (full_ - config_.start) / config_.multiple + 2 : 1; }

// Both walk over the batch sizes, not over the steps: a ramp has fewer.
Position BatchRamp::after(int64_t steps) const {
  Position position;
  while (position.step < steps) {
    const int64_t per_step = sequences(position.tokens) * seq_len_, until = holds_until(position.tokens);
    const int64_t n = std::min(steps - position.step, (until - position.tokens - 1) / per_step + 1);
    position = {position.step + n, position.tokens + n * per_step};
  }
  return position;
}

int64_t BatchRamp::steps_until(int64_t tokens) const {
  Position position;
  while (position.tokens < tokens) {
    const int64_t per_step = sequences(position.tokens) * seq_len_, until = std::min(tokens, holds_until(position.tokens));
    const int64_t n = (until - position.tokens - 1) / per_step + 1;
    position = {position.step + n, position.tokens + n * per_step};
  }
  return position.step;
}

}  // namespace atoll
