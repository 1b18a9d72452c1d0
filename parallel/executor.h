// Runs one rank's part of a schedule on functions it is given; records what it ran. The order is the schedule's: readiness only decides how long one waits.
#pragma once
#include <functional>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/schedule.h"

namespace atoll {

// What the model provides. A stage's boundary tensors are owned by the model's slot; the executor moves bytes between ranks.
struct StageFunctions {
  std::function<void(int stage, int microbatch)> forward, backward_input, backward_weight;
  // Contiguous bytes of the boundary activation (or its gradient) of (stage, micro-batch); valid until the matching release. Where the neighbour stage lies
  // on the same rank, its input is filled by copy just before it runs, and the producer's buffer is released at once.
  struct Span { void* data = nullptr; int64_t bytes = 0; };
  std::function<Span(int stage, int microbatch)> forward_output, forward_input, backward_output, backward_input_gradient;
  //                 sent after F of stage    received before F   received before B (d output)     sent after B (d input)
  std::function<void(int stage, int microbatch)> release_forward_output, release_backward_input_gradient;  // called when the send is complete
};

// Where a rank's time went, in seconds: functions that were given, and waiting for messages of other ranks.
struct ExecutorTimes {
  double forward = 0, backward_input = 0, backward_weight = 0, waiting = 0;
};

class Executor {
 public:
  // pp: communicator over the pipeline's ranks. The schedule holds its sends and receives and has been checked.
  Executor(const Schedule& schedule, Communicator& pp, StageFunctions functions);
  void run();                                                     // one optimizer step's micro-batches
  const std::vector<Action>& executed() const { return executed_; }  // of the last run
  const ExecutorTimes& times() const { return times_; }           // of the last run
  int peak_live() const { return peak_live_; }                    // most (stage, micro-batch) slots between F and B in the last run

 private:
  struct Sending { Request request; int stage = -1, microbatch = 0; };  // stage -1: none
  enum Direction { kForward, kBackward };                              // also the channel of the communicator

  void run_action(const Action& action);
  void forward(int stage, int microbatch);
  void backward(int stage, int microbatch);
  void weight(int stage, int microbatch);
  void send(Direction direction, int stage, int microbatch);
  void receive(Direction direction, int stage, int microbatch);
  void hand_over(Direction direction, int from_stage, int stage, int microbatch);
  void finish(Direction direction, Sending& sending);
  void release_completed();
  int rank_of(int stage, int microbatch) const { return schedule_.rank_of(stage, microbatch); }

  const Schedule& schedule_;
  Communicator& pp_;
  StageFunctions functions_;
  std::vector<Action> executed_;
  std::vector<Sending> sending_[2];  // [direction][destination]: at most one message is outstanding on a channel, as the checker assumes
  int live_ = 0, peak_live_ = 0;
  ExecutorTimes times_;
};

}  // namespace atoll
