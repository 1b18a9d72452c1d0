// Memory of a rank along a schedule: what the model keeps of each live micro-batch, walked action by action. The trainer's forecast and the planner's page both
// come from here. Policy: the schedule is the executor's own list, with its sends and receives; a boundary tensor is counted from its receive until its send.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "model/memory.h"
#include "model/stage_ops.h"
#include "parallel/schedule.h"
#include "trainer/engine.h"

namespace atoll::plan {

struct Peak {
  double bytes = 0;
  int action = -1;     // index in the rank's list, computation or message
  std::string moment;  // "F s3 m7"
};
struct RankPeaks {
  Peak activations, routed, both;  // both: of their sum
};
using MemoryOf = std::function<const StageMemory&(int stage, int microbatch)>;
// How full backwards and pairs are run. are_layers_fused: a layer's W follows its B, as GPU trainers do; else B of the stage, then W, as Atoll's executor does.
// are_pairs_overlapped: F and B of a pair hold what they need on the way at the same time.
struct Execution {
  bool are_layers_fused = false, are_pairs_overlapped = false;
};
RankPeaks walk_rank(const Schedule& schedule, int rank, const MemoryOf& memory, const Execution& execution);
// stages[s]: memory of a micro-batch on stage s.
RankPeaks walk_rank(const Schedule& schedule, int rank, const std::vector<StageMemory>& stages, const Execution& execution);

// What one rank of a run of the trainer will hold and send, from its options alone.
struct RunShape {
  int64_t tokens = 0, sequences = 1;  // of a micro-batch on this rank
  int num_microbatches = 1;
  double rows_received = 0;                     // of a layer and micro-batch; rows_sent is tokens x top-k
  std::vector<std::vector<int64_t>> rows = {};  // [micro-batch][block] rows received, where they are known
  bool has_balance_loss = true;
  std::vector<int64_t> microbatch_tokens = {};  // where they differ; empty: `tokens` each
  int64_t longest_document = 0;                 // 0: a whole sequence
};
struct RankForecast {
  PersistentMemory persistent;
  RankPeaks peaks;
  int64_t workspace = 0;  // with the threads and the BF16 mode of the options: scratch of this machine's kernels
  int64_t weights() const { return persistent.weights; }
  // Bytes this rank sends in a step without the rows of dispatch and combine, which depend on the routing: exact.
  int64_t wire_fixed = 0;
  int64_t wire_boundary = 0, wire_reduce = 0, wire_gather = 0, wire_counts = 0, wire_small = 0, wire_embedding = 0;  // of these
};
RankForecast forecast_rank(const EngineOptions& options, const Schedule& schedule, const std::vector<ParameterSpec>& manifest, int world, int rank,
                           const RunShape& shape);

}  // namespace atoll::plan
