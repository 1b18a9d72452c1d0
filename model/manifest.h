// The model's parameters: names (Hugging Face's), shapes, roles, in the ONE fixed order that layout, checkpoints, norms and initialisation use.
// Policy: matrices that one GEMM multiplies are adjacent: q_a_proj (or q_proj) then kv_a_proj_with_mqa; gate_proj then up_proj; all experts' (gate, up) in
// expert order, then all experts' down_proj: grouped GEMMs see E contiguous [2F, D] and E contiguous [D, F] matrices.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace atoll {

struct ParameterSpec {
  std::string name;            // Hugging Face name
  int64_t rows = 0, cols = 1;  // [out, in]; a vector has cols == 1
  bool is_vector = false;
  int64_t layer = -1;           // block index; -1 embedding; num_blocks() final norm and head
  int64_t expert = -1;          // routed expert, else -1
  bool is_norm_gain = false;    // starts at 1, else normal(0, initializer_range)
  bool is_router_bias = false;  // e_score_correction_bias: starts at 0, no gradient, no optimizer, no part in the norm
  bool decays = false;          // weight decay: every 2-D tensor, no vector
  int64_t numel() const { return rows * cols; }
};

// Embedding; blocks ascending (MTP blocks last, each: enorm, hnorm, eh_proj, the block, shared_head.norm); model.norm; lm_head (absent if tied).
std::vector<ParameterSpec> parameter_manifest(const ModelConfig& config);
// The part of block `layer` alone, in the same order.
std::vector<ParameterSpec> block_manifest(const ModelConfig& config, int64_t layer);

}  // namespace atoll
