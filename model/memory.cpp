// The replay. Policy: one line here is one take or free there; when a phase changes, its lines change with it.
#include "model/memory.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "parallel/row_shards.h"

namespace atoll {
namespace {
enum Segment_ { kActivations, kRouted };

// Takes and frees by name. Sizes are rounded as the segments round.
class Replay {
 public:
  Replay(const ModelConfig& config, const MemoryShape& shape) : c_(config), s_(shape) {}

  void take(const std::string& name, double rows, double width, double element, Segment_ segment = kActivations) {
    const double bytes = std::max(128.0, std::ceil(rows * width * element / 128) * 128);
    live_[name] = {bytes, segment};
    used_[segment] += bytes;
    high_[segment] = std::max(high_[segment], used_[segment]);
  }
  void free(const std::string& name) {
    const auto it = live_.find(name);
    if (it == live_.end()) return;
    used_[it->second.segment] -= it->second.bytes;
    live_.erase(it);
  }
  void rename(const std::string& from, const std::string& to) {
    const auto it = live_.find(from);
    if (it == live_.end()) return;
    live_[to] = it->second;
    live_.erase(from);
  }
  bool has(const std::string& name) const { return live_.count(name) > 0; }
  // Measures one action: what it changes and how high it goes.
  template <class Body>
  ActionMemory measure(Body&& body) {
    const Held before{used_[0], used_[1]};
    high_[0] = used_[0];
    high_[1] = used_[1];
    body();
    return {{used_[0] - before.activations, used_[1] - before.routed}, {high_[0] - before.activations, high_[1] - before.routed}};
  }
  std::vector<std::pair<std::string, double>> live() const {
    std::vector<std::pair<std::string, double>> list;
    for (const auto& [name, l] : live_) list.emplace_back(name, l.bytes);
    return list;
  }

  // --- sizes ---
  double s() const { return static_cast<double>(size_of(s_.storage)); }
  double a() const { return static_cast<double>(size_of(acc_dtype(s_.storage))); }
  double cached() const { return s_.is_fp8_cache ? 1 + 4.0 / 128 : s(); }   // operand of a weight gradient
  double D() const { return static_cast<double>(c_.hidden_size) / s_.tp; }  // under tensor parallelism these are split along the sequence
  double row() const { return static_cast<double>(c_.hidden_size); }        // of a routed row
  bool again(bool flag) const { return flag || s_.recompute.full; }

  void block_forward(const std::string& b, int64_t layer, double T);
  void block_backward(const std::string& b, int64_t layer, double T);
  void block_weight(const std::string& b, int64_t layer);
  const ModelConfig& config() const { return c_; }
  double part = 1;  // of a micro-batch's tokens that the block sees: MTP modules have fewer
  const MemoryShape& shape() const { return s_; }

 private:
  void attn_forward(const std::string& b, double T);
  void drop_recomputed(const std::string& b);
  void send_to_experts(const std::string& b, bool with_weights);
  void reorder(const std::string& from, const std::string& to, double width, double element);
  void combine(const std::string& b, bool with_weights);
  void moe_forward(const std::string& b, double T);
  void moe_backward(const std::string& b, double T);
  double sent() const { return s_.rows_sent * part; }
  double received() const { return s_.rows_of_layer.empty() ? s_.rows_received * part : static_cast<double>(s_.rows_of_layer[static_cast<size_t>(layer_)]); }
  double heads() const { return static_cast<double>(c_.num_attention_heads) / s_.tp; }
  double q_width() const { return heads() * static_cast<double>(c_.qk_head_dim()); }
  double kv_width() const {
    return s_.kv_heads > 0 ? static_cast<double>(s_.kv_heads * (c_.qk_head_dim() + c_.v_head_dim)) / s_.tp
                           : heads() * static_cast<double>(c_.qk_nope_head_dim + c_.v_head_dim);
  }
  double latent_width() const {
    if (s_.kv_heads > 0) return 0;
    return (has_q_latent() ? static_cast<double>(c_.q_lora_rank) : q_width()) + static_cast<double>(c_.kv_lora_rank + c_.qk_rope_head_dim);
  }
  bool has_q_latent() const { return c_.q_lora_rank > 0; }
  double expert_width() const { return static_cast<double>(c_.moe_intermediate_size); }
  double mlp_width(int64_t layer) const {
    return static_cast<double>(c_.is_moe_layer(layer) ? c_.n_shared_experts * c_.moe_intermediate_size : c_.intermediate_size) / s_.tp;
  }

  struct Live {
    double bytes;
    Segment_ segment;
  };
  const ModelConfig& c_;
  const MemoryShape& s_;
  int64_t layer_ = 0;
  std::map<std::string, Live> live_;
  double used_[2] = {}, high_[2] = {};
};

void Replay::attn_forward(const std::string& b, double T) {
  take(b + "x", T, D(), cached());
  take(b + "rstd_in", T, 1, a());
  if (latent_width() > 0) take(b + "qkv_a", T, latent_width(), s());
  if (has_q_latent() || s_.kv_heads > 0) {
    if (s_.kv_heads == 0) take(b + "q_latent", T, static_cast<double>(c_.q_lora_rank), cached());
    if (s_.kv_heads == 0) take(b + "q_rstd", T, 1, a());
    take(b + "q", T, q_width(), s());
  }
  if (s_.kv_heads == 0) take(b + "kv_latent", T, static_cast<double>(c_.kv_lora_rank), cached());
  if (s_.kv_heads == 0) take(b + "kv_rstd", T, 1, a());
  take(b + "kv", T, kv_width(), s());
  take(b + "o", T, heads() * static_cast<double>(c_.v_head_dim), s_.is_fp8_cache ? 1.5 : s());
  take(b + "lse", T, heads(), a());
  take(b + "h2", T, D(), s());
  take(b + "x_post", T, D(), cached());
  take(b + "rstd_post", T, 1, a());
}

void Replay::send_to_experts(const std::string& b, bool with_weights) {
  const double payload = s_.is_fp8_cache ? cached() : s();
  take(b + "send_rows", sent(), row(), payload, kRouted);
  if (with_weights) take(b + "send_weight", sent(), 1, a(), kRouted);
  if (s_.is_alone) {
    rename(b + "send_rows", b + "arrived");
    rename(b + "send_weight", b + "arrived_weight");
    return;
  }
  take(b + "arrived", received(), row(), payload, kRouted);
  if (with_weights) take(b + "arrived_weight", received(), 1, a(), kRouted);
}

// Rows of this rank's experts from arrival order to expert order, or back. One rank alone has them in order.
void Replay::reorder(const std::string& from, const std::string& to, double width, double element) {
  if (s_.is_alone) return rename(from, to);
  take(to, received(), width, element, kRouted);
  free(from);
}

void Replay::combine(const std::string& b, bool with_weights) {
  if (s_.is_alone) {
    rename(b + "arrived", b + "send_rows");
    rename(b + "arrived_weight", b + "send_weight");
    return;
  }
  take(b + "send_rows", sent(), row(), s(), kRouted);
  if (with_weights) take(b + "send_weight", sent(), 1, a(), kRouted);
  free(b + "arrived");
  free(b + "arrived_weight");
}

void Replay::moe_forward(const std::string& b, double T) {
  const double E = static_cast<double>(c_.n_routed_experts), K = static_cast<double>(c_.num_experts_per_tok), R = received(), F = expert_width();
  take(b + "logits", T, E, a());
  take(b + "scores", T, E, a());
  take(b + "topk_idx", T, K, 4);
  take(b + "topk_weight", T, K, a());
  if (s_.has_balance_loss) take(b + "f", static_cast<double>(s_.sequences), E, a());
  for (const char* index : {"row_of", "token_of", "slot_of"}) take(b + index, T, K, 4);
  send_to_experts(b, true);
  free(b + "logits");
  if (c_.n_shared_experts > 0) {
    const double W = static_cast<double>(c_.n_shared_experts) * F / s_.tp;
    take(b + "shared.gate_up", T, 2 * W, cached());
    take(b + "shared.act", T, W, cached());
    take(b + "shared_out", T, D(), s());
  }
  free(b + "send_rows");
  free(b + "send_weight");
  reorder(b + "arrived", b + "expert_x", row(), cached());
  reorder(b + "arrived_weight", b + "expert_weight", 1, a());
  take(b + "gate_up", R, 2 * F, cached(), kRouted);
  take(b + "act", R, F, cached(), kRouted);
  take(b + "y", R, row(), s(), kRouted);
  reorder(b + "y", b + "arrived", row(), s());
  combine(b, false);
  if (c_.n_shared_experts > 0)
    rename(b + "shared_out", b + "out");
  else
    take(b + "out", T, D(), s());
  free(b + "send_rows");
}

// What backward makes again is let go after forward.
void Replay::drop_recomputed(const std::string& b) {
  const Recompute& r = s_.recompute;
  if (again(r.norms))
    for (const char* t : {"x", "x_post", "q_latent", "kv_latent"}) free(b + t);
  if (again(r.mla_up))
    for (const char* t : {"q", "kv"}) free(b + t);
  if (again(r.swiglu))
    for (const char* t : {"act", "shared.act", "mlp.act"}) free(b + t);
  if (again(r.experts))
    for (const char* t : {"gate_up", "act", "shared.gate_up", "shared.act", "mlp.gate_up", "mlp.act"}) free(b + t);
  if (again(r.attention))
    for (const char* t : {"o", "lse"}) free(b + t);
  if (r.full)
    for (const char* t : {"qkv_a", "q_rstd", "kv_rstd", "rstd_in", "rstd_post", "h2", "o", "lse", "expert_x", "expert_weight", "scores", "f"}) free(b + t);
}

void Replay::block_forward(const std::string& b, int64_t layer, double T) {
  layer_ = layer;
  attn_forward(b, T);
  if (c_.is_moe_layer(layer)) {
    moe_forward(b, T);
  } else {
    take(b + "mlp.gate_up", T, 2 * mlp_width(layer), cached());
    take(b + "mlp.act", T, mlp_width(layer), cached());
    take(b + "out", T, D(), s());
  }
  drop_recomputed(b);
}

void Replay::moe_backward(const std::string& b, double T) {
  const double E = static_cast<double>(c_.n_routed_experts), K = static_cast<double>(c_.num_experts_per_tok), R = received(), F = expert_width();
  send_to_experts(b, false);
  if (c_.n_shared_experts > 0) {
    take(b + "shared.d_act", T, static_cast<double>(c_.n_shared_experts) * F / s_.tp, s());
    free(b + "shared.d_act");
    take(b + "shared_out", T, D(), s());
  }
  free(b + "send_rows");
  reorder(b + "arrived", b + "expert_dy", row(), cached());
  take(b + "d_weight", R, 1, a(), kRouted);
  take(b + "d_act", R, F, s(), kRouted);
  free(b + "d_act");
  free(b + "expert_weight");
  take(b + "dx", R, row(), s(), kRouted);
  reorder(b + "dx", b + "arrived", row(), s());
  reorder(b + "d_weight", b + "arrived_weight", 1, a());
  combine(b, true);
  if (c_.n_shared_experts > 0)
    rename(b + "shared_out", b + "dx_post");
  else
    take(b + "dx_post", T, D(), s());
  take(b + "d_topk", T, K, a());
  free(b + "send_rows");
  free(b + "send_weight");
  take(b + "d_logits_acc", T, E, a());
  if (s_.storage != acc_dtype(s_.storage)) {
    take(b + "d_logits", T, E, s());
    free(b + "d_logits_acc");
  } else {
    rename(b + "d_logits_acc", b + "d_logits");
  }
  free(b + "d_topk");
}

void Replay::block_backward(const std::string& b, int64_t layer, double T) {
  layer_ = layer;
  // Recomputed tensors come back first. The caller has "dout" (named b + "dout").
  const Recompute& r = s_.recompute;
  const auto remake = [&](const char* name, double rows, double width, double element, Segment_ segment = kActivations) {
    if (!has(b + name)) take(b + name, rows, width, element, segment);
  };
  const double R = received(), F = expert_width();
  if (c_.is_moe_layer(layer) && (again(r.swiglu) || again(r.experts))) {
    remake("expert_x", R, row(), cached(), kRouted);
    remake("gate_up", R, 2 * F, cached(), kRouted);
    remake("act", R, F, cached(), kRouted);
  }
  if (!c_.is_moe_layer(layer) || c_.n_shared_experts > 0) {
    const char* name = c_.is_moe_layer(layer) ? "shared" : "mlp";
    remake((std::string(name) + ".gate_up").c_str(), T, 2 * mlp_width(layer), cached());
    remake((std::string(name) + ".act").c_str(), T, mlp_width(layer), cached());
  }
  remake("h2", T, D(), s());
  remake("x_post", T, D(), cached());
  if (c_.is_moe_layer(layer)) {
    moe_backward(b, T);
  } else {
    take(b + "d_act", T, mlp_width(layer), s());
    free(b + "d_act");
    take(b + "dx_post", T, D(), s());
  }
  take(b + "d_out", T, D(), s());  // dh2
  free(b + "dx_post");
  free(b + "h2");
  free(b + "rstd_post");
  const double o_width = heads() * static_cast<double>(c_.v_head_dim);
  remake("x", T, D(), cached());
  if (latent_width() > 0) {
    remake("qkv_a", T, latent_width(), s());
    if (has_q_latent()) remake("q_latent", T, static_cast<double>(c_.q_lora_rank), cached());
    remake("kv_latent", T, static_cast<double>(c_.kv_lora_rank), cached());
  }
  if (has_q_latent() || s_.kv_heads > 0) remake("q", T, q_width(), s());
  remake("kv", T, kv_width(), s());
  remake("o", T, o_width, s_.is_fp8_cache ? 1.5 : s());
  take(b + "d_o", T, o_width, s());
  if (latent_width() > 0) take(b + "d_qkv_a", T, latent_width(), cached());
  take(b + "d_kv", T, kv_width(), cached());
  if (has_q_latent() || s_.kv_heads > 0) take(b + "d_q", T, q_width(), cached());
  for (const char* t : {"d_o", "q", "kv", "lse"}) free(b + t);
  if (s_.kv_heads == 0) {
    take(b + "d_latent", T, static_cast<double>(c_.kv_lora_rank), s());
    free(b + "d_latent");
    if (has_q_latent()) take(b + "d_latent", T, static_cast<double>(c_.q_lora_rank), s());
    free(b + "d_latent");
  }
  free(b + "qkv_a");
  take(b + "dh", T, D(), s());
  free(b + "h");
  free(b + "rstd_in");
}

void Replay::block_weight(const std::string& b, int64_t layer) {
  if (c_.is_moe_layer(layer)) {
    for (const char* t : {"scores", "topk_idx", "topk_weight", "f", "row_of", "token_of", "slot_of", "expert_x", "gate_up", "act", "expert_dy", "d_logits",
                          "shared.gate_up", "shared.act"})
      free(b + t);
  } else {
    free(b + "mlp.gate_up");
    free(b + "mlp.act");
  }
  for (const char* t : {"x_post", "dout", "x", "qkv_a", "q_latent", "q_rstd", "kv_latent", "kv_rstd", "o", "d_qkv_a", "d_kv", "d_q", "d_out"}) free(b + t);
}

// A whole stage. Names: block i is "i.", MTP module k is "mtp k.".
struct StageReplay {
  Replay r;
  Range layers;
  bool is_first, is_last;
  std::string name(int64_t i) const { return std::to_string(i) + "."; }
  int64_t mtp() const { return is_last ? r.config().num_nextn_predict_layers : 0; }
  double T() const { return static_cast<double>(r.shape().tokens); }
  double T_mtp(int64_t k) const { return T() - static_cast<double>(r.shape().sequences * k); }  // depth k has k rows fewer in each sequence
  static std::string module(int64_t k) { return "mtp" + std::to_string(k) + "."; }

  void forward() {
    r.rename("input", name(layers.begin) + "h");
    if (is_first) r.take(name(layers.begin) + "h", T(), r.D(), r.s());
    for (int64_t i = layers.begin; i < layers.end; ++i) {
      r.block_forward(name(i), i, T());
      r.rename(name(i) + "out", i + 1 < layers.end ? name(i + 1) + "h" : is_last ? "x_last" : "output");
    }
    if (layers.size() == 0) r.rename(name(layers.begin) + "h", is_last ? "x_last" : "output");
    if (!is_last) return;
    r.take("normed", T(), r.D(), r.s());
    r.take("final_rstd", T(), 1, r.a());
    r.take("d_normed", T(), r.D(), r.s());
    for (int64_t k = 1; k <= mtp(); ++k) {
      const std::string m = module(k);
      const double rows = T_mtp(k), D = r.D(), a = r.a();
      r.take(m + "embedded", rows, D, r.s());
      r.take(m + "joined", rows, 2 * D, r.s());
      r.take(m + "enorm_rstd", rows, 1, a);
      r.take(m + "hnorm_rstd", rows, 1, a);
      r.take(m + "h", rows, D, r.s());
      r.part = rows / std::max(1.0, T());
      r.block_forward(m, r.config().num_hidden_layers + k - 1, rows);
      r.part = 1;
      r.rename(m + "out", m + "x_last");
      r.take(m + "normed", rows, D, r.s());
      r.take(m + "final_rstd", rows, 1, a);
      r.take(m + "d_normed", rows, D, r.s());
    }
  }
  // is_fused: each layer's W follows its B.
  void backward(bool is_fused = false) {
    std::string d = "d_output";
    if (is_last) {
      for (int64_t k = mtp(); k >= 1; --k) {
        const std::string m = module(k);
        const double rows = T_mtp(k), D = r.D();
        r.rename(m + "d_normed", m + "dout");
        for (const char* t : {"x_last", "final_rstd", "normed"}) r.free(m + t);
        r.part = rows / std::max(1.0, T());
        r.block_backward(m, r.config().num_hidden_layers + k - 1, rows);
        r.part = 1;
        r.rename(m + "dh", m + "dx_module");
        r.take(m + "d_joined", rows, 2 * D, r.s());
        r.take(m + "d_embedded", rows, D, r.s());
        for (const char* t : {"embedded", "enorm_rstd", "hnorm_rstd", "d_joined"}) r.free(m + t);
        if (is_fused) module_weight(k);
      }
      d = "d_normed";
      for (const char* t : {"x_last", "final_rstd", "normed"}) r.free(t);
    }
    for (int64_t i = layers.end - 1; i >= layers.begin; --i) {
      r.rename(d, name(i) + "dout");
      r.block_backward(name(i), i, T());
      d = name(i) + "dh";
      if (is_fused) r.block_weight(name(i), i);
    }
    r.rename(d, is_first ? "d_embedded" : "d_input");
    if (is_fused) r.free("d_embedded");
  }
  void module_weight(int64_t k) {
    r.block_weight(module(k), r.config().num_hidden_layers + k - 1);
    for (const char* t : {"dx_module", "joined", "d_embedded"}) r.free(module(k) + t);
  }
  void weight() {
    for (int64_t k = mtp(); k >= 1; --k) module_weight(k);
    for (int64_t i = layers.end - 1; i >= layers.begin; --i) r.block_weight(name(i), i);
    r.free("d_embedded");
  }
};
}  // namespace

StageMemory stage_memory(const ModelConfig& config, Range layers, bool is_first, bool is_last, const MemoryShape& shape) {
  StageReplay stage{Replay(config, shape), layers, is_first, is_last};
  StageMemory m;
  const double T = static_cast<double>(shape.tokens), D = stage.r.D();
  if (!is_first) stage.r.take("input", T, D, stage.r.s());
  m.message = std::max(128.0, std::ceil(T * D * stage.r.s() / 128) * 128);
  m.forward = stage.r.measure([&] { stage.forward(); });
  for (const auto& [name, bytes] : stage.r.live())
    if (name != "output") m.kept.emplace_back(name, bytes);
  stage.r.free("output");
  if (!is_last) stage.r.take("d_output", T, D, stage.r.s());
  StageReplay fused = stage;
  m.full_backward = fused.r.measure([&] { fused.backward(true); });
  m.backward = stage.r.measure([&] { stage.backward(); });
  stage.r.free("d_input");
  m.weight = stage.r.measure([&] { stage.weight(); });
  return m;
}

namespace {
// The largest scratch of RowShards on this rank for these tensors (rows and bytes of a row), as reduce_to_owned_rows and gather_updated_rows take it.
int64_t shards_scratch(const std::vector<std::pair<int64_t, int64_t>>& tensors, int64_t size, bool is_reduce) {
  if (size == 1 || tensors.empty()) return 0;
  std::vector<int64_t> lengths(static_cast<size_t>(size), 0);
  for (const auto& [rows, row_bytes] : tensors)
    for (int64_t r = 0; r < size; ++r) lengths[static_cast<size_t>(r)] += owned_rows(rows, static_cast<int>(size), static_cast<int>(r)).size() * row_bytes;
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end()), bucket = 32 << 20;
  if (is_reduce) return 2 * (size - 1) * std::min(bucket / (2 * (size - 1)) / 8 * 8, (longest + 7) / 8 * 8);
  return size * std::min(bucket / size / 8 * 8, (longest + 7) / 8 * 8);
}
int64_t rounded(int64_t bytes) { return std::max<int64_t>(128, (bytes + 127) / 128 * 128); }
}  // namespace

PersistentMemory persistent_memory(const ModelConfig& config, const std::vector<ParameterSpec>& manifest, const Placement& placement, DType storage,
                                   DType moments, int64_t max_positions, const ShardPlaces& places, bool has_grads_aside) {
  const ParameterLayout layout = parameter_layout(config, manifest, placement);
  const auto s = static_cast<int64_t>(size_of(storage)), a = static_cast<int64_t>(size_of(acc_dtype(storage)));
  const int64_t table = config.vocab_size * config.hidden_size;
  const bool is_mirrored = places.mirror.end > 1;
  const int64_t other_uses = placement.is_last() ? (config.num_nextn_predict_layers > 0) + config.tie_word_embeddings : 0;
  PersistentMemory m;
  m.parameters = layout.num_elements;
  m.weights = rounded(layout.total * s) + rounded(layout.bias_elements * a) +
              static_cast<int64_t>(placement.stages.size()) * rounded(max_positions * config.qk_rope_head_dim * a);
  m.grads = (rounded((layout.total - layout.grads_begin) * a) + other_uses * rounded(table * a)) * (has_grads_aside ? 2 : 1);
  int64_t owned = 0;
  std::vector<std::pair<int64_t, int64_t>> grads[2], weights[2], mirror_grads, mirror_weights;
  for (const ParameterLayout::Item& item : layout.items) {
    if (item.is_replica) continue;
    const ParameterSpec& spec = manifest[static_cast<size_t>(item.index)];
    const bool is_expert = spec.expert >= 0;
    const Range& place = is_expert ? places.edp : places.dp;
    const int64_t summed = owned_rows(spec.rows, static_cast<int>(place.end), static_cast<int>(place.begin)).size();
    owned += owned_rows(summed, static_cast<int>(places.mirror.end), static_cast<int>(places.mirror.begin)).size() * spec.cols;
    grads[is_expert].emplace_back(spec.rows, spec.cols * a);
    weights[is_expert].emplace_back(spec.rows, spec.cols * s);
    if (is_mirrored) mirror_grads.emplace_back(spec.rows, spec.cols * a);
    if (is_mirrored && summed > 0) mirror_weights.emplace_back(summed, spec.cols * s);
  }
  for (int64_t use = 0; is_mirrored && use < other_uses; ++use) mirror_grads.emplace_back(config.vocab_size, config.hidden_size * a);
  const int64_t moment = moments == DType::kBF16 ? 2 : a;
  m.optimizer = (storage != acc_dtype(storage) ? rounded(owned * a) : 0) + rounded(2 * owned * moment);
  const auto scratch = [&](const std::vector<std::pair<int64_t, int64_t>>& tensors, int64_t size, bool is_reduce) {
    if (const int64_t bytes = shards_scratch(tensors, size, is_reduce); bytes > 0) m.comm = std::max(m.comm, rounded(bytes));
  };
  for (const bool is_expert : {false, true}) {
    const int64_t size = is_expert ? places.edp.end : places.dp.end;
    scratch(grads[is_expert], size, true);
    scratch(weights[is_expert], size, false);
  }
  scratch(mirror_grads, places.mirror.end, true);
  scratch(mirror_grads, places.mirror.end, false);
  scratch(mirror_weights, places.mirror.end, false);
  const bool has_other_use = config.num_nextn_predict_layers > 0 || config.tie_word_embeddings;
  if (placement.is_first() && !placement.is_last() && has_other_use) m.comm = std::max(m.comm, rounded(table * a));
  return m;
}

}  // namespace atoll
