// Reduction of gradients to the rows' owners, the update there, weights back to all. Policy: sums over ranks are added in rank order, and the norm in manifest order:
// the same bits on every rank.
#include "trainer/sharded_adamw.h"

#include <algorithm>
#include <cstring>

#include "kernels/ops.h"

namespace atoll {
namespace {
Communicator& group_of(const ProcessGroups& groups, const LocalParameter& p) { return p.is_expert ? *groups.edp : *groups.dp; }
}  // namespace

std::vector<int> stage_parameter_indices(const ModelConfig& config, const std::vector<ParameterSpec>& manifest, const Placement& placement) {
  std::vector<int> indices;
  for (size_t i = 0; i < manifest.size(); ++i) {
    const ParameterSpec& s = manifest[i];
    if (s.is_router_bias) continue;
    const bool here = s.layer < 0 ? placement.is_first()
                      : s.layer >= config.num_hidden_layers ? placement.is_last()
                                                            : placement.has_layer(s.layer);
    if (here) indices.push_back(static_cast<int>(i));
  }
  return indices;
}

ShardedAdamW::ShardedAdamW(Context& ctx, ParameterStore& parameters, const ProcessGroups& groups, DType moments) : ctx_(ctx), dense_shards_(*groups.dp, ctx.memory.comm), expert_shards_(*groups.edp, ctx.memory.comm) {
  if (groups.mirror) mirror_shards_.emplace(*groups.mirror, ctx.memory.comm);
  const DType acc = acc_dtype(parameters.storage());
  const bool has_master = parameters.storage() != acc;
  if (moments == DType::kF32) moments = acc;
  int64_t elements = 0;
  for (const LocalParameter& p : parameters.all()) {
    if (p.is_replica) continue;
    Communicator& group = group_of(groups, p);
    (p.is_expert ? expert_grads_ : dense_grads_).push_back(p.grad);
    (p.is_expert ? expert_weights_ : dense_weights_).push_back(p.weight);
    if (mirror_shards_) mirror_grads_.push_back(p.grad);
    const Range summed = owned_rows(p.spec->rows, group.size(), group.rank());
    if (summed.size() == 0) continue;
    summed_.push_back({&p, p.grad.rows(summed.begin, summed.size()), p.weight.rows(summed.begin, summed.size())});
    Owned o;
    o.parameter = &p;
    o.rows = summed;
    if (mirror_shards_) {
      const Range mine = mirror_shards_->owned(summed.size());
      o.rows = {summed.begin + mine.begin, summed.begin + mine.end};
      mirror_weights_.push_back(summed_.back().weight);
    }
    if (o.rows.size() == 0) continue;
    o.grad = p.grad.rows(o.rows.begin, o.rows.size());
    o.weight = p.weight.rows(o.rows.begin, o.rows.size());
    elements += o.grad.size();
    owned_.push_back(o);
  }
  if (mirror_shards_)
    for (EmbeddingUse use : {EmbeddingUse::kMtp, EmbeddingUse::kTiedHead})  // the input's use is the parameter's own gradient
      if (const Tensor grad = parameters.embedding_grad(use)) mirror_grads_.push_back(grad);
  if (has_master) state_ = ctx.memory.optimizer.take({elements}, acc);
  moments_ = ctx.memory.optimizer.take({2, elements}, moments);
  std::memset(moments_.tensor().data, 0, static_cast<size_t>(moments_.tensor().bytes()));
  int64_t at = 0;
  for (Owned& o : owned_) {
    const int64_t n = o.grad.size();
    auto part = [&](const Tensor& flat) {
      Tensor t = flat.rows(at, n);
      return o.parameter->spec->is_vector ? t : t.view({o.rows.size(), o.parameter->spec->cols});
    };
    o.master = has_master ? part(state_.tensor()) : o.weight;
    o.m = part(moments_.tensor().rows(0, 1).view({elements}));
    o.v = part(moments_.tensor().rows(1, 1).view({elements}));
    at += n;
  }
}

void ShardedAdamW::round_masters() {
  for (Owned& o : owned_)
    if (o.master.data != o.weight.data) cast(ctx_, {.x = o.master, .y = o.weight});
}

void ShardedAdamW::publish() {
  if (mirror_shards_) mirror_shards_->gather_updated_rows(mirror_weights_);
  dense_shards_.gather_updated_rows(dense_weights_);
  expert_shards_.gather_updated_rows(expert_weights_);
}

void ShardedAdamW::add_mirror_gradients() {
  if (!mirror_shards_) return;
  mirror_shards_->reduce_to_owned_rows(mirror_grads_);
  mirror_shards_->gather_updated_rows(mirror_grads_);
}

void ShardedAdamW::reduce_gradients() {
  dense_shards_.reduce_to_owned_rows(dense_grads_);
  expert_shards_.reduce_to_owned_rows(expert_grads_);
}

void ShardedAdamW::sums_of_squares(const std::vector<int>& stage_parameters, std::vector<double>& sums) {
  sums.assign(stage_parameters.size(), 0.0);
  for (const Summed& s : summed_) {
    const auto at = std::lower_bound(stage_parameters.begin(), stage_parameters.end(), s.parameter->index);
    sums[static_cast<size_t>(at - stage_parameters.begin())] = sum_of_squares(ctx_, s.grad);
  }
}

void ShardedAdamW::step(const AdamWSettings& s, double lr, double grad_scale, int64_t step) {
  for (Owned& o : owned_) {
    adamw(ctx_, {.master = o.master, .grad = o.grad, .m = o.m, .v = o.v, .weight = o.weight, .lr = lr, .beta1 = s.beta1, .beta2 = s.beta2, .eps = s.eps,
                 .weight_decay = o.parameter->spec->decays ? s.weight_decay : 0.0, .grad_scale = grad_scale, .step = step});
  }
}

}  // namespace atoll
