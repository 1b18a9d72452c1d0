// The ops of model/{stage,block,mla,moe,mlp,mtp}.cpp by their shapes. Policy: one call here is one call there, with operands of the same dims and dtype; when a phase
// changes, its calls change with it (tests run both). Ops that neither take scratch nor need time worth naming (embedding, sums of counts) are left out.
#include "model/stage_ops.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>

#include "kernels/ops.h"

namespace atoll {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

class StageOps {
 public:
  StageOps(const ModelConfig& config, const StageOpsShape& shape, bool is_sizing) : c_(config), s_(shape), ctx_(shape.threads) {
    ctx_.is_sizing = is_sizing;
    ctx_.bf16_gemm = shape.bf16_gemm;
  }
  int64_t scratch() const { return ctx_.memory.workspace.high_water(); }
  StageOpsTimes* times = nullptr;  // where ops are recorded; null: they are only called
  bool is_exchanging = false;      // rows are put in order where they arrive, too

  void block(int64_t layer, int64_t T, int64_t sequences) {
    norm(T, c_.hidden_size, true);
    attention_layer(T);
    norm(T, c_.hidden_size, true);
    if (c_.is_moe_layer(layer))
      moe(T, sequences);
    else
      mlp(T, c_.intermediate_size);
    residual(T);
  }

  void head(int64_t T) {
    const int64_t D = c_.hidden_size, V = c_.vocab_size;
    norm(T, D, false);
    const Buffer x = take(T, D), w = take(V, D), dx = take(T, D), dw = take_acc(V, D), labels = take_indices(T, 1, V);
    double loss = 0;
    const std::array<Context::OpStat, 64> before = ctx_.op_stats;
    const double begin = now();
    head_loss(ctx_, {.x_TD = x, .w_VD = w, .labels_T = labels.tensor().view({T}), .loss_sum = &loss, .dx_TD = dx, .dw_VD = dw});
    if (times == nullptr) return;
    double products = 0;  // in blocks of rows, but all of them
    const auto t = static_cast<double>(T), d = static_cast<double>(D), v = static_cast<double>(V);
    const auto product = [&](Op op, WorkPass pass, double m, double n, double k) {
      const double seconds = ctx_.op_stats[static_cast<size_t>(op)].seconds - before[static_cast<size_t>(op)].seconds;
      times->ops.push_back({WorkKind::kGemm, pass, m, n, k, 2 * m * n * k, seconds});
      products += seconds;
    };
    product(Op::kLinear, WorkPass::kForward, t, v, d);
    product(Op::kLinearBackwardInput, WorkPass::kInput, t, d, v);
    product(Op::kLinearBackwardWeight, WorkPass::kWeight, v, d, t);
    times->glue_seconds += now() - begin - products;
  }

  void mtp(int64_t layer, int64_t T, int64_t sequences) {
    product(T, 2 * c_.hidden_size, c_.hidden_size);  // eh_proj
    norm(T, c_.hidden_size, false);
    block(layer, T, sequences);
    head(T);
  }

  // Seconds of AdamW for one element, over enough of them to leave the caches.
  double update() {
    constexpr int64_t kElements = 4 << 20;
    const Buffer master = take_acc(1, kElements), grad = take_acc(1, kElements), m = take_acc(1, kElements), v = take_acc(1, kElements), weight = take(1, kElements);
    double begin = 0;
    for (int pass = 0; pass < 2; ++pass) {
      begin = now();
      adamw(ctx_, {.master = master.tensor().view({kElements}), .grad = grad.tensor().view({kElements}), .m = m.tensor().view({kElements}), .v = v.tensor().view({kElements}),
                   .weight = weight.tensor().view({kElements}), .lr = 1e-3});
    }
    return (now() - begin) / kElements;
  }

 private:
  Buffer take(int64_t rows, int64_t cols) { return filled(ctx_.memory.activations.take({rows, cols}, s_.storage)); }
  Buffer take_acc(int64_t rows, int64_t cols) { return filled(ctx_.memory.activations.take({rows, cols}, acc_dtype(s_.storage))); }
  // Pages that were never written are one page for the hardware, and would be read from its cache. The pattern is a small positive number in every float type.
  Buffer filled(Buffer b) const {
    if (!ctx_.is_sizing) std::memset(b.tensor().data, 0x3c, static_cast<size_t>(b.tensor().bytes()));
    return b;
  }
  Buffer take_indices(int64_t rows, int64_t cols, int64_t bound) {
    Buffer b = ctx_.memory.activations.take({rows, cols}, DType::kI32);
    for (int64_t i = 0; i < rows * cols; ++i) b.tensor().as<int32_t>()[i] = static_cast<int32_t>(i % bound);
    return b;
  }

  template <class Body>
  void timed(WorkKind kind, WorkPass pass, int64_t m, int64_t n, int64_t k, double flops, const Body& body) {
    const double begin = now();
    body();
    if (times != nullptr) times->ops.push_back({kind, pass, static_cast<double>(m), static_cast<double>(n), static_cast<double>(k), flops, now() - begin});
  }
  // Memory-bound work. Without scratch it is left out when sizing: it would compute.
  template <class Body>
  void glue(const Body& body, bool takes_scratch = false) {
    if (ctx_.is_sizing && !takes_scratch) return;
    const double begin = now();
    body();
    if (times != nullptr) times->glue_seconds += now() - begin;
  }

  // y = x w^T and its gradients; is_gate: the router's, whose logits are acc and whose input gradient adds to what is there.
  void product(int64_t T, int64_t K, int64_t N, bool is_gate = false) {
    const Buffer x = take(T, K), w = take(N, K), dy = take(T, N), dw = take_acc(N, K), y = is_gate ? take_acc(T, N) : Buffer();
    const double flops = 2.0 * static_cast<double>(T) * static_cast<double>(K) * static_cast<double>(N);
    using enum WorkPass;
    timed(WorkKind::kGemm, kForward, T, N, K, flops, [&] { linear(ctx_, {.x_TK = x, .w_NK = w, .y_TN = is_gate ? y : dy, .keeps_acc = is_gate}); });
    timed(WorkKind::kGemm, kInput, T, K, N, flops, [&] { linear_backward_input(ctx_, {.dy_TN = dy, .w_NK = w, .dx_TK = x, .accumulate = is_gate}); });
    timed(WorkKind::kGemm, kWeight, N, K, T, flops, [&] { linear_backward_weight(ctx_, {.dy_TN = dy, .x_TK = x, .dw_NK = dw}); });
    if (ctx_.is_sizing) linear_backward_weight(ctx_, {.dy_TN = dy, .x_TK = x, .dw_NK = dw, .accumulate = false});  // the first micro-batch's
  }

  void grouped_product(int64_t E, int64_t rows, int64_t K, int64_t N) {
    const int64_t R = E * rows;
    std::vector<int64_t> offsets;
    for (int64_t e = 0; e <= E; ++e) offsets.push_back(e * rows);
    const Buffer x = take(R, K), dy = take(R, N);
    const Buffer w = filled(ctx_.memory.activations.take({E, N, K}, s_.storage)), dw = filled(ctx_.memory.activations.take({E, N, K}, acc_dtype(s_.storage)));
    const double flops = 2.0 * static_cast<double>(R) * static_cast<double>(K) * static_cast<double>(N);
    using enum WorkPass;
    timed(WorkKind::kGrouped, kForward, R, N, K, flops, [&] { grouped_linear(ctx_, {.x_RK = x, .w_ENK = w, .y_RN = dy, .offsets = offsets}); });
    timed(WorkKind::kGrouped, kInput, R, K, N, flops, [&] { grouped_linear_backward_input(ctx_, {.dy_RN = dy, .w_ENK = w, .dx_RK = x, .offsets = offsets}); });
    timed(WorkKind::kGrouped, kWeight, N, K, R, flops, [&] { grouped_linear_backward_weight(ctx_, {.dy_RN = dy, .x_RK = x, .dw_ENK = dw, .offsets = offsets}); });
    if (ctx_.is_sizing) grouped_linear_backward_weight(ctx_, {.dy_RN = dy, .x_RK = x, .dw_ENK = dw, .offsets = offsets, .accumulate = false});
  }
  // Scratch is that of the row count that takes most (settle_grouped), as in Stage::settle().
  void experts(int64_t K, int64_t N) {
    if (!ctx_.is_sizing) return grouped_product(s_.num_experts, s_.expert_rows, K, N);
    grouped_product(1, 1, K, N);
    settle_grouped(ctx_, s_.expert_rows);
  }

  void norm(int64_t T, int64_t D, bool has_residual) {
    const Buffer x = take(T, D), y = take(T, D), gain = take(1, D), rstd = take_acc(1, T), dgain = take_acc(1, D);
    const Tensor gain_D = gain.tensor().view({D}), rstd_T = rstd.tensor().view({T}), residual = has_residual ? y.tensor() : Tensor{};
    glue([&] {
      rms_norm(ctx_, {.x_TD = x, .residual_TD = residual, .gain_D = gain_D, .h_TD = has_residual ? x.tensor() : Tensor{}, .y_TD = y, .rstd_T = rstd_T});
    });
    const auto backward = [&] {
      rms_norm_backward(ctx_, {.dy_TD = y, .h_TD = x, .gain_D = gain_D, .rstd_T = rstd_T, .add_TD = residual, .dx_TD = y, .dgain_D = dgain.tensor().view({D})});
    };
    glue(backward, true);
  }
  void residual(int64_t T) {
    const Buffer a = take(T, c_.hidden_size), b = take(T, c_.hidden_size);
    glue([&] { add(ctx_, {.a = a, .b = b, .y = b}); });
  }

  void attention_layer(int64_t T) {
    const int64_t D = c_.hidden_size, H = c_.num_attention_heads, N = c_.qk_nope_head_dim, R = c_.qk_rope_head_dim, V = c_.v_head_dim, L = c_.q_lora_rank, KV = c_.kv_lora_rank;
    product(T, D, (L > 0 ? L : H * (N + R)) + KV + R);
    if (L > 0) {
      norm(T, L, false);
      product(T, L, H * (N + R));
    }
    norm(T, KV, false);
    product(T, KV, H * (N + V));
    product(T, H * V, D);
    const Buffer q = take(T, H * (N + R)), kv = take(T, H * (N + V)), k_rope = take(T, R), o = take(T, H * V), lse = take_acc(T, H), table = take_acc(T, R);
    const Tensor q_heads = q.tensor().heads(H), kv_heads = kv.tensor().heads(H), o_heads = o.tensor().heads(H);
    std::vector<int32_t> position;
    for (int64_t t = 0; t < T; ++t) position.push_back(static_cast<int32_t>(t));
    for (const bool inverse : {false, true})
      for (const Tensor& x : {q_heads.cols(N, R), k_rope.tensor().heads(1)}) glue([&] { rope(ctx_, {.x_THR = x, .position_T = position, .table_PR = table, .inverse = inverse}); });
    const std::vector<int32_t> cu_docs = documents(T);
    double pairs = 0;
    for (size_t d = 0; d + 1 < cu_docs.size(); ++d) pairs += static_cast<double>(H) * static_cast<double>(cu_docs[d + 1] - cu_docs[d]) * static_cast<double>(cu_docs[d + 1] - cu_docs[d]) / 2;
    const auto qk = static_cast<double>(N + R), v = static_cast<double>(V);
    timed(WorkKind::kAttention, WorkPass::kForward, document_length(), N + R, V, 2 * pairs * (qk + v), [&] {
      attention(ctx_, {.q_THQ = q_heads, .k_nope_THN = kv_heads.cols(0, N), .k_rope_TR = k_rope, .v_THV = kv_heads.cols(N, V), .o_THV = o_heads, .lse_TH = lse, .cu_docs = cu_docs});
    });
    timed(WorkKind::kAttention, WorkPass::kInput, document_length(), N + R, V, 2 * pairs * (3 * qk + 2 * v), [&] {
      attention_backward(ctx_, {.do_THV = o_heads, .q_THQ = q_heads, .k_nope_THN = kv_heads.cols(0, N), .k_rope_TR = k_rope, .v_THV = kv_heads.cols(N, V), .o_THV = o_heads,
                                .lse_TH = lse, .cu_docs = cu_docs, .dq_THQ = q_heads, .dk_nope_THN = kv_heads.cols(0, N), .dk_rope_TR = k_rope, .dv_THV = kv_heads.cols(N, V)});
    });
  }
  int64_t document_length() const { return s_.longest_document > 0 ? s_.longest_document : std::max<int64_t>(1, s_.tokens / s_.sequences); }
  // Documents of the longest length, one after the other.
  std::vector<int32_t> documents(int64_t T) const {
    std::vector<int32_t> cu_docs{0};
    while (cu_docs.back() < T) cu_docs.push_back(static_cast<int32_t>(std::min(T, cu_docs.back() + document_length())));
    return cu_docs;
  }

  void mlp(int64_t T, int64_t width) {
    product(T, c_.hidden_size, 2 * width);
    activation(T, width);
    product(T, width, c_.hidden_size);
  }
  void activation(int64_t rows, int64_t width) {
    const Buffer gate_up = take(rows, 2 * width), y = take(rows, width);
    glue([&] {
      swiglu(ctx_, {.gate_up_R2F = gate_up, .y_RF = y});
      swiglu_backward(ctx_, {.dy_RF = y, .gate_up_R2F = gate_up, .dgate_up_R2F = gate_up});
    });
  }

  void moe(int64_t T, int64_t sequences) {
    const int64_t D = c_.hidden_size, E = c_.n_routed_experts, F = c_.moe_intermediate_size;
    product(T, D, E, true);
    route(T, sequences);
    if (c_.n_shared_experts > 0) mlp(T, c_.n_shared_experts * F);
    if (s_.expert_rows == 0 || s_.num_experts == 0) return;
    experts(D, 2 * F);
    experts(F, D);
    if (ctx_.is_sizing) return;  // the rest takes none
    activation(s_.num_experts * s_.expert_rows, F);
    permutations(T);
  }
  void route(int64_t T, int64_t sequences) {
    const int64_t E = c_.n_routed_experts, K = c_.num_experts_per_tok;
    const Buffer logits = take_acc(T, E), scores = take_acc(T, E), weight = take_acc(T, K), ids = take_indices(T, K, E), f = take_acc(sequences, E);
    std::vector<int32_t> cu_seqs;
    for (int64_t b = 0; b <= sequences; ++b) cu_seqs.push_back(static_cast<int32_t>(T * b / sequences));
    double sum = 0;
    const auto forward = [&] {
      router(ctx_, {.logits_TE = logits, .scores_TE = scores, .topk_idx_TK = ids, .weight_TK = weight, .config = c_.router()});
      if (s_.has_balance_loss) balance_loss(ctx_, {.scores_TE = scores, .cu_seqs = cu_seqs, .topk = static_cast<int>(K), .f_BE = f, .loss_sum = &sum});
    };
    glue(forward, true);
    glue([&] {
      router_backward(ctx_, {.scores_TE = scores, .topk_idx_TK = ids, .dweight_TK = weight, .f_BE = s_.has_balance_loss ? f.tensor() : Tensor{}, .cu_seqs = cu_seqs,
                             .config = c_.router(), .dlogits_TE = logits});
    });
  }
  // Rows to experts and back, forward and backward; an expert-parallel rank puts them in order where they arrive, too.
  void permutations(int64_t T) {
    const int64_t D = c_.hidden_size, K = c_.num_experts_per_tok, R = s_.num_experts * s_.expert_rows;
    const Buffer x = take(T, D), rows = take(R, D), ordered = take(R, D), ids = take_indices(T, K, c_.n_routed_experts);
    const Buffer planned = take_indices(T, K, 1), row_of = take_indices(T, K, R), slots = take_indices(T * K, 1, 1), token_of = take_indices(R, 1, T), order = take_indices(R, 1, R);
    std::vector<int64_t> counts(static_cast<size_t>(c_.n_routed_experts));
    glue([&] { permutation_plan(ids, planned, slots.tensor().view({T * K}), counts); });
    for (int direction = 0; direction < 2; ++direction)
      glue([&] {
        permute(ctx_, {.x_TD = x, .index_R = token_of.tensor().view({R}), .y_RD = rows});
        for (int side = 0; side < 2 && is_exchanging; ++side) permute(ctx_, {.x_TD = rows, .index_R = order.tensor().view({R}), .y_RD = ordered});
        unpermute(ctx_, {.y_RD = rows, .row_of_TK = row_of, .add_TD = x, .out_TD = x});
      });
  }

  const ModelConfig& c_;
  const StageOpsShape& s_;
  Context ctx_;
};

constexpr int kPasses = 3;
constexpr int64_t kMostWeights = int64_t{512} << 20;  // bytes of one op's weights with their gradients
// Something else may have had the core for a moment.
template <class Of>
double median(const std::array<StageOpsTimes, kPasses>& passes, const Of& of) {
  std::array<double, kPasses> values;
  std::transform(passes.begin(), passes.end(), values.begin(), of);
  std::nth_element(values.begin(), values.begin() + kPasses / 2, values.end());
  return values[kPasses / 2];
}

// The first layer of each kind.
std::vector<int64_t> kinds_of_layers(const ModelConfig& config, Range layers) {
  std::vector<int64_t> first;
  for (const bool is_moe : {false, true})
    for (int64_t l = layers.begin; l < layers.end; ++l)
      if (config.is_moe_layer(l) == is_moe) {
        first.push_back(l);
        break;
      }
  return first;
}

}  // namespace

int64_t stage_workspace(const ModelConfig& config, Range layers, bool is_last, const StageOpsShape& shape) {
  if (shape.tokens <= 0) return 0;
  StageOps ops(config, shape, true);
  for (const int64_t l : kinds_of_layers(config, layers)) ops.block(l, shape.tokens, shape.sequences);
  if (!is_last) return ops.scratch();
  ops.head(shape.tokens);
  for (int64_t k = 0; k < config.num_nextn_predict_layers; ++k)
    if (const int64_t T = shape.tokens - shape.sequences * (k + 1); T > 0) ops.mtp(config.num_hidden_layers + k, T, shape.sequences);
  return ops.scratch();
}

int64_t gradient_norm_workspace(int64_t most_elements) {
  if (most_elements == 0) return 0;
  Context ctx;
  ctx.is_sizing = true;
  const Buffer grads = ctx.memory.activations.take({most_elements}, DType::kF32);
  sum_of_squares(ctx, grads);
  return ctx.memory.workspace.high_water();
}

StageOpsTimes time_stage_ops(const ModelConfig& model, const StageOpsShape& whole, double flops_per_second, double most_seconds) {
  ModelConfig config = model;  // a part of a large head or of many experts has the same rates, and leaves the run its memory
  const int64_t weight_bytes = static_cast<int64_t>(size_of(whole.storage) + size_of(acc_dtype(whole.storage)));
  config.vocab_size = std::min(config.vocab_size, std::max<int64_t>(1024, kMostWeights / weight_bytes / config.hidden_size));
  const std::vector<int64_t> layers = kinds_of_layers(config, {0, config.num_hidden_layers});
  const auto work_of = [&](const StageOpsShape& s) {
    WorkShape shape;
    shape.tokens = static_cast<double>(s.tokens);
    shape.seq_len = static_cast<double>(s.tokens) / static_cast<double>(s.sequences);
    shape.routed_rows = static_cast<double>(s.num_experts * s.expert_rows);
    shape.local_experts = static_cast<double>(s.num_experts);
    std::vector<Work> all = head_work(config, shape);
    for (const int64_t l : layers)
      for (const Work& w : block_work(config, l, shape)) all.push_back(w);
    return all;
  };
  StageOpsShape shape = whole;
  if (whole.num_experts > 0)
    shape.num_experts = std::clamp<int64_t>(kMostWeights / weight_bytes / (2 * config.moe_intermediate_size * config.hidden_size), std::min<int64_t>(whole.num_experts, whole.threads), whole.num_experts);
  double flops = 0;
  for (const Work& w : work_of(shape)) flops += w.flops;
  const double part = std::min(1.0, most_seconds * flops_per_second / ((1 + kPasses) * flops));  // once to warm up
  if (part < 1) {
    const int64_t of_sequence = whole.tokens / whole.sequences;
    shape.sequences = std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(whole.sequences) * part));
    shape.tokens = shape.sequences * (whole.sequences > 1 && shape.sequences > 1 ? of_sequence : std::clamp<int64_t>(static_cast<int64_t>(static_cast<double>(whole.tokens) * part), 16, of_sequence));
    shape.expert_rows = std::max<int64_t>(whole.expert_rows > 0, whole.expert_rows * shape.tokens / whole.tokens);
  }
  StageOps ops(config, shape, false);
  ops.is_exchanging = whole.num_experts < config.n_routed_experts;
  std::array<StageOpsTimes, kPasses> passes;
  for (int pass = -1; pass < kPasses; ++pass) {
    ops.times = pass < 0 ? nullptr : &passes[static_cast<size_t>(pass)];
    for (const int64_t l : layers) ops.block(l, shape.tokens, shape.sequences);
    ops.head(shape.tokens);
  }
  StageOpsTimes times = passes[0];
  for (const Work& w : work_of(shape)) times.glue_bytes += w.bytes;
  for (size_t i = 0; i < times.ops.size(); ++i) times.ops[i].seconds = median(passes, [&](const StageOpsTimes& t) { return t.ops[i].seconds; });
  times.glue_seconds = median(passes, [](const StageOpsTimes& t) { return t.glue_seconds; });
  times.update_seconds = ops.update();
  return times;
}

}  // namespace atoll
