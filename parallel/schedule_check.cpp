// The schedule checker. Two proofs: a local one (each rank's list: complete, in dependency order, on the right rank) and a global one (channels match message by message,
// and an event simulation in which receives block and a send blocks behind one untaken message runs to the end). Together they are what the executor relies on.
#include <algorithm>
#include <array>
#include <map>

#include "kernels/base/error.h"
#include "parallel/schedule.h"

namespace atoll {
namespace {
constexpr int kNever = -1;
enum Event { kF, kB, kW, kSendF, kRecvF, kSendB, kRecvB, kNumEvents };
constexpr std::array<const char*, kNumEvents> kEventNames{"F", "B", "W", "sendF", "recvF", "sendB", "recvB"};

struct Channel {
  int source, destination;
  bool is_forward;
  auto operator<=>(const Channel&) const = default;
};
struct Message {
  int stage, microbatch, rank, position;  // stage: the consumer
};

class Checker {
 public:
  explicit Checker(const Schedule& schedule) : schedule_(schedule) {}
  std::vector<std::string> run() {
    if (!check_frame()) return violations_;
    at_.assign(static_cast<size_t>(schedule_.num_stages) * schedule_.num_microbatches, {});
    for (auto& events : at_) events.fill(kNever);
    for (int rank = 0; rank < schedule_.num_ranks; ++rank) read_rank(rank);
    for (int s = 0; s < schedule_.num_stages; ++s)
      for (int m = 0; m < schedule_.num_microbatches; ++m) check_one(s, m);
    for (int s = 0; s < schedule_.num_stages; ++s)
      for (Event event : {kF, kB, kW}) check_ascending(s, event);
    for (int rank = 0; rank < std::ssize(schedule_.max_live); ++rank) check_live(rank);
    check_channels();
    simulate();
    return violations_;
  }

 private:
  template <class... T>
  void report(const T&... parts) { violations_.push_back(detail::concat(parts...)); }
  std::string place(int rank, int position) const {
    return detail::concat("rank ", rank, " position ", position, " (", to_string(schedule_.actions[static_cast<size_t>(rank)][static_cast<size_t>(position)]), ")");
  }
  int last_stage() const { return schedule_.num_stages - 1; }
  std::array<int, kNumEvents>& at(int stage, int microbatch) { return at_[static_cast<size_t>(stage) * schedule_.num_microbatches + microbatch]; }

  bool check_frame() {
    const Schedule& s = schedule_;
    if (s.num_ranks < 1 || s.num_stages < 1 || s.num_microbatches < 1 || std::ssize(s.rank_of_stage) != s.num_stages || std::ssize(s.actions) != s.num_ranks) {
      report("schedule ", s.name, ": ", s.num_ranks, " ranks, ", s.num_stages, " stages, ", s.num_microbatches, " micro-batches with ", s.actions.size(), " lists and ", s.rank_of_stage.size(), " stage places");
      return false;
    }
    for (int stage = 0; stage < s.num_stages; ++stage)
      if (const int rank = s.rank_of_stage[static_cast<size_t>(stage)]; rank < 0 || rank >= s.num_ranks) report("stage ", stage, " lies on rank ", rank, " of ", s.num_ranks);
    if (!s.max_live.empty() && std::ssize(s.max_live) != s.num_ranks) report("schedule ", s.name, ": ", s.max_live.size(), " bounds of live activations for ", s.num_ranks, " ranks");
    for (int stage = 0; s.is_mirrored && stage < s.num_stages; ++stage)
      if (const int rank = s.rank_of_stage[static_cast<size_t>(stage)]; 2 * rank == s.num_ranks - 1) report("stage ", stage, " lies on rank ", rank, " of ", s.num_ranks, ", which is its own mirror image");
    if (s.is_mirrored && s.num_microbatches % 2 != 0) report("schedule ", s.name, ": ", s.num_microbatches, " micro-batches have no halves that flow in two directions");
    return violations_.empty();
  }

  // Records when each event happens; a duplicate, a foreign stage or a needless message is reported here.
  void read_rank(int rank) {
    const auto& actions = schedule_.actions[static_cast<size_t>(rank)];
    for (int position = 0; position < std::ssize(actions); ++position) {
      const Action& action = actions[static_cast<size_t>(position)];
      switch (action.kind) {
        case ActionKind::kForward: record(kF, rank, position, action.stage, action.microbatch); break;
        case ActionKind::kBackward: record(kB, rank, position, action.stage, action.microbatch); break;
        case ActionKind::kWeight: record(kW, rank, position, action.stage, action.microbatch); break;
        case ActionKind::kFullBackward:
          record(kB, rank, position, action.stage, action.microbatch) && record(kW, rank, position, action.stage, action.microbatch);
          break;
        case ActionKind::kPair:
          record(kF, rank, position, action.stage, action.microbatch);
          record(kB, rank, position, action.pair_stage, action.pair_microbatch) && record(kW, rank, position, action.pair_stage, action.pair_microbatch);
          if (action.stage == action.pair_stage && action.microbatch == action.pair_microbatch) report(place(rank, position), ": a pair of F and B of one micro-batch cannot overlap");
          break;
        case ActionKind::kSendForward: message(kSendF, rank, position, action, action.stage + 1); break;
        case ActionKind::kRecvForward: message(kRecvF, rank, position, action, action.stage - 1); break;
        case ActionKind::kSendBackward: message(kSendB, rank, position, action, action.stage - 1); break;
        case ActionKind::kRecvBackward: message(kRecvB, rank, position, action, action.stage + 1); break;
      }
    }
  }
  bool record(Event event, int rank, int position, int stage, int microbatch) {
    if (stage < 0 || stage > last_stage() || microbatch < 0 || microbatch >= schedule_.num_microbatches) {
      report(place(rank, position), ": no such stage or micro-batch (", schedule_.num_stages, " stages, ", schedule_.num_microbatches, " micro-batches)");
      return false;
    }
    if (const int home = schedule_.rank_of(stage, microbatch); home != rank) {
      report(place(rank, position), ": stage ", stage, " lies on rank ", home, schedule_.is_mirrored ? detail::concat(" for micro-batch ", microbatch) : "");
      return false;
    }
    int& first = at(stage, microbatch)[event];
    if (first != kNever) report(place(rank, position), ": duplicate, already at position ", first);
    else first = position;
    return true;
  }
  void message(Event event, int rank, int position, const Action& action, int peer_stage) {
    if (!record(event, rank, position, action.stage, action.microbatch)) return;
    if (peer_stage < 0 || peer_stage > last_stage()) return report(place(rank, position), ": stage ", peer_stage, " does not exist");
    const int peer = schedule_.rank_of(peer_stage, action.microbatch);
    if (peer == rank) return report(place(rank, position), ": stage ", peer_stage, " lies on the same rank; it is handed over without a message");
    const bool sends = event == kSendF || event == kSendB;
    const Channel channel{sends ? rank : peer, sends ? peer : rank, event == kSendF || event == kRecvF};
    (sends ? sent_ : received_)[channel].push_back({sends ? peer_stage : action.stage, action.microbatch, rank, position});
  }

  void check_one(int s, int m) {
    const int rank = schedule_.rank_of(s, m);
    const auto& events = at(s, m);
    const auto needed = [&](Event event) {
      if (events[event] == kNever) report("rank ", rank, ": ", kEventNames[event], " s", s, " m", m, " is missing");
    };
    const auto ordered = [&](Event first, Event then) {
      if (events[first] != kNever && events[then] != kNever && (first == kF ? events[first] >= events[then] : events[first] > events[then]))  // one position: the B and W of a full backward
        report(place(rank, events[then]), ": runs before ", kEventNames[first], " s", s, " m", m, " at position ", events[first]);
    };
    const auto absent = [&](Event event) {
      if (events[event] != kNever) report(place(rank, events[event]), ": nothing but F belongs in a forward schedule");
    };
    needed(kF);
    for (Event event : {kB, kW}) schedule_.is_forward_only ? absent(event) : needed(event);
    ordered(kF, kB);
    ordered(kB, kW);
    if (s > 0) {
      incoming(s, m, s - 1, kRecvF, kF, needed, ordered);
      if (!schedule_.is_forward_only) outgoing(s, m, s - 1, kSendB, kB, needed, ordered);
    }
    if (s < last_stage()) {
      outgoing(s, m, s + 1, kSendF, kF, needed, ordered);
      if (!schedule_.is_forward_only) incoming(s, m, s + 1, kRecvB, kB, needed, ordered);
    }
  }
  // What comes from `other` is received before its consumer; where it lies on the same rank it must simply have run before.
  template <class Needed, class Ordered>
  void incoming(int s, int m, int other, Event received, Event consumer, const Needed& needed, const Ordered& ordered) {
    const int rank = schedule_.rank_of(s, m);
    if (schedule_.rank_of(other, m) == rank) {
      const int produced = at(other, m)[consumer], consumed = at(s, m)[consumer];
      if (produced != kNever && consumed != kNever && produced >= consumed)
        report(place(rank, consumed), ": runs before ", kEventNames[consumer], " s", other, " m", m, " at position ", produced);
      return;
    }
    needed(received);
    ordered(received, consumer);
  }
  template <class Needed, class Ordered>
  void outgoing(int s, int m, int other, Event sent, Event producer, const Needed& needed, const Ordered& ordered) {
    if (schedule_.rank_of(other, m) == schedule_.rank_of(s, m)) return;
    needed(sent);
    ordered(producer, sent);
  }

  void check_ascending(int s, Event event) {
    int previous = kNever, previous_m = 0;
    for (int m = 0; m < schedule_.num_microbatches; ++m) {
      const int position = at(s, m)[event];
      if (schedule_.is_mirrored && m == schedule_.num_microbatches / 2) previous = kNever;  // the other half runs on another rank
      if (position == kNever) continue;
      if (position < previous)
        report(place(schedule_.rank_of(s, m), position), ": out of order, ", kEventNames[event], " s", s, " m", previous_m, " comes later, at position ", previous);
      previous = position;
      previous_m = m;
    }
  }

  void check_live(int rank) {
    const int bound = schedule_.max_live[static_cast<size_t>(rank)];
    const auto& actions = schedule_.actions[static_cast<size_t>(rank)];
    int live = 0;
    for (int position = 0; position < std::ssize(actions); ++position) {
      const Action& action = actions[static_cast<size_t>(position)];
      if (forward_of(action).stage >= 0 && ++live > bound)
        return report(place(rank, position), ": ", live, " live activations (F until W), the schedule promises at most ", bound);
      if (weight_of(action).stage >= 0) --live;
    }
  }

  void check_channels() {
    for (const auto& [channel, sent] : sent_) received_[channel];
    for (const auto& [channel, received] : received_) {
      const auto& sent = sent_[channel];
      const std::string name = detail::concat("channel ", channel.source, " -> ", channel.destination, channel.is_forward ? " F" : " B");
      const size_t n = std::min(sent.size(), received.size());
      for (size_t i = 0; i < n; ++i)
        if (sent[i].stage != received[i].stage || sent[i].microbatch != received[i].microbatch) {
          report(name, ", message ", i, ": sent by ", place(sent[i].rank, sent[i].position), " but taken by ", place(received[i].rank, received[i].position));
          break;  // what follows is shifted
        }
      if (sent.size() > n) report(name, ": ", place(sent[n].rank, sent[n].position), " and ", sent.size() - n - 1, " more are never received");
      if (received.size() > n) report(name, ": ", place(received[n].rank, received[n].position), " and ", received.size() - n - 1, " more are never sent");
    }
  }

  // Each rank runs until it blocks; a rank is tried again when a channel of its peer changes. No progress before the end of every list: deadlock.
  void simulate() {
    std::map<Channel, int> in_flight;
    std::vector<size_t> next(schedule_.actions.size(), 0);
    std::vector<int> ready(schedule_.actions.size());
    for (size_t rank = 0; rank < ready.size(); ++rank) ready[rank] = static_cast<int>(rank);
    while (!ready.empty()) {
      const int rank = ready.back();
      ready.pop_back();
      const auto& actions = schedule_.actions[static_cast<size_t>(rank)];
      for (size_t& at = next[static_cast<size_t>(rank)]; at < actions.size(); ++at) {
        const auto [peer, is_forward, sends] = peer_of(actions[at]);
        if (peer < 0 || peer == rank) continue;  // computation, or a message reported above
        int& count = in_flight[sends ? Channel{rank, peer, is_forward} : Channel{peer, rank, is_forward}];
        if (sends ? count > 0 : count == 0) break;
        count += sends ? 1 : -1;
        ready.push_back(peer);
      }
    }
    for (size_t rank = 0; rank < next.size(); ++rank) {
      if (next[rank] == schedule_.actions[rank].size()) continue;
      const Peer peer = peer_of(schedule_.actions[rank][next[rank]]);
      report(place(static_cast<int>(rank), static_cast<int>(next[rank])), ": blocked for ever (deadlock), ",
             detail::concat(peer.sends ? "the message before it is not taken by rank " : "nothing comes from rank ", peer.rank));
    }
  }
  struct Peer { int rank; bool is_forward, sends; };
  Peer peer_of(const Action& action) const {
    const int m = action.microbatch;
    const auto rank_or_none = [&](int stage) { return stage >= 0 && stage <= last_stage() && m >= 0 && m < schedule_.num_microbatches ? schedule_.rank_of(stage, m) : -1; };
    switch (action.kind) {
      case ActionKind::kSendForward: return {rank_or_none(action.stage + 1), true, true};
      case ActionKind::kRecvForward: return {rank_or_none(action.stage - 1), true, false};
      case ActionKind::kSendBackward: return {rank_or_none(action.stage - 1), false, true};
      case ActionKind::kRecvBackward: return {rank_or_none(action.stage + 1), false, false};
      default: return {-1, false, false};
    }
  }

  const Schedule& schedule_;
  std::vector<std::string> violations_;
  std::vector<std::array<int, kNumEvents>> at_;  // [stage, micro-batch]: position on its rank
  std::map<Channel, std::vector<Message>> sent_, received_;
};
}  // namespace

std::vector<std::string> check(const Schedule& schedule) { return Checker(schedule).run(); }

std::vector<std::string> check_collectives(const std::vector<std::vector<Action>>& lists_of_group) {
  std::vector<std::string> violations;
  const auto skip_others = [](const std::vector<Action>& list, size_t& at) {
    while (at < list.size() && (!is_computation(list[at]) || list[at].kind == ActionKind::kWeight)) ++at;
  };
  for (size_t member = 1; member < lists_of_group.size(); ++member) {
    const auto &first = lists_of_group[0], &list = lists_of_group[member];
    for (size_t a = 0, b = 0;; ++a, ++b) {
      skip_others(first, a);
      skip_others(list, b);
      if (a >= first.size() && b >= list.size()) break;
      if (a < first.size() && b < list.size() && first[a] == list[b]) continue;
      const auto named = [](const std::vector<Action>& l, size_t at) { return at < l.size() ? detail::concat(to_string(l[at]), " at position ", at) : std::string("nothing more"); };
      violations.push_back(detail::concat("collectives of a group in different order: member ", member, " posts ", named(list, b), ", member 0 ", named(first, a)));
      break;
    }
  }
  return violations;
}

}  // namespace atoll
