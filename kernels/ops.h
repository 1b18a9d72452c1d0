// Arithmetic on one device: this page is the whole API. Policy: weight gradients accumulate, activation gradients overwrite, unless a comment says otherwise.
// "storage" is BF16, FP32 or FP64 and the same for all activations and weights of a call; "acc" is acc_dtype(storage): FP32, or FP64 for FP64.
// Sums inside an op are FP32 (FP64 for FP64) or better. Tensors may have strided rows where the comment says "rows may be strided"; else contiguous.
// Every op checks its arguments once and throws Error; T == 0 (or N == 0) is legal and returns at once (an accumulate=false weight gradient is still zeroed).
// On the CPU an op is complete when it returns; on a GPU it is asynchronous on the compute stream. Bits never depend on the thread count.
// Shapes: T tokens, D hidden, K contraction or top-k, N routed rows or GEMM columns, H heads, E experts, F expert hidden, V vocab.
#pragma once
#include <cstdint>
#include <span>

#include "kernels/base/context.h"
#include "kernels/base/tensor.h"

namespace atoll {

enum class Op : int {
  kLinear, kLinearBackwardInput, kLinearBackwardWeight,
  kGroupedLinear, kGroupedLinearBackwardInput, kGroupedLinearBackwardWeight,
  kRmsNorm, kRmsNormBackward, kRope, kAttention, kAttentionBackward, kSwiglu, kSwigluBackward,
  kRouter, kRouterBackward, kBalanceLoss, kPermute, kUnpermute, kEmbedding, kEmbeddingBackward, kHeadLoss,
  kAdamW, kSumOfSquares, kAdd, kCast, kNumOps
};
const char* name_of(Op op);

// ---- GEMM. Rows of all operands may be strided. y may have storage or acc type; weights [out, in]. K (contraction) is never split between threads.
// keeps_acc: the result stays in acc type whatever the storage (the router's logits): not an output that round_outputs_to_bf16 rounds.
struct Linear { Tensor x_TK, w_NK, y_TN; bool accumulate = false, keeps_acc = false; };                   // y (+)= x w^T
struct LinearBackwardInput { Tensor dy_TN, w_NK, dx_TK; bool accumulate = false; };                      // dx (+)= dy w
struct LinearBackwardWeight { Tensor dy_TN, x_TK, dw_NK; bool accumulate = true; };                      // dw (+)= dy^T x; dw is acc
void linear(Context& ctx, const Linear& op);
void linear_backward_input(Context& ctx, const LinearBackwardInput& op);
void linear_backward_weight(Context& ctx, const LinearBackwardWeight& op);

// ---- Grouped GEMM over ragged experts: rows [offsets[e], offsets[e+1]) belong to expert e; offsets has E+1 entries on the host, offsets[0] == 0. Empty experts are legal.
struct GroupedLinear { Tensor x_RK, w_ENK, y_RN; std::span<const int64_t> offsets; };                     // y_r = x_r w_e^T
struct GroupedLinearBackwardInput { Tensor dy_RN, w_ENK, dx_RK; std::span<const int64_t> offsets; };      // dx_r = dy_r w_e
struct GroupedLinearBackwardWeight { Tensor dy_RN, x_RK, dw_ENK; std::span<const int64_t> offsets; bool accumulate = true; };  // dw_e (+)= dy_e^T x_e; acc
void grouped_linear(Context& ctx, const GroupedLinear& op);
void grouped_linear_backward_input(Context& ctx, const GroupedLinearBackwardInput& op);
void grouped_linear_backward_weight(Context& ctx, const GroupedLinearBackwardWeight& op);
// Compiles what the grouped products seen so far need for any expert of up to `most_rows` rows, and has their scratch committed: later calls compile and allocate nothing, and
// how much scratch a run takes does not depend on its routing. Returns at once if nothing is new.
void settle_grouped(Context& ctx, int64_t most_rows);

// ---- RMSNorm (Zhang & Sennrich 2019), with the residual add fused: h = x + residual (h = x without one); y = h (mean(h^2) + eps)^-1/2 gain.
// x, y rows may be strided. h must be given iff residual is; h may alias x or residual. The mean uses h as stored (rounded to storage).
struct RmsNorm { Tensor x_TD, residual_TD, gain_D, h_TD, y_TD, rstd_T; double eps = 1e-6; };             // rstd: acc
void rms_norm(Context& ctx, const RmsNorm& op);
// dx = add + gradient through the norm (add: optional, the gradient that flows along the residual; may alias dx). dgain (acc) accumulates; empty: not computed.
// dy, h, dx rows may be strided; dx may alias dy.
struct RmsNormBackward { Tensor dy_TD, h_TD, gain_D, rstd_T, add_TD, dx_TD, dgain_D; };
void rms_norm_backward(Context& ctx, const RmsNormBackward& op);

// ---- RoPE, interleaved pairs (x[2i], x[2i+1]) rotated by cos/sin[position][i]; in place. x_THR may be a strided view (the rope columns of q; H = 1 for the shared key).
// table_PR [positions, R]: cos at [p][2i], sin at [p][2i+1], acc type, YaRN's factor included. inverse: rotates back (the backward pass).
struct Rope { Tensor x_THR; std::span<const int32_t> position_T; Tensor table_PR; bool inverse = false; };
void rope(Context& ctx, const Rope& op);
// Frequencies of RoPE and YaRN (Peng et al. 2023; DeepSeek's constants: reference section 1.5). Host, FP64.
struct RopeScaling { double factor = 1, beta_fast = 32, beta_slow = 1, mscale = 1, mscale_all_dim = 0; int64_t original_max_position = 4096; bool is_yarn = false; };
void fill_rope_table(Tensor table_PR, double theta, const RopeScaling& scaling);
double attention_scale(int64_t qk_head_dim, const RopeScaling& scaling);  // qk_head_dim^-1/2, x m(mscale_all_dim)^2 under YaRN

// ---- Causal attention with unequal head dims and documents: MLA's training form. Query i of document [a, b) sees keys a..i.
// score(t,h,s) = scale (q_nope[t,h] . k_nope[s,h] + q_rope[t,h] . k_rope[s]); q_THQ holds nope then rope (Q = Nn + R). k_rope_SR may be empty (R = 0).
// Online softmax over key blocks: no S x S matrix is kept. Row and head strides are free. cu_docs: document boundaries, first 0, last T.
struct Attention { Tensor q_THQ, k_nope_THN, k_rope_TR, v_THV, o_THV, lse_TH; std::span<const int32_t> cu_docs; double scale = 1; };  // lse: acc, natural log
void attention(Context& ctx, const Attention& op);
struct AttentionBackward {  // all gradients overwrite; dk_rope is the sum over heads, heads ascending
  Tensor do_THV, q_THQ, k_nope_THN, k_rope_TR, v_THV, o_THV, lse_TH;
  std::span<const int32_t> cu_docs;
  double scale = 1;
  Tensor dq_THQ, dk_nope_THN, dk_rope_TR, dv_THV;
};
void attention_backward(Context& ctx, const AttentionBackward& op);

// ---- SwiGLU x routing weight: y = weight_r silu(gate) up; gate_up_R2F: left half gate, right half up. weight_R (acc) empty: 1.
struct Swiglu { Tensor gate_up_R2F, weight_R, y_RF; };
void swiglu(Context& ctx, const Swiglu& op);
// s = sigmoid(gate): dgate = dy w s up (1 + gate (1 - s)); dup = dy w s gate; dweight_r = sum_f dy silu(gate) up (acc; with weight only). dgate_up may alias gate_up.
struct SwigluBackward { Tensor dy_RF, gate_up_R2F, weight_R, dgate_up_R2F, dweight_R; };
void swiglu_backward(Context& ctx, const SwigluBackward& op);

// ---- Router (DeepSeek-V3 eq. 12-16; V2, V2-Lite). scores = sigmoid(logits) or softmax; selection on scores + bias in the kept groups (others excluded: -inf);
// weights from the un-biased scores. Ties: lowest index first (groups too). Ids come out ascending by expert id.
enum class ScoreFunction { kSigmoid, kSoftmax };
enum class GroupScore { kNone, kMax, kTop2Sum };  // greedy / group_limited_greedy (V2) / noaux_tc (V3)
struct RouterConfig {
  ScoreFunction score = ScoreFunction::kSigmoid;
  GroupScore group_score = GroupScore::kTop2Sum;
  int num_experts = 0, topk = 0, num_groups = 1, topk_groups = 1;
  bool normalize = true;        // weights /= sum + 1e-20
  double scaling = 1.0;
};
// logits_TE, scores_TE, weight_TK: acc. bias_E: acc, may be empty. topk_idx_TK: I32. forced: topk_idx is an input (weights recomputed on those ids).
struct Router { Tensor logits_TE, bias_E, scores_TE, topk_idx_TK, weight_TK; RouterConfig config; bool forced = false; };
void router(Context& ctx, const Router& op);
// Sequence-wise balance loss (DeepSeek-V3 eq. 17-20) on un-biased scores: per sequence f_e = E/(K n) #{t: e in top-K of scores over ALL experts}, P_e = mean_t s_e / sum_j s_j,
// term = sum_e f_e P_e. Writes f_BE (acc, for backward) and adds sum over sequences of term to *loss_sum. cu_seqs: B+1 boundaries; empty sequences add nothing.
struct BalanceLoss { Tensor scores_TE; std::span<const int32_t> cu_seqs; int topk = 0; Tensor f_BE; double* loss_sum = nullptr; };
void balance_loss(Context& ctx, const BalanceLoss& op);
// dlogits (acc) from dweight_TK (acc) and, if f_BE is given, balance_scale * d(sum of terms) (balance_scale = alpha / sequences of the whole step).
struct RouterBackward { Tensor scores_TE, topk_idx_TK, dweight_TK, f_BE; std::span<const int32_t> cu_seqs; double balance_scale = 0; RouterConfig config; Tensor dlogits_TE; };
void router_backward(Context& ctx, const RouterBackward& op);

// ---- Permutation. row_of_TK: I32 row of (t, k), token_of_R: I32. Rows are grouped by expert, tokens ascending inside: the order every back end produces.
// counts_E receives the rows of each expert (int64, on the host).
void permutation_plan(Tensor topk_idx_TK, Tensor row_of_TK, Tensor token_of_R, std::span<int64_t> counts_E);
struct Permute { Tensor x_TD, index_R, y_RD; };                 // y_r = x[index_r]: gather of rows; a permute forward, an un-permute backward. Any dtype
void permute(Context& ctx, const Permute& op);
struct Unpermute { Tensor y_RD, row_of_TK, add_TD, out_TD; };   // out_t = add_t + sum_k y[row(t,k)], k ascending, summed in acc, rounded once; add may be empty or alias out
void unpermute(Context& ctx, const Unpermute& op);

// ---- Embedding. ids: I32. dtable (acc) accumulates, tokens ascending for each row.
struct Embedding { Tensor ids_T, table_VD, y_TD; };
void embedding(Context& ctx, const Embedding& op);
struct EmbeddingBackward { Tensor ids_T, dy_TD, dtable_VD; };
void embedding_backward(Context& ctx, const EmbeddingBackward& op);

// ---- Output head + cross-entropy, fused: logits = x w^T (never kept: blocks of rows, each over the whole vocabulary), *loss_sum += sum of -log p[label] over labels >= 0 (natural log).
// With dx given also dx = scale * d loss_sum/dx (overwrites) and dw (acc) accumulates: forward and backward in one pass, no logits product is done twice.
// labels: I32, negative = ignored (its dx is 0). loss_T (acc, optional): each token's loss, 0 where ignored.
struct HeadLoss { Tensor x_TD, w_VD, labels_T; double scale = 1; double* loss_sum = nullptr; Tensor loss_T, dx_TD, dw_VD; };
void head_loss(Context& ctx, const HeadLoss& op);

// ---- AdamW (Loshchilov & Hutter), eps outside the root, decoupled decay first: p *= 1 - lr wd; g = grad * grad_scale; p -= lr m^ / (sqrt(v^) + eps), bias-corrected by `step` (1-based).
// master, grad: acc. m, v: acc or BF16. weight: the storage copy that is rewritten (may be the same memory as master when storage == acc).
struct AdamW { Tensor master, grad, m, v, weight; double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0, grad_scale = 1; int64_t step = 1; };
void adamw(Context& ctx, const AdamW& op);

double sum_of_squares(Context& ctx, const Tensor& x);           // FP64, fixed blocks of 4096 in order; NaN and inf come through
struct Add { Tensor a, b, y; };                                 // y = a + b, one dtype, same dims; y may alias either. Rows may be strided
void add(Context& ctx, const Add& op);
struct Cast { Tensor x, y; double scale = 1; };                 // y = round(scale x); BF16, FP32, FP64; same dims. Rows may be strided
void cast(Context& ctx, const Cast& op);

// How BF16 operands are multiplied and at what rate: measured in tens of milliseconds, sets ctx.bf16_gemm (kept if already forced) and ctx.probe.
void probe_gemm(Context& ctx);
Isa best_isa();                       // honours ATOLL_ISA=x86-64|avx2|avx512
const char* name_of(Isa isa);
// GFLOP/s of the best of 2048^3 (and 4096^3 if thorough) over dtypes with ctx.num_threads: the denominator of MFU on a CPU. ~0.3 s.
double measure_gemm_peak(Context& ctx, bool thorough);

}  // namespace atoll
