// `atoll bench step`: seconds of a whole optimizer step (forward, backward, clipping, AdamW) of one process on random tokens, against this machine's GEMM peak of the same run.
#pragma once
#include <string>

#include "trainer/engine.h"

namespace atoll {

struct BenchStepOptions {
  ModelConfig model;
  std::string name;
  int64_t batch = 8, seq = 512, micro_batch = 0;  // micro_batch 0: the whole batch at once
  int steps = 6, threads = 0;
  DType dtype = DType::kBF16;
  bool json = false;
};
// FLOPs: 6 x weights that a token multiplies with (router included, embedding not) + causal attention, the rule of tests/acceptance/speed for both sides. MTP is left out of the model.
std::string bench_step(const BenchStepOptions& options);

}  // namespace atoll
