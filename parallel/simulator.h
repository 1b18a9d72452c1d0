// Times a schedule: from what F, B, W, pairs and messages cost to every rank's timeline, bubble and peak of live activations. Policy: computation of a rank follows its list;
// a message leaves where its send stands, takes its link's time beside the computation, and never stalls its sender: capacity is the checker's subject, time is this one's.
#pragma once
#include <vector>

#include "parallel/schedule.h"

namespace atoll {

struct SimulationCosts {                            // in seconds, or any one unit
  std::vector<double> forward, backward, weight;    // [stage]; backward: the input gradient alone. A full backward takes backward + weight
  std::vector<std::vector<double>> pair;            // [forward stage][backward stage]: an overlapped F & full B (its W included); empty: the sum, one after the other
  std::vector<std::vector<double>> send;            // [source rank][destination rank]: one boundary message's time on its link; overlaps computation, messages of a channel follow one another; empty: 0
  std::vector<double> activation_bytes;             // [stage]: held by a live micro-batch, from F's begin to W's end; empty: 1 each (peak = number of live ones)
};
struct TimedAction {
  Action action;
  double begin = 0, end = 0;
};
struct Simulation {
  double step_time = 0;                             // from the first action's begin to the last one's end, over all ranks
  std::vector<std::vector<TimedAction>> timeline;   // [rank], computation only, in order
  std::vector<double> busy, bubble;                 // [rank]: bubble = step_time - busy
  std::vector<double> peak_activation, peak_time;   // [rank]: bytes (or counts), when it is first reached
};
// The schedule may be a builder's (computation only: messages are derived) or one that holds its sends and receives.
// ConfigError: costs of the wrong size, negative or not finite; a schedule that cannot complete.
Simulation simulate(const Schedule& schedule, const SimulationCosts& costs);

}  // namespace atoll
