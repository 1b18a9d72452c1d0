// Builders of the one-directional schedules, and what every schedule shares: its frame and the derived sends and receives. Policy: F, B and W of a stage run in ascending
// micro-batch order, so that gradients add up in the same order under every schedule.
#include <algorithm>
#include <functional>

#include "kernels/base/error.h"
#include "parallel/schedule.h"

namespace atoll {
namespace {
// What a name stands for: how many stages a rank holds, where they lie, which numbers it admits, how much it keeps alive.
struct Form {
  std::string name;
  bool takes_chunks = false;  // the number of stages a rank is the user's
  int stages_per_rank = 1;
  bool is_v = false, is_mirrored = false;
  std::function<std::string(int P, int n)> objection = [](int, int) { return ""; };
  std::function<int(int P, int n, int v, int r)> max_live;
  std::function<Schedule(int P, int n, int v)> build;
};

std::string dualpipe_objection(int P, int n) {
  if (P % 2 != 0) return detail::concat("needs an even number of ranks (rank r and its mirror image hold the same stages), not ", P);
  if (n % 2 != 0) return detail::concat("needs an even number of micro-batches (half enter at each end), not ", n);
  if (n < 2 * P) return detail::concat("needs at least 2 micro-batches a rank, ", 2 * P, " for ", P, " ranks, not ", n);
  return "";
}
std::string dualpipev_objection(int P, int n) { return n < 2 * P ? detail::concat("needs at least 2 micro-batches a rank, ", 2 * P, " for ", P, " ranks, not ", n) : ""; }
std::string interleaved_objection(int P, int n) {
  if (n % P == 0) return "";
  const std::string below = n > P ? detail::concat(n / P * P, " or ") : "";
  return detail::concat("needs micro-batches in whole groups of ", P, " (one a rank), not ", n, "; nearest: ", below, (n / P + 1) * P);
}

const std::vector<Form>& forms() {
  static const std::vector<Form> kForms = {
      {.name = "gpipe", .max_live = [](int, int n, int, int) { return n; }, .build = [](int P, int n, int) { return gpipe(P, n); }},
      {.name = "1f1b", .max_live = [](int P, int n, int, int r) { return std::min(P - r, n); }, .build = [](int P, int n, int) { return one_f_one_b(P, n); }},
      {.name = "interleaved", .takes_chunks = true, .objection = interleaved_objection, .max_live = [](int P, int n, int v, int r) { return std::min(n * v, 2 * (P - r - 1) + (v - 1) * P + 1); },
       .build = interleaved},
      {.name = "zb-h1", .max_live = [](int P, int n, int, int) { return std::min(P, n); }, .build = [](int P, int n, int) { return zb_h1(P, n); }},
      {.name = "dualpipe", .is_mirrored = true, .objection = dualpipe_objection, .max_live = [](int P, int, int, int) { return P + 1; }, .build = [](int P, int n, int) { return dualpipe(P, n); }},
      {.name = "dualpipev", .stages_per_rank = 2, .is_v = true, .objection = dualpipev_objection, .max_live = [](int P, int, int, int) { return 2 * P + 1; },
       .build = [](int P, int n, int) { return dualpipev(P, n); }},
      {.name = "1f1b-split", .max_live = [](int P, int n, int, int r) { return std::min(P - r, n); }, .build = [](int P, int n, int) { return with_split_backwards(one_f_one_b(P, n)); }},
      {.name = "gpipe-w-last", .max_live = [](int, int n, int, int) { return n; }, .build = [](int P, int n, int) { return with_weights_last(gpipe(P, n)); }},
      {.name = "1f1b-w-last", .max_live = [](int, int n, int, int) { return n; }, .build = [](int P, int n, int) { return with_weights_last(one_f_one_b(P, n)); }},
  };
  return kForms;
}
const Form& form_of(const std::string& name) {
  std::string known;
  for (const Form& form : forms()) {
    if (form.name == name || (name == "zb1p" && form.name == "zb-h1")) return form;  // DeepSeek's name of it
    known += (known.empty() ? "" : ", ") + form.name;
  }
  throw ConfigError("unknown pipeline schedule '" + name + "'; known: " + known);
}

class Writer {  // appends to one rank's list
 public:
  Writer(Schedule& schedule, int rank) : actions_(schedule.actions[static_cast<size_t>(rank)]) {}
  void forward(int stage, int microbatch) { actions_.push_back({ActionKind::kForward, stage, microbatch}); }
  void backward_input(int stage, int microbatch) { actions_.push_back({ActionKind::kBackward, stage, microbatch}); }
  void weight(int stage, int microbatch) { actions_.push_back({ActionKind::kWeight, stage, microbatch}); }
  void backward(int stage, int microbatch) { actions_.push_back({ActionKind::kFullBackward, stage, microbatch}); }

 private:
  std::vector<Action>& actions_;
};
}  // namespace

const std::vector<std::string>& schedule_names() {
  static const std::vector<std::string> kNames = [] {
    std::vector<std::string> names;
    for (const Form& form : forms()) names.push_back(form.name);
    return names;
  }();
  return kNames;
}

Schedule schedule_frame(const std::string& name, int num_ranks, int num_microbatches, int num_chunks) {
  const Form& form = form_of(name);
  if (num_ranks < 1 || num_microbatches < 1)
    throw ConfigError(detail::concat("schedule ", name, " needs at least 1 rank and 1 micro-batch, not ", num_ranks, " and ", num_microbatches));
  if (form.takes_chunks && num_chunks < 2) throw ConfigError(detail::concat("schedule ", name, " needs at least 2 stages a rank (vpp), not ", num_chunks, "; with 1 it would be 1f1b"));
  if (!form.takes_chunks && num_chunks != 1)
    throw ConfigError(detail::concat("schedule ", name, " fixes the stages a rank holds itself: vpp must be 1 (unset), not ", num_chunks, "; interleaved takes any"));
  if (const std::string objection = form.objection(num_ranks, num_microbatches); !objection.empty()) throw ConfigError(detail::concat("schedule ", name, " ", objection));
  const int per_rank = form.takes_chunks ? num_chunks : form.stages_per_rank;
  Schedule schedule{.name = name, .num_ranks = num_ranks, .num_stages = num_ranks * per_rank, .num_microbatches = num_microbatches, .rank_of_stage = {}, .is_mirrored = form.is_mirrored};
  for (int s = 0; s < schedule.num_stages; ++s) schedule.rank_of_stage.push_back(form.is_v && s >= num_ranks ? 2 * num_ranks - 1 - s : s % num_ranks);
  for (int r = 0; r < num_ranks; ++r) schedule.max_live.push_back(form.max_live(num_ranks, num_microbatches, num_chunks, r));
  schedule.actions.resize(static_cast<size_t>(num_ranks));
  return schedule;
}

Schedule gpipe(int num_ranks, int num_microbatches) {
  Schedule schedule = schedule_frame("gpipe", num_ranks, num_microbatches);
  for (int rank = 0; rank < num_ranks; ++rank) {
    Writer write(schedule, rank);
    for (int m = 0; m < num_microbatches; ++m) write.forward(rank, m);
    for (int m = 0; m < num_microbatches; ++m) write.backward(rank, m);
  }
  return schedule;
}

Schedule one_f_one_b(int num_ranks, int num_microbatches) {
  Schedule schedule = schedule_frame("1f1b", num_ranks, num_microbatches);
  for (int rank = 0; rank < num_ranks; ++rank) {
    Writer write(schedule, rank);
    const int warm_up = std::min(num_ranks - 1 - rank, num_microbatches);
    for (int m = 0; m < warm_up; ++m) write.forward(rank, m);
    for (int m = warm_up; m < num_microbatches; ++m) {
      write.forward(rank, m);
      write.backward(rank, m - warm_up);
    }
    for (int m = num_microbatches - warm_up; m < num_microbatches; ++m) write.backward(rank, m);
  }
  return schedule;
}

// Micro-batches go in groups of num_ranks; a group passes all chunks (backward: from the last one) before the next group starts.
Schedule interleaved(int num_ranks, int num_microbatches, int num_chunks) {
  Schedule schedule = schedule_frame("interleaved", num_ranks, num_microbatches, num_chunks);
  const int total = num_microbatches * num_chunks, group = num_ranks * num_chunks;
  const auto microbatch = [&](int k) { return k / group * num_ranks + k % num_ranks; };
  for (int rank = 0; rank < num_ranks; ++rank) {
    Writer write(schedule, rank);
    const auto forward = [&](int k) { write.forward(k / num_ranks % num_chunks * num_ranks + rank, microbatch(k)); };
    const auto backward = [&](int k) { write.backward((num_chunks - 1 - k / num_ranks % num_chunks) * num_ranks + rank, microbatch(k)); };
    const int warm_up = std::min(total, 2 * (num_ranks - 1 - rank) + (num_chunks - 1) * num_ranks);
    for (int k = 0; k < warm_up; ++k) forward(k);
    for (int k = warm_up; k < total; ++k) {
      forward(k);
      backward(k - warm_up);
    }
    for (int k = total - warm_up; k < total; ++k) backward(k);
  }
  return schedule;
}

Schedule zb_h1(int num_ranks, int num_microbatches) {
  Schedule schedule = schedule_frame("zb-h1", num_ranks, num_microbatches);
  for (int rank = 0; rank < num_ranks; ++rank) {
    Writer write(schedule, rank);
    int next_weight = 0;
    const auto backward = [&](int m) {
      write.backward_input(rank, m);
      if (m - next_weight >= rank) write.weight(rank, next_weight++);
    };
    const int warm_up = std::min(num_ranks - 1 - rank, num_microbatches);
    for (int m = 0; m < warm_up; ++m) write.forward(rank, m);
    for (int m = warm_up; m < num_microbatches; ++m) {
      write.forward(rank, m);
      backward(m - warm_up);
    }
    for (int m = num_microbatches - warm_up; m < num_microbatches; ++m) backward(m);
    while (next_weight < num_microbatches) write.weight(rank, next_weight++);
  }
  return schedule;
}

Schedule with_split_backwards(const Schedule& schedule) {
  Schedule result = schedule;
  result.name += "-split";
  for (size_t rank = 0; rank < schedule.actions.size(); ++rank) {
    auto& actions = result.actions[rank];
    actions.clear();
    for (Action action : schedule.actions[rank]) {
      const bool is_full = action.kind == ActionKind::kFullBackward;
      if (is_full) action.kind = ActionKind::kBackward;
      actions.push_back(action);
      if (is_full) actions.push_back({ActionKind::kWeight, action.stage, action.microbatch});
    }
  }
  return result;
}

Schedule with_weights_last(const Schedule& schedule) {
  Schedule result = with_split_backwards(schedule);
  result.name = schedule.name + "-w-last";
  result.max_live.assign(static_cast<size_t>(schedule.num_ranks), schedule.num_microbatches);
  for (auto& actions : result.actions) {
    const auto first_weight = std::stable_partition(actions.begin(), actions.end(), [](const Action& a) { return a.kind != ActionKind::kWeight; });
    std::stable_sort(first_weight, actions.end(), [](const Action& a, const Action& b) { return a.microbatch < b.microbatch; });
  }
  return result;
}

Schedule with_communication(const Schedule& compute_only) {
  Schedule result = compute_only;
  const int last = compute_only.num_stages - 1;
  for (int rank = 0; rank < compute_only.num_ranks; ++rank) {
    auto& actions = result.actions[static_cast<size_t>(rank)];
    actions.clear();
    const auto add_if_elsewhere = [&](int other_stage, ActionKind kind, int stage, int microbatch) {
      if (other_stage >= 0 && other_stage <= last && compute_only.rank_of(other_stage, microbatch) != rank) actions.push_back({kind, stage, microbatch});
    };
    for (const Action& action : compute_only.actions[static_cast<size_t>(rank)]) {
      const StageMicrobatch f = forward_of(action), b = backward_of(action);
      if (f.stage >= 0) add_if_elsewhere(f.stage - 1, ActionKind::kRecvForward, f.stage, f.microbatch);
      if (b.stage >= 0) add_if_elsewhere(b.stage + 1, ActionKind::kRecvBackward, b.stage, b.microbatch);
      actions.push_back(action);
      if (f.stage >= 0) add_if_elsewhere(f.stage + 1, ActionKind::kSendForward, f.stage, f.microbatch);
      if (b.stage >= 0) add_if_elsewhere(b.stage - 1, ActionKind::kSendBackward, b.stage, b.microbatch);
    }
  }
  return result;
}

Schedule build_schedule(const std::string& name, int num_ranks, int num_microbatches, int num_chunks) {
  schedule_frame(name, num_ranks, num_microbatches, num_chunks);  // the numbers are admitted, chunks included
  return with_communication(form_of(name).build(num_ranks, num_microbatches, num_chunks));
}

Schedule forward_schedule(const Schedule& frame, int num_microbatches) {
  if (num_microbatches < 1) throw ConfigError(detail::concat("an evaluation needs at least 1 micro-batch, not ", num_microbatches));
  Schedule schedule = frame;
  schedule.name += "-forward";
  schedule.num_microbatches = num_microbatches;
  schedule.is_mirrored = false;
  schedule.is_forward_only = true;
  schedule.max_live.clear();
  // Groups of micro-batches pass one stage after the other. A group of one completes wherever stages lie; one of as many as there are ranks keeps all of them busy.
  for (const int group : {frame.num_ranks, 1}) {
    schedule.actions.assign(static_cast<size_t>(frame.num_ranks), {});
    for (int begin = 0; begin < num_microbatches; begin += group)
      for (int s = 0; s < schedule.num_stages; ++s) {
        auto& actions = schedule.actions[static_cast<size_t>(schedule.rank_of_stage[static_cast<size_t>(s)])];
        for (int m = begin; m < std::min(begin + group, num_microbatches); ++m) actions.push_back({ActionKind::kForward, s, m});
      }
    schedule = with_communication(schedule);
    if (check(schedule).empty()) break;
  }
  return schedule;
}

}  // namespace atoll
