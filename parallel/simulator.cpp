// The simulator: one pass over all lists, each rank as far as its messages allow. Times are exact longest paths: a rank's clock moves to the end of what it computes or, at a
// receive, to the message's arrival.
#include "parallel/simulator.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/error.h"

namespace atoll {
namespace {
void require_row(const std::vector<double>& row, int size, const char* name) {
  if (std::ssize(row) != size) throw ConfigError(detail::concat("simulation costs: ", name, " has ", row.size(), " entries, the schedule needs ", size));
  for (size_t i = 0; i < row.size(); ++i)
    if (!std::isfinite(row[i]) || row[i] < 0) throw ConfigError(detail::concat("simulation costs: ", name, "[", i, "] = ", row[i], " must be a finite number that is not negative"));
}
void require_square(const std::vector<std::vector<double>>& rows, int size, const char* name) {
  if (rows.empty()) return;
  if (std::ssize(rows) != size) throw ConfigError(detail::concat("simulation costs: ", name, " has ", rows.size(), " rows, the schedule needs ", size));
  for (const auto& row : rows) require_row(row, size, name);
}

class Simulator {
 public:
  Simulator(const Schedule& schedule, const SimulationCosts& costs) : schedule_(schedule), costs_(costs), channels_(static_cast<size_t>(2 * schedule.num_ranks * schedule.num_ranks)) {
    require_row(costs.forward, schedule.num_stages, "forward");
    require_row(costs.backward, schedule.num_stages, "backward");
    require_row(costs.weight, schedule.num_stages, "weight");
    require_square(costs.pair, schedule.num_stages, "pair");
    require_square(costs.send, schedule.num_ranks, "send");
    if (!costs.activation_bytes.empty()) require_row(costs.activation_bytes, schedule.num_stages, "activation_bytes");
  }

  Simulation run() {
    const auto num_ranks = static_cast<size_t>(schedule_.num_ranks);
    result_.timeline.resize(num_ranks);
    for (auto* per_rank : {&result_.busy, &result_.bubble, &result_.peak_activation, &result_.peak_time}) per_rank->assign(num_ranks, 0);
    clock_.assign(num_ranks, 0);
    live_.assign(num_ranks, 0);
    next_.assign(num_ranks, 0);
    ran_.assign(static_cast<size_t>(schedule_.num_stages) * schedule_.num_microbatches, 0);
    for (size_t r = 0; r < num_ranks; ++r) ready_.push_back(static_cast<int>(r));
    while (!ready_.empty()) {
      const int rank = ready_.back();
      ready_.pop_back();
      const auto& actions = schedule_.actions[static_cast<size_t>(rank)];
      for (size_t& at = next_[static_cast<size_t>(rank)]; at < actions.size() && take(rank, actions[at]); ++at) {}
    }
    for (size_t r = 0; r < num_ranks; ++r)
      if (next_[r] < schedule_.actions[r].size())
        throw ConfigError(detail::concat("schedule ", schedule_.name, " cannot complete: rank ", r, " position ", next_[r], " (", to_string(schedule_.actions[r][next_[r]]), ") waits for ever"));
    summarize();
    return std::move(result_);
  }

 private:
  struct Message { int stage, microbatch; double arrival; };
  struct Channel {
    std::vector<Message> sent;
    size_t num_taken = 0;
    double free_at = 0;  // when its last message has left
  };
  enum Part : uint8_t { kDidF = 1, kDidB = 2, kGotF = 4, kGotB = 8 };

  Channel& channel(int source, int destination, bool is_forward) { return channels_[static_cast<size_t>((source * schedule_.num_ranks + destination) * 2 + is_forward)]; }
  uint8_t& ran(int stage, int microbatch) { return ran_[static_cast<size_t>(stage) * schedule_.num_microbatches + microbatch]; }
  [[noreturn]] void fail(int rank, const Action& action, const std::string& why) const {
    throw ConfigError(detail::concat("schedule ", schedule_.name, " cannot complete: rank ", rank, " position ", next_[static_cast<size_t>(rank)], " (", to_string(action), ") ", why));
  }

  bool take(int rank, const Action& action) {  // false: it must wait
    switch (action.kind) {
      case ActionKind::kSendForward: return send(rank, action, action.stage + 1, true);
      case ActionKind::kSendBackward: return send(rank, action, action.stage - 1, false);
      case ActionKind::kRecvForward: return receive(rank, action, action.stage - 1, true);
      case ActionKind::kRecvBackward: return receive(rank, action, action.stage + 1, false);
      default: return compute(rank, action);
    }
  }
  int peer_of(int rank, const Action& action, int stage) const {
    if (stage < 0 || stage >= schedule_.num_stages || action.microbatch < 0 || action.microbatch >= schedule_.num_microbatches) fail(rank, action, "has no peer");
    return schedule_.rank_of(stage, action.microbatch);
  }
  bool send(int rank, const Action& action, int to_stage, bool is_forward) {
    const int peer = peer_of(rank, action, to_stage);
    if (!(ran(action.stage, action.microbatch) & (is_forward ? kDidF : kDidB))) fail(rank, action, is_forward ? "runs before its F" : "runs before its B");
    Channel& link = channel(rank, peer, is_forward);
    const double time = costs_.send.empty() ? 0 : costs_.send[static_cast<size_t>(rank)][static_cast<size_t>(peer)];
    link.free_at = std::max(clock_[static_cast<size_t>(rank)], link.free_at) + time;
    link.sent.push_back({to_stage, action.microbatch, link.free_at});
    if (peer != rank) ready_.push_back(peer);
    return true;
  }
  bool receive(int rank, const Action& action, int from_stage, bool is_forward) {
    Channel& link = channel(peer_of(rank, action, from_stage), rank, is_forward);
    if (link.num_taken == link.sent.size()) return false;
    const Message& message = link.sent[link.num_taken++];
    if (message.stage != action.stage || message.microbatch != action.microbatch)
      fail(rank, action, detail::concat("would take the message for stage ", message.stage, " micro-batch ", message.microbatch));
    ran(action.stage, action.microbatch) |= is_forward ? kGotF : kGotB;
    double& clock = clock_[static_cast<size_t>(rank)];
    clock = std::max(clock, message.arrival);
    return true;
  }

  bool compute(int rank, const Action& action) {
    const auto require_place = [&](int stage, int m) {
      if (stage < 0 || stage >= schedule_.num_stages || m < 0 || m >= schedule_.num_microbatches || schedule_.rank_of(stage, m) != rank) fail(rank, action, "does not lie on this rank");
    };
    require_place(action.stage, action.microbatch);
    const size_t s = static_cast<size_t>(action.stage);
    double time = 0;
    switch (action.kind) {
      case ActionKind::kForward: time = costs_.forward[s]; break;
      case ActionKind::kBackward: time = costs_.backward[s]; break;
      case ActionKind::kWeight: time = costs_.weight[s]; break;
      case ActionKind::kFullBackward: time = costs_.backward[s] + costs_.weight[s]; break;
      default: {
        require_place(action.pair_stage, action.pair_microbatch);
        const auto b = static_cast<size_t>(action.pair_stage);
        time = costs_.pair.empty() ? costs_.forward[s] + costs_.backward[b] + costs_.weight[b] : costs_.pair[s][b];
      }
    }
    if (const auto f = forward_of(action); f.stage >= 0) begin_forward(rank, action, f.stage, f.microbatch);
    if (const auto b = backward_of(action); b.stage >= 0) begin_backward(rank, action, b.stage, b.microbatch);
    if (action.kind == ActionKind::kWeight && !(ran(action.stage, action.microbatch) & kDidB)) fail(rank, action, "runs before its B");
    double& clock = clock_[static_cast<size_t>(rank)];
    result_.timeline[static_cast<size_t>(rank)].push_back({action, clock, clock + time});
    clock += time;
    result_.busy[static_cast<size_t>(rank)] += time;
    if (const auto w = weight_of(action); w.stage >= 0) live_[static_cast<size_t>(rank)] -= bytes(w.stage);
    return true;
  }
  double bytes(int stage) const { return costs_.activation_bytes.empty() ? 1 : costs_.activation_bytes[static_cast<size_t>(stage)]; }
  void begin_forward(int rank, const Action& action, int stage, int m) {
    if (stage > 0 && !(schedule_.rank_of(stage - 1, m) == rank ? ran(stage - 1, m) & kDidF : ran(stage, m) & kGotF)) fail(rank, action, "runs before its input is there");
    ran(stage, m) |= kDidF;
    const auto r = static_cast<size_t>(rank);
    live_[r] += bytes(stage);
    if (live_[r] > result_.peak_activation[r]) {
      result_.peak_activation[r] = live_[r];
      result_.peak_time[r] = clock_[r];
    }
  }
  void begin_backward(int rank, const Action& action, int stage, int m) {
    if (!(ran(stage, m) & kDidF)) fail(rank, action, "runs before its F");
    if (stage + 1 < schedule_.num_stages && !(schedule_.rank_of(stage + 1, m) == rank ? ran(stage + 1, m) & kDidB : ran(stage, m) & kGotB))
      fail(rank, action, "runs before its gradient is there");
    ran(stage, m) |= kDidB;
  }

  void summarize() {
    double begin = 0, end = 0;
    bool is_first = true;
    for (const auto& timeline : result_.timeline) {
      if (timeline.empty()) continue;
      begin = is_first ? timeline.front().begin : std::min(begin, timeline.front().begin);
      end = std::max(end, timeline.back().end);
      is_first = false;
    }
    result_.step_time = end - begin;
    for (size_t r = 0; r < result_.busy.size(); ++r) result_.bubble[r] = result_.step_time - result_.busy[r];
  }

  const Schedule& schedule_;
  const SimulationCosts& costs_;
  Simulation result_;
  std::vector<Channel> channels_;
  std::vector<double> clock_, live_;
  std::vector<size_t> next_;
  std::vector<int> ready_;
  std::vector<uint8_t> ran_;
};

bool holds_messages(const Schedule& schedule) {
  for (const auto& actions : schedule.actions)
    for (const Action& action : actions)
      if (!is_computation(action)) return true;
  return false;
}
}  // namespace

Simulation simulate(const Schedule& schedule, const SimulationCosts& costs) {
  if (holds_messages(schedule)) return Simulator(schedule, costs).run();
  const Schedule with = with_communication(schedule);
  return Simulator(with, costs).run();
}

}  // namespace atoll
