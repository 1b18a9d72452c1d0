// One MTP module: join the embedding of the shifted token with the main model's state, one block, a norm. Policy: its embedding gradient is a use of its own
// (EmbeddingUse::kMtp); head and embedding weights are the main model's.
#include "model/mtp.h"

namespace atoll {
namespace {
std::string prefix_of(const ModelConfig& config, int depth) { return "model.layers." + std::to_string(config.num_hidden_layers + depth - 1) + "."; }
}  // namespace

Mtp::Mtp(Context& ctx, const ModelConfig& config, const ParameterStore& p, int depth, Range experts, Dispatcher& dispatcher, const Tensor& rope_table)
    : ctx_(ctx), config_(config), table_(p.get("model.embed_tokens.weight").weight), d_table_(p.embedding_grad(EmbeddingUse::kMtp)), enorm_(p.get(prefix_of(config, depth) + "enorm.weight")),
      hnorm_(p.get(prefix_of(config, depth) + "hnorm.weight")), eh_proj_(p.get(prefix_of(config, depth) + "eh_proj.weight")),
      final_norm_(p.get(prefix_of(config, depth) + "shared_head.norm.weight")), block_(ctx, config, p, config.num_hidden_layers + depth - 1, experts, dispatcher, rope_table) {}

void Mtp::forward(MtpState& s, const TokenRows& from, const TokenRows& rows, const Tensor& previous, const StepScales& scales, StepSums& sums, const ModelProbe& probe) const {
  const int64_t T = rows.size(), D = config_.hidden_size;
  const DType type = previous.dtype, acc = acc_dtype(type);
  const double eps = config_.rms_norm_eps;
  Segment& memory = ctx_.memory.activations;
  s.embedded = memory.take({T, D}, type);
  embedding(ctx_, {.ids_T = rows.ids_T(), .table_VD = table_, .y_TD = s.embedded});
  s.joined = memory.take({T, 2 * D}, type);
  s.enorm_rstd = memory.take({T}, acc);
  s.hnorm_rstd = memory.take({T}, acc);
  rms_norm(ctx_, {.x_TD = s.embedded, .gain_D = enorm_.weight, .y_TD = s.joined.tensor().cols(0, D), .rstd_T = s.enorm_rstd, .eps = eps});
  for (int64_t b = 0; b < rows.num_sequences(); ++b) {  // the first n - k rows of each sequence of depth k - 1
    const int64_t begin = rows.cu_seqs[b], n = rows.cu_seqs[b + 1] - begin;
    rms_norm(ctx_, {.x_TD = previous.rows(from.cu_seqs[b], n), .gain_D = hnorm_.weight, .y_TD = s.joined.tensor().cols(D, D).rows(begin, n),
                    .rstd_T = s.hnorm_rstd.tensor().rows(begin, n), .eps = eps});
  }
  s.block.rows = &rows;
  s.block.h = memory.take({T, D}, type);
  linear(ctx_, {.x_TK = s.joined, .w_NK = eh_proj_.weight, .y_TN = s.block.h});
  BlockCall call{s.block, scales, sums, probe};
  run_phases(block_, block_.forward_phases(), call);
  s.x = std::move(s.block.out);
  s.normed = memory.take({T, D}, type);
  s.final_rstd = memory.take({T}, acc);
  rms_norm(ctx_, {.x_TD = s.x, .gain_D = final_norm_.weight, .y_TD = s.normed, .rstd_T = s.final_rstd, .eps = eps});
}

void Mtp::backward_input(MtpState& s, const TokenRows& from, const TokenRows& rows, const Tensor& previous, const Tensor& d_previous, const StepScales& scales, StepSums& sums,
                         const ModelProbe& probe) const {
  const int64_t T = rows.size(), D = config_.hidden_size;
  const DType type = previous.dtype;
  Segment& memory = ctx_.memory.activations;
  s.block.dout = std::move(s.d_normed);
  rms_norm_backward(ctx_, {.dy_TD = s.block.dout, .h_TD = s.x, .gain_D = final_norm_.weight, .rstd_T = s.final_rstd, .dx_TD = s.block.dout, .dgain_D = final_norm_.grad});
  s.x.reset();
  s.final_rstd.reset();
  s.normed.reset();
  BlockCall call{s.block, scales, sums, probe};
  run_phases(block_, block_.backward_input_phases(), call);
  s.dx = std::move(s.block.dh);
  Buffer d_joined = memory.take({T, 2 * D}, type);
  linear_backward_input(ctx_, {.dy_TN = s.dx, .w_NK = eh_proj_.weight, .dx_TK = d_joined});
  for (int64_t b = 0; b < rows.num_sequences(); ++b) {
    const int64_t begin = rows.cu_seqs[b], n = rows.cu_seqs[b + 1] - begin;
    const Tensor into = d_previous.rows(from.cu_seqs[b], n);
    rms_norm_backward(ctx_, {.dy_TD = d_joined.tensor().cols(D, D).rows(begin, n), .h_TD = previous.rows(from.cu_seqs[b], n), .gain_D = hnorm_.weight,
                             .rstd_T = s.hnorm_rstd.tensor().rows(begin, n), .add_TD = into, .dx_TD = into, .dgain_D = hnorm_.grad});
  }
  s.d_embedded = memory.take({T, D}, type);
  rms_norm_backward(ctx_, {.dy_TD = d_joined.tensor().cols(0, D), .h_TD = s.embedded, .gain_D = enorm_.weight, .rstd_T = s.enorm_rstd, .dx_TD = s.d_embedded, .dgain_D = enorm_.grad});
  s.embedded.reset();
  s.enorm_rstd.reset();
  s.hnorm_rstd.reset();
}

void Mtp::backward_weight(MtpState& s, const TokenRows& rows, const StepScales& scales, StepSums& sums, const ModelProbe& probe, bool accumulate) const {
  BlockCall call{s.block, scales, sums, probe, accumulate};
  run_phases(block_, block_.backward_weight_phases(), call);
  linear_backward_weight(ctx_, {.dy_TN = s.dx, .x_TK = s.joined, .dw_NK = eh_proj_.grad, .accumulate = accumulate});
  embedding_backward(ctx_, {.ids_T = rows.ids_T(), .dy_TD = s.d_embedded, .dtable_VD = d_table_});
  s.dx.reset();
  s.joined.reset();
  s.d_embedded.reset();
}

}  // namespace atoll
