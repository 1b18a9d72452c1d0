// The run itself: steps, saves, evaluations, signals. How it begins: trainer_start.cpp.
#include "trainer/trainer.h"

#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/base/log.h"
#include "kernels/ops.h"
#include "model/flops.h"
#include "trainer/banner.h"
#include "trainer/checkpoint.h"

namespace atoll {
namespace {
namespace fs = std::filesystem;
double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::string read_text(const fs::path& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_text(const fs::path& path, const std::string& text) {
  const fs::path beside = path.string() + ".tmp";
  std::ofstream out(beside);
  out << text << std::flush;
  if (!out) throw Error(beside.string() + ": cannot be written; is the disk full or the folder read-only?");
  out.close();
  fs::rename(beside, path);
}
}  // namespace

EngineOptions engine_options(const RunConfig& c, int threads) {
  EngineOptions o;
  o.model = c.model;
  o.mesh = c.parallel.mesh;
  o.storage = c.train.dtype;
  o.moments = c.train.adam.moments;
  o.schedule = c.parallel.schedule;
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

Trainer::Trainer(const RunConfig& config, Communicator& world, const HostInfo& host, const std::atomic<int>& stop_signal, std::string& phase)
    : config_(config), world_(world), host_(host), stop_signal_(stop_signal), phase_(phase), dir_(config.run.path()), resolved_(resolved_yaml(config)), console_(config.log.every) {}
Trainer::~Trainer() = default;

void Trainer::say(const std::string& text) {
  if (world_.rank() == 0) console_.message(text);
}

ExitCode Trainer::run() {
  phase_ = "start";
  const Mesh mesh(world_.size(), config_.parallel.mesh);  // before anything is touched
  open_run_folder();
  phase_ = "opening the data";
  feed_ = std::make_unique<DataFeed>(config_);
  if (feed_->store().info().vocab_size > config_.model.vocab_size)
    throw ConfigError(fmt::format("model.vocab_size = {} is smaller than the {} tokens of the store {}; set model.vocab_size={}", config_.model.vocab_size, feed_->store().info().vocab_size,
                                  config_.data.store, feed_->store().info().vocab_size));
  phase_ = "building the model";
  const int threads = config_.train.threads > 0 ? static_cast<int>(config_.train.threads) : std::max(1, host_.cores / host_.ranks_on_host);
  engine_ = std::make_unique<Engine>(engine_options(config_, threads), world_);
  resume_or_initialize();
  phase_ = "measuring the GEMM peak";
  world_.barrier();
  double peak[1] = {measure_gemm_peak(engine_->ctx(), false) * 1e9};
  world_.sum_in_rank_order(std::span<double>(peak));
  gemm_peak_ = peak[0];
  print_banner();

  const int64_t total = config_.total_steps();
  const auto ends_now = [&] { return config_.train.steps > 0 ? position_.step >= config_.train.steps : position_.tokens >= config_.train.tokens; };
  StepMetrics metrics;
  metrics.total_steps = total;
  double started = now();
  const int64_t first_step = position_.step;
  while (!ends_now()) {
    const int64_t epoch = feed_->epoch(sequences_);
    const StepResult& result = one_step(metrics);
    if (!result.applied) {
      ++skipped_;
      log::warn(fmt::format("step {}: {}; the update is skipped on every rank ({} of {} allowed)", position_.step, result.reason, skipped_, config_.train.nonfinite_budget));
    }
    metrics.skipped = skipped_;
    metrics.eta_seconds = (now() - started) / static_cast<double>(position_.step - first_step) * static_cast<double>(total - position_.step);
    if (world_.rank() == 0) {
      metrics_->step(metrics);
      console_.step(metrics);
    }
    if (position_.step == first_step + 1) say("after the first step, " + memory_table(engine_->ctx()));
    if (feed_->epoch(sequences_) != epoch) say(fmt::format("epoch {} of the training data begins after step {}", feed_->epoch(sequences_) + 1, position_.step));
    if (skipped_ > config_.train.nonfinite_budget) {
      say(fmt::format("stopped: {} updates were non-finite (train.nonfinite_budget = {}). Weights are those of the last finite update; the last checkpoint is untouched. Look at the data around "
                      "step {}, lower train.lr.max, or raise the budget",
                      skipped_, config_.train.nonfinite_budget, position_.step));
      return ExitCode::kNoRestart;
    }
    if (config_.eval.every > 0 && position_.step % config_.eval.every == 0) evaluate();
    if (must_stop()) {
      const bool ok = save();
      say(ok ? fmt::format("stopped on a signal after step {}; go on with the same command", position_.step) : "stopped on a signal, but the checkpoint could not be saved");
      return ok ? ExitCode::kSaved : ExitCode::kFailed;
    }
    if (config_.checkpoint.every > 0 && position_.step % config_.checkpoint.every == 0) save();
  }
  if (world_.rank() == 0) console_.finish();
  if (evaluated_step_ != position_.step) evaluate();
  if (saved_step_ != position_.step && !save()) return ExitCode::kFailed;
  say(fmt::format("done: {} steps, {} tokens; run folder {}", position_.step, with_thousands(position_.tokens), dir_));
  say(op_table(engine_->ctx()) + memory_table(engine_->ctx()));
  return ExitCode::kDone;
}

const StepResult& Trainer::one_step(StepMetrics& m) {
  phase_ = fmt::format("step {}", position_.step + 1);
  const BatchRamp ramp = config_.batch();
  const int64_t count = ramp.sequences(position_.tokens);
  const Position end = ramp.next(position_);
  const double begin = now();
  feed_->fill(batches_, sequences_, count, engine_->groups().dp->size(), engine_->groups().dp->rank());
  const StepPlan plan{.lr = config_.lr().at(end), .mtp_lambda = config_.train.mtp_lambda.at(end), .balance_alpha = config_.train.balance_alpha.at(end), .bias_gamma = config_.train.bias_gamma.at(end),
                      .clip_norm = config_.train.clip_norm, .step = updates_ + 1};
  const StepResult& result = engine_->train_step(batches_, plan);
  m.seconds = now() - begin;
  position_ = end;
  sequences_ += count;
  updates_ += result.applied;
  m.position = position_;
  m.lr = plan.lr;
  m.mtp_lambda = plan.mtp_lambda;
  m.balance_alpha = plan.balance_alpha;
  m.bias_gamma = plan.bias_gamma;
  m.tokens_per_second = static_cast<double>(result.tokens) / m.seconds;
  m.flops_per_second = m.tokens_per_second * training_flops_per_token(config_.model, config_.data.seq_len);
  m.mfu = m.flops_per_second / gemm_peak_;
  m.result = &result;
  return result;
}

bool Trainer::must_stop() {
  const int64_t signal = world_.max(stop_signal_.load());
  return signal != 0;
}

void Trainer::open_run_folder() {
  phase_ = "opening the run folder";
  if (world_.rank() == 0) {
    const bool is_used = fs::exists(dir_) && !fs::is_empty(dir_);
    if (is_used && config_.train.resume == "never")
      throw ConfigError(fmt::format("run folder {} exists and train.resume = never; nothing is ever overwritten: choose another run.name, move the folder away, or use train.resume=auto", dir_));
    if (is_used && !fs::exists(dir_ + "/config.yaml"))
      throw ConfigError(fmt::format("{} exists and is not a run folder of atoll (no config.yaml in it); choose another run.name or run.dir", dir_));
    if (is_used && config_.train.resume == "auto") {
      const std::vector<std::string> changes = forbidden_changes(read_text(dir_ + "/config.yaml"), config_);
      if (!changes.empty()) {
        std::string text = fmt::format("{} cannot go on with this configuration ({} forbidden change{}):", dir_, changes.size(), changes.size() == 1 ? "" : "s");
        for (const std::string& c : changes) text += "\n  " + c;
        throw ConfigError(text + "\nuse the old values, or start a new run with another run.name");
      }
    }
    std::error_code error;
    fs::create_directories(dir_ + "/log", error);
    if (!error) fs::create_directories(dir_ + "/checkpoints", error);
    if (error) throw ConfigError(fmt::format("run folder {} cannot be created: {}; choose another run.dir", dir_, error.message()));
    write_text(dir_ + "/config.yaml", resolved_);
  }
  world_.barrier();
  log::set_file(fmt::format("{}/log/rank-{:05}.log", dir_, world_.rank()));
}

void Trainer::resume_or_initialize() {
  phase_ = "loading a checkpoint";
  const bool by_path = config_.train.resume != "auto" && config_.train.resume != "never";
  std::optional<CheckpointReader> reader;
  if (by_path)
    reader.emplace(CheckpointReader::open(world_, config_.train.resume));
  else if (config_.train.resume == "auto")
    reader = CheckpointReader::open_newest(world_, dir_);
  if (!reader) {
    phase_ = "initialising weights";
    engine_->initialize();
    if (world_.rank() == 0) metrics_ = std::make_unique<MetricsFile>(dir_ + "/metrics.jsonl", fs::exists(dir_ + "/metrics.jsonl"), Position{});
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
  engine_->publish_weights();
  position_ = {meta.step, meta.tokens};
  sequences_ = meta.sequences;
  const nlohmann::json extra = nlohmann::json::parse(meta.extra_json);
  updates_ = extra.at("updates").get<int64_t>();
  skipped_ = extra.at("skipped").get<int64_t>();
  // The way BF16 operands are multiplied decides bits: what the run began with stays, unless the configuration names one.
  if (config_.train.bf16_gemm == Bf16Gemm::kAuto && config_.train.dtype == DType::kBF16) engine_->ctx().bf16_gemm = static_cast<Bf16Gemm>(extra.at("bf16_gemm").get<int>());
  saved_step_ = by_path ? -1 : position_.step;
  is_resumed_ = true;
  if (world_.rank() == 0) metrics_ = std::make_unique<MetricsFile>(dir_ + "/metrics.jsonl", true, position_);
  for (const std::string& skipped : reader->skipped()) say("checkpoint passed over: " + skipped);
  say(fmt::format("resumed from {} (step {}, {} tokens; saved on {})", reader->directory(), position_.step, with_thousands(position_.tokens), meta.mesh));
}

bool Trainer::save() {
  phase_ = fmt::format("saving step {}", position_.step);
  CheckpointMeta meta;
  meta.step = position_.step;
  meta.tokens = position_.tokens;
  meta.sequences = sequences_;
  meta.resolved_config_yaml = resolved_;
  meta.data_fingerprint = feed_->fingerprint();
  const Mesh& mesh = engine_->mesh();
  meta.mesh = fmt::format("pp {} x dp {} (ep {})", mesh.size(Axis::kPp), mesh.size(Axis::kDp), mesh.size(Axis::kEp));
  meta.extra_json = nlohmann::json{{"updates", updates_}, {"skipped", skipped_}, {"bf16_gemm", static_cast<int>(engine_->ctx().bf16_gemm)}}.dump();
  std::vector<ShardView> shards = engine_shards(*engine_);
  if (engine_->groups().dp->rank() != 0) std::erase_if(shards, [](const ShardView& s) { return s.kind == "bias"; });  // equal on all; the first answers
  const std::vector<AttachedFile> attached = {{"config.yaml", resolved_}, {"tokenizer.model", feed_->store().tokenizer().serialized()}};
  const SaveResult r = CheckpointWriter().save(world_, dir_, meta, shards, attached, static_cast<int>(config_.checkpoint.keep_last));
  if (!r.ok) {
    ++failed_saves_;
    if (world_.rank() == 0) log::error(fmt::format("checkpoint of step {} failed ({} so far): {}; training goes on, the previous checkpoint is untouched", position_.step, failed_saves_, r.error));
    if (metrics_) metrics_->event("checkpoint failed", position_, r.error);
    return false;
  }
  saved_step_ = position_.step;
  if (!r.warning.empty() && world_.rank() == 0) log::warn(r.warning);
  say(fmt::format("checkpoint {} ({:.1f} MB in {:.2f} s)", r.directory, static_cast<double>(r.bytes) * 1e-6, r.seconds));
  if (metrics_) metrics_->event("checkpoint", position_, r.directory);
  return true;
}

void Trainer::evaluate() {
  phase_ = fmt::format("evaluation after step {}", position_.step);
  const int64_t rows = config_.eval.sequences > 0 ? std::min(config_.eval.sequences, feed_->num_heldout_rows()) : feed_->num_heldout_rows();
  if (rows == 0) return;
  const HeldOutLoss loss = heldout_loss(*engine_, *feed_, rows);
  evaluated_step_ = position_.step;
  say(fmt::format("held-out after step {}: loss {:.4f} nats/token, {:.4f} bits/byte ({} tokens)", position_.step, loss.nats_per_token, loss.bits_per_byte, with_thousands(loss.labels)));
  if (metrics_) metrics_->evaluation(position_, loss.nats_per_token, loss.bits_per_byte, loss.mtp_nats_per_token);
}

void Trainer::print_banner() {
  const std::string text = banner(config_, *engine_, host_, gemm_peak_, feed_->store().info().train.tokens, is_resumed_ ? position_.step : 0);  // collective
  say("configuration:\n" + resolved_);
  say(text);
}

}  // namespace atoll
