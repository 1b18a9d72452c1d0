// `atoll verify golden DIR`: runs a folder of reference results of another implementation through the engine, in any compute type and layout, and compares everything in it.
// Policy: a folder that cannot be run is an error, never a pass; every compared quantity is a row with its deviation, its tolerance and a verdict.
#pragma once
#include <string>
#include <vector>

#include "trainer/engine.h"

namespace atoll {

struct GoldenOptions {
  DType dtype = DType::kF64;
  MeshSizes mesh;
  std::string schedule = "1f1b";
  int world = 1;   // ranks; under mpirun its number, else threads of this process
  int threads = 1;
};
// dtype=fp64|fp32|bf16, parallel.pp, parallel.ep, parallel.schedule, world, threads. ConfigError on anything else. world defaults to pp * ep.
GoldenOptions parse_golden_options(const std::vector<std::string>& assignments);

struct GoldenRow {
  std::string name;
  double deviation = 0, tolerance = 0;
  bool ok = false;
};
struct GoldenReport {
  std::string folder, description;  // "3 MoE layers ..., fp64, pp 1, dp 1, ep 1"
  std::vector<GoldenRow> rows;
  std::vector<std::string> not_compared;  // stored tensors that are not results, each with its reason
  bool ok() const;
  std::string text(bool all_rows) const;  // the table; without all_rows: failures, and the worst row of each kind
};

// Collective over `world`. FP64: 2e-7 of what is stored as F32, 1e-10 of case.json's scalars. FP32: logits 1e-5, losses 1e-6, gradients 1e-4, identical experts.
// BF16: routing forced; at most twice the error of the FP64 path with each op's inputs and outputs rounded to BF16 (relative L2 per tensor).
GoldenReport verify_golden(const std::string& folder, const GoldenOptions& options, Communicator& world);

}  // namespace atoll
