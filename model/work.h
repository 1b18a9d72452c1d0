// What one device computes in a block, op by op, from shapes alone: FLOPs, GEMM dimensions, bytes of memory-bound work, and the bytes a token's copy is on the
// wire. Policy: no rates and no times here; the planner divides by what was measured. FLOPs that MFU counts are exactly model/flops.h's (a test adds them up).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace atoll {

enum class WorkPhase { kAttnForward, kMlpForward, kMlpBackward, kMlpWeight, kAttnBackward, kAttnWeight, kNumPhases };
const char* name_of(WorkPhase phase);  // "attn_forward", ...
enum class WorkKind { kGemm, kGrouped, kAttention, kGlue };
enum class WorkPass { kForward, kInput, kWeight };
const char* name_of(WorkKind kind);
const char* name_of(WorkPass pass);

struct Recompute {  // in backward
  bool norms = false, mla_up = false, swiglu = false, experts = false, attention = false, full = false;
};

// How a block is laid out and computed on one device.
struct WorkShape {
  int64_t kv_heads = 0;      // 0: MLA; else grouped-query attention with heads of qk_head_dim and v_head_dim (for the plans of other models)
  double tokens = 0;         // of one micro-batch on this device (tensor parallelism leaves all of them, context parallelism its part)
  double seq_len = 0;        // of one sequence, over all of its context-parallel ranks
  double routed_rows = 0;    // that reach this device's experts
  double local_experts = 0;  // of a layer, on this device
  int tp = 1;
  bool is_fp8 = false;  // operands of the linear layers but router and head
  bool is_tensor_scaled =
      false;                 // with one scale a tensor: its largest element is sought in a pass of its own, and the transposed copy is written with the cast
  bool are_rows_fp8 = true;  // with is_fp8: routed rows and their gradients arrive as operands, not in BF16
  Recompute recompute;
};

struct Work {
  std::string op;  // "q_b", "routed.gate_up", "norms"
  WorkKind kind = WorkKind::kGemm;
  WorkPass pass = WorkPass::kForward;
  WorkPhase phase = WorkPhase::kAttnForward;
  double m = 0, n = 0, k = 0;  // forward: rows, outputs, inputs; input: rows, inputs, outputs; weight: outputs, inputs, rows
  double flops = 0;            // of this device
  double bytes = 0;            // kGlue: read and written
  bool is_fp8 = false;
  bool is_extra = false;  // recomputed: done, but not counted by MFU; also the router
};

std::vector<Work> block_work(const ModelConfig& config, int64_t layer, const WorkShape& shape);
// One use of final norm, output head and loss: forward and both gradients.
std::vector<Work> head_work(const ModelConfig& config, const WorkShape& shape);
// The joining projection of an MTP module; its block is block_work, its head head_work.
std::vector<Work> mtp_work(const ModelConfig& config, const WorkShape& shape);
// FLOPs that MFU counts, per token of the model: what training_flops_per_token says, and for models with kv_heads too.
double counted_flops_per_token(const ModelConfig& config, int64_t kv_heads, int64_t seq_len, bool is_causal);
// Parameters of attention in one block; with kv_heads as above.
int64_t attention_parameters(const ModelConfig& config, int64_t kv_heads);
// The model's parameters, MTP's unique ones included if asked.
int64_t total_parameters(const ModelConfig& config, int64_t kv_heads, bool with_mtp);

// Parameters of a block: what every rank of a stage holds, and one routed expert.
struct BlockParameters {
  int64_t shared = 0, expert = 0, num_experts = 0;
};
BlockParameters block_parameters(const ModelConfig& config, int64_t layer, int64_t kv_heads);

// Bytes of one token's copy: payload, plus a scale for every 128 elements where it is FP8.
double wire_bytes(int64_t hidden, bool is_fp8);

}  // namespace atoll
