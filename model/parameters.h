// This rank's parameters: which ones, where they lie, their main gradients. Fused neighbours (q_a|kv_a, gate|up, all experts' gate|up, all experts' down) lie
// without gaps, so one GEMM serves them; every Hugging Face tensor stays a rectangle of its own.
// Policy: one gradient accumulator per (parameter, use). The embedding has up to three uses (input, MTP input, tied head); they are added last, in that order.
#pragma once
#include <string>
#include <unordered_map>
#include <vector>

#include "kernels/base/context.h"
#include "model/config.h"
#include "model/manifest.h"
#include "parallel/mesh.h"

namespace atoll {

// Which part of the model a rank holds.
struct Placement {
  std::vector<int> stages = {0};    // this rank's, ascending: one, or more where the schedule says so
  int num_stages = 1;
  std::vector<Range> stage_layers;  // [stage] main layers; MTP blocks, final norm and head are on the last stage, the embedding on the first
  Range experts;                    // routed experts of this ep rank
  bool is_first() const { return stages.front() == 0; }  // holds the first stage
  bool is_last() const { return stages.back() == num_stages - 1; }
  Range layers(int stage) const { return stage_layers[static_cast<size_t>(stage)]; }
  bool has_layer(int64_t layer) const {  // a main layer
    for (const int stage : stages)
      if (layer >= layers(stage).begin && layer < layers(stage).end) return true;
    return false;
  }
};
// Contiguous layers to stages so that the costliest stage (FLOPs of its layers; the last one also has MTP and the head) is as cheap as can be; every stage gets at least one.
// `counts` (parallel.stage_layers), if not empty, decides instead. ConfigError when it cannot be.
std::vector<Range> split_layers(const ModelConfig& config, int num_stages, const std::vector<int>& counts);

// Which parameters a rank holds and where each lies in its arena, in elements: what ParameterStore allocates and the memory model counts.
struct ParameterLayout {
  struct Item { int index = 0; int64_t offset = 0; bool is_replica = false; };  // index: in the manifest
  std::vector<Item> items;                                                      // manifest order, router biases left out
  std::vector<int> biases;                                                      // indices of the router biases
  int64_t total = 0, grads_begin = 0, num_elements = 0, bias_elements = 0;      // a replica comes first and has weights alone: gradients begin behind it
};
ParameterLayout parameter_layout(const ModelConfig& config, const std::vector<ParameterSpec>& manifest, const Placement& placement);

struct LocalParameter {
  const ParameterSpec* spec = nullptr;
  int index = 0;          // in the manifest
  Tensor weight;          // storage, [rows, cols] or [n]
  Tensor grad;            // acc, same dims; a replica has none (its uses have their own)
  bool is_expert = false;
  bool is_replica = false;  // the shared embedding on the last stage's rank, where the first stage is elsewhere: weights follow the first stage's, gradients are sent there
};

enum class EmbeddingUse { kInput, kMtp, kTiedHead };

class ParameterStore {
 public:
  ParameterStore(Context& ctx, const ModelConfig& config, const std::vector<ParameterSpec>& manifest, const Placement& placement, DType storage);

  const std::vector<LocalParameter>& all() const { return parameters_; }  // manifest order; router biases are not among them
  const LocalParameter* find(const std::string& name) const;
  const LocalParameter& get(const std::string& name) const;
  // `first` and the parameters after it seen as one [rows, cols] matrix / [count, rows, cols] stack. Checks that they are adjacent.
  Tensor fused(const std::string& first, int64_t rows, bool grad) const;
  Tensor stacked(const std::string& first, int64_t count, int64_t rows, bool grad) const;
  Tensor router_bias(int64_t layer) const;  // acc [E], empty without one
  struct Bias { std::string name; int64_t layer; Tensor value; };
  const std::vector<Bias>& router_biases() const { return biases_; }
  // Accumulators of the embedding on this rank; empty where that use is not here. kInput on the first stage is the parameter's own grad.
  Tensor embedding_grad(EmbeddingUse use) const { return embedding_grads_[static_cast<size_t>(use)]; }
  // Zeroes the gradients that no GEMM overwrites in the first micro-batch: norm gains, embedding, head (everything, if `all`).
  void zero_grads(bool all = false);
  // Gradients in two parts: all accumulators are put aside, and added to what has been accumulated since. The memory for it is taken at the first call.
  void put_grads_aside(Context& ctx);
  void add_grads_put_aside(Context& ctx);
  DType storage() const { return storage_; }
  int64_t num_local_elements() const { return num_elements_; }

 private:
  DType storage_;
  int64_t num_elements_ = 0;
  Buffer weights_, grads_, bias_buffer_, extra_grads_[2], aside_, extra_aside_[2];
  std::vector<LocalParameter> parameters_;
  std::vector<Bias> biases_;
  std::unordered_map<std::string, int> by_name_;
  Tensor embedding_grads_[3];
};

// The FP32 (FP64) initial values of rows [begin, begin + out.rows) of a parameter: normal(0, initializer_range), gains 1. A pure function of (seed, name, element).
void initial_rows(const ModelConfig& config, const ParameterSpec& spec, uint64_t seed, int64_t row_begin, const Tensor& out);

}  // namespace atoll
