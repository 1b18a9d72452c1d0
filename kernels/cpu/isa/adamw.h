// One fused pass of AdamW over a run of elements: reads grad, master, m, v; writes master, m, v and the storage copy.
#pragma once
#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/cpu/isa.h"

namespace atoll::cpu {
struct AdamWRun {
  void *master, *m, *v, *weight;
  const void* grad;
  DType acc, moments, storage;
  double decay;            // 1 - lr wd
  double beta1, beta2, one_minus_beta1, one_minus_beta2;
  double step_size;        // lr / (1 - beta1^step)
  double inv_sqrt_bias2;   // (1 - beta2^step)^-1/2
  double eps, grad_scale;
};
ATOLL_DECLARE_ISA(void adamw_run(const AdamWRun& run, int64_t begin, int64_t end))
}  // namespace atoll::cpu
