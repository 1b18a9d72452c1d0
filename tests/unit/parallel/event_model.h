// A second model of time, for the simulator to be compared with: a queue of events in order of time. It reads computation only and derives messages from the dependencies itself;
// a link works off what is handed to it, one message after the other; a rank starts what is next on its list as soon as it is free and all inputs are there.
#pragma once
#include <deque>
#include <map>
#include <queue>
#include <set>
#include <tuple>

#include "parallel/simulator.h"

namespace atoll::test {

class EventModel {
 public:
  EventModel(const Schedule& schedule, const SimulationCosts& costs) : s_(schedule), c_(costs), lists_(schedule.actions), next_(lists_.size(), 0), is_busy_(lists_.size(), false) {
    for (auto& list : lists_) std::erase_if(list, [](const Action& a) { return !is_computation(a); });
    timeline.resize(lists_.size());
    for (size_t r = 0; r < lists_.size(); ++r) try_start(static_cast<int>(r), 0);
    while (!events_.empty()) {
      const Event e = events_.top();
      events_.pop();
      if (e.is_message) {
        arrived_.insert({e.stage, e.microbatch, e.is_forward});
        auto& link = links_[{e.from, e.rank, e.is_forward}];
        link.pop_front();
        if (!link.empty()) depart(e.from, e.rank, e.is_forward, e.time);
        try_start(e.rank, e.time);
      } else {
        finish(e.rank, e.time);
      }
    }
    for (size_t r = 0; r < lists_.size(); ++r) completed = completed && next_[r] == lists_[r].size();
  }
  std::vector<std::vector<TimedAction>> timeline;
  bool completed = true;

 private:
  struct Event {
    double time;
    int order;  // of creation: equal times in a fixed order
    bool is_message;
    int rank, from, stage, microbatch;
    bool is_forward;
    bool operator<(const Event& other) const { return std::tie(time, order) > std::tie(other.time, other.order); }
  };
  struct Need { int stage, microbatch; bool is_forward; };

  // The products an action waits for: the forward of the stage before, the backward of the stage after.
  std::vector<Need> needs(const Action& a) const {
    std::vector<Need> list;
    if (const auto f = forward_of(a); f.stage > 0) list.push_back({f.stage, f.microbatch, true});
    if (const auto b = backward_of(a); b.stage >= 0 && b.stage + 1 < s_.num_stages) list.push_back({b.stage, b.microbatch, false});
    return list;
  }
  void try_start(int rank, double now) {
    const auto r = static_cast<size_t>(rank);
    if (is_busy_[r] || next_[r] == lists_[r].size()) return;
    const Action& a = lists_[r][next_[r]];
    for (const Need& need : needs(a))
      if (!arrived_.count({need.stage, need.microbatch, need.is_forward})) return;
    is_busy_[r] = true;
    const double end = now + duration(a);
    timeline[r].push_back({a, now, end});
    events_.push({end, num_events_++, false, rank, -1, 0, 0, false});
  }
  double duration(const Action& a) const {
    const auto s = static_cast<size_t>(a.stage);
    if (a.kind == ActionKind::kForward) return c_.forward[s];
    if (a.kind == ActionKind::kBackward) return c_.backward[s];
    if (a.kind == ActionKind::kWeight) return c_.weight[s];
    if (a.kind == ActionKind::kFullBackward) return c_.backward[s] + c_.weight[s];
    const auto b = static_cast<size_t>(a.pair_stage);
    return c_.pair.empty() ? c_.forward[s] + c_.backward[b] + c_.weight[b] : c_.pair[s][b];
  }
  void finish(int rank, double now) {
    const auto r = static_cast<size_t>(rank);
    const Action& a = lists_[r][next_[r]++];
    is_busy_[r] = false;
    if (const auto f = forward_of(a); f.stage >= 0 && f.stage + 1 < s_.num_stages) deliver(rank, f.stage + 1, f.microbatch, true, now);
    if (const auto b = backward_of(a); b.stage > 0) deliver(rank, b.stage - 1, b.microbatch, false, now);
    try_start(rank, now);
  }
  void deliver(int from, int stage, int microbatch, bool is_forward, double now) {
    const int to = s_.rank_of(stage, microbatch);
    if (to == from) {
      arrived_.insert({stage, microbatch, is_forward});
      return;
    }
    auto& link = links_[{from, to, is_forward}];
    link.push_back({stage, microbatch, is_forward});
    if (link.size() == 1) depart(from, to, is_forward, now);
  }
  void depart(int from, int to, bool is_forward, double now) {
    const Need& message = links_[{from, to, is_forward}].front();
    const double time = c_.send.empty() ? 0 : c_.send[static_cast<size_t>(from)][static_cast<size_t>(to)];
    events_.push({now + time, num_events_++, true, to, from, message.stage, message.microbatch, is_forward});
  }

  const Schedule& s_;
  const SimulationCosts& c_;
  std::vector<std::vector<Action>> lists_;
  std::vector<size_t> next_;
  std::vector<bool> is_busy_;
  std::set<std::tuple<int, int, bool>> arrived_;
  std::map<std::tuple<int, int, bool>, std::deque<Need>> links_;
  std::priority_queue<Event> events_;
  int num_events_ = 0;
};

}  // namespace atoll::test
