// Whole runs of the Trainer in this process: a tiny model on a token store made of sample text. The store is made once a process, each run has a folder of its own.
#pragma once
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoint_fixture.h"
#include "data/store.h"
#include "kernels/base/log.h"
#include "tests/unit/data/sample_text.h"
#include "trainer/run_config.h"
#include "trainer/trainer.h"

namespace atoll::test {

inline void make_store(const std::string& folder, int documents = 60) {
  const Tokenizer tokenizer = train_tokenizer(sample_texts(40), {.vocab_size = 400});
  StoreWriter writer(folder, tokenizer);
  for (int i = 0; i < documents; ++i) {
    const std::string text = sample_text(static_cast<uint64_t>(i), 60);
    writer.add_document(i % 5 == 4, tokenizer.encode(text), static_cast<int64_t>(text.size()));
  }
  writer.commit("every fifth", "request", "a test");
}

inline const std::string& sample_store() {
  static const TempDir dir;
  static const std::string store = [] {
    make_store(dir.path() + "/store");
    return dir.path() + "/store";
  }();
  return store;
}

inline RunConfig tiny_run(const std::string& dir, std::vector<std::string> overrides = {}) {
  overrides.insert(overrides.begin(), {"data.store=" + sample_store(), "run.dir=" + dir});
  return parse_run_config(R"(
model: {vocab_size: 400, hidden_size: 16, intermediate_size: 24, moe_intermediate_size: 8, num_hidden_layers: 2, num_attention_heads: 2, q_lora_rank: 8, kv_lora_rank: 8,
        qk_nope_head_dim: 4, qk_rope_head_dim: 4, v_head_dim: 4, n_routed_experts: 4, n_shared_experts: 1, num_experts_per_tok: 2, n_group: 1, topk_group: 1,
        first_k_dense_replace: 1, num_nextn_predict_layers: 1, max_position_embeddings: 64}
data: {seq_len: 16}
train: {steps: 4, global_batch: 2, dtype: fp32, threads: 1, lr: {decay_until: 1000 steps}}
checkpoint: {every: 1}
eval: {sequences: 2}
log: {level: error}
)", "tiny", overrides);
}

struct RunOutcome {
  int code = 0;  // what the process would exit with
  std::string error;
};

inline RunOutcome run_of(Communicator& world, const RunConfig& config, int signal = 0) {
  const std::atomic<int> stop{signal};
  std::string phase;
  log::set_console_level(log::Level::kError);
  try {
    Trainer trainer(config, world, {}, stop, phase);
    return {static_cast<int>(trainer.run()), ""};
  } catch (const Error& error) {
    return {static_cast<int>(error.code()), error.what()};
  }
}
inline RunOutcome run_alone(const RunConfig& config, int signal = 0) {
  const auto world = one_rank_world();
  return run_of(*world, config, signal);
}

inline std::vector<std::string> lines_in(const std::string& path) {
  std::istringstream in(text_of(path));
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}
inline std::string log_of(const RunConfig& config) {
  log::flush();
  return text_of(config.run.path() + "/log/rank-00000.log");
}
// What metrics.jsonl says, in short: "1" a step, "resume@0", "checkpoint@1", "evaluation@4"; a line that is not JSON is "torn".
inline std::vector<std::string> story_of(const RunConfig& config) {
  std::vector<std::string> story;
  for (const std::string& line : lines_in(config.run.path() + "/metrics.jsonl")) {
    const nlohmann::json j = nlohmann::json::parse(line, nullptr, false);
    if (!j.is_discarded() && j.value("event", "") == "forecast") continue;  // what the run held, beside what it said it would
    if (j.is_discarded()) story.push_back("torn");
    else if (j.contains("event")) story.push_back(j["event"].get<std::string>() + "@" + std::to_string(j["step"].get<int64_t>()));
    else story.push_back(std::to_string(j["step"].get<int64_t>()));
  }
  return story;
}
inline nlohmann::json forecast_of(const RunConfig& config) {  // the run's last forecast event
  nlohmann::json found;
  for (const std::string& line : lines_in(config.run.path() + "/metrics.jsonl")) {
    const nlohmann::json j = nlohmann::json::parse(line, nullptr, false);
    if (!j.is_discarded() && j.value("event", "") == "forecast") found = j;
  }
  return found;
}
inline std::vector<std::string> checkpoints_of(const RunConfig& config) {
  std::vector<std::string> names = names_in(config.run.path() + "/checkpoints");
  std::erase(names, "LATEST");
  return names;
}
// The step loss as hex, of each step's last line.
inline std::map<int64_t, std::string> losses_of(const RunConfig& config) {
  std::map<int64_t, std::string> losses;
  for (const std::string& line : lines_in(config.run.path() + "/metrics.jsonl")) {
    const nlohmann::json j = nlohmann::json::parse(line, nullptr, false);
    if (!j.is_discarded() && j.contains("loss_hex")) losses[j["step"]] = j["loss_hex"].get<std::string>() + " " + j["grad_norm_hex"].get<std::string>();
  }
  return losses;
}

}  // namespace atoll::test
