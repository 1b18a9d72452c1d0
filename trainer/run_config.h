// A run's configuration as typed structs: what the trainer reads. Policy: a RunConfig that left load_run_config() is complete and consistent; nobody below
// checks it again (except Mesh, which knows the number of ranks). Keys, types, ranges, docs and what may change on resume: config_schema.h.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/context.h"
#include "kernels/base/dtype.h"
#include "model/config.h"
#include "parallel/mesh.h"
#include "trainer/schedules.h"

namespace atoll {

struct DataConfig {
  std::string store;          // token store made by `atoll data prepare`
  int64_t seq_len = 512;      // tokens of one sequence
  bool document_mask = true;  // a token sees its own document only
  uint64_t seed = 1;          // order of the data
};

struct AdamConfig {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double weight_decay = 0.1;    // 2-D tensors only
  DType moments = DType::kF32;  // kBF16, or kF32: the type of the masters (so kF64 under train.dtype fp64)
};

struct TrainConfig {
  int64_t steps = 0, tokens = 0;  // exactly one is > 0; RunConfig::length() is the other way to ask
  int64_t global_batch = 8;       // sequences of one optimizer step, over all ranks
  int64_t micro_batch = 1;        // sequences of one forward, on one data-parallel rank
  BatchRampConfig batch_ramp;
  uint64_t seed = 1;  // initial weights
  LrConfig lr;
  AdamConfig adam;
  double clip_norm = 1.0;         // 0: no clipping
  int64_t nonfinite_budget = 10;  // updates that may be skipped for a non-finite loss or gradient before the run stops
  std::string resume = "auto";    // auto: the newest good checkpoint of the run folder, if any; never; or a checkpoint's path
  PiecewiseConstant mtp_lambda{{{RunPoint::tokens(0), 0.3}}};
  PiecewiseConstant balance_alpha{{{RunPoint::tokens(0), 1e-4}}};
  PiecewiseConstant bias_gamma{{{RunPoint::tokens(0), 1e-3}}};
  DType dtype = DType::kBF16;  // storage of weights and activations: kBF16, kF32, kF64
  Bf16Gemm bf16_gemm = Bf16Gemm::kAuto;
  int64_t threads = 0;  // per rank; 0: cores of this host / ranks on it
};

struct ParallelConfig {
  MeshSizes mesh;                     // pp, tp, cp, ep, etp; dp and edp are derived
  std::string schedule = "1f1b";      // a name of build_schedule()
  int64_t vpp = 1;                    // stages a rank of schedule interleaved
  int64_t grad_halves = 1;            // 2: gradients of the two halves of a step's micro-batches are summed apart, as dualpipe does
  std::vector<int64_t> stage_layers;  // layers of each pipeline stage, as many as num_hidden_layers in all: MTP is on the last stage, uncounted; empty: by rule, balanced by FLOPs
  std::string reduce = "ordered";     // floats are added locally in rank order
};

struct CheckpointConfig {
  int64_t every = 0;      // steps; 0: only at the end and on a signal
  int64_t keep_last = 3;  // 0: all
};

struct EvalConfig {
  int64_t every = 0;       // steps; 0: only at the end
  int64_t sequences = 64;  // held-out sequences; 0: all of them
};

struct LogConfig {
  int64_t every = 1;           // steps between console lines; metrics.jsonl has every step
  std::string level = "info";  // debug, info, warn, error
};

struct MemoryConfig {  // bounds in bytes, 0: what the machine has
  int64_t activations = 0, routed = 0, workspace = 0;
  Memory::Bounds bounds() const { return {activations, routed, workspace}; }
};

struct RunFolder {
  std::string dir = "runs";  // the run lives in dir/name
  std::string name = "run";
  std::string path() const { return dir + "/" + name; }
};

struct RunConfig {
  ModelConfig model;
  DataConfig data;
  TrainConfig train;
  ParallelConfig parallel;
  CheckpointConfig checkpoint;
  EvalConfig eval;
  LogConfig log;
  MemoryConfig memory;
  RunFolder run;

  RunPoint length() const { return train.steps > 0 ? RunPoint::steps(train.steps) : RunPoint::tokens(train.tokens); }
  BatchRamp batch() const { return {train.batch_ramp, train.global_batch, data.seq_len}; }
  LrSchedule lr() const { return {train.lr, length()}; }
  int64_t total_steps() const { return train.steps > 0 ? train.steps : batch().steps_until(train.tokens); }
};

// Reads a recipe and applies `a.b.c=value` overrides (the last of equal keys wins). Throws ConfigError that lists every error at once, each with file:line or
// "(command line)". Nothing is allocated, no rank is asked.
RunConfig load_run_config(const std::string& recipe_path, const std::vector<std::string>& overrides = {});
// The same from text; `name` is used in messages, `folder` is where relative paths to a config.json are looked for first.
RunConfig parse_run_config(const std::string& yaml, const std::string& name, const std::vector<std::string>& overrides = {}, const std::string& folder = ".");
// The whole configuration, every key, as YAML that parses back to the same RunConfig.
std::string resolved_yaml(const RunConfig& config);
// What may not change when a run goes on, given the checkpoint's resolved config: "key: was A, is B; why / what to do". Empty: allowed.
std::vector<std::string> forbidden_changes(const std::string& old_resolved_yaml, const RunConfig& now);

}  // namespace atoll
