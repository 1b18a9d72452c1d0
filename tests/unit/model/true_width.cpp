// One DeepSeek-V3 MoE layer at its true width on one rank of ep = 32: the production block, FP32 against the same block in FP64, forward, backward and weight gradients.
// The other 31 ranks are a stub of the communicator: they have no tokens, and what is sent to them is lost, so that absent experts give nothing in either type.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <map>

#include "kernels/base/rng.h"
#include "model/block.h"

using namespace atoll;

namespace {
class RankAmongSilentOnes : public Communicator {
 public:
  RankAmongSilentOnes(int rank, int size) : Communicator(rank, size) {}
  Request isend(const void*, int64_t, int, int) override { throw Error("not used by a block"); }
  Request irecv(void*, int64_t, int, int) override { throw Error("not used by a block"); }
  Request iall_to_all_v(const void* send, std::span<const int64_t> send_bytes, std::span<const int64_t> send_begin, void* recv, std::span<const int64_t> recv_bytes,
                        std::span<const int64_t> recv_begin) override {
    for (int r = 0; r < size(); ++r) {
      char* to = static_cast<char*>(recv) + recv_begin[r];
      if (recv_bytes[r] == 0) continue;
      if (r == rank()) std::memcpy(to, static_cast<const char*>(send) + send_begin[r], static_cast<size_t>(send_bytes[r]));
      else std::memset(to, 0, static_cast<size_t>(recv_bytes[r]));
    }
    return {};
  }
  void broadcast(void*, int64_t, int) override {}
  void barrier() override {}
  std::unique_ptr<Communicator> split(int, int) override { throw Error("not used by a block"); }
  [[noreturn]] void abort(int code) override { throw Error("aborted with " + std::to_string(code)); }
};

constexpr int kEp = 32, kRank = 3;
constexpr int64_t kTokens = 256, kPresent = 8;

ModelConfig v3_layer() {
  ModelConfig c = *model_preset("deepseek-v3");
  c.vocab_size = 64;  // embedding and head are not part of the layer
  c.num_hidden_layers = 1;
  c.first_k_dense_replace = 0;
  c.num_nextn_predict_layers = 0;
  return c;
}

using Values = std::vector<double>;
struct Result {
  Values out, dh, scores;
  std::vector<int32_t> ids;
  std::vector<int64_t> counts;  // of all 256 experts
  std::map<std::string, Tensor> grads;
  std::unique_ptr<Context> ctx;  // owns the gradients
  std::unique_ptr<ParameterStore> store;
  // Gradients alone, outside of the context: the two types' weights need not lie in memory at once.
  std::map<std::string, std::vector<float>> take_grads() {
    std::map<std::string, std::vector<float>> copies;
    for (const auto& [name, t] : grads) copies[name].assign(t.as<float>(), t.as<float>() + t.size());
    grads.clear();
    store.reset();
    ctx.reset();
    return copies;
  }
};

Values to_double(const Tensor& t) {
  Values v(static_cast<size_t>(t.size()));
  for (size_t i = 0; i < v.size(); ++i) v[i] = t.dtype == DType::kF64 ? t.as<double>()[i] : t.as<float>()[i];
  return v;
}

// FP32 values in either type, so that both blocks have the same weights and inputs.
void fill(const Tensor& t, const std::vector<float>& values) {
  for (int64_t i = 0; i < t.size(); ++i) {
    if (t.dtype == DType::kF64) t.as<double>()[i] = values[static_cast<size_t>(i)];
    else t.as<float>()[i] = values[static_cast<size_t>(i)];
  }
}
std::vector<float> normal(const char* name, int64_t n, double scale) {
  const Rng rng(11, name);
  std::vector<float> v(static_cast<size_t>(n));
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(scale * rng.normal(i));
  return v;
}

Result run_layer(const ModelConfig& config, const std::vector<ParameterSpec>& manifest, DType type, int threads) {
  Result r;
  r.ctx = std::make_unique<Context>(threads);
  Context& ctx = *r.ctx;
  RankAmongSilentOnes ep(kRank, kEp);
  Dispatcher dispatcher(ep, static_cast<int>(config.n_routed_experts));
  Placement placement{.stages = {0}, .num_stages = 1, .stage_layers = {{0, 1}}, .experts = dispatcher.local_experts()};
  r.store = std::make_unique<ParameterStore>(ctx, config, manifest, placement, type);
  for (const LocalParameter& p : r.store->all()) {
    std::vector<float> values(static_cast<size_t>(p.weight.size()));
    initial_rows(config, *p.spec, 5, 0, Tensor(values.data(), DType::kF32, {p.spec->rows, p.spec->cols}));
    fill(p.weight, values);
  }
  // The experts that are here are liked by most tokens, not by all: 0.4 is about three standard deviations of a score.
  for (const ParameterStore::Bias& b : r.store->router_biases()) {
    std::vector<float> bias(static_cast<size_t>(b.value.size()), 0.0f);
    for (int64_t e = placement.experts.begin; e < placement.experts.end; ++e) bias[static_cast<size_t>(e)] = 0.4f;
    fill(b.value, bias);
  }
  const Buffer table = ctx.memory.weights.take({kTokens, config.qk_rope_head_dim}, acc_dtype(type));
  fill_rope_table(table, config.rope_theta, config.rope_scaling);
  const Block block(ctx, config, *r.store, 0, placement.experts, dispatcher, table);

  MicroBatch batch;
  batch.clear();
  const std::vector<int32_t> tokens(static_cast<size_t>(kTokens), 1);
  batch.add_sequence(tokens, tokens, std::vector<int32_t>{0, 100});
  StepSums sums;
  sums.reset(0, config.num_blocks(), config.n_routed_experts);
  ModelProbe probe;
  probe.observe = [&](const std::string& name, const Tensor& t) {
    if (name.find("topk_ids") != std::string::npos) r.ids.assign(t.as<int32_t>(), t.as<int32_t>() + t.size());
    if (name.find("router_logits") != std::string::npos) r.scores = to_double(t);
  };
  const StepScales scales{.balance = 1e-4};
  BlockState state;
  state.rows = &batch.main;
  state.h = ctx.memory.activations.take({kTokens, config.hidden_size}, type);
  fill(state.h, normal("hidden", kTokens * config.hidden_size, 1.0));
  BlockCall call{state, scales, sums, probe, false};
  run_phases(block, block.forward_phases(), call);
  r.out = to_double(state.out);
  state.out.reset();
  state.dout = ctx.memory.activations.take({kTokens, config.hidden_size}, type);
  fill(state.dout, normal("gradient", kTokens * config.hidden_size, 0.01));
  r.store->zero_grads(true);
  run_phases(block, block.backward_input_phases(), call);
  r.dh = to_double(state.dh);
  run_phases(block, block.backward_weight_phases(), call);
  r.counts.assign(sums.expert_counts.begin(), sums.expert_counts.end());
  for (const LocalParameter& p : r.store->all())
    if (p.spec->layer == 0) r.grads[p.spec->name] = p.grad;
  return r;
}

double relative(const std::vector<float>& a, const Tensor& b) {  // max|a - b| / max|b|
  if (std::ssize(a) != b.size()) return INFINITY;
  double difference = 0, scale = 0;
  for (int64_t i = 0; i < b.size(); ++i) {
    const double x = a[static_cast<size_t>(i)];
    if (!std::isfinite(x)) return INFINITY;
    difference = std::max(difference, std::abs(x - b.as<double>()[i]));
    scale = std::max(scale, std::abs(b.as<double>()[i]));
  }
  return difference == 0 ? 0 : difference / scale;
}
double relative(const Values& a, const Values& b) {
  if (a.size() != b.size()) return INFINITY;
  double difference = 0, scale = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    if (!std::isfinite(a[i])) return INFINITY;
    difference = std::max(difference, std::abs(a[i] - b[i]));
    scale = std::max(scale, std::abs(b[i]));
  }
  return difference == 0 ? 0 : difference / scale;
}
}  // namespace

TEST_CASE("One V3 layer at true width: FP32 equals FP64 forward and backward", "[slow][true-width]") {
  const ModelConfig config = v3_layer();
  const std::vector<ParameterSpec> manifest = parameter_manifest(config);
  REQUIRE(config.hidden_size == 7168);
  REQUIRE(config.num_attention_heads == 128);
  REQUIRE(config.n_routed_experts == 256);
  REQUIRE(config.moe_intermediate_size == 2048);
  Result fp32 = run_layer(config, manifest, DType::kF32, 2);
  const std::map<std::string, std::vector<float>> fp32_grads = fp32.take_grads();
  const Result fp64 = run_layer(config, manifest, DType::kF64, 2);
  CHECK(fp32.ids == fp64.ids);
  CHECK(fp32.counts == fp64.counts);
  int64_t absent = 0, total = 0;
  for (int64_t e = 0; e < config.n_routed_experts; ++e) {
    const bool is_present = e / kPresent == kRank;
    INFO("expert " << e << ": " << fp64.counts[e] << " tokens");
    if (is_present) CHECK(fp64.counts[e] >= 200);
    else absent += fp64.counts[e];
    total += fp64.counts[e];
  }
  CHECK(total == kTokens * config.num_experts_per_tok);
  CHECK(absent > 0);  // some rows really leave
  const double bound = 1e-5;  // sums of up to 16384 FP32 products, in blocks: measured at a tenth of it
  INFO("router logits " << relative(fp32.scores, fp64.scores) << ", output " << relative(fp32.out, fp64.out) << ", input gradient " << relative(fp32.dh, fp64.dh));
  CHECK(relative(fp32.scores, fp64.scores) <= bound);
  CHECK(relative(fp32.out, fp64.out) <= bound);
  CHECK(relative(fp32.dh, fp64.dh) <= bound);
  REQUIRE(fp64.grads.size() > 30);  // attention, norms, gate, shared expert, 8 experts of 3 matrices
  double worst = 0;
  for (const auto& [name, grad] : fp64.grads) {
    const double d = relative(fp32_grads.at(name), grad);
    worst = std::max(worst, d);
    INFO(name << " " << d);
    CHECK(d <= bound);
  }
  WARN("largest deviation of a gradient " << worst << "; of the output " << relative(fp32.out, fp64.out));
}
