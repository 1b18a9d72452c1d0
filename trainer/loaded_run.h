// A checkpoint in one process: what `atoll eval` and `atoll generate` work on, whatever layout wrote it.
#pragma once
#include <memory>
#include <string>

#include "data/tokenizer.h"
#include "trainer/engine.h"
#include "trainer/run_config.h"

namespace atoll {

struct LoadedRun {
  std::string directory;  // of the checkpoint
  int64_t step = 0, tokens = 0, sequences = 0;
  RunConfig config;
  std::string resolved_yaml;
  std::string data_fingerprint;  // of the store it was trained on: what DataFeed::fingerprint() says of it
  std::unique_ptr<Communicator> world;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Tokenizer> tokenizer;
};
// How BF16 operands are multiplied: as the configuration says, else as the run that saved this did, if this machine can; else the probe decides.
Bf16Gemm bf16_gemm_of(const RunConfig& config, const std::string& extra_json);
// path: a run folder (its newest good checkpoint) or a checkpoint. threads 0: all cores. DataError if there is none.
std::unique_ptr<LoadedRun> load_run(const std::string& path, int threads);

struct GenerateOptions {
  std::string prompt;
  int64_t max_tokens = 200;
  double temperature = 0.8, top_p = 0.95;  // temperature 0: the likeliest token always
  uint64_t seed = 1;
};
// What generation starts from. Without a document mask a document follows the end-of-text token of another one, in training as here. Under the mask a document begins
// with its own first token and nothing is ever predicted after an end of text: that token stands for a beginning only where there is no prompt.
std::vector<int32_t> prompt_ids(const Tokenizer& tokenizer, const std::string& prompt, bool document_mask);
// Text after the prompt, valid UTF-8, ends at end-of-text or max_tokens. `emit` gets complete characters as they come. The window is the model's training length.
void generate(LoadedRun& run, const GenerateOptions& options, const std::function<void(const std::string&)>& emit);

}  // namespace atoll
