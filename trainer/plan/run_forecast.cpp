// Gathers every rank's forecast and measurement; the worst rank speaks for a segment.
#include "trainer/plan/run_forecast.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/base/error.h"
#include "trainer/plan/memory_walk.h"
#include "trainer/plan/step_time.h"

namespace atoll::plan {
namespace {
constexpr int kSegments = 7;
constexpr const char* kNames[kSegments] = {"weights", "main grads", "optimizer", "activations", "routed", "comm", "workspace"};

constexpr int kPhases = 9;
constexpr const char* kPhaseNames[kPhases] = {
    "F", "B", "W", "of F and B: exchanges", "waiting for stages", "gradients to owners", "optimizer", "weights back", "else"};

struct RankLine {              // travels between ranks
  double phase[kPhases] = {};  // measured, of a step
  double predicted[kSegments] = {};
  int64_t measured[kSegments] = {};
  int64_t wire_predicted = 0, wire_measured = 0, dispatch = 0, combine = 0;
};

RunShape run_shape(const RunConfig& c, const Engine& engine, const std::vector<int64_t>& tokens, const std::vector<std::vector<int64_t>>& rows) {
  RunShape shape;
  shape.microbatch_tokens = tokens;
  shape.tokens = *std::max_element(tokens.begin(), tokens.end());
  shape.sequences = std::max<int64_t>(1, shape.tokens / c.data.seq_len);
  shape.num_microbatches = static_cast<int>(tokens.size());
  shape.rows_received =
      static_cast<double>(shape.tokens * (engine.options().model.n_routed_experts > 0 ? engine.options().model.num_experts_per_tok : 0));  // balanced
  shape.rows = rows;
  shape.has_balance_loss = !c.train.balance_alpha.values.empty() && c.train.balance_alpha.values.front().value > 0;
  return shape;
}

RankLine line_of(Engine& engine, const RankForecast& f) {
  Memory& m = engine.ctx().memory;
  RankLine line;
  const double predicted[kSegments] = {static_cast<double>(f.persistent.weights),
                                       static_cast<double>(f.persistent.grads),
                                       static_cast<double>(f.persistent.optimizer),
                                       f.peaks.activations.bytes,
                                       f.peaks.routed.bytes,
                                       static_cast<double>(f.persistent.comm),
                                       static_cast<double>(f.workspace)};
  const int64_t measured[kSegments] = {m.weights.high_water(),     m.grads.high_water(),  m.optimizer.high_water(),
                                       m.activations.high_water(), m.routed.high_water(), m.comm.high_water(),  m.workspace.high_water()};
  std::copy_n(predicted, kSegments, line.predicted);
  std::copy_n(measured, kSegments, line.measured);
  line.wire_predicted = f.wire_fixed;
  return line;
}

std::string bytes(double b) { return show(b, Unit::kBytes); }

// Micro-batches of one pass of the pipeline: a step, or half of one.
int num_scheduled(const Engine& engine, size_t microbatches) {
  const bool is_mirrored = engine.options().custom ? engine.options().custom->is_mirrored : engine.options().schedule == "dualpipe";
  return static_cast<int>(engine.options().grad_halves == 2 && !is_mirrored ? microbatches / 2 : microbatches);
}

RankForecast forecast(Engine& engine, const RunShape& shape) {
  Communicator& world = engine.groups().world;
  EngineOptions options = engine.options();
  options.bf16_gemm = engine.ctx().bf16_gemm;  // as it was chosen
  return forecast_rank(options, engine.schedule(num_scheduled(engine, shape.microbatch_tokens.size())), engine.manifest(), world.size(), world.rank(), shape);
}

std::vector<int64_t> even_microbatches(const RunConfig& c, const Engine& engine) {
  const int64_t per_micro = c.train.micro_batch * engine.mesh().size(Axis::kDp), n = (c.train.global_batch + per_micro - 1) / per_micro;
  return std::vector<int64_t>(static_cast<size_t>(n), c.train.micro_batch * c.data.seq_len);
}

// Seconds of a step, and of its phases as means over ranks; 0: the planner cannot price this layout.
struct StepForecast {
  double step = 0;
  double phase[kPhases] = {};
};
StepForecast predicted_step(const RunConfig& c, Engine& engine, const MachineRates& rates) {
  const PlanInput in = this_machine(c, engine.groups().world.size(), rates);
  Priced p = pretraining(in);
  const int64_t per_micro = c.train.micro_batch * p.dp;
  p.global_batch = (c.train.global_batch + per_micro - 1) / per_micro * per_micro;  // the last one may be smaller
  StepForecast out;
  try {
    const StepPrediction s = predict_step(in, p, nullptr);
    out.step = s.step;
    const double ranks = s.schedule->num_ranks;
    for (const auto& line : s.simulation.timeline)
      for (const TimedAction& t : line) {
        const auto stage = [&](const StageMicrobatch& at) { return at.stage < 0 ? StageTimes{} : s.stages[static_cast<size_t>(at.stage)]; };
        const StageTimes f = stage(forward_of(t.action)), b = stage(backward_of(t.action)), w = stage(weight_of(t.action));
        out.phase[0] += f.forward / ranks;
        out.phase[1] += b.backward / ranks;
        out.phase[2] += w.weight / ranks;
        out.phase[3] += (f.exposed_forward + b.exposed_backward) / ranks;
      }
    out.phase[4] = s.bubble;
    out.phase[5] = s.reduce;
    out.phase[6] = s.update;
    out.phase[7] = s.gather;
  } catch (const ConfigError&) { return {}; }  // what the trainer runs is not this one's to refuse
  return out;
}
}  // namespace

namespace {
std::string step_text(double step) {
  if (step == 0) return "no forecast of its time";
  return fmt::format("a step takes about {} (from the model's own ops and messages, timed just now)", show(step, Unit::kSeconds));
}
}  // namespace

std::string forecast_text(const RunConfig& c, Engine& engine, const MachineRates& rates) {
  Communicator& world = engine.groups().world;
  const RankForecast f = forecast(engine, run_shape(c, engine, even_microbatches(c, engine), {}));
  const RankLine mine = line_of(engine, f);
  std::vector<RankLine> all(static_cast<size_t>(world.size()));
  world.all_gather(&mine, sizeof mine, all.data());
  if (world.rank() != 0) return {};
  std::string out = "forecast (balanced routing): memory of the fullest rank by segment:";
  double wire = 0;
  for (int s = 0; s < kSegments; ++s) {
    double most = 0;
    for (const RankLine& l : all) most = std::max(most, l.predicted[s]);
    out += fmt::format(" {} {};", kNames[s], bytes(most));
  }
  for (const RankLine& l : all) wire += static_cast<double>(l.wire_predicted);
  out += fmt::format(" (rank 0's peak of activations in {})\nforecast: {} a step between ranks beside the routed rows; {}", f.peaks.activations.moment,
                     bytes(wire), step_text(predicted_step(c, engine, rates).step));
  return out;
}

Comparison compare_forecast(const RunConfig& c, Engine& engine, const MachineRates& rates, const Measured& measured) {
  Communicator& world = engine.groups().world;
  RunShape shape = run_shape(c, engine, measured.microbatch_tokens, {});
  shape.longest_document = measured.longest_document;
  RankForecast f = forecast(engine, shape);
  if (!measured.peak_rows.empty()) {
    const RankForecast at_peak = forecast(engine, run_shape(c, engine, measured.peak_tokens, measured.peak_rows));
    f.peaks.routed = at_peak.peaks.routed;
    if (at_peak.peaks.activations.bytes > f.peaks.activations.bytes) f.peaks.activations = at_peak.peaks.activations;
  }
  RankLine mine = line_of(engine, f);
  mine.wire_measured = measured.bytes_sent - measured.dispatch_bytes - measured.combine_bytes;
  mine.dispatch = measured.dispatch_bytes;
  mine.combine = measured.combine_bytes;
  const StepTimes& t = engine.times();
  const double steps = static_cast<double>(std::max<int64_t>(1, t.steps));
  const double spent[kPhases - 1] = {t.forward, t.backward, t.weight, t.exchange, t.waiting, t.reduce, t.update, t.publish};
  mine.phase[kPhases - 1] = measured.seconds;
  for (int p = 0; p + 1 < kPhases; ++p) {
    mine.phase[p] = spent[p] / steps;
    if (p != 3) mine.phase[kPhases - 1] -= mine.phase[p];  // exchanges are inside F and B
  }
  std::vector<RankLine> all(static_cast<size_t>(world.size()));
  world.all_gather(&mine, sizeof mine, all.data());
  if (world.rank() != 0) return {};

  Comparison out;
  nlohmann::ordered_json json = {{"event", "forecast"}, {"step", measured.step}, {"tokens", measured.tokens}};
  out.text =
      fmt::format("forecast against measurement, each segment on the rank where they differ most (routed rows and documents as they came):\n  {:<12} {:>12} {:>12} {:>8}\n",
                  "segment", "forecast", "measured", "off");
  for (int s = 0; s < kSegments; ++s) {
    const RankLine* worst = &all[0];
    const auto off = [s](const RankLine& l) { return l.measured[s] == 0 ? 0.0 : l.predicted[s] / static_cast<double>(l.measured[s]) - 1; };
    for (const RankLine& l : all)
      if (std::abs(off(l)) > std::abs(off(*worst))) worst = &l;
    out.text += fmt::format("  {:<12} {:>12} {:>12} {:>+7.2f}%\n", kNames[s], bytes(worst->predicted[s]), bytes(static_cast<double>(worst->measured[s])),
                            100 * off(*worst));
    for (const RankLine& l : all) json["segments"][kNames[s]].push_back({{"forecast", std::llround(l.predicted[s])}, {"measured", l.measured[s]}});
  }
  int64_t predicted = 0, sent = 0, dispatched = 0, combined = 0;
  bool is_exact = true;
  for (const RankLine& l : all) {
    predicted += l.wire_predicted;
    sent += l.wire_measured;
    dispatched += l.dispatch;
    combined += l.combine;
    is_exact = is_exact && l.wire_predicted == l.wire_measured;
    json["wire"].push_back({{"forecast", l.wire_predicted}, {"measured", l.wire_measured}, {"dispatch", l.dispatch}, {"combine", l.combine}});
  }
  // A routed row crosses twice as payload (forward, and as a gradient) and once with its weight, in dispatch and in combine alike.
  const int64_t row = 2 * engine.options().model.hidden_size * static_cast<int64_t>(size_of(engine.options().storage)) +
                      static_cast<int64_t>(size_of(acc_dtype(engine.options().storage)));
  const bool are_rows_whole = dispatched % row == 0 && dispatched == combined;
  json["routed_row_bytes"] = row;
  json["wire_exact"] = is_exact && are_rows_whole;
  out.text += fmt::format("  wire of the last step: {} bytes forecast, {} measured ({}); routed rows {} + {} bytes = {} rows there and back{}\n", predicted,
                          sent, is_exact ? "equal on every rank" : "NOT equal on every rank", dispatched, combined, dispatched / row,
                          are_rows_whole ? "" : ": NOT a whole number of rows, or not all came back");
  const StepForecast step = predicted_step(c, engine, rates);
  out.text += fmt::format("  a step: {} forecast, {} measured; by phase, means over ranks:\n  {:<24} {:>12} {:>12}\n", show(step.step, Unit::kSeconds),
                          show(measured.seconds, Unit::kSeconds), "phase", "forecast", "measured");
  json["step_seconds"] = {{"forecast", step.step}, {"measured", measured.seconds}};
  for (int p = 0; p < kPhases; ++p) {
    double mean = 0;
    for (const RankLine& l : all) mean += l.phase[p] / static_cast<double>(all.size());
    out.text +=
        fmt::format("  {:<24} {:>12} {:>12}\n", kPhaseNames[p], p + 1 == kPhases ? "-" : show(step.phase[p], Unit::kSeconds), show(mean, Unit::kSeconds));
    json["phase_seconds"][kPhaseNames[p]] = {{"forecast", step.phase[p]}, {"measured", mean}};
  }
  out.text.pop_back();
  out.json = json.dump();
  return out;
}

}  // namespace atoll::plan
