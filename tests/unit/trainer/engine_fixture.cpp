// Runs an engine on a rank and puts its rows into whole tensors. Policy: everything that is recorded is compared in FP64; the dispatch's bytes are recounted from the routing
// tables, not taken from the engine.
#include "engine_fixture.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/base/rng.h"

namespace atoll::test {
namespace {
std::vector<double> to_double(const Tensor& t) {
  std::vector<double> v(static_cast<size_t>(t.size()));
  for (size_t i = 0; i < v.size(); ++i)
    v[i] = t.dtype == DType::kF64 ? t.as<double>()[i] : t.dtype == DType::kF32 ? t.as<float>()[i] : static_cast<double>(static_cast<float>(t.as<bf16>()[i]));
  return v;
}

// Writes rows of one rank into the whole tensor.
void put_rows(std::map<std::string, std::vector<double>>& into, const LocalParameter& p, Range rows, const Tensor& value) {
  std::vector<double>& whole = into[p.spec->name];
  whole.resize(static_cast<size_t>(p.spec->rows * p.spec->cols));
  const std::vector<double> v = to_double(value);
  std::copy(v.begin(), v.end(), whole.begin() + rows.begin * p.spec->cols);
}

// Rows this rank sends to other ep ranks, from the routing of its own tokens alone: recomputed from the top-k ids that the probe sees.
struct DispatchCount {
  int64_t remote_rows = 0;
  void watch(Engine& engine) {
    const int64_t experts = engine.options().model.n_routed_experts;
    const Communicator& ep = *engine.groups().ep;
    for (const auto& stage : engine.stages())
      stage->probe.observe = [this, experts, size = ep.size(), rank = ep.rank()](const std::string& name, const Tensor& t) {
        if (name.find("topk_ids") == std::string::npos) return;
        const Range mine = split_evenly(experts, size, rank);
        for (int64_t i = 0; i < t.size(); ++i) remote_rows += t.as<int32_t>()[i] < mine.begin || t.as<int32_t>()[i] >= mine.end;
      };
  }
};
}  // namespace

std::vector<MicroBatch> batches_of(const ModelConfig& model, int step, int dp_size, int dp_rank, int shortest, int spread, int microbatches) {
  const Rng rng(17, "fixture");
  const std::vector<int> sequences_of_microbatch = {2, 1, 5, 3};
  uint64_t at = static_cast<uint64_t>(step) * 100000;
  std::vector<MicroBatch> batches;
  for (int m = 0; m < microbatches; ++m) {
    const int count = sequences_of_microbatch[static_cast<size_t>(m) % sequences_of_microbatch.size()];
    MicroBatch batch;
    batch.clear();
    const Range mine = split_evenly(count, dp_size, dp_rank);
    for (int s = 0; s < count; ++s) {
      const int n = shortest + static_cast<int>(rng.below(at++, static_cast<uint64_t>(spread)));
      std::vector<int32_t> ids(n), labels(n), documents{0};
      for (int i = 0; i < n; ++i) ids[i] = static_cast<int32_t>(rng.below(at++, model.vocab_size));
      for (int i = 0; i < n; ++i) labels[i] = i + 1 < n && rng.below(at++, 8) != 0 ? ids[i + 1] : kIgnoredLabel;
      if (n > 8) documents.push_back(1 + static_cast<int32_t>(rng.below(at++, 6)));
      if (s >= mine.begin && s < mine.end) batch.add_sequence(ids, labels, documents);
    }
    batches.push_back(std::move(batch));
  }
  return batches;
}

void record_state(Engine& engine, Record& record, std::mutex& mutex) {
  const std::lock_guard lock(mutex);
  for (const auto& o : engine.optimizer().owned()) {
    put_rows(record.parameters, *o.parameter, o.rows, o.master);
    put_rows(record.moments, *o.parameter, o.rows, o.m);
    put_rows(record.second_moments, *o.parameter, o.rows, o.v);
  }
  if (engine.groups().dp->rank() == 0)
    for (const auto& b : engine.parameters().router_biases()) record.parameters[b.name] = to_double(b.value);
}

Record empty_record(const RunSpec& spec) {
  Record record;
  record.counts.assign(spec.steps, {});
  for (auto* v : {&record.expert_elements, &record.optimizer_bytes, &record.weight_gradient_gemms, &record.dispatch_bytes, &record.expected_dispatch_bytes}) v->assign(spec.world, 0);
  record.executed.resize(spec.world);
  record.peak_live.resize(spec.world);
  return record;
}

void run_rank(const RunSpec& spec, Communicator& world, Record& record, std::mutex& mutex) {
  Engine engine(spec.options, world);
  if (spec.begin) spec.begin(engine, world);
  else engine.initialize();
  const int rank = world.rank(), dp = engine.groups().dp->size(), dp_rank = engine.groups().dp->rank();
  DispatchCount count;
  count.watch(engine);
  for (int i = 0; i < spec.steps; ++i) {
    const int step = spec.first_step + i;
    std::vector<MicroBatch> batches = batches_of(spec.options.model, step, dp, dp_rank, spec.shortest, spec.spread, spec.microbatches);
    const StepResult& r = engine.train_step(batches, spec.plan(step));
    const std::lock_guard lock(mutex);
    record.dispatch_bytes[rank] += r.dispatch_bytes;
    std::vector<int64_t>& counts = record.counts[i];
    counts.resize(r.expert_counts.size());
    if (dp_rank == 0 && (!engine.groups().mirror || engine.groups().mirror->rank() == 0))
      for (size_t k = 0; k < counts.size(); ++k) counts[k] += r.expert_counts[k];
    if (i == 0)
      for (const auto& o : engine.optimizer().owned()) put_rows(record.first_gradients, *o.parameter, o.rows, o.grad);
    if (i == 0 && dp_rank == 0)
      for (const auto& b : engine.parameters().router_biases()) record.first_biases[b.name] = to_double(b.value);
    if (rank != 0) continue;
    record.loss.push_back(r.loss);
    record.mtp.push_back(r.mtp_loss.empty() ? 0.0 : r.mtp_loss[0]);
    record.balance.push_back(r.balance);
    record.norm.push_back(r.grad_norm);
  }
  if (spec.end) spec.end(engine, world);
  record_state(engine, record, mutex);
  const std::lock_guard lock(mutex);
  for (const auto& p : engine.parameters().all())
    if (p.is_expert) record.expert_elements[rank] += p.weight.size();
  record.optimizer_bytes[rank] = engine.optimizer().state_bytes();
  record.weight_gradient_gemms[rank] = engine.ctx().num_weight_gradient_gemms;
  const int64_t row_bytes = spec.options.model.hidden_size * static_cast<int64_t>(size_of(spec.options.storage));
  // a remote row crosses with its weight going forward, without it coming back as a gradient
  record.expected_dispatch_bytes[rank] = count.remote_rows * (2 * row_bytes + static_cast<int64_t>(size_of(acc_dtype(spec.options.storage))));
  const bool is_in_halves = spec.options.grad_halves == 2 && !engine.groups().mirror;
  const Executor& executor = engine.executor(is_in_halves ? spec.microbatches / 2 : spec.microbatches);
  record.executed[rank] = executor.executed();
  record.peak_live[rank] = executor.peak_live();
}

Record run(const RunSpec& spec) {
  Record record = empty_record(spec);
  std::mutex mutex;
  run_ranks_as_threads(spec.world, [&](Communicator& world) { run_rank(spec, world, record, mutex); });
  return record;
}

double relative_difference(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double difference = 0, scale = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i])) return std::numeric_limits<double>::infinity();
    difference = std::max(difference, std::abs(a[i] - b[i]));
    scale = std::max(scale, std::abs(b[i]));
  }
  if (difference == 0) return 0;
  return scale == 0 ? std::numeric_limits<double>::infinity() : difference / scale;
}

std::string first_difference(const Record& a, const Record& b, double bound) {
  auto series = [&](const char* name, const std::vector<double>& x, const std::vector<double>& y) -> std::string {
    const double d = relative_difference(x, y);
    return d > bound ? std::string(name) + " differs by " + std::to_string(d) : std::string();
  };
  auto tensors = [&](const char* text, std::map<std::string, std::vector<double>> Record::*kind) -> std::string {
    if ((a.*kind).size() != (b.*kind).size()) return std::string(text) + "other tensors";
    for (auto& [name, value] : b.*kind) {
      const auto it = (a.*kind).find(name);
      if (it == (a.*kind).end()) return text + name + " is missing";
      if (std::string s = series((text + name).c_str(), it->second, value); !s.empty()) return s;
    }
    return {};
  };
  for (auto& [text, kind] : {std::pair{"first gradients: ", &Record::first_gradients}, {"first biases: ", &Record::first_biases}})
    if (std::string s = tensors(text, kind); !s.empty()) return s;
  if (a.counts != b.counts) return "expert counts differ";
  for (auto& [text, x, y] : {std::tuple{"loss", &a.loss, &b.loss}, {"mtp loss", &a.mtp, &b.mtp}, {"balance loss", &a.balance, &b.balance}, {"grad norm", &a.norm, &b.norm}})
    if (std::string s = series(text, *x, *y); !s.empty()) return s;
  for (auto& [text, kind] : {std::pair{"parameters: ", &Record::parameters}, {"moments: ", &Record::moments}, {"second moments: ", &Record::second_moments}})
    if (std::string s = tensors(text, kind); !s.empty()) return s;
  return {};
}

}  // namespace atoll::test
