// A pipeline schedule is data: for each rank a list of actions over (stage, micro-batch). Builders write computation; communication is derived; the checker proves; the executor runs.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace atoll {

// F forward, B input gradient, W weight gradient, BW both as one: a full backward, whose gradient leaves when all of it is done. kPair: F of one micro-batch and the full
// backward of another, which may overlap. Recv/send name the stage that consumes or produces.
enum class ActionKind : uint8_t { kForward, kBackward, kWeight, kFullBackward, kPair, kSendForward, kRecvForward, kSendBackward, kRecvBackward };
struct Action {
  ActionKind kind = ActionKind::kForward;
  int stage = 0, microbatch = 0;
  int pair_stage = -1, pair_microbatch = -1;  // kPair: the backward half
  bool operator==(const Action&) const = default;
};
std::string to_string(const Action& action);  // "F s1 m3", "B s0 m2", "W s0 m2", "BW s0 m2", "F s1 m3 & BW s0 m2", "recvF s1 m3"
bool is_computation(const Action& action);
struct StageMicrobatch { int stage = -1, microbatch = -1; };
// What of (stage, micro-batch) an action computes; stage -1: nothing of that kind.
StageMicrobatch forward_of(const Action& action);   // F, pair
StageMicrobatch backward_of(const Action& action);  // B, BW, pair: the input gradient
StageMicrobatch weight_of(const Action& action);    // W, BW, pair

struct Schedule {
  std::string name;
  int num_ranks = 0, num_stages = 0, num_microbatches = 0;
  std::vector<int> rank_of_stage;  // [stage]
  // DualPipe: the second half of the micro-batches runs the other way, its stage s on rank num_ranks - 1 - rank_of_stage[s]; every stage lives on both ranks.
  bool is_mirrored = false;
  bool is_forward_only = false;                  // an evaluation: no B and no W
  std::vector<int> max_live = {};                // [rank]: the most activations (F until W) the schedule promises to hold; empty: no promise
  std::vector<std::vector<Action>> actions = {};  // [rank]
  bool is_second_half(int microbatch) const { return is_mirrored && microbatch >= num_microbatches / 2; }
  int rank_of(int stage, int microbatch) const {
    const int rank = rank_of_stage[static_cast<size_t>(stage)];
    return is_second_half(microbatch) ? num_ranks - 1 - rank : rank;
  }
  std::vector<int> stages_of(int rank) const;  // ascending
};

// Builders: computation only. Each throws ConfigError where the schedule does not admit the numbers.
Schedule gpipe(int num_ranks, int num_microbatches);
Schedule one_f_one_b(int num_ranks, int num_microbatches);                   // full backwards
Schedule interleaved(int num_ranks, int num_microbatches, int num_chunks);   // 1F1B over num_chunks stages a rank: stage = chunk * num_ranks + rank
Schedule zb_h1(int num_ranks, int num_microbatches);                         // 1F1B that keeps r weight gradients queued on rank r (DeepSeek's "ZB1P")
Schedule dualpipe(int num_ranks, int num_microbatches);                      // both directions, rank r holds stages r and num_ranks - 1 - r
Schedule dualpipev(int num_ranks, int num_microbatches);                     // DualPipe cut in half: 2 * num_ranks stages in a V
Schedule with_split_backwards(const Schedule& schedule);                     // every BW becomes B, then W: the gradient leaves before W begins
Schedule with_weights_last(const Schedule& schedule);                        // split, and every W moved to the end of its rank, micro-batches ascending
Schedule with_communication(const Schedule& compute_only);                   // inserts sends right after their producer, receives right before their consumer

// "gpipe", "1f1b", "interleaved" (num_chunks >= 2), "zb-h1", "dualpipe", "dualpipev", "1f1b-split", "gpipe-w-last", "1f1b-w-last", with communication. ConfigError names the known ones.
Schedule build_schedule(const std::string& name, int num_ranks, int num_microbatches, int num_chunks = 1);
// Forward alone, with communication, on the stages of that schedule: what an evaluation runs. Any number of micro-batches; where stages are mirrored all go the first way.
Schedule forward_schedule(const Schedule& frame, int num_microbatches);
// The same as build_schedule without actions: names, sizes, places, promise. 2 * num_ranks micro-batches are admitted by every schedule.
Schedule schedule_frame(const std::string& name, int num_ranks, int num_microbatches, int num_chunks = 1);
const std::vector<std::string>& schedule_names();

// Proves: every F, B, W exactly once, on its rank; dependencies; F, B and W of a stage on a rank in ascending micro-batch order; sends match receives per channel (source,
// destination, F or B), FIFO; completes when a receive blocks and a send blocks while one earlier message is untaken; live activations stay within max_live.
// Returns all violations, each naming rank, position and action; empty: proven.
std::vector<std::string> check(const Schedule& schedule);
// F, B and pairs hold collectives (dispatch, combine) among ranks of one pipeline position. Proves that the lists of such a group's members post the same ones in the
// same order; returns each member's first difference from member 0, naming the action.
std::vector<std::string> check_collectives(const std::vector<std::vector<Action>>& lists_of_group);
// Most live activations of a rank, counted from F.
int peak_live(const Schedule& schedule, int rank);               // until B
int peak_live_until_weight(const Schedule& schedule, int rank);  // until W releases the inputs that B saved

}  // namespace atoll
