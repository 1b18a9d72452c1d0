// Bytes that training holds, from shapes: what a stage keeps of a micro-batch between F, B and W, and what it needs on the way. One model for the trainer's own
// segments and for plans of machines that cache in FP8 or recompute. Policy: it replays the takes and frees of model/{stage,block,mla,moe,mlp,mtp}.cpp by name,
// in their order; with the options of the trainer (no caches, no recomputation) it says to the byte what the segments hold (a test runs both).
#pragma once
#include <string>
#include <vector>

#include "kernels/base/dtype.h"
#include "model/parameters.h"
#include "model/work.h"

namespace atoll {

struct MemoryShape {
  int64_t tokens = 0, sequences = 1;        // of a micro-batch on this rank
  double rows_sent = 0, rows_received = 0;  // routed rows of a layer that leave and that arrive
  std::vector<int64_t> rows_of_layer = {};  // [block] rows that arrive, where layers differ (MTP's as they are); empty: rows_received
  bool is_alone = true;                     // the EP group is one rank: rows are not exchanged
  bool has_balance_loss = true;
  DType storage = DType::kBF16;
  bool is_fp8_cache = false;  // operands of weight gradients and SwiGLU inputs in one byte with scales of 128 elements, attention output in 12 bits, dispatched
                              // rows in one byte
  Recompute recompute;
  int64_t kv_heads = 0;
  int tp = 1;
};

// The two segments that hold activations.
struct Held {
  double activations = 0, routed = 0;
};
struct ActionMemory {
  Held net, peak;  // change, and most above the beginning
};
// Of one micro-batch on a stage. A boundary tensor arrives with a receive and leaves with a send: message.
struct StageMemory {
  ActionMemory forward, backward, weight;
  ActionMemory full_backward;                        // B and W of one layer after the other, as GPU trainers do; Atoll's executor runs B of the stage, then W
  double message = 0;                                // activations of one boundary tensor
  std::vector<std::pair<std::string, double>> kept;  // after F, by tensor, for the explanation
};
StageMemory stage_memory(const ModelConfig& config, Range layers, bool is_first, bool is_last, const MemoryShape& shape);

// What persists on one rank of the trainer: weights with rotary table and router biases, main gradients, optimizer state; by its layout and its share of the
// rows.
struct PersistentMemory {
  int64_t weights = 0, grads = 0, optimizer = 0, parameters = 0;
  int64_t comm = 0;  // largest scratch of the collectives at the end of a step
};
// This rank's place in the groups that share its parameters. begin: rank in the group, end: its size. mirror: of two pipeline ranks that hold the same stages,
// else 1.
struct ShardPlaces {
  Range dp{0, 1}, edp{0, 1}, mirror{0, 1};
};
PersistentMemory persistent_memory(const ModelConfig& config, const std::vector<ParameterSpec>& manifest, const Placement& placement, DType storage,
                                   DType moments, int64_t max_positions, const ShardPlaces& places,
                                   bool has_grads_aside = false);  // aside: gradients of the first half of a step, kept apart

}  // namespace atoll
