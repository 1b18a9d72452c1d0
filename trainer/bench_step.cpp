// The step that training runs, on random tokens. Policy: FLOPs are counted by the peer's formula, router included; the peak is measured in the same process just before.
#include "trainer/bench_step.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "kernels/base/rng.h"
#include "kernels/ops.h"
#include "model/flops.h"
#include "trainer/banner.h"

namespace atoll {
namespace {
double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::vector<MicroBatch> random_batches(const BenchStepOptions& o, int64_t vocab) {
  const Rng rng(0, "bench");
  const int64_t per_microbatch = o.micro_batch > 0 ? o.micro_batch : o.batch;
  std::vector<MicroBatch> batches;
  std::vector<int32_t> ids(static_cast<size_t>(o.seq + 1));
  for (int64_t s = 0; s < o.batch; ++s) {
    if (s % per_microbatch == 0) batches.emplace_back().clear();
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(rng.below(static_cast<uint64_t>(s * (o.seq + 1)) + i, static_cast<uint64_t>(vocab)));
    batches.back().add_sequence({ids.data(), static_cast<size_t>(o.seq)}, {ids.data() + 1, static_cast<size_t>(o.seq)}, {});
  }
  return batches;
}
}  // namespace

std::string bench_step(const BenchStepOptions& o) {
  EngineOptions e;
  e.model = o.model;
  e.model.num_nextn_predict_layers = 0;
  e.storage = o.dtype;
  e.threads = o.threads > 0 ? o.threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  e.max_sequence = o.seq;
  const std::unique_ptr<Communicator> world = mpi_world();
  if (world->size() != 1) throw ConfigError("bench step measures one process; start it without mpirun");
  Engine engine(e, *world);
  engine.initialize();
  const double peak = measure_gemm_peak(engine.ctx(), true);
  std::vector<MicroBatch> batches = random_batches(o, o.model.vocab_size);
  const double router = 6.0 * static_cast<double>((e.model.num_hidden_layers - std::min(e.model.first_k_dense_replace, e.model.num_hidden_layers)) * e.model.n_routed_experts * e.model.hidden_size);
  const double flops = (training_flops_per_token(e.model, o.seq) + router) * static_cast<double>(o.batch * o.seq);
  std::vector<double> seconds;
  for (int step = 1; step <= o.steps + 2; ++step) {  // two to warm up: primitives are compiled, pages touched
    if (step == 3) engine.ctx().op_stats = {};
    const double begin = now();
    const StepResult r = engine.train_step(batches, {.lr = 1e-4, .clip_norm = 1.0, .step = step});
    if (!r.applied) throw Error("bench step: " + r.reason);
    if (step > 2) seconds.push_back(now() - begin);
  }
  std::sort(seconds.begin(), seconds.end());
  const double best = seconds.front(), median = seconds[seconds.size() / 2], tokens = static_cast<double>(o.batch * o.seq), gflops = flops / best * 1e-9;
  if (o.json)
    return fmt::format("{{\"model\": \"{}\", \"dtype\": \"{}\", \"threads\": {}, \"step_seconds_best\": {:.4f}, \"step_seconds_median\": {:.4f}, \"tokens_per_second\": {:.0f}, \"gflops\": {:.1f}, "
                       "\"gemm_peak_gflops\": {:.1f}, \"peak_percent\": {:.1f}}}\n",
                       o.name, name_of(o.dtype), e.threads, best, median, tokens / best, gflops, peak, 100 * gflops / peak);
  return fmt::format("{}, {} x {} tokens, {}, {} threads: best {:.3f} s, median {:.3f} s, {:.0f} tok/s, {:.1f} GFLOP/s = {:.1f} % of the GEMM peak ({:.1f} GFLOP/s in this run)\n{}", o.name, o.batch,
                     o.seq, name_of(o.dtype), e.threads, best, median, tokens / best, gflops, 100 * gflops / peak, peak, op_table(engine.ctx()) + memory_table(engine.ctx()) + "\n");
}

}  // namespace atoll
