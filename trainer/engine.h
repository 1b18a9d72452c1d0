// One rank's part of the training computation: model, groups, executor, optimizer. Knows no files and no clock; the Trainer feeds it.
#pragma once
#include <map>
#include <memory>

#include "model/stage.h"
#include "parallel/executor.h"
#include "parallel/process_groups.h"
#include "trainer/sharded_adamw.h"

namespace atoll {

// Faults that tests plant in the production path, to prove that the checks of equality catch them.
enum class PlantedFault { kNone, kLossScaledOnOneRank, kBiasUpdatedOnOneStage, kGradientCountedTwice };

struct EngineOptions {
  ModelConfig model;
  MeshSizes mesh;
  DType storage = DType::kBF16, moments = DType::kF32;
  std::string schedule = "1f1b";
  int vpp = 1;                    // stages a rank, interleaved
  std::shared_ptr<const Schedule> custom;  // instead of a schedule by name: proven, of mesh.pp ranks, for as many micro-batches as every step has
  int grad_halves = 1;            // 2: see parallel.grad_halves
  std::vector<int> stage_layers;  // empty: by rule
  int threads = 1;
  int64_t max_sequence = 4096;
  uint64_t seed = 1;
  AdamWSettings adamw;
  Memory::Bounds memory;
  Bf16Gemm bf16_gemm = Bf16Gemm::kAuto;
  PlantedFault fault = PlantedFault::kNone;
};

struct StepPlan {  // what the schedules say for this step
  double lr = 0, mtp_lambda = 0, balance_alpha = 0, bias_gamma = 0;
  double clip_norm = 1.0;   // <= 0: no clipping
  int64_t step = 1;         // 1-based optimizer step, for the bias correction
};

struct StepResult {
  double loss = 0, balance = 0, total = 0;  // means over the step's labels; balance carries alpha
  std::vector<double> mtp_loss;
  std::vector<double> balance_of_layer;     // [block], alpha included
  double grad_norm = 0, clip = 1;
  bool applied = true;
  std::string reason;                       // why the update was skipped
  int64_t labels = 0, tokens = 0, sequences = 0;
  double expert_load_max_over_mean = 0;     // worst layer
  std::vector<int64_t> expert_counts;       // [block, expert], global, of this rank's layers
  int64_t bytes_sent = 0, dispatch_bytes = 0, combine_bytes = 0;  // by this rank
};

// Where the time of this rank's steps went, in seconds; forward and backward hold their exchanges, which are counted again apart.
struct StepTimes {
  double forward = 0, backward = 0, weight = 0, exchange = 0, waiting = 0;  // waiting: for messages between stages
  double reduce = 0, update = 0, publish = 0;                               // gradients to their owners with norms; the owners' update; weights back
  int64_t steps = 0;
};

struct EvalResult {
  double loss_sum = 0;
  std::vector<double> mtp_loss_sum;
  int64_t labels = 0;
  std::vector<int64_t> mtp_labels;
};

class Engine {
 public:
  Engine(const EngineOptions& options, Communicator& world);

  // One optimizer step on this rank's micro-batches (all ranks of a pipeline pass the same ones; all ranks the same number). Collective.
  // The result is valid until the next step; a steady step allocates nothing on the heap.
  const StepResult& train_step(std::vector<MicroBatch>& batches, const StepPlan& plan);
  // Forward and backward only: gradients stay un-reduced in the parameters. What train_step begins with.
  const StepResult& accumulate_gradients(std::vector<MicroBatch>& batches, const StepPlan& plan);
  EvalResult evaluate(std::vector<MicroBatch>& batches);  // forward only. Collective

  void initialize();  // weights from the seed
  Context& ctx() { return ctx_; }
  const Mesh& mesh() const { return mesh_; }
  const ProcessGroups& groups() const { return groups_; }
  ProcessGroups& groups() { return groups_; }
  const Placement& placement() const { return placement_; }
  const std::vector<ParameterSpec>& manifest() const { return manifest_; }
  ParameterStore& parameters() { return *parameters_; }
  ShardedAdamW& optimizer() { return *optimizer_; }
  Stage& stage() { return *stages_.back(); }  // the only one, or the last that this rank holds
  const std::vector<std::unique_ptr<Stage>>& stages() { return stages_; }  // ascending
  StageFunctions functions() const;
  const EngineOptions& options() const { return options_; }
  const StepTimes& times() const { return times_; }  // of all steps since construction
  const Executor& executor(int num_microbatches) { return *pipeline(num_microbatches).executor; }
  const Schedule& schedule(int num_microbatches) { return pipeline(num_microbatches).schedule; }
  void reduce_gradients();   // after accumulate_gradients: uses of the embedding added, sums over ranks in the owned rows
  double global_norm();      // of the reduced gradients
  void update_router_bias(const std::vector<int64_t>& counts, double gamma);
  // The first tensor of this rank's state (masters, moments, router biases) that holds a NaN or an infinity, as "exp_avg_sq of NAME"; "" if none. A gradient can
  // be finite and what it makes of a weight not.
  std::string nonfinite_state();
  void publish_weights();  // after masters or biases were changed from outside

 private:
  struct Pipeline { Schedule schedule; std::unique_ptr<Executor> executor; };
  Pipeline& pipeline(int num_microbatches);
  Pipeline& forward_pipeline(int num_microbatches);
  void run_micro_batches(std::vector<MicroBatch>& batches, const StepScales& scales);
  void run_pipeline(const std::vector<MicroBatch>& batches, const StepScales& scales);
  void add_embedding_uses();
  void sum_over_stages(StepSums& sums) const;
  void sum_over_ranks(StepSums& sums);
  void send_embedding_to_last_stage();
  void measure_load();
  bool has_shared_embedding() const { return options_.model.num_nextn_predict_layers > 0 || options_.model.tie_word_embeddings; }

  EngineOptions options_;
  Mesh mesh_;
  Schedule frame_;  // where stages lie
  ProcessGroups groups_;
  Context ctx_;
  std::vector<ParameterSpec> manifest_;
  Placement placement_;
  std::unique_ptr<ParameterStore> parameters_;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::vector<std::unique_ptr<Stage>> stages_;
  std::unique_ptr<ShardedAdamW> optimizer_;
  std::map<int, Pipeline> pipelines_, forward_pipelines_;
  std::vector<int> stage_parameters_;
  const LocalParameter* embedding_ = nullptr;  // or its replica; null on middle stages
  StepResult result_;
  StepTimes times_;
  StepSums sums_, first_half_sums_;
  std::vector<MicroBatch> halves_[2];
  std::vector<double> norm_sums_, all_norm_sums_, sums_buffer_, loads_;
};

}  // namespace atoll
