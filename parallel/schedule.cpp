// Schedules as data: names, stages of a rank, and how many activation slots an order keeps alive.
#include "parallel/schedule.h"

#include <algorithm>

#include "kernels/base/error.h"

namespace atoll {
namespace {
const char* name_of(ActionKind kind) {
  switch (kind) {
    case ActionKind::kForward: return "F";
    case ActionKind::kBackward: return "B";
    case ActionKind::kWeight: return "W";
    case ActionKind::kFullBackward: return "BW";
    case ActionKind::kPair: return "F&B";
    case ActionKind::kSendForward: return "sendF";
    case ActionKind::kRecvForward: return "recvF";
    case ActionKind::kSendBackward: return "sendB";
    case ActionKind::kRecvBackward: return "recvB";
  }
  return "?";
}
int peak_between(const Schedule& schedule, int rank, bool until_weight) {
  ATOLL_CHECK(rank >= 0 && rank < schedule.num_ranks, "rank ", rank, " of schedule ", schedule.name, " with ", schedule.num_ranks, " ranks");
  int live = 0, peak = 0;
  for (const Action& action : schedule.actions[static_cast<size_t>(rank)]) {
    if (forward_of(action).stage >= 0) peak = std::max(peak, ++live);
    if ((until_weight ? weight_of(action) : backward_of(action)).stage >= 0) --live;
  }
  return peak;
}
}  // namespace

std::string to_string(const Action& action) {
  if (action.kind == ActionKind::kPair)
    return detail::concat("F s", action.stage, " m", action.microbatch, " & BW s", action.pair_stage, " m", action.pair_microbatch);
  return detail::concat(name_of(action.kind), " s", action.stage, " m", action.microbatch);
}

StageMicrobatch forward_of(const Action& a) {
  return a.kind == ActionKind::kForward || a.kind == ActionKind::kPair ? StageMicrobatch{a.stage, a.microbatch} : StageMicrobatch{};
}
StageMicrobatch backward_of(const Action& a) {
  if (a.kind == ActionKind::kPair) return {a.pair_stage, a.pair_microbatch};
  return a.kind == ActionKind::kBackward || a.kind == ActionKind::kFullBackward ? StageMicrobatch{a.stage, a.microbatch} : StageMicrobatch{};
}
StageMicrobatch weight_of(const Action& a) {
  if (a.kind == ActionKind::kPair) return {a.pair_stage, a.pair_microbatch};
  return a.kind == ActionKind::kWeight || a.kind == ActionKind::kFullBackward ? StageMicrobatch{a.stage, a.microbatch} : StageMicrobatch{};
}
bool is_computation(const Action& action) { return action.kind <= ActionKind::kPair; }

std::vector<int> Schedule::stages_of(int rank) const {
  std::vector<int> stages;
  for (int s = 0; s < num_stages; ++s) {
    const int at = rank_of_stage[static_cast<size_t>(s)];
    if (at == rank || (is_mirrored && num_ranks - 1 - at == rank)) stages.push_back(s);
  }
  return stages;
}

int peak_live(const Schedule& schedule, int rank) { return peak_between(schedule, rank, false); }
int peak_live_until_weight(const Schedule& schedule, int rank) { return peak_between(schedule, rank, true); }

}  // namespace atoll
