// Multi-head latent attention in its training (MHA) form: DeepSeek-V2 eq. 9-19, V3 section 2.1.1; order of ops in reference section 1.3.
// Policy: forward keeps what backward needs in MlaState; backward_input leaves exactly the operands of backward_weight behind.
#pragma once
#include "kernels/ops.h"
#include "model/batch.h"
#include "model/config.h"
#include "model/parameters.h"

namespace atoll {

// Views of one layer's weights, or of its main gradients.
struct MlaTensors {
  Tensor qkv_a;    // [q_lora + kv_lora + rope, D]; without a q latent [H (nope + rope) + kv_lora + rope, D]
  Tensor q_norm;   // [q_lora]; empty without a q latent, as q_b
  Tensor q_b;      // [H (nope + rope), q_lora]
  Tensor kv_norm;  // [kv_lora]
  Tensor kv_b;     // [H (nope + v), kv_lora]: per head k_nope then v
  Tensor o;        // [D, H v]
};
MlaTensors mla_tensors(const ParameterStore& parameters, const ModelConfig& config, const std::string& prefix, bool grads);

struct MlaState {
  Buffer x;                        // [T, D] normed input: operand of qkv_a's weight gradient
  Buffer qkv_a, q_rstd, kv_rstd;   // latents; rotated key
  Buffer q_latent, kv_latent;      // normed latents
  Buffer q, kv, lse, o;
  Buffer d_qkv_a, d_q, d_kv, d_out;  // gradients kept for backward_weight
};

class Mla {
 public:
  Mla(Context& ctx, const ModelConfig& config, const MlaTensors& weights, const MlaTensors& grads, const Tensor& rope_table_PR);
  // state.x holds the normed input; returns the output of o_proj [T, D].
  Buffer forward(MlaState& state, const TokenRows& rows) const;
  // d_out [T, D]: gradient of the output (kept until backward_weight); returns the gradient of the normed input [T, D].
  Buffer backward_input(MlaState& state, const TokenRows& rows, Buffer d_out) const;
  void backward_weight(MlaState& state, bool accumulate) const;  // frees the state; accumulate false (first micro-batch of a step): overwrites

 private:
  Tensor q_rope(const Tensor& q_TQ) const;      // [T, H, rope] view of the heads' last columns
  Tensor q_part(const Tensor& qkv_a) const;     // q latent, or q itself
  Tensor kv_part(const Tensor& qkv_a) const;    // [T, kv_lora]
  Tensor key_rope(const Tensor& qkv_a) const;   // [T, rope]
  int64_t H() const { return config_.num_attention_heads; }
  bool has_q_latent() const { return config_.q_lora_rank > 0; }

  Context& ctx_;
  const ModelConfig& config_;
  MlaTensors w_, g_;
  Tensor rope_table_;
  double scale_;
};

}  // namespace atoll
