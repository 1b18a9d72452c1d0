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
    case ActionKind::kPair: return "F&B";
    case ActionKind::kSendForward: return "sendF";
    case ActionKind::kRecvForward: return "recvF";
    case ActionKind::kSendBackward: return "sendB";
    case ActionKind::kRecvBackward: return "recvB";
  }
  return "?";
}
int peak_between(const Schedule& schedule, int rank, ActionKind end) {
  ATOLL_CHECK(rank >= 0 && rank < schedule.num_ranks, "rank ", rank, " of schedule ", schedule.name, " with ", schedule.num_ranks, " ranks");
  int live = 0, peak = 0;
  for (const Action& action : schedule.actions[static_cast<size_t>(rank)]) {
    const bool is_pair = action.kind == ActionKind::kPair;
    if (action.kind == ActionKind::kForward || is_pair) peak = std::max(peak, ++live);
    if (action.kind == end || (is_pair && end == ActionKind::kBackward)) --live;
  }
  return peak;
}
}  // namespace

std::string to_string(const Action& action) {
  if (action.kind == ActionKind::kPair)
    return detail::concat("F s", action.stage, " m", action.microbatch, " & B s", action.pair_stage, " m", action.pair_microbatch);
  return detail::concat(name_of(action.kind), " s", action.stage, " m", action.microbatch);
}

std::vector<int> Schedule::stages_of(int rank) const {
  std::vector<int> stages;
  for (int s = 0; s < num_stages; ++s)
    if (rank_of_stage[static_cast<size_t>(s)] == rank) stages.push_back(s);
  return stages;
}

int peak_live(const Schedule& schedule, int rank) { return peak_between(schedule, rank, ActionKind::kBackward); }
int peak_live_until_weight(const Schedule& schedule, int rank) { return peak_between(schedule, rank, ActionKind::kWeight); }

}  // namespace atoll
