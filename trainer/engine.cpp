// Construction of a rank's engine, its pipelines and evaluation; the step itself is train_step.cpp. Policy: what ranks must agree on (here the way of BF16 products) is settled
// for all of them before any parameter exists.
#include "trainer/engine.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>

#include "kernels/cpu/gemm.h"
#include "kernels/ops.h"

namespace atoll {
namespace {
Placement place(const EngineOptions& o, const Mesh& mesh, const Schedule& frame, int rank) {
  Placement p;
  p.stages = frame.stages_of(mesh.index(Axis::kPp, rank));
  p.num_stages = frame.num_stages;
  ATOLL_CHECK(!p.stages.empty(), "schedule ", frame.name, " has no stage on pipeline rank ", mesh.index(Axis::kPp, rank));
  p.stage_layers = split_layers(o.model, p.num_stages, o.stage_layers);
  p.experts = split_evenly(o.model.n_routed_experts, mesh.size(Axis::kEp), mesh.index(Axis::kEp, rank));
  return p;
}

// The probe times two ways of multiplying BF16 operands, and the ways differ in bits: one choice for all engines of a process that have as many threads, and rank 0's for all ranks.
Bf16Gemm choose_bf16_gemm(Context& ctx, Communicator& world) {
  static std::mutex mutex;
  static std::map<int, std::pair<Bf16Gemm, GemmProbe>> of_threads;
  const std::pair<Bf16Gemm, GemmProbe>* measured = nullptr;
  {
    const std::lock_guard lock(mutex);
    auto at = of_threads.find(ctx.num_threads);
    if (at == of_threads.end()) {
      probe_gemm(ctx);
      at = of_threads.emplace(ctx.num_threads, std::pair{ctx.bf16_gemm, ctx.probe}).first;
    }
    measured = &at->second;
    ctx.probe = measured->second;
  }
  Bf16Gemm choice = measured->first;
  world.broadcast(&choice, sizeof choice, 0);
  const bool is_everywhere = world.max(cpu::has_native_bf16_gemm() ? 0 : 1) == 0;  // hosts may differ
  return is_everywhere ? choice : Bf16Gemm::kWiden;
}

bool is_finite(Context& ctx, const Tensor& t) {
  if (std::isfinite(sum_of_squares(ctx, t))) return true;
  if (t.dtype != DType::kF64) return false;  // the squares of the narrower types cannot overflow FP64
  const Tensor flat = t.view({t.size()});
  return std::all_of(flat.as<double>(), flat.as<double>() + flat.size(), [](double v) { return std::isfinite(v); });
}

}  // namespace

Engine::Engine(const EngineOptions& options, Communicator& world)
    : options_(options), mesh_(world.size(), options.mesh), frame_(options.custom ? *options.custom : schedule_frame(options.schedule, options.mesh.pp, 2 * options.mesh.pp, options.vpp)),
      groups_(mesh_, world, frame_.is_mirrored), ctx_(options.threads, options.memory), manifest_(parameter_manifest(options.model)),
      placement_(place(options, mesh_, frame_, world.rank())) {
  ctx_.bf16_gemm = options.bf16_gemm;
  if (options.storage == DType::kBF16 && options.bf16_gemm == Bf16Gemm::kAuto) ctx_.bf16_gemm = choose_bf16_gemm(ctx_, world);
  parameters_ = std::make_unique<ParameterStore>(ctx_, options_.model, manifest_, placement_, options.storage);
  dispatcher_ = std::make_unique<Dispatcher>(*groups_.ep, static_cast<int>(options_.model.n_routed_experts));
  for (const int s : placement_.stages) stages_.push_back(std::make_unique<Stage>(ctx_, options_.model, *parameters_, placement_, s, *dispatcher_, options.max_sequence));
  optimizer_ = std::make_unique<ShardedAdamW>(ctx_, *parameters_, groups_, options.moments);
  embedding_ = parameters_->find("model.embed_tokens.weight");
  loads_.resize(static_cast<size_t>(groups_.pp->size()));
  stage_parameters_ = stage_parameter_indices(options_.model, manifest_, placement_);
}

void Engine::initialize() {
  for (const ShardedAdamW::Owned& o : optimizer_->owned()) initial_rows(options_.model, *o.parameter->spec, options_.seed, o.rows.begin, o.master);
  publish_weights();
}

void Engine::publish_weights() {
  optimizer_->round_masters();
  optimizer_->publish();
  send_embedding_to_last_stage();
}

std::string Engine::nonfinite_state() {
  for (const ShardedAdamW::Owned& o : optimizer_->owned()) {
    const std::pair<const char*, const Tensor*> parts[] = {{"master", &o.master}, {"exp_avg", &o.m}, {"exp_avg_sq", &o.v}};
    for (const auto& [kind, t] : parts)
      if (!is_finite(ctx_, *t)) return std::string(kind) + " of " + o.parameter->spec->name;
  }
  for (const ParameterStore::Bias& b : parameters_->router_biases())
    if (!is_finite(ctx_, b.value)) return b.name;
  return "";
}

StageFunctions Engine::functions() const {
  std::vector<Stage*> by_number(static_cast<size_t>(placement_.num_stages), nullptr);
  for (const auto& stage : stages_) by_number[static_cast<size_t>(stage->number())] = stage.get();
  return Stage::functions(std::move(by_number));
}

Engine::Pipeline& Engine::pipeline(int n) {
  auto [it, is_new] = pipelines_.try_emplace(n);
  Pipeline& p = it->second;
  if (is_new) {
    p.schedule = options_.custom ? *options_.custom : build_schedule(options_.schedule, groups_.pp->size(), n, options_.vpp);
    ATOLL_CHECK(p.schedule.num_microbatches == n, "schedule ", p.schedule.name, " is for ", p.schedule.num_microbatches, " micro-batches, the step has ", n);
    const std::vector<std::string> violations = check(p.schedule);
    ATOLL_CHECK(violations.empty(), "schedule ", p.schedule.name, ": ", violations.front());
    p.executor = std::make_unique<Executor>(p.schedule, *groups_.pp, functions());
  }
  return p;
}

Engine::Pipeline& Engine::forward_pipeline(int n) {
  auto [it, is_new] = forward_pipelines_.try_emplace(n);
  if (is_new) {
    it->second.schedule = forward_schedule(frame_, n);
    it->second.executor = std::make_unique<Executor>(it->second.schedule, *groups_.pp, functions());
  }
  return it->second;
}

EvalResult Engine::evaluate(std::vector<MicroBatch>& batches) {
  const size_t depth = static_cast<size_t>(options_.model.num_nextn_predict_layers);
  EvalResult r;
  r.mtp_labels.assign(depth, 0);
  for (MicroBatch& b : batches) {
    b.derive_mtp(static_cast<int>(depth));
    r.labels += b.main.num_labels();
    for (size_t k = 0; k < depth; ++k) r.mtp_labels[k] += b.mtp[k].num_labels();
  }
  groups_.dp->sum_in_rank_order(std::span<int64_t>(&r.labels, 1));
  groups_.dp->sum_in_rank_order(std::span<int64_t>(r.mtp_labels));
  for (const auto& stage : stages_) stage->begin(batches, StepScales{}, false);
  forward_pipeline(static_cast<int>(batches.size())).executor->run();
  for (const auto& stage : stages_) stage->settle();
  StepSums sums;
  sum_over_stages(sums);
  sum_over_ranks(sums);
  r.loss_sum = sums.loss;
  r.mtp_loss_sum = sums.mtp_loss;
  return r;
}

}  // namespace atoll
