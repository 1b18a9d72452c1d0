// Parameters and FLOPs, counted from the shape alone. Policy: training FLOPs per token = 6 N_mm + 3 A (DeepSeek-V3's own MFU rule): N_mm = matrix parameters
// that one token multiplies with, head included, embedding, router, norms and MTP excluded; A = forward attention products. No recomputation is counted.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace atoll {

enum class AttentionCount { kCausal, kNonCausal };  // causal: half of the S x S products
enum class MtpCount { kExclude, kInclude };

// One line of the table. `active`: parameters that one token uses. Counts are over all layers of the model.
struct ModuleCount {
  std::string module;
  int64_t instances = 0;  // layers (or experts' layers) that have it
  int64_t parameters = 0, active = 0;
  int64_t matmul = 0;                   // what 6 N_mm counts
  double attention_flops_per_pair = 0;  // forward FLOPs of one (query, key) pair, all layers
  bool is_mtp = false;
};

struct ModelCounts {
  int64_t parameters = 0;                         // main model, router-bias elements included
  int64_t router_bias = 0;                        // of these
  int64_t mtp_parameters = 0;                     // unique to the MTP modules (embedding and head are shared)
  int64_t embedding = 0, head = 0;                // head is 0 elements when tied
  int64_t active_with_embedding = 0, active = 0;  // main model, one token; `active` leaves the embedding out and has the head in
  int64_t matmul = 0, mtp_matmul = 0;
  std::vector<ModuleCount> modules;  // sums to parameters and mtp_parameters
};

ModelCounts count_model(const ModelConfig& config);
// Training FLOPs of one token at sequence length S.
double training_flops_per_token(const ModelConfig& config, int64_t seq_len, AttentionCount attention = AttentionCount::kCausal,
                                MtpCount mtp = MtpCount::kExclude);
double training_flops_per_token(const ModuleCount& module, int64_t seq_len, AttentionCount attention);
// Training FLOPs of one token in one block (an MTP block with its eh_proj, without its use of the head), and in one use of the output head: what stages are
// balanced by.
double block_flops_per_token(const ModelConfig& config, int64_t layer, int64_t seq_len);
double head_flops_per_token(const ModelConfig& config);

}  // namespace atoll
