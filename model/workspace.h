// Scratch of a stage's ops, in bytes, from shapes: the most that any one op takes from Context::memory.workspace. Policy: the ops themselves are asked, in a context
// that sizes (Context::is_sizing): the same code cuts the same tiles and takes the same scratch, and computes nothing. Operands are address space that is never touched.
#pragma once
#include "kernels/base/context.h"
#include "model/config.h"
#include "parallel/mesh.h"

namespace atoll {

struct WorkspaceShape {
  int threads = 1;
  Bf16Gemm bf16_gemm = Bf16Gemm::kAuto;  // kAuto: measured, as a run would
  DType storage = DType::kBF16;
  int64_t tokens = 0, sequences = 1;  // of a micro-batch on this rank
  int64_t longest_document = 0;       // attention's scratch grows with it; 0: a whole sequence
  int64_t num_experts = 0;            // on this rank
  int64_t expert_rows = 0;            // most rows of one expert in a micro-batch
  bool has_balance_loss = true;
};
// F, B and W of one micro-batch on a stage of these layers. Throws ConfigError where not even the addresses of one op's operands fit this machine.
int64_t stage_workspace(const ModelConfig& config, Range layers, bool is_last, const WorkspaceShape& shape);
// The norm of the gradients, one parameter's owned elements at a time.
int64_t gradient_norm_workspace(int64_t most_elements);

}  // namespace atoll
