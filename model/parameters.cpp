// Layers to stages, parameters to places in one arena, and their initial values. Policy: neighbours in the manifest that are multiplied together lie without gaps; initial
// values are a function of (seed, name, element), so they do not depend on the layout.
#include "model/parameters.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/base/rng.h"
#include "kernels/ops.h"
#include "model/flops.h"

namespace atoll {

std::vector<Range> split_layers(const ModelConfig& config, int num_stages, const std::vector<int>& counts) {
  const int64_t L = config.num_hidden_layers;
  if (!counts.empty()) {
    int64_t sum = 0;
    bool positive = true;
    for (int c : counts) { sum += c; positive = positive && c > 0; }
    if (static_cast<int>(counts.size()) != num_stages || sum != L || !positive)
      throw ConfigError(detail::concat("parallel.stage_layers has ", counts.size(), " entries that sum to ", sum, "; ", num_stages, " stages of ", L,
                                       " layers need ", num_stages, " positive entries that sum to ", L));
    std::vector<Range> ranges;
    int64_t begin = 0;
    for (int c : counts) { ranges.push_back({begin, begin + c}); begin += c; }
    return ranges;
  }
  if (L < num_stages) throw ConfigError(detail::concat("parallel.pp: ", num_stages, " stages need at least as many layers; the model has num_hidden_layers = ", L));
  constexpr int64_t kSequence = 4096;  // weighs attention against GEMMs; the split must not depend on the run's sequence length, which may change along it
  std::vector<double> prefix(static_cast<size_t>(L) + 1, 0.0);
  for (int64_t l = 0; l < L; ++l) prefix[l + 1] = prefix[l] + block_flops_per_token(config, l, kSequence);
  double tail = head_flops_per_token(config) * static_cast<double>(1 + config.num_nextn_predict_layers);
  for (int64_t l = L; l < config.num_blocks(); ++l) tail += block_flops_per_token(config, l, kSequence);
  // best[s][l]: cheapest worst stage when the first s stages hold the first l layers
  const double kInf = std::numeric_limits<double>::infinity();
  std::vector<std::vector<double>> best(num_stages + 1, std::vector<double>(L + 1, kInf));
  std::vector<std::vector<int64_t>> from(num_stages + 1, std::vector<int64_t>(L + 1, 0));
  best[0][0] = 0;
  for (int s = 1; s <= num_stages; ++s)
    for (int64_t l = s; l <= L; ++l)
      for (int64_t k = s - 1; k < l; ++k) {
        const double cost = std::max(best[s - 1][k], prefix[l] - prefix[k] + (s == num_stages ? tail : 0.0));
        if (cost < best[s][l]) { best[s][l] = cost; from[s][l] = k; }
      }
  std::vector<Range> ranges(num_stages);
  int64_t end = L;
  for (int s = num_stages; s >= 1; --s) {
    ranges[s - 1] = {from[s][end], end};
    end = from[s][end];
  }
  return ranges;
}

namespace {
bool is_here(const ModelConfig& config, const ParameterSpec& spec, const Placement& placement) {
  if (spec.layer < 0) return placement.is_first();
  if (spec.layer >= config.num_hidden_layers) { if (!placement.is_last()) return false; }
  else if (!placement.has_layer(spec.layer)) return false;
  return spec.expert < 0 || (spec.expert >= placement.experts.begin && spec.expert < placement.experts.end);
}
bool ends_with(const std::string& name, const char* tail) {
  const size_t n = std::strlen(tail);
  return name.size() >= n && name.compare(name.size() - n, n, tail) == 0;
}
// Lies right behind the parameter before it: the second half of a fused matrix, or the next expert of a stack.
bool follows(const ParameterSpec& spec, const ParameterSpec* previous) {
  if (!previous || previous->layer != spec.layer) return false;
  if (ends_with(spec.name, "kv_a_proj_with_mqa.weight") || ends_with(spec.name, "up_proj.weight")) return true;
  if (spec.expert < 0 || previous->expert < 0) return false;
  return ends_with(spec.name, "gate_proj.weight") || (ends_with(spec.name, "down_proj.weight") && ends_with(previous->name, "down_proj.weight"));
}
const char kEmbeddingName[] = "model.embed_tokens.weight", kHeadName[] = "lm_head.weight";
}  // namespace

ParameterLayout parameter_layout(const ModelConfig& config, const std::vector<ParameterSpec>& manifest, const Placement& placement) {
  const bool has_replica = placement.is_last() && !placement.is_first() && (config.num_nextn_predict_layers > 0 || config.tie_word_embeddings);
  constexpr int64_t kAlignElements = 32;
  ParameterLayout layout;
  const ParameterSpec* previous = nullptr;
  for (size_t i = 0; i < manifest.size(); ++i) {
    const ParameterSpec& spec = manifest[i];
    const bool replica = has_replica && spec.layer < 0;
    if (!replica && !is_here(config, spec, placement)) continue;
    if (spec.is_router_bias) {
      layout.biases.push_back(static_cast<int>(i));
      layout.bias_elements += spec.rows;
      continue;
    }
    if (!follows(spec, previous)) layout.total = (layout.total + kAlignElements - 1) / kAlignElements * kAlignElements;
    if (previous == nullptr || layout.items.back().is_replica) layout.grads_begin = layout.total;
    previous = &spec;
    layout.items.push_back({static_cast<int>(i), layout.total, replica});
    layout.total += spec.numel();
    layout.num_elements += spec.numel();
  }
  return layout;
}

ParameterStore::ParameterStore(Context& ctx, const ModelConfig& config, const std::vector<ParameterSpec>& manifest, const Placement& placement, DType storage) : storage_(storage) {
  const DType acc = acc_dtype(storage);
  const ParameterLayout layout = parameter_layout(config, manifest, placement);
  const int64_t at = layout.total, grads_begin = layout.grads_begin, bias_elements = layout.bias_elements;
  num_elements_ = layout.num_elements;
  for (const ParameterLayout::Item& item : layout.items) {
    const ParameterSpec& spec = manifest[static_cast<size_t>(item.index)];
    LocalParameter p;
    p.spec = &spec;
    p.index = item.index;
    p.is_expert = spec.expert >= 0;
    p.is_replica = item.is_replica;
    by_name_[spec.name] = static_cast<int>(parameters_.size());
    parameters_.push_back(p);
  }
  for (const int i : layout.biases) biases_.push_back({manifest[static_cast<size_t>(i)].name, manifest[static_cast<size_t>(i)].layer, {}});
  weights_ = ctx.memory.weights.take({at}, storage);
  grads_ = ctx.memory.grads.take({at - grads_begin}, acc);
  std::memset(weights_.tensor().data, 0, static_cast<size_t>(weights_.tensor().bytes()));
  for (size_t i = 0; i < parameters_.size(); ++i) {
    LocalParameter& p = parameters_[i];
    const int64_t n = p.spec->rows * p.spec->cols;
    const auto place = [&](const Buffer& buffer, int64_t begin) {
      const Tensor flat = buffer.tensor().rows(begin, n);
      return p.spec->is_vector ? flat : flat.view({p.spec->rows, p.spec->cols});
    };
    p.weight = place(weights_, layout.items[i].offset);
    if (!p.is_replica) p.grad = place(grads_, layout.items[i].offset - grads_begin);
  }
  bias_buffer_ = ctx.memory.weights.take({bias_elements}, acc);
  std::memset(bias_buffer_.tensor().data, 0, static_cast<size_t>(bias_buffer_.tensor().bytes()));
  for (size_t i = 0; i < biases_.size(); ++i) biases_[i].value = bias_buffer_.tensor().rows(static_cast<int64_t>(i) * config.n_routed_experts, config.n_routed_experts);

  if (const LocalParameter* e = find(kEmbeddingName); e && !e->is_replica) embedding_grads_[0] = e->grad;
  const int64_t V = config.vocab_size, D = config.hidden_size;
  int extra = 0;
  for (EmbeddingUse use : {EmbeddingUse::kMtp, EmbeddingUse::kTiedHead}) {
    const bool used = use == EmbeddingUse::kMtp ? config.num_nextn_predict_layers > 0 : config.tie_word_embeddings;
    if (!used || !placement.is_last()) continue;
    extra_grads_[extra] = ctx.memory.grads.take({V, D}, acc);
    embedding_grads_[static_cast<size_t>(use)] = extra_grads_[extra++];
  }
  zero_grads(true);
}

const LocalParameter* ParameterStore::find(const std::string& name) const {
  auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &parameters_[static_cast<size_t>(it->second)];
}

const LocalParameter& ParameterStore::get(const std::string& name) const {
  const LocalParameter* p = find(name);
  ATOLL_CHECK(p, "parameter ", name, " is not on this rank");
  return *p;
}

Tensor ParameterStore::fused(const std::string& first, int64_t rows, bool grad) const {
  return stacked(first, 1, rows, grad).view({rows, get(first).spec->cols});
}

Tensor ParameterStore::stacked(const std::string& first, int64_t count, int64_t rows, bool grad) const {
  const LocalParameter& p = get(first);
  const int64_t cols = p.spec->cols, total = count * rows;
  const Tensor& begin = grad ? p.grad : p.weight;
  int64_t seen = 0;
  for (size_t i = static_cast<size_t>(&p - parameters_.data()); seen < total; ++i) {
    ATOLL_CHECK(i < parameters_.size(), first, ": ", seen, " of ", total, " rows");
    const LocalParameter& next = parameters_[i];
    const Tensor& t = grad ? next.grad : next.weight;
    ATOLL_CHECK(next.spec->cols == cols && t.as<char>() == begin.as<char>() + seen * cols * static_cast<int64_t>(size_of(begin.dtype)), next.spec->name, " does not lie behind ", first);
    seen += next.spec->rows;
  }
  ATOLL_CHECK(seen == total, first, ": ", seen, " rows, wanted ", total);
  return Tensor(begin.data, begin.dtype, {count, rows, cols});
}

Tensor ParameterStore::router_bias(int64_t layer) const {
  for (const Bias& b : biases_)
    if (b.layer == layer) return b.value;
  return {};
}

void ParameterStore::zero_grads(bool all) {
  if (all) std::memset(grads_.tensor().data, 0, static_cast<size_t>(grads_.tensor().bytes()));
  for (LocalParameter& p : parameters_)
    if (!all && !p.is_replica && (p.spec->is_vector || p.spec->name == kEmbeddingName || p.spec->name == kHeadName)) std::memset(p.grad.data, 0, static_cast<size_t>(p.grad.bytes()));
  for (Buffer& b : extra_grads_)
    if (b) std::memset(b.tensor().data, 0, static_cast<size_t>(b.tensor().bytes()));
}

void ParameterStore::put_grads_aside(Context& ctx) {
  const auto put = [&](const Buffer& from, Buffer& to) {
    if (!from) return;
    if (!to) to = ctx.memory.grads.take({from.tensor().size()}, from.tensor().dtype);
    std::memcpy(to.tensor().data, from.tensor().data, static_cast<size_t>(from.tensor().bytes()));
  };
  put(grads_, aside_);
  for (int i = 0; i < 2; ++i) put(extra_grads_[i], extra_aside_[i]);
}

void ParameterStore::add_grads_put_aside(Context& ctx) {
  const auto add_to = [&](const Buffer& aside, const Buffer& grads) {
    if (!aside) return;
    const Tensor sum = grads.tensor().view({grads.tensor().size()});
    add(ctx, {.a = aside, .b = sum, .y = sum});
  };
  add_to(aside_, grads_);
  for (int i = 0; i < 2; ++i) add_to(extra_aside_[i], extra_grads_[i]);
}

void initial_rows(const ModelConfig& config, const ParameterSpec& spec, uint64_t seed, int64_t row_begin, const Tensor& out) {
  const int64_t n = out.size();
  const bool is_double = out.dtype == DType::kF64;
  auto put = [&](int64_t i, double value) { is_double ? out.as<double>()[i] = value : out.as<float>()[i] = static_cast<float>(value); };
  if (spec.is_vector) {
    for (int64_t i = 0; i < n; ++i) put(i, 1.0);
    return;
  }
  // Four normals a counter block (two Box-Muller pairs of 32-bit uniforms): a start of millions of parameters takes seconds, not minutes.
  const Rng rng(seed, "init/" + spec.name);
  const int64_t begin = row_begin * spec.cols;
  for (int64_t block = begin / 4; block * 4 < begin + n; ++block) {
    const auto b = rng.block(static_cast<uint64_t>(block));
    for (int pair = 0; pair < 2; ++pair) {
      const int64_t i = block * 4 + pair * 2 - begin;
      if (i + 1 < 0 || i >= n) continue;
      const double radius = config.initializer_range * std::sqrt(-2.0 * std::log((b[2 * pair] + 0.5) * 0x1p-32));
      const double angle = 6.283185307179586477 * 0x1p-32 * b[2 * pair + 1];
      if (i >= 0) put(i, radius * std::cos(angle));
      if (i + 1 >= 0 && i + 1 < n) put(i + 1, radius * std::sin(angle));
    }
  }
}

}  // namespace atoll
