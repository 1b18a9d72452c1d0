// A run: data, engine, checkpoints, metrics, signals, in the order of steps. From here a step is train_step (trainer/train_step.cpp).
// Policy: everything that decides a step is a function of (config, position); the position and the optimizer's step count are what a checkpoint adds.
#pragma once
#include <atomic>
#include <memory>
#include <string>

#include "kernels/base/error.h"
#include "trainer/data_feed.h"
#include "trainer/engine.h"
#include "trainer/evaluation.h"
#include "trainer/metrics.h"
#include "trainer/run_config.h"
#include "trainer/run_directory.h"

namespace atoll {

namespace plan { struct MachineRates; }

struct HostInfo {  // of this rank
  int cores = 1, ranks_on_host = 1;
  std::string name;
};

class Trainer {
 public:
  // stop_signal: set by a signal handler to SIGUSR1/SIGTERM/SIGINT; polled once a step. phase: what this rank does, for the message of an error.
  Trainer(const RunConfig& config, Communicator& world, const HostInfo& host, const std::atomic<int>& stop_signal, std::string& phase);
  ~Trainer();
  ExitCode run();

 private:
  void resume_or_initialize();
  void print_banner();
  const StepResult& one_step(StepMetrics& metrics);
  enum class Saved { kYes, kFailed, kPoisoned };
  Saved save();  // kFailed: training goes on; kPoisoned: the state is not finite and never will be
  ExitCode save_and_stop();
  ExitCode stop_poisoned();
  void evaluate();
  void compare_forecast(const StepMetrics& last, double seconds);  // collective; seconds: a step of this run, on average
  bool is_evaluation_due() const;  // of the step that was just finished; a save of it comes first
  bool must_stop();
  void say(const std::string& text);   // rank 0 alone
  void warn(const std::string& text);  // so does this

  const RunConfig config_;
  Communicator& world_;
  HostInfo host_;
  const std::atomic<int>& stop_signal_;
  std::string& phase_;
  std::string dir_, resolved_, poison_;  // poison_: which tensor is not finite
  std::unique_ptr<RunDirectory> folder_;
  std::unique_ptr<DataFeed> feed_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<MetricsFile> metrics_;  // rank 0
  StepConsole console_;
  Position position_;
  int64_t sequences_ = 0;                 // fed so far: the cursor in the data order
  int64_t updates_ = 0, skipped_ = 0;     // optimizer steps applied; updates skipped for a non-finite value
  int64_t saved_step_ = -1, failed_saves_ = 0, evaluated_step_ = -1;
  std::unique_ptr<plan::MachineRates> rates_;  // of this machine, measured at the start
  bool is_resumed_ = false, has_native_bf16_ = false;  // native: on every rank
  std::vector<MicroBatch> batches_;
  int64_t longest_document_ = 0;                      // tokens, of any step
  int64_t routed_peak_ = -1;                          // bytes; and
  std::vector<int64_t> peak_tokens_;                  // of the step that reached it: tokens of each micro-batch
  std::vector<std::vector<int64_t>> rows_of_peak_;    // and rows received
};

// What a rank saves and loads: its owned rows of masters and moments, and the router biases it answers for.
struct ShardView;
std::vector<ShardView> engine_shards(Engine& engine);
bool answers_for_biases(const Engine& engine);  // router biases are equal on all ranks of a stage: the first one saves them
EngineOptions engine_options(const RunConfig& config, int threads);

// How BF16 operands are multiplied: as the configuration says, else as the run began (`saved`, kAuto: it begins now). has_native: every rank has fast BF16
// instructions. ConfigError where the configuration asks for what is not there.
struct Bf16Choice {
  Bf16Gemm mode = Bf16Gemm::kAuto;
  std::string warning;
};
Bf16Choice choose_bf16_gemm(const TrainConfig& train, Bf16Gemm saved, bool has_native);

}  // namespace atoll
