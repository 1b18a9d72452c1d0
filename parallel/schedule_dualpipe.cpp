// DualPipe and DualPipeV: the eight published steps. Policy: a rank serves two directions; each counts its own micro-batches, forward and backward; deferred weight gradients
// wait in one FIFO queue, so that W of a stage stays in ascending order.
#include <algorithm>
#include <array>
#include <deque>

#include "parallel/schedule.h"

namespace atoll {
namespace {
// One rank's list. Direction 0 enters at this rank's own end of the pipeline, direction 1 at the other.
class TwoWayWriter {
 public:
  struct Direction { int stage, next_forward, next_backward; };  // the next micro-batch of each
  TwoWayWriter(std::vector<Action>& actions, Direction zero, Direction one) : actions_(actions), ways_{zero, one} {}
  void forward(int way) { actions_.push_back({ActionKind::kForward, ways_[way].stage, ways_[way].next_forward++}); }
  void backward(int way) { actions_.push_back({ActionKind::kFullBackward, ways_[way].stage, ways_[way].next_backward++}); }
  void backward_split(int way) {
    const int stage = ways_[way].stage, m = ways_[way].next_backward++;
    actions_.push_back({ActionKind::kBackward, stage, m});
    deferred_.push_back({ActionKind::kWeight, stage, m});
  }
  void weight() {
    actions_.push_back(deferred_.front());
    deferred_.pop_front();
  }
  void pair(int forward_way, int backward_way) {
    Direction &f = ways_[forward_way], &b = ways_[backward_way];
    actions_.push_back({ActionKind::kPair, f.stage, f.next_forward++, b.stage, b.next_backward++});
  }

 private:
  std::vector<Action>& actions_;
  std::array<Direction, 2> ways_;
  std::deque<Action> deferred_;
};

// The steps of a rank that lies `depth` ranks away from its end of a half of `half` ranks; `rounds` is step 4's count.
void write_eight_steps(TwoWayWriter& write, int half, int depth, int rounds) {
  const int before_middle = half - depth - 1;
  for (int i = 0; i < 2 * before_middle; ++i) write.forward(0);  // 1
  for (int i = 0; i <= depth; ++i) {                             // 2
    write.forward(0);
    write.forward(1);
  }
  for (int i = 0; i < before_middle; ++i) {  // 3
    write.backward_split(1);
    write.weight();
    write.forward(1);
  }
  for (int i = 0; i < rounds; ++i) {  // 4
    if (i == 0 && before_middle == 0) {  // no pair: the middle starts its forward at once instead of waiting for the gradient
      write.forward(0);
      write.backward(1);
    } else {
      write.pair(0, 1);
    }
    write.pair(1, 0);
  }
  for (int i = 0; i < before_middle; ++i) {  // 5
    write.backward(1);
    write.pair(1, 0);
  }
  const int num_backwards = 2 * (depth + 1);  // 6: of these, the second half leaves its weight gradients for the steps that wait
  for (int i = 0; i < num_backwards; ++i) i < num_backwards / 2 ? write.backward(1 - i % 2) : write.backward_split(1 - i % 2);
  for (int i = 0; i < before_middle; ++i) {  // 7
    write.weight();
    write.backward_split(0);
  }
  for (int i = 0; i <= depth; ++i) write.weight();  // 8
}
}  // namespace

Schedule dualpipe(int num_ranks, int num_microbatches) {
  Schedule schedule = schedule_frame("dualpipe", num_ranks, num_microbatches);
  const int half = num_microbatches / 2;
  for (int rank = 0; rank < num_ranks; ++rank) {
    const int mirror = num_ranks - 1 - rank, depth = std::min(rank, mirror);
    TwoWayWriter::Direction down{rank, 0, 0}, up{mirror, half, half};  // the second half enters at the last rank
    if (rank > mirror) std::swap(down, up);
    TwoWayWriter write(schedule.actions[static_cast<size_t>(rank)], down, up);
    write_eight_steps(write, num_ranks / 2, depth, half - num_ranks + depth + 1);
  }
  return schedule;
}

Schedule dualpipev(int num_ranks, int num_microbatches) {
  Schedule schedule = schedule_frame("dualpipev", num_ranks, num_microbatches);
  for (int rank = 0; rank < num_ranks; ++rank) {
    TwoWayWriter write(schedule.actions[static_cast<size_t>(rank)], {rank, 0, 0}, {2 * num_ranks - 1 - rank, 0, 0});
    write_eight_steps(write, num_ranks, rank, num_microbatches - 2 * num_ranks + rank + 1);
  }
  return schedule;
}

}  // namespace atoll
