// Cross-entropy rows on the CPU, built for each instruction set, and the fused head built on them.
#pragma once
#include "kernels/cpu/isa.h"

namespace atoll {
struct HeadLoss;
}

namespace atoll::cpu {

void head_loss(Context& ctx, const HeadLoss& op);

struct LossRows {
  DType dtype;            // storage of the gradient that is left in place of the logits; logits are acc
  int64_t V;
  void* logits;           // [rows, V] acc; with `gradient`, each row's beginning becomes scale (p - onehot) in storage
  const int32_t* labels;  // negative: ignored, gradient 0
  void* loss;             // acc, one a row
  double scale;
  bool gradient;
};
ATOLL_DECLARE_ISA(void loss_rows(const LossRows& a, int64_t begin, int64_t end))

}  // namespace atoll::cpu
