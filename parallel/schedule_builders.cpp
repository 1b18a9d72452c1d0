// Builders write computation only; with_communication derives sends and receives. Policy: B and W of a stage run in ascending micro-batch order, so that gradients add up
// in the same order under every schedule.
#include <algorithm>
#include <numeric>

#include "kernels/base/error.h"
#include "parallel/schedule.h"

namespace atoll {
namespace {
Schedule one_stage_a_rank(std::string name, int num_ranks, int num_microbatches) {
  if (num_ranks < 1 || num_microbatches < 1)
    throw ConfigError(detail::concat("schedule ", name, " needs at least 1 rank and 1 micro-batch, not ", num_ranks, " and ", num_microbatches));
  Schedule schedule{.name = std::move(name), .num_ranks = num_ranks, .num_stages = num_ranks, .num_microbatches = num_microbatches};
  schedule.rank_of_stage.resize(static_cast<size_t>(num_ranks));
  std::iota(schedule.rank_of_stage.begin(), schedule.rank_of_stage.end(), 0);
  schedule.actions.resize(static_cast<size_t>(num_ranks));
  return schedule;
}

class Writer {  // appends to one rank's list; the rank holds one stage
 public:
  Writer(Schedule& schedule, int rank) : actions_(schedule.actions[static_cast<size_t>(rank)]), stage_(rank) {}
  void forward(int microbatch) { actions_.push_back({ActionKind::kForward, stage_, microbatch}); }
  void backward(int microbatch) {
    actions_.push_back({ActionKind::kBackward, stage_, microbatch});
    actions_.push_back({ActionKind::kWeight, stage_, microbatch});
  }

 private:
  std::vector<Action>& actions_;
  int stage_;
};
}  // namespace

Schedule gpipe(int num_ranks, int num_microbatches) {
  Schedule schedule = one_stage_a_rank("gpipe", num_ranks, num_microbatches);
  for (int rank = 0; rank < num_ranks; ++rank) {
    Writer write(schedule, rank);
    for (int m = 0; m < num_microbatches; ++m) write.forward(m);
    for (int m = 0; m < num_microbatches; ++m) write.backward(m);
  }
  return schedule;
}

Schedule one_f_one_b(int num_ranks, int num_microbatches) {
  Schedule schedule = one_stage_a_rank("1f1b", num_ranks, num_microbatches);
  for (int rank = 0; rank < num_ranks; ++rank) {
    Writer write(schedule, rank);
    const int warm_up = std::min(num_ranks - 1 - rank, num_microbatches);
    for (int m = 0; m < warm_up; ++m) write.forward(m);
    for (int m = warm_up; m < num_microbatches; ++m) {
      write.forward(m);
      write.backward(m - warm_up);
    }
    for (int m = num_microbatches - warm_up; m < num_microbatches; ++m) write.backward(m);
  }
  return schedule;
}

Schedule with_weights_last(const Schedule& schedule) {
  Schedule result = schedule;
  result.name += "-w-last";
  for (auto& actions : result.actions) {
    const auto first_weight = std::stable_partition(actions.begin(), actions.end(), [](const Action& a) { return a.kind != ActionKind::kWeight; });
    std::stable_sort(first_weight, actions.end(), [](const Action& a, const Action& b) { return a.microbatch < b.microbatch; });
  }
  return result;
}

Schedule with_communication(const Schedule& compute_only) {
  Schedule result = compute_only;
  const auto& place = compute_only.rank_of_stage;
  const int last = compute_only.num_stages - 1;
  for (int rank = 0; rank < compute_only.num_ranks; ++rank) {
    auto& actions = result.actions[static_cast<size_t>(rank)];
    actions.clear();
    const auto is_elsewhere = [&](int stage) { return stage >= 0 && stage <= last && place[static_cast<size_t>(stage)] != rank; };
    const auto add_if = [&](bool needed, ActionKind kind, int stage, int microbatch) {
      if (needed) actions.push_back({kind, stage, microbatch});
    };
    for (const Action& action : compute_only.actions[static_cast<size_t>(rank)]) {
      const bool is_pair = action.kind == ActionKind::kPair;
      const bool has_forward = action.kind == ActionKind::kForward || is_pair, has_backward = action.kind == ActionKind::kBackward || is_pair;
      const int f = action.stage, b = is_pair ? action.pair_stage : action.stage, m_b = is_pair ? action.pair_microbatch : action.microbatch;
      add_if(has_forward && is_elsewhere(f - 1), ActionKind::kRecvForward, f, action.microbatch);
      add_if(has_backward && is_elsewhere(b + 1), ActionKind::kRecvBackward, b, m_b);
      actions.push_back(action);
      add_if(has_forward && is_elsewhere(f + 1), ActionKind::kSendForward, f, action.microbatch);
      add_if(has_backward && is_elsewhere(b - 1), ActionKind::kSendBackward, b, m_b);
    }
  }
  return result;
}

Schedule build_schedule(const std::string& name, int num_ranks, int num_microbatches) {
  if (name == "gpipe") return with_communication(gpipe(num_ranks, num_microbatches));
  if (name == "1f1b") return with_communication(one_f_one_b(num_ranks, num_microbatches));
  if (name == "gpipe-w-last") return with_communication(with_weights_last(gpipe(num_ranks, num_microbatches)));
  if (name == "1f1b-w-last") return with_communication(with_weights_last(one_f_one_b(num_ranks, num_microbatches)));
  throw ConfigError("unknown pipeline schedule '" + name + "'; known: gpipe, 1f1b, gpipe-w-last, 1f1b-w-last");
}

}  // namespace atoll
