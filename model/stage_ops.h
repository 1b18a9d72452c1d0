// A stage's ops by their shapes, called for what they cost and not for what they compute: scratch in bytes, or seconds on this machine. Policy: the ops themselves are
// asked. For scratch in a context that sizes (Context::is_sizing): the same code cuts the same tiles, takes the same scratch and computes nothing; operands are address
// space that is never touched. For seconds they run, on operands that mean nothing.
#pragma once
#include <vector>

#include "kernels/base/context.h"
#include "model/config.h"
#include "model/work.h"
#include "parallel/mesh.h"

namespace atoll {

struct StageOpsShape {
  int threads = 1;
  Bf16Gemm bf16_gemm = Bf16Gemm::kAuto;  // kAuto: measured, as a run would
  DType storage = DType::kBF16;
  int64_t tokens = 0, sequences = 1;  // of a micro-batch on this rank
  int64_t longest_document = 0;       // attention works on documents of this length; 0: a whole sequence
  int64_t num_experts = 0;            // on this rank
  int64_t expert_rows = 0;            // of one expert in a micro-batch: for seconds, all have as many; for scratch, the most that routing can bring
  bool has_balance_loss = true;
};
// F, B and W of one micro-batch on a stage of these layers: the most that any one op takes from Memory::workspace. Throws ConfigError where not even the addresses of one
// op's operands fit this machine.
int64_t stage_workspace(const ModelConfig& config, Range layers, bool is_last, const StageOpsShape& shape);
// The norm of the gradients, one parameter's owned elements at a time.
int64_t gradient_norm_workspace(int64_t most_elements);

// A product or attention that was timed: dims as in Work.
struct TimedOp {
  WorkKind kind;
  WorkPass pass;
  double m = 0, n = 0, k = 0, flops = 0, seconds = 0;
};
struct StageOpsTimes {
  std::vector<TimedOp> ops;      // of one layer of each kind that the model has, and the head
  double glue_seconds = 0;       // everything else in these layers and the head
  double glue_bytes = 0;         // of it, as model/work.h counts them
  double update_seconds = 0;     // AdamW, per element
};
// Times F, B and W of one layer of each kind and of the head (of the last stage), with balanced rows. most_seconds: where `flops_per_second` says that this would take longer,
// fewer tokens are taken. Uses memory of its own meanwhile: one op's operands, of them at most 512 MiB of weights (a part of a larger head, or fewer experts).
StageOpsTimes time_stage_ops(const ModelConfig& config, const StageOpsShape& shape, double flops_per_second, double most_seconds);

}  // namespace atoll
