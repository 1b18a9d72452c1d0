// ZeRO-1 AdamW: master weights and moments of whole rows, each row on one rank of its (expert-)data-parallel group; where two pipeline ranks hold the same stages, on one of theirs.
// Policy: master is FP32 (FP64) and is the weight itself where storage has that type. Router biases are not optimizer parameters.
#pragma once
#include <optional>
#include <vector>

#include "model/parameters.h"
#include "parallel/process_groups.h"
#include "parallel/row_shards.h"

namespace atoll {

struct AdamWSettings { double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1; };

class ShardedAdamW {
 public:
  struct Owned {
    const LocalParameter* parameter = nullptr;
    Range rows;                              // of the parameter
    Tensor master, m, v, grad, weight;       // [rows, cols] or [rows]
  };
  ShardedAdamW(Context& ctx, ParameterStore& parameters, const ProcessGroups& groups, DType moments);

  const std::vector<Owned>& owned() const { return owned_; }
  void round_masters();  // owned weights from masters: after loading; a step writes both
  void publish();        // owned weights to all ranks of the groups
  void add_mirror_gradients();  // before reduce_gradients: every accumulator of both mirror ranks' halves, the embedding's uses apart. Nothing without a mirror
  // Sums of the gradients land in owned().grad.
  void reduce_gradients();
  // Squares of the gradient rows that this rank sums, one FP64 sum a parameter of the rank; 0 where it sums no row. Mirror ranks sum the same rows.
  void sums_of_squares(const std::vector<int>& stage_parameters, std::vector<double>& sums);
  void step(const AdamWSettings& settings, double lr, double grad_scale, int64_t step);
  int64_t state_bytes() const { return state_.tensor().bytes() + moments_.tensor().bytes(); }  // of this rank: masters and moments

 private:
  Context& ctx_;
  struct Summed { const LocalParameter* parameter; Tensor grad, weight; };  // rows whose gradient is summed on this rank: owned here or by the mirror
  RowShards dense_shards_, expert_shards_;
  std::optional<RowShards> mirror_shards_;
  Buffer state_, moments_;
  std::vector<Owned> owned_;
  std::vector<Summed> summed_;
  std::vector<Tensor> mirror_grads_, mirror_weights_, dense_grads_, expert_grads_, dense_weights_, expert_weights_;
};

// Global indices (in the manifest) of the parameters of this rank's stages, experts of all ep ranks included, in manifest order.
std::vector<int> stage_parameter_indices(const ModelConfig& config, const std::vector<ParameterSpec>& manifest, const Placement& placement);

}  // namespace atoll
