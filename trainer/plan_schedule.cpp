// See plan_schedule.h; the picture is schedule_picture.cpp.
#include "trainer/plan_schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "kernels/base/error.h"
#include "trainer/config_values.h"
#include "trainer/schedule_file.h"

namespace atoll {
namespace {
using Json = nlohmann::ordered_json;
const char* const kKeys = "stages, microbatches, vpp, f, b, w, pair, comm, activation";

struct Request {
  std::optional<int64_t> stages, microbatches, vpp, activation;
  std::optional<double> f, b, w, pair, comm;
};
Request parse_request(const std::vector<std::string>& assignments) {
  Request r;
  std::string problems;
  const auto complain = [&](const std::string& what) { problems += (problems.empty() ? "" : "\n  ") + what; };
  const std::map<std::string, std::optional<int64_t>*> wholes{{"stages", &r.stages}, {"microbatches", &r.microbatches}, {"vpp", &r.vpp}};
  const std::map<std::string, std::optional<double>*> reals{{"f", &r.f}, {"b", &r.b}, {"w", &r.w}, {"pair", &r.pair}, {"comm", &r.comm}};
  for (const std::string& assignment : assignments) {
    const size_t equals = assignment.find('=');
    const std::string key = assignment.substr(0, equals);
    YamlNode value{.kind = YamlNode::Kind::kScalar, .text = equals == std::string::npos ? "" : assignment.substr(equals + 1)};
    std::string problem;
    bool is_again = false;
    if (equals == std::string::npos) {
      complain(assignment + ": an assignment is key=value; known keys: " + kKeys);
    } else if (const auto whole = wholes.find(key); whole != wholes.end()) {
      is_again = whole->second->has_value();
      problem = parse_whole(value, whole->second->emplace());
      if (problem.empty() && (**whole->second < 1 || **whole->second > 65536)) problem = "must lie in 1..65536";
    } else if (const auto real = reals.find(key); real != reals.end()) {
      is_again = real->second->has_value();
      problem = parse_real(value, real->second->emplace());
      if (problem.empty() && (**real->second < 0 || **real->second > 1e12)) problem = "must lie in 0..1e12";
    } else if (key == "activation") {
      is_again = r.activation.has_value();
      problem = parse_bytes(value, r.activation.emplace());
      if (problem.empty() && *r.activation < 0) problem = "must not be negative";
    } else {
      complain(assignment + ": no such key; known: " + kKeys);
    }
    if (is_again) complain(assignment + ": given twice");
    if (!problem.empty()) complain(assignment + ": " + problem);
  }
  if (!problems.empty()) throw ConfigError(problems);
  return r;
}

Schedule schedule_of(const std::string& name, const Request& r) {
  if (is_schedule_file(name)) {
    if (r.stages || r.microbatches || r.vpp) throw ConfigError(name + ": a file holds its own numbers; leave out stages, microbatches and vpp");
    return read_schedule_file(name);
  }
  const auto vpp = static_cast<int>(r.vpp.value_or(name == "interleaved" ? 2 : 1));  // the least that it takes
  const int per_rank = schedule_frame(name, 2, 4, vpp).num_stages / 2;  // an unknown name ends here
  if (!r.stages || !r.microbatches) throw ConfigError(detail::concat("schedule ", name, " needs ", r.stages ? "" : "stages=N ", r.microbatches ? "" : "microbatches=N"));
  if (*r.stages % per_rank != 0) throw ConfigError(detail::concat("stages = ", *r.stages, ": schedule ", name, " holds ", per_rank, " stages a rank, so their number must be a multiple of ", per_rank));
  if (*r.stages > kMaxScheduleStages || *r.stages * *r.microbatches > kMaxSchedulePairs) throw ConfigError(kScheduleBound);
  return build_schedule(name, static_cast<int>(*r.stages) / per_rank, static_cast<int>(*r.microbatches), vpp);
}

double largest(const std::vector<double>& v) { return *std::max_element(v.begin(), v.end()); }
std::string stages_text(const Schedule& s, int rank) {
  std::string out;
  for (const int stage : s.stages_of(rank)) out += (out.empty() ? "" : " ") + std::to_string(stage);
  return out;
}
struct Counts { int forward = 0, full = 0, input = 0, weight = 0, pair = 0; };
Counts counts_of(const std::vector<TimedAction>& timeline) {
  Counts c;
  for (const TimedAction& t : timeline) switch (t.action.kind) {
      case ActionKind::kForward: ++c.forward; break;
      case ActionKind::kFullBackward: ++c.full; break;
      case ActionKind::kBackward: ++c.input; break;
      case ActionKind::kWeight: ++c.weight; break;
      default: ++c.pair;
    }
  return c;
}
const char* kind_name(ActionKind kind) {
  switch (kind) {
    case ActionKind::kForward: return "F";
    case ActionKind::kBackward: return "B";
    case ActionKind::kWeight: return "W";
    case ActionKind::kFullBackward: return "BW";
    default: return "F&BW";
  }
}
}  // namespace

SchedulePlan plan_schedule(const std::string& name, const std::vector<std::string>& assignments) {
  const Request r = parse_request(assignments);
  SchedulePlan plan{.schedule = schedule_of(name, r), .costs = {}, .simulation = {}};
  plan.forward = r.f.value_or(1);
  plan.full_backward = r.b.value_or(2 * plan.forward);
  plan.weight = r.w.value_or(plan.full_backward / 2);
  plan.pair = r.pair.value_or(-1);
  plan.message = r.comm.value_or(0);
  if (plan.weight > plan.full_backward)
    throw ConfigError(detail::concat("w = ", plan.weight, " is larger than b = ", plan.full_backward, ": b is the full backward, w (its weight gradients) a part of it"));
  if (const std::vector<std::string> violations = check(plan.schedule); !violations.empty()) {
    std::string all = "schedule " + plan.schedule.name + " is not sound:";
    for (size_t i = 0; i < violations.size() && i < 10; ++i) all += "\n  " + violations[i];
    if (violations.size() > 10) all += "\n  and " + std::to_string(violations.size() - 10) + " more";
    throw ConfigError(all);
  }
  const auto stages = static_cast<size_t>(plan.schedule.num_stages), ranks = static_cast<size_t>(plan.schedule.num_ranks);
  plan.costs = {.forward = std::vector<double>(stages, plan.forward),
                .backward = std::vector<double>(stages, plan.full_backward - plan.weight),
                .weight = std::vector<double>(stages, plan.weight),
                .pair = {},
                .send = {},
                .activation_bytes = {}};
  if (plan.pair >= 0) plan.costs.pair.assign(stages, std::vector<double>(stages, plan.pair));
  if (plan.message > 0) plan.costs.send.assign(ranks, std::vector<double>(ranks, plan.message));
  if (r.activation) plan.costs.activation_bytes.assign(stages, static_cast<double>(*r.activation));
  plan.simulation = simulate(plan.schedule, plan.costs);
  return plan;
}

std::string schedule_text(const SchedulePlan& plan) {
  const Schedule& s = plan.schedule;
  const Simulation& sim = plan.simulation;
  double mean = 0;
  for (const double bubble : sim.bubble) mean += bubble / static_cast<double>(sim.bubble.size());
  const auto percent = [&](double bubble) { return sim.step_time > 0 ? 100 * bubble / sim.step_time : 0; };
  std::string out = fmt::format("{}: {} ranks, {} stages, {} micro-batches{}\n", s.name, s.num_ranks, s.num_stages, s.num_microbatches,
                                s.is_mirrored ? ", half of them from each end (every stage lives on two ranks)" : "");
  out += fmt::format("proven: every F, B, W once, in order; messages match and cannot deadlock{}\n",
                     s.max_live.empty() ? "" : fmt::format("; at most {} live activations promised and kept", *std::max_element(s.max_live.begin(), s.max_live.end())));
  out += fmt::format("a stage: F {:g}, full backward {:g} of which W {:g}, pair {}, message {:g}\n", plan.forward, plan.full_backward, plan.weight,
                     plan.pair >= 0 ? fmt::format("{:g}", plan.pair) : fmt::format("{:g} (one after the other)", plan.forward + plan.full_backward), plan.message);
  out += fmt::format("step {:g}, largest bubble {:g} ({:.1f} %), mean {:g} ({:.1f} %)\n\n", sim.step_time, largest(sim.bubble), percent(largest(sim.bubble)), mean, percent(mean));
  const bool has_bytes = !plan.costs.activation_bytes.empty();
  out += fmt::format("{:>4}  {:<14}{:>6}{:>6}{:>6}{:>6}{:>6}{:>11}{:>10}  {:>18}{:>10}\n", "rank", "stages", "F", "BW", "B", "W", "pair", "busy", "bubble",
                     has_bytes ? "peak activation" : "peak live (F to W)", "at");
  for (int rank = 0; rank < s.num_ranks; ++rank) {
    const auto r = static_cast<size_t>(rank);
    const Counts c = counts_of(sim.timeline[r]);
    out += fmt::format("{:>4}  {:<14}{:>6}{:>6}{:>6}{:>6}{:>6}{:>11.6g}{:>10.6g}  {:>18}{:>10.6g}\n", rank, stages_text(s, rank), c.forward, c.full, c.input, c.weight, c.pair, sim.busy[r],
                       sim.bubble[r], has_bytes ? fmt::format("{:.4g} GB", sim.peak_activation[r] / 1e9) : fmt::format("{:g}", sim.peak_activation[r]), sim.peak_time[r]);
  }
  return out;
}

std::string schedule_json(const SchedulePlan& plan) {
  const Schedule& s = plan.schedule;
  const Simulation& sim = plan.simulation;
  Json root{{"name", s.name},
            {"num_ranks", s.num_ranks},
            {"num_stages", s.num_stages},
            {"num_microbatches", s.num_microbatches},
            {"is_mirrored", s.is_mirrored},
            {"costs", {{"f", plan.forward}, {"b", plan.full_backward}, {"w", plan.weight}, {"pair", plan.pair >= 0 ? Json(plan.pair) : Json(nullptr)}, {"comm", plan.message}}},
            {"step_time", sim.step_time},
            {"largest_bubble", largest(sim.bubble)},
            {"ranks", Json::array()}};
  for (int rank = 0; rank < s.num_ranks; ++rank) {
    const auto r = static_cast<size_t>(rank);
    const Counts c = counts_of(sim.timeline[r]);
    Json actions = Json::array();
    for (const TimedAction& t : sim.timeline[r]) {
      Json a{{"kind", kind_name(t.action.kind)}, {"stage", t.action.stage}, {"microbatch", t.action.microbatch}};
      if (t.action.kind == ActionKind::kPair) {
        a["pair_stage"] = t.action.pair_stage;
        a["pair_microbatch"] = t.action.pair_microbatch;
      }
      a["begin"] = t.begin;
      a["end"] = t.end;
      actions.push_back(std::move(a));
    }
    root["ranks"].push_back({{"rank", rank},
                             {"stages", s.stages_of(rank)},
                             {"counts", {{"F", c.forward}, {"BW", c.full}, {"B", c.input}, {"W", c.weight}, {"F&BW", c.pair}}},
                             {"busy", sim.busy[r]},
                             {"bubble", sim.bubble[r]},
                             {"peak_activation", sim.peak_activation[r]},
                             {"peak_time", sim.peak_time[r]},
                             {"actions", std::move(actions)}});
  }
  return root.dump() + "\n";
}

// Written as text at once: a tree of millions of events would take ten times their memory.
std::string schedule_trace(const Schedule& s, const Simulation& sim) {
  constexpr size_t kMaxEvents = 4'000'000;  // 0.8 GB: what Perfetto opens
  size_t num_events = 0;
  for (const auto& timeline : sim.timeline) num_events += timeline.size();
  if (num_events > kMaxEvents)
    throw ConfigError(fmt::format("a trace of {} actions would be too large to open: at most 4 million; give fewer micro-batches (the steady phase repeats) or fewer stages", num_events));
  std::string out = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n" + Json{{"name", "process_name"}, {"ph", "M"}, {"pid", 0}, {"args", {{"name", "pipeline " + s.name}}}}.dump();
  const auto put = [&]<class... T>(fmt::format_string<T...> format, T&&... values) { fmt::format_to(std::back_inserter(out), format, std::forward<T>(values)...); };
  for (int rank = 0; rank < s.num_ranks; ++rank) {
    put(",\n{{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":0,\"tid\":{},\"args\":{{\"name\":\"rank {} (stages {})\"}}}}", rank, rank, stages_text(s, rank));
    put(",\n{{\"name\":\"thread_sort_index\",\"ph\":\"M\",\"pid\":0,\"tid\":{},\"args\":{{\"sort_index\":{}}}}}", rank, rank);
    for (const TimedAction& t : sim.timeline[static_cast<size_t>(rank)])
      put(",\n{{\"name\":\"{}\",\"cat\":\"{}\",\"ph\":\"X\",\"pid\":0,\"tid\":{},\"ts\":{},\"dur\":{},\"args\":{{\"stage\":{},\"microbatch\":{}}}}}", to_string(t.action),
          kind_name(t.action.kind), rank, t.begin * 1000, (t.end - t.begin) * 1000, t.action.stage, t.action.microbatch);
  }
  return out + "\n]}\n";
}

}  // namespace atoll
