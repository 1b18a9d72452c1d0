// One optimizer step: the schedule's simulation with the chunk model's costs, the collectives around it, and what follows from the step's length.
// Policy: the schedule object is the trainer's own, proven by the same checker; nothing is averaged before it is simulated.
#pragma once
#include <memory>
#include <optional>

#include "parallel/simulator.h"
#include "trainer/plan/chunk_time.h"

namespace atoll::plan {

// What is priced: pre-training, or a context-extension stage.
struct Priced {
  int64_t seq_len = 0, global_batch = 0, micro_batch = 1;
  int pp = 1, tp = 1, cp = 1, ep = 1, etp = 1, chunks = 1;
  int64_t dp = 1;
  std::string schedule;
  std::vector<int> stage_layers;
  int64_t flushes = 1;
  bool is_paired = false;  // overlap pairs, of a schedule without pairs of its own that has room for them
  int64_t num_microbatches() const { return global_batch / (dp * micro_batch * flushes); }  // of one flush of the pipeline
};
Priced pretraining(const PlanInput& input);
Priced context_stage(const PlanInput& input, const ContextStage& stage);
// The schedule by its name; with pairs where is_paired: every F after the first B runs together with the B that follows it (Megatron's overlap of one
// micro-batch's exchanges with the computation of another). Interleaved 1F1B has room for that, and 1F1B of one rank.
Schedule schedule_of(const Priced& priced);

// Names of the ledger's items that numbers of parameters follow from.
const std::vector<std::string>& parameter_inputs();

struct StageParameters {
  double shared = 0, experts = 0;  // on one device, tensor parallelism divided out
};

struct StepPrediction {
  Priced priced;
  std::shared_ptr<const Schedule> schedule;
  std::shared_ptr<const ChunkModel> model;  // between the two halves only: it refers to the input
  Simulation simulation;
  std::vector<StageSpec> specs;  // [stage]
  std::vector<StageTimes> stages;
  std::vector<std::vector<double>> pair_host;  // [stage of F][stage of B] what of a pair the device waits for the host
  std::vector<StageParameters> parameters;     // [rank], all of its stages
  double pipeline = 0, reduce = 0, gather = 0, update = 0, step = 0;
  // Means over pipeline ranks.
  double forward = 0, backward = 0, weight = 0, pairs = 0, bubble = 0, pair_count = 0;
  double exposed = 0;  // exchanges that nothing hides, of the rank that waits most for them
  double host = 0;     // the device waits for the host, mean over pipeline ranks
  double message = 0;  // one boundary message
  double tokens_per_step = 0, tokens_per_gpu_second = 0;
};
// The stages of a plan: plan.stages, else parallel.stage_layers, else as the trainer splits layers.
std::vector<StageSpec> stage_specs(const PlanInput& input, const Priced& priced, int num_stages);
// Without a ledger nothing is explained (the search).
StepPrediction predict_step(const PlanInput& input, const Priced& priced, Ledger* ledger);
// The two halves of it. What is known before time runs: schedule, stages, their times, parameters, update; memory can be walked then. built: the schedule where
// the caller has it.
StepPrediction prepare_step(const PlanInput& input, const Priced& priced, std::shared_ptr<const Schedule> built, Ledger* ledger);
void simulate_step(const PlanInput& input, StepPrediction& step, Ledger* ledger);

}  // namespace atoll::plan
