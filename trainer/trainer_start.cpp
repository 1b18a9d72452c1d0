// How a run begins: engine from configuration, state from a checkpoint or from the seed, and what is said before the first step.
#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "kernels/base/log.h"
#include "trainer/banner.h"
#include "trainer/checkpoint.h"
#include "trainer/plan/run_forecast.h"
#include "trainer/trainer.h"

namespace atoll {
namespace fs = std::filesystem;

EngineOptions engine_options(const RunConfig& c, int threads) {
  EngineOptions o;
  o.model = c.model;
  o.mesh = c.parallel.mesh;
  o.storage = c.train.dtype;
  o.moments = c.train.adam.moments;
  o.schedule = c.parallel.schedule;
  o.vpp = static_cast<int>(c.parallel.vpp);
  o.grad_halves = static_cast<int>(c.parallel.grad_halves);
  o.stage_layers.assign(c.parallel.stage_layers.begin(), c.parallel.stage_layers.end());
  o.threads = threads;
  o.max_sequence = c.data.seq_len;
  o.seed = c.train.seed;
  o.adamw = {c.train.adam.beta1, c.train.adam.beta2, c.train.adam.eps, c.train.adam.weight_decay};
  o.memory = c.memory.bounds();
  o.bf16_gemm = c.train.bf16_gemm;
  return o;
}

std::vector<ShardView> engine_shards(Engine& engine) {
  std::vector<ShardView> shards;
  for (const ShardedAdamW::Owned& o : engine.optimizer().owned()) {
    const ParameterSpec& s = *o.parameter->spec;
    const std::pair<const char*, Tensor> parts[] = {{"master", o.master}, {"exp_avg", o.m}, {"exp_avg_sq", o.v}};
    for (const auto& [kind, t] : parts)
      shards.push_back({s.name, kind, t.dtype, s.rows, s.is_vector ? 1 : s.cols, s.is_vector, o.rows.begin, o.rows.size(), t.data});
  }
  for (const ParameterStore::Bias& b : engine.parameters().router_biases())
    shards.push_back({b.name, "bias", b.value.dtype, b.value.size(), 1, true, 0, b.value.size(), b.value.data});
  return shards;
}

bool answers_for_biases(const Engine& engine) {
  const ProcessGroups& groups = engine.groups();
  return groups.dp->rank() == 0 && (!groups.mirror || groups.mirror->rank() == 0);
}

Bf16Choice choose_bf16_gemm(const TrainConfig& train, Bf16Gemm saved, bool has_native) {
  if (train.dtype != DType::kBF16) return {train.bf16_gemm, ""};
  if (train.bf16_gemm == Bf16Gemm::kNative && !has_native)
    throw ConfigError("train.bf16_gemm = native: not every host of this run has fast BF16 instructions (AVX-512), and without them BF16 products would run in reference loops; use auto or widen");
  if (train.bf16_gemm != Bf16Gemm::kAuto || saved == Bf16Gemm::kAuto) return {train.bf16_gemm, ""};
  if (saved == Bf16Gemm::kNative && !has_native)
    return {Bf16Gemm::kWiden, "the run multiplied BF16 operands natively so far, which not every host here can: they are widened to FP32 from now on, and the bits will differ from those of a run that "
                              "was never moved"};
  return {saved, ""};
}

void Trainer::resume_or_initialize() {
  phase_ = "loading a checkpoint";
  const bool is_path = config_.train.resume != "auto" && config_.train.resume != "never", by_path = is_path && !folder_->has_checkpoint();
  std::optional<CheckpointReader> reader;
  if (is_path && !by_path) say(fmt::format("train.resume = {} is passed over: {} has checkpoints of its own, and goes on from them", config_.train.resume, dir_));
  if (by_path)
    reader.emplace(CheckpointReader::open(world_, config_.train.resume));
  else if (config_.train.resume != "never")
    reader = CheckpointReader::open_newest(world_, dir_);
  if (!reader) {
    phase_ = "initialising weights";
    engine_->initialize();
    folder_->replace_config();
    if (world_.rank() == 0) metrics_ = std::make_unique<MetricsFile>(dir_ + "/metrics.jsonl", fs::exists(dir_ + "/metrics.jsonl"), Position{}, [this](const std::string& text) { warn(text); });
    return;
  }
  const CheckpointMeta& meta = reader->meta();
  if (const std::vector<std::string> changes = forbidden_changes(meta.resolved_config_yaml, config_); !changes.empty()) {
    std::string text = reader->directory() + " was saved with another configuration:";
    for (const std::string& c : changes) text += "\n  " + c;
    throw ConfigError(text);
  }
  if (meta.data_fingerprint != feed_->fingerprint())
    throw DataError(fmt::format("the data of {} is not what {} was trained on (fingerprint {} there, {} here); point data.store at the same store", config_.data.store, reader->directory(),
                                meta.data_fingerprint, feed_->fingerprint()));
  std::vector<ShardView> shards = engine_shards(*engine_);
  reader->load(shards);
  folder_->replace_config();  // every check has passed
  engine_->publish_weights();
  position_ = {meta.step, meta.tokens};
  sequences_ = meta.sequences;
  const nlohmann::json extra = nlohmann::json::parse(meta.extra_json);
  updates_ = extra.at("updates").get<int64_t>();
  skipped_ = extra.at("skipped").get<int64_t>();
  // The way BF16 operands are multiplied decides bits: what the run began with stays, unless the configuration names one.
  if (config_.train.bf16_gemm == Bf16Gemm::kAuto && config_.train.dtype == DType::kBF16) {
    const Bf16Choice choice = choose_bf16_gemm(config_.train, static_cast<Bf16Gemm>(extra.at("bf16_gemm").get<int>()), has_native_bf16_);
    engine_->ctx().bf16_gemm = choice.mode;
    if (!choice.warning.empty()) warn(choice.warning);
  }
  saved_step_ = by_path ? -1 : position_.step;
  is_resumed_ = true;
  int64_t is_evaluated = world_.rank() == 0 && was_evaluated(dir_ + "/metrics.jsonl", position_.step);
  world_.broadcast(&is_evaluated, sizeof is_evaluated, 0);
  if (is_evaluated) evaluated_step_ = position_.step;
  if (world_.rank() == 0) metrics_ = std::make_unique<MetricsFile>(dir_ + "/metrics.jsonl", true, position_, [this](const std::string& text) { warn(text); });
  for (const std::string& skipped : reader->skipped()) say("checkpoint passed over: " + skipped);
  say(fmt::format("resumed from {} (step {}, {} tokens; saved on {})", reader->directory(), position_.step, with_thousands(position_.tokens), meta.mesh));
}

void Trainer::print_banner() {
  const std::string text = banner(config_, *engine_, host_, rates_->gemm_peak, feed_->store().info().train.tokens, is_resumed_ ? position_.step : 0);  // collective
  say("configuration:\n" + resolved_);
  say(text);
  say(plan::forecast_text(config_, *engine_, *rates_));
}

}  // namespace atoll
