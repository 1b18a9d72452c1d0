// Whether a schedule is sound, decided by another algorithm than the checker's: no process is simulated; completion is the absence of a cycle in a graph of all actions, in which
// the capacity of a channel is an edge from a message's receipt to the send after the next. One answer, no reasons.
#pragma once
#include <deque>
#include <map>
#include <set>
#include <tuple>

#include "parallel/schedule.h"

namespace atoll::test {

class Oracle {
 public:
  explicit Oracle(const Schedule& schedule) : s_(schedule) {}
  bool is_sound() { return is_complete() && is_ordered() && stays_within_bound() && completes(); }

 private:
  enum Token { kF, kB, kW, kSendF, kRecvF, kSendB, kRecvB };
  using Key = std::tuple<int, int, int>;  // token, stage, micro-batch
  static std::vector<Key> tokens_of(const Action& a) {
    switch (a.kind) {
      case ActionKind::kForward: return {{kF, a.stage, a.microbatch}};
      case ActionKind::kBackward: return {{kB, a.stage, a.microbatch}};
      case ActionKind::kWeight: return {{kW, a.stage, a.microbatch}};
      case ActionKind::kFullBackward: return {{kB, a.stage, a.microbatch}, {kW, a.stage, a.microbatch}};
      case ActionKind::kPair: return {{kF, a.stage, a.microbatch}, {kB, a.pair_stage, a.pair_microbatch}, {kW, a.pair_stage, a.pair_microbatch}};
      case ActionKind::kSendForward: return {{kSendF, a.stage, a.microbatch}};
      case ActionKind::kRecvForward: return {{kRecvF, a.stage, a.microbatch}};
      case ActionKind::kSendBackward: return {{kSendB, a.stage, a.microbatch}};
      case ActionKind::kRecvBackward: return {{kRecvB, a.stage, a.microbatch}};
    }
    return {};
  }
  int place(int stage, int m) const {
    const int rank = s_.rank_of_stage[static_cast<size_t>(stage)];
    return s_.is_mirrored && 2 * m >= s_.num_microbatches ? s_.num_ranks - 1 - rank : rank;
  }

  // Exactly the expected tokens on every rank.
  bool is_complete() {
    std::vector<std::set<Key>> expected(static_cast<size_t>(s_.num_ranks));
    for (int stage = 0; stage < s_.num_stages; ++stage)
      for (int m = 0; m < s_.num_microbatches; ++m) {
        const int here = place(stage, m);
        auto& mine = expected[static_cast<size_t>(here)];
        for (Token t : {kF, kB, kW}) mine.insert({t, stage, m});
        if (stage > 0 && place(stage - 1, m) != here) mine.insert({{kRecvF, stage, m}, {kSendB, stage, m}});
        if (stage + 1 < s_.num_stages && place(stage + 1, m) != here) mine.insert({{kRecvB, stage, m}, {kSendF, stage, m}});
      }
    for (int rank = 0; rank < s_.num_ranks; ++rank) {
      auto& left = expected[static_cast<size_t>(rank)];
      const auto& actions = s_.actions[static_cast<size_t>(rank)];
      for (int at = 0; at < static_cast<int>(actions.size()); ++at)
        for (const Key& key : tokens_of(actions[static_cast<size_t>(at)])) {
          if (left.erase(key) == 0) return false;
          at_[key] = at;
        }
      if (!left.empty()) return false;
    }
    return true;
  }
  bool is_before(const Key& first, const Key& then) const {  // or does not apply
    const auto a = at_.find(first), b = at_.find(then);
    return a == at_.end() || b == at_.end() || a->second < b->second;
  }
  bool is_ordered() const {
    for (int s = 0; s < s_.num_stages; ++s)
      for (int m = 0; m < s_.num_microbatches; ++m) {
        if (!is_before({kF, s, m}, {kB, s, m}) || at_.at({kB, s, m}) > at_.at({kW, s, m})) return false;
        if (!is_before({kRecvF, s, m}, {kF, s, m}) || !is_before({kRecvB, s, m}, {kB, s, m})) return false;
        if (!is_before({kF, s, m}, {kSendF, s, m}) || !is_before({kB, s, m}, {kSendB, s, m})) return false;
        if (s > 0 && place(s - 1, m) == place(s, m) && (!is_before({kF, s - 1, m}, {kF, s, m}) || !is_before({kB, s, m}, {kB, s - 1, m}))) return false;
        if (m > 0 && place(s, m - 1) == place(s, m))
          for (Token t : {kF, kB, kW})
            if (!is_before({t, s, m - 1}, {t, s, m})) return false;
      }
    return true;
  }
  bool stays_within_bound() const {
    for (size_t rank = 0; rank < s_.max_live.size(); ++rank) {
      std::set<std::pair<int, int>> live;
      for (const Action& action : s_.actions[rank]) {
        for (const auto& [token, s, m] : tokens_of(action))
          if (token == kF) live.insert({s, m});
        if (static_cast<int>(live.size()) > s_.max_live[rank]) return false;
        for (const auto& [token, s, m] : tokens_of(action))
          if (token == kW) live.erase({s, m});
      }
    }
    return true;
  }

  // Kahn's algorithm over all actions of all ranks.
  bool completes() const {
    std::vector<int> first(1, 0);
    for (const auto& actions : s_.actions) first.push_back(first.back() + static_cast<int>(actions.size()));
    std::vector<std::vector<int>> next(static_cast<size_t>(first.back()));
    std::vector<int> num_before(next.size(), 0);
    const auto edge = [&](int a, int b) {
      next[static_cast<size_t>(a)].push_back(b);
      ++num_before[static_cast<size_t>(b)];
    };
    std::map<std::tuple<int, int, bool>, std::vector<std::pair<int, int>>> sends, receives;  // channel -> (node, stage * n + micro-batch)
    for (int rank = 0; rank < s_.num_ranks; ++rank) {
      const auto& actions = s_.actions[static_cast<size_t>(rank)];
      for (int i = 0; i < static_cast<int>(actions.size()); ++i) {
        const int node = first[static_cast<size_t>(rank)] + i;
        if (i > 0) edge(node - 1, node);
        const Action& a = actions[static_cast<size_t>(i)];
        const int n = s_.num_microbatches, m = a.microbatch;
        switch (a.kind) {
          case ActionKind::kSendForward: sends[{rank, place(a.stage + 1, m), true}].push_back({node, (a.stage + 1) * n + m}); break;
          case ActionKind::kSendBackward: sends[{rank, place(a.stage - 1, m), false}].push_back({node, (a.stage - 1) * n + m}); break;
          case ActionKind::kRecvForward: receives[{place(a.stage - 1, m), rank, true}].push_back({node, a.stage * n + m}); break;
          case ActionKind::kRecvBackward: receives[{place(a.stage + 1, m), rank, false}].push_back({node, a.stage * n + m}); break;
          default: break;
        }
      }
    }
    for (const auto& [channel, sent] : sends) {
      const auto& taken = receives[channel];
      for (size_t i = 0; i < sent.size(); ++i) {
        if (sent[i].second != taken[i].second) return false;  // not first in, first out
        edge(sent[i].first, taken[i].first);
        if (i + 1 < sent.size()) edge(taken[i].first, sent[i + 1].first);
      }
    }
    std::deque<int> free;
    for (size_t i = 0; i < next.size(); ++i)
      if (num_before[i] == 0) free.push_back(static_cast<int>(i));
    size_t done = 0;
    for (; !free.empty(); ++done) {
      const int node = free.front();
      free.pop_front();
      for (int then : next[static_cast<size_t>(node)])
        if (--num_before[static_cast<size_t>(then)] == 0) free.push_back(then);
    }
    return done == next.size();
  }

  const Schedule& s_;
  std::map<Key, int> at_;
};

}  // namespace atoll::test
