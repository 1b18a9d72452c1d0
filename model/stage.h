// One pipeline stage on one rank: embedding (first stage), blocks, final norm, head and MTP modules (last stage), for the micro-batches of a step.
// Policy: activations live in one slot for each live micro-batch and are freed tensor by tensor in B and W. The loss head runs forward, dx and dw in F, so no logits are kept
// and no head product is done twice; no weight-gradient GEMM runs in B.
#pragma once
#include <memory>
#include <optional>

#include "model/mtp.h"
#include "parallel/executor.h"

namespace atoll {

class Stage {
 public:
  // number: which of placement.stages this one is. max_positions: longest sequence. parameters must outlive the stage.
  Stage(Context& ctx, const ModelConfig& config, ParameterStore& parameters, const Placement& placement, int number, Dispatcher& dispatcher, int64_t max_positions);
  int number() const { return number_; }

  // batches must stay in place until the last action of the step. is_training false: F only, losses only.
  void begin(const std::vector<MicroBatch>& batches, const StepScales& scales, bool is_training);
  void forward(int microbatch);
  void backward_input(int microbatch);
  void backward_weight(int microbatch);
  // After a step or an evaluation: slots and expert products for what the next ones may need, so that they allocate and compile nothing. How long a send holds its slot depends on
  // timing: one more for each direction.
  void settle();
  // For the executor: stages[s] is stage s, null where it is not on this rank. Boundary tensors are [T, D] in storage type.
  static StageFunctions functions(std::vector<Stage*> stages);
  const StepSums& sums() const { return sums_; }
  // Normed final state [T, D] of the last forward of a micro-batch with is_training false (last stage), kept for generation and for reading logits; empty otherwise.
  Tensor final_state() const { return final_state_; }
  Tensor head_weight() const { return head_; }
  int current_microbatch() const { return current_; }  // of the action that runs, for probes
  // Fills [micro-batch][block] with the routed rows that reached this rank in this step; where this stage has no part, nothing.
  void add_rows_received(std::vector<std::vector<int64_t>>& rows) const;
  int64_t num_live_slots() const { return num_live_; }
  ModelProbe probe;
  bool keep_final_state = false;

 private:
  struct Slot {
    Buffer input, output, d_output, d_input;  // boundary tensors
    std::vector<BlockState> blocks;
    Buffer x, final_rstd, normed, d_normed;   // last stage: block output, its normed state and that state's gradient
    std::vector<MtpState> mtp;
    Buffer d_embedded;                        // first stage
    bool is_done = false;                     // nothing left to compute
  };
  Slot& slot(int microbatch) { return *slots_[static_cast<size_t>(slot_of_[static_cast<size_t>(microbatch)])]; }
  Slot& acquire(int microbatch);
  void add_slot();
  void reserve(Slot& slot);
  void release_if_idle(int microbatch);
  void run_blocks_forward(Slot& slot, const MicroBatch& batch, Buffer h);
  void heads_forward(Slot& slot, const MicroBatch& batch);
  Buffer boundary(int microbatch);

  Context& ctx_;
  const ModelConfig& config_;
  ParameterStore& parameters_;
  int number_;
  bool is_first_, is_last_;
  Dispatcher& dispatcher_;
  DType type_;
  Buffer rope_table_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<std::unique_ptr<Mtp>> mtp_;
  Tensor embedding_, head_, d_head_, final_norm_, d_final_norm_;
  const std::vector<MicroBatch>* batches_ = nullptr;
  StepScales scales_;
  bool is_training_ = true, has_gradients_ = false;  // has_gradients: some W of this step has run, the next ones add to it
  StepSums sums_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<int> free_slots_, slot_of_;
  size_t settled_for_ = 0;  // micro-batches
  int64_t num_live_ = 0;
  int current_ = 0;
  std::vector<int> forwards_;  // micro-batches of this step, in the order of their F
  Buffer kept_state_;
  Tensor final_state_;
};

}  // namespace atoll
