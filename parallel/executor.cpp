// The executor walks a rank's list in its order. Sends are posted and completed lazily: a channel's earlier message is waited for before the next one is posted, exactly what
// the checker's simulation allows; receives block at their place. Nothing is allocated in a run.
#include "parallel/executor.h"

#include <algorithm>
#include <cstring>
#include <exception>

#include "kernels/base/error.h"
#include "parallel/stopwatch.h"

namespace atoll {

Executor::Executor(const Schedule& schedule, Communicator& pp, StageFunctions functions) : schedule_(schedule), pp_(pp), functions_(std::move(functions)) {
  ATOLL_CHECK(schedule.num_ranks == pp.size(), "schedule ", schedule.name, " is for ", schedule.num_ranks, " ranks, the pipeline has ", pp.size());
  executed_.reserve(schedule.actions[static_cast<size_t>(pp.rank())].size());
  for (auto& sending : sending_) sending.resize(static_cast<size_t>(pp.size()));
}

void Executor::run() {
  executed_.clear();
  live_ = peak_live_ = 0;
  times_ = {};
  struct GiveUp {  // an error leaves: unfinished sends are abandoned here, while unwinding, not when the executor dies later
    Executor& executor;
    ~GiveUp() {
      if (std::uncaught_exceptions() == 0) return;
      for (auto& channels : executor.sending_)
        for (Sending& sending : channels) sending = Sending{};
    }
  } const give_up{*this};
  for (const Action& action : schedule_.actions[static_cast<size_t>(pp_.rank())]) {
    run_action(action);
    executed_.push_back(action);
    release_completed();
  }
  for (const Direction direction : {kForward, kBackward})
    for (Sending& sending : sending_[direction]) finish(direction, sending);
}

void Executor::run_action(const Action& action) {
  switch (action.kind) {
    case ActionKind::kForward: return forward(action.stage, action.microbatch);
    case ActionKind::kBackward: return backward(action.stage, action.microbatch);
    case ActionKind::kWeight: return weight(action.stage, action.microbatch);
    case ActionKind::kFullBackward:
      backward(action.stage, action.microbatch);
      return weight(action.stage, action.microbatch);
    case ActionKind::kPair:
      forward(action.stage, action.microbatch);
      backward(action.pair_stage, action.pair_microbatch);
      return weight(action.pair_stage, action.pair_microbatch);
    case ActionKind::kSendForward: return send(kForward, action.stage, action.microbatch);
    case ActionKind::kRecvForward: return receive(kForward, action.stage, action.microbatch);
    case ActionKind::kSendBackward: return send(kBackward, action.stage, action.microbatch);
    case ActionKind::kRecvBackward: return receive(kBackward, action.stage, action.microbatch);
  }
}

void Executor::forward(int stage, int microbatch) {
  if (stage > 0 && rank_of(stage - 1, microbatch) == pp_.rank()) hand_over(kForward, stage - 1, stage, microbatch);
  const Stopwatch watch(times_.forward);
  functions_.forward(stage, microbatch);
  peak_live_ = std::max(peak_live_, ++live_);
}

void Executor::backward(int stage, int microbatch) {
  if (stage + 1 < schedule_.num_stages && rank_of(stage + 1, microbatch) == pp_.rank()) hand_over(kBackward, stage + 1, stage, microbatch);
  const Stopwatch watch(times_.backward_input);
  functions_.backward_input(stage, microbatch);
  --live_;
}

void Executor::weight(int stage, int microbatch) {
  const Stopwatch watch(times_.backward_weight);
  functions_.backward_weight(stage, microbatch);
}

void Executor::send(Direction direction, int stage, int microbatch) {
  const int destination = rank_of(direction == kForward ? stage + 1 : stage - 1, microbatch);
  Sending& sending = sending_[direction][static_cast<size_t>(destination)];
  finish(direction, sending);
  const StageFunctions::Span span = direction == kForward ? functions_.forward_output(stage, microbatch) : functions_.backward_input_gradient(stage, microbatch);
  sending = {pp_.isend(span.data, span.bytes, destination, direction), stage, microbatch};
}

void Executor::receive(Direction direction, int stage, int microbatch) {
  const StageFunctions::Span span = direction == kForward ? functions_.forward_input(stage, microbatch) : functions_.backward_output(stage, microbatch);
  const Stopwatch watch(times_.waiting);
  pp_.recv(span.data, span.bytes, rank_of(direction == kForward ? stage - 1 : stage + 1, microbatch), direction);
}

void Executor::hand_over(Direction direction, int from_stage, int stage, int microbatch) {
  const bool is_forward = direction == kForward;
  const StageFunctions::Span from = is_forward ? functions_.forward_output(from_stage, microbatch) : functions_.backward_input_gradient(from_stage, microbatch);
  const StageFunctions::Span to = is_forward ? functions_.forward_input(stage, microbatch) : functions_.backward_output(stage, microbatch);
  ATOLL_CHECK(from.bytes == to.bytes, "stage ", from_stage, " hands ", from.bytes, " bytes of micro-batch ", microbatch, " to stage ", stage, ", which takes ", to.bytes);
  if (from.bytes > 0) std::memcpy(to.data, from.data, static_cast<size_t>(from.bytes));
  (is_forward ? functions_.release_forward_output : functions_.release_backward_input_gradient)(from_stage, microbatch);
}

void Executor::finish(Direction direction, Sending& sending) {
  if (sending.stage < 0) return;
  {
    const Stopwatch watch(times_.waiting);
    sending.request.wait();
  }
  (direction == kForward ? functions_.release_forward_output : functions_.release_backward_input_gradient)(std::exchange(sending.stage, -1), sending.microbatch);
}

void Executor::release_completed() {
  for (const Direction direction : {kForward, kBackward})
    for (Sending& sending : sending_[direction])
      if (sending.stage >= 0 && sending.request.test()) finish(direction, sending);
}

}  // namespace atoll
