// Runs the engine on thread ranks over synthetic data and records everything that layouts must agree on.
#pragma once
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "trainer/engine.h"

namespace atoll::test {

inline ModelConfig tiny_model() {
  ModelConfig c;
  c.vocab_size = 61;
  c.hidden_size = 24;
  c.intermediate_size = 40;
  c.moe_intermediate_size = 10;
  c.num_hidden_layers = 5;
  c.num_attention_heads = 3;
  c.q_lora_rank = 14;
  c.kv_lora_rank = 10;
  c.qk_nope_head_dim = 6;
  c.qk_rope_head_dim = 4;
  c.v_head_dim = 5;
  c.n_routed_experts = 10;  // uneven over ep = 4
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 3;
  c.n_group = 5;
  c.topk_group = 3;
  c.first_k_dense_replace = 1;
  c.num_nextn_predict_layers = 1;
  c.max_position_embeddings = 64;
  c.initializer_range = 0.15;
  return c;
}

struct Record {
  std::vector<double> loss, mtp, balance, norm;               // [step]
  std::vector<std::vector<int64_t>> counts;                   // [step] block-major expert counts, merged over stages
  std::map<std::string, std::vector<double>> parameters, first_gradients, first_biases, moments, second_moments;  // whole tensors by name; biases too
  std::vector<int64_t> expert_elements, optimizer_bytes, weight_gradient_gemms;     // [rank]
  std::vector<int64_t> dispatch_bytes, expected_dispatch_bytes;                     // [rank], summed over steps
  std::vector<std::vector<Action>> executed;                                        // [rank], last step
  std::vector<int> peak_live;
};

struct RunSpec {
  EngineOptions options;
  int world = 1, steps = 8, microbatches = 4;
  double clip_norm = 1.0, balance_alpha = 0.01, mtp_lambda = 0.3, bias_gamma = 0.001;
  int shortest = 3, spread = 15;                            // sequences have `shortest` to shortest + spread - 1 tokens
  int first_step = 1;                                       // with `begin`: the step that follows what it loaded
  std::function<void(Engine&, Communicator&)> begin, end;   // instead of initialize(); after the last step
  StepPlan plan(int step) const { return {.lr = 3e-3, .mtp_lambda = mtp_lambda, .balance_alpha = balance_alpha, .bias_gamma = bias_gamma, .clip_norm = clip_norm, .step = step}; }
};

// The global micro-batches of a step: ragged sequences, documents inside some, ignored labels; a pure function of the step. Split over dp, so ranks may hold none.
std::vector<MicroBatch> batches_of(const ModelConfig& model, int step, int dp_size, int dp_rank, int shortest = 3, int spread = 15, int microbatches = 4);
Record run(const RunSpec& spec);
// One rank's part of run(): fills what this rank knows of a record that several ranks may share.
Record empty_record(const RunSpec& spec);
void run_rank(const RunSpec& spec, Communicator& world, Record& record, std::mutex& mutex);
// Masters, moments and biases of this rank, into parameters, moments and second_moments.
void record_state(Engine& engine, Record& record, std::mutex& mutex);
double relative_difference(const std::vector<double>& a, const std::vector<double>& b);  // max|a-b| / max|b|; inf if sizes differ or b is zero and a is not
// The first thing that differs by more than the bound, in the order a run computes it ("first gradients: NAME differs by X"); empty if none.
std::string first_difference(const Record& a, const Record& b, double bound);

}  // namespace atoll::test
