// A pipeline schedule is data: for each rank a list of actions over (stage, micro-batch). Builders write computation; communication is derived; the checker proves; the executor runs.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace atoll {

// F forward, B input gradient, W weight gradient. kPair: F and B of two micro-batches that may overlap. Recv/send name the stage that consumes or produces.
enum class ActionKind : uint8_t { kForward, kBackward, kWeight, kPair, kSendForward, kRecvForward, kSendBackward, kRecvBackward };
struct Action {
  ActionKind kind = ActionKind::kForward;
  int stage = 0, microbatch = 0;
  int pair_stage = -1, pair_microbatch = -1;  // kPair: the B half
  bool operator==(const Action&) const = default;
};
std::string to_string(const Action& action);  // "F s1 m3", "B s0 m2", "W s0 m2", "recvF s1 m3"

struct Schedule {
  std::string name;
  int num_ranks = 0, num_stages = 0, num_microbatches = 0;
  std::vector<int> rank_of_stage;
  std::vector<std::vector<Action>> actions;  // [rank]
  std::vector<int> stages_of(int rank) const;
};

Schedule gpipe(int num_ranks, int num_microbatches);
Schedule one_f_one_b(int num_ranks, int num_microbatches);                                // B then W at once
Schedule with_weights_last(const Schedule& schedule);                                    // every W moved to the end of its rank, micro-batches ascending
Schedule with_communication(const Schedule& compute_only);                               // inserts sends right after their producer, receives right before their consumer
Schedule build_schedule(const std::string& name, int num_ranks, int num_microbatches);   // "gpipe", "1f1b", "gpipe-w-last", "1f1b-w-last"; ConfigError names the known ones

// Proves: every F, B, W exactly once; dependencies; B and W of a stage in ascending micro-batch order; sends match receives per channel (source, destination, F or B), FIFO;
// completes when a receive blocks and a send blocks while one earlier message is untaken. Returns all violations, each naming rank, position and action; empty: proven.
std::vector<std::string> check(const Schedule& schedule);
// Most live activation slots of a rank: from F until B's saved inputs are released by W.
int peak_live(const Schedule& schedule, int rank);        // live until B
int peak_live_until_weight(const Schedule& schedule, int rank);

}  // namespace atoll
