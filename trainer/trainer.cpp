// The run itself: steps, saves, evaluations, signals. How it begins: trainer_start.cpp.
#include "trainer/trainer.h"

#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <nlohmann/json.hpp>

#include "kernels/base/log.h"
#include "kernels/cpu/gemm.h"
#include "kernels/ops.h"
#include "model/flops.h"
#include "trainer/banner.h"
#include "trainer/checkpoint.h"
#include "trainer/checkpoint_agree.h"
#include "trainer/plan/run_forecast.h"
#include "trainer/plan/this_machine.h"
#include "trainer/schedule_rules.h"

namespace atoll {
namespace {
double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
std::vector<int64_t> tokens_of(const std::vector<MicroBatch>& batches) {
  std::vector<int64_t> tokens;
  for (const MicroBatch& b : batches) tokens.push_back(b.main.size());
  return tokens;
}
}  // namespace

Trainer::Trainer(const RunConfig& config, Communicator& world, const HostInfo& host, const std::atomic<int>& stop_signal, std::string& phase)
    : config_(config), world_(world), host_(host), stop_signal_(stop_signal), phase_(phase), dir_(config.run.path()), resolved_(resolved_yaml(config)), console_(config.log.every, world.rank() == 0) {}
Trainer::~Trainer() = default;

void Trainer::say(const std::string& text) { console_.message(text); }
void Trainer::warn(const std::string& text) { console_.warning(text); }

ExitCode Trainer::run() {
  phase_ = "start";
  const Mesh mesh(world_.size(), config_.parallel.mesh);  // before anything is touched
  const std::shared_ptr<const Schedule> custom = custom_schedule(config_);
  check_microbatches(config_, mesh.size(Axis::kDp), custom.get());
  phase_ = "opening the run folder";
  folder_ = std::make_unique<RunDirectory>(world_, config_, resolved_);
  const std::string log_path = fmt::format("{}/log/rank-{:05}.log", dir_, world_.rank());
  if (const std::string error = error_of([&] { log::set_file(log_path); }); !error.empty()) log::warn(log_path + ": " + error + "; going on without it");
  phase_ = "opening the data";
  feed_ = std::make_unique<DataFeed>(config_);
  check_vocabulary(config_, *feed_);
  phase_ = "building the model";
  const int threads = config_.train.threads > 0 ? static_cast<int>(config_.train.threads) : std::max(1, host_.cores / host_.ranks_on_host);
  has_native_bf16_ = world_.max(cpu::has_native_bf16_gemm() ? 0 : 1) == 0;
  choose_bf16_gemm(config_.train, Bf16Gemm::kAuto, has_native_bf16_);
  EngineOptions options = engine_options(config_, threads);
  options.custom = custom;
  engine_ = std::make_unique<Engine>(options, world_);
  resume_or_initialize();
  phase_ = "measuring the GEMM peak";
  world_.barrier();
  double peak[1] = {measure_gemm_peak(engine_->ctx(), false) * 1e9};
  world_.sum_in_rank_order(std::span<double>(peak));
  phase_ = "timing the model's ops";
  rates_ = std::make_unique<plan::MachineRates>(plan::measure_machine(config_, *engine_, peak[0]));
  print_banner();

  const int64_t total = config_.total_steps();
  const auto ends_now = [&] { return config_.train.steps > 0 ? position_.step >= config_.train.steps : position_.tokens >= config_.train.tokens; };
  StepMetrics metrics;
  metrics.total_steps = total;
  double started = now();
  const int64_t first_step = position_.step;
  if (!ends_now() && saved_step_ == position_.step && is_evaluation_due()) evaluate();  // saved, then stopped before its evaluation
  while (!ends_now()) {
    const int64_t epoch = feed_->epoch(sequences_);
    const StepResult& result = one_step(metrics);
    if (!result.applied) {
      ++skipped_;
      warn(fmt::format("step {}: {}; the update is skipped on every rank ({} of {} allowed)", position_.step, result.reason, skipped_, config_.train.nonfinite_budget));
    }
    metrics.skipped = skipped_;
    metrics.eta_seconds = (now() - started) / static_cast<double>(position_.step - first_step) * static_cast<double>(total - position_.step);
    if (metrics_) metrics_->step(metrics);
    console_.step(metrics);
    log::flush();
    if (position_.step == first_step + 1) say("after the first step, " + memory_table(engine_->ctx()));
    if (feed_->epoch(sequences_) != epoch) say(fmt::format("epoch {} of the training data begins after step {}", feed_->epoch(sequences_) + 1, position_.step));
    if (skipped_ > config_.train.nonfinite_budget) {
      say(fmt::format("stopped: {} updates were non-finite (train.nonfinite_budget = {}). Weights are those of the last finite update; the last checkpoint is untouched. Look at the data around "
                      "step {}, lower train.lr.max, or raise the budget",
                      skipped_, config_.train.nonfinite_budget, position_.step));
      return ExitCode::kNoRestart;
    }
    if (must_stop()) return save_and_stop();
    const bool is_due = config_.checkpoint.every > 0 && position_.step % config_.checkpoint.every == 0;
    if (is_due && !result.applied) say(fmt::format("step {} was skipped: no checkpoint, so that good ones stay", position_.step));
    if (is_due && result.applied) {
      const Saved saved = save();
      if (saved == Saved::kPoisoned) return stop_poisoned();
      if (saved == Saved::kFailed) say("training goes on without this checkpoint");
    }
    if (is_evaluation_due()) evaluate();
  }
  console_.finish();
  if (position_.step > first_step && metrics.result->applied) compare_forecast(metrics, (now() - started) / static_cast<double>(position_.step - first_step));
  if (saved_step_ != position_.step) {
    const Saved saved = save();
    if (saved == Saved::kPoisoned) return stop_poisoned();
    if (saved == Saved::kFailed) {
      say("all steps are done, but the last checkpoint could not be saved; make room, then start the same command again: it goes on from the checkpoint before");
      return ExitCode::kData;
    }
  }
  if (evaluated_step_ != position_.step) evaluate();
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
  for (const MicroBatch& b : batches_)
    for (size_t d = 0; d + 1 < b.main.cu_docs.size(); ++d) longest_document_ = std::max<int64_t>(longest_document_, b.main.cu_docs[d + 1] - b.main.cu_docs[d]);
  if (const int64_t peak = engine_->ctx().memory.routed.high_water(); peak > routed_peak_) {
    routed_peak_ = peak;
    peak_tokens_ = tokens_of(batches_);
    rows_of_peak_.assign(batches_.size(), std::vector<int64_t>(static_cast<size_t>(config_.model.num_blocks()), 0));
    for (const auto& stage : engine_->stages()) stage->add_rows_received(rows_of_peak_);
  }
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
  m.mfu = m.flops_per_second / rates_->gemm_peak;
  m.result = &result;
  return result;
}

void Trainer::compare_forecast(const StepMetrics& last, double seconds) {
  plan::Measured measured;
  measured.step = position_.step;
  measured.tokens = position_.tokens;
  measured.microbatch_tokens = tokens_of(batches_);
  measured.peak_tokens = peak_tokens_;
  measured.peak_rows = rows_of_peak_;
  measured.longest_document = longest_document_;
  measured.bytes_sent = last.result->bytes_sent;
  measured.dispatch_bytes = last.result->dispatch_bytes;
  measured.combine_bytes = last.result->combine_bytes;
  measured.seconds = seconds;
  const plan::Comparison c = plan::compare_forecast(config_, *engine_, *rates_, measured);
  say(c.text);
  if (metrics_) metrics_->raw_event(c.json);
}

bool Trainer::is_evaluation_due() const { return config_.eval.every > 0 && position_.step % config_.eval.every == 0 && evaluated_step_ != position_.step; }

bool Trainer::must_stop() {
  const int64_t signal = world_.max(stop_signal_.load());
  return signal != 0;
}

ExitCode Trainer::save_and_stop() {
  const Saved saved = save();
  if (saved == Saved::kPoisoned) return stop_poisoned();
  say(saved == Saved::kYes ? fmt::format("stopped on a signal after step {}; go on with the same command", position_.step) : "stopped on a signal, but the checkpoint could not be saved");
  return saved == Saved::kYes ? ExitCode::kSaved : ExitCode::kData;
}

ExitCode Trainer::stop_poisoned() {
  say(fmt::format("stopped: after step {} the state is not finite ({}), though every gradient that was applied was. It is not saved, earlier checkpoints are untouched. Lower train.lr.max, and go on with "
                  "the same command",
                  position_.step, poison_));
  return ExitCode::kNoRestart;
}

Trainer::Saved Trainer::save() {
  phase_ = fmt::format("saving step {}", position_.step);
  poison_ = errors_of_all(&world_, engine_->nonfinite_state());
  if (!poison_.empty()) return Saved::kPoisoned;
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
  if (!answers_for_biases(*engine_)) std::erase_if(shards, [](const ShardView& s) { return s.kind == "bias"; });  // equal on all; the first answers
  const std::vector<AttachedFile> attached = {{"config.yaml", resolved_}, {"tokenizer.model", feed_->store().tokenizer().serialized()}};
  const SaveResult r = CheckpointWriter().save(world_, dir_, meta, shards, attached, static_cast<int>(config_.checkpoint.keep_last));
  if (!r.ok) {
    ++failed_saves_;
    console_.error(fmt::format("checkpoint of step {} failed ({} so far): {}; earlier checkpoints are untouched", position_.step, failed_saves_, r.error));
    if (metrics_) metrics_->event("checkpoint failed", position_, r.error);
    return Saved::kFailed;
  }
  saved_step_ = position_.step;
  if (!r.warning.empty()) warn(r.warning);
  say(fmt::format("checkpoint {} ({:.1f} MB in {:.2f} s)", r.directory, static_cast<double>(r.bytes) * 1e-6, r.seconds));
  if (metrics_) metrics_->event("checkpoint", position_, r.directory);
  return Saved::kYes;
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

}  // namespace atoll
