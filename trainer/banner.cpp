// Gathers one line of each rank and builds the texts on rank 0. Policy: collective, so that what is printed was measured on the rank it speaks of.
#include "trainer/banner.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "kernels/ops.h"
#include "model/flops.h"
#include "trainer/trainer.h"

namespace atoll {
namespace {
std::string megabytes(int64_t bytes) { return fmt::format("{:.1f} MB", static_cast<double>(bytes) * 1e-6); }

std::string layers_text(const Placement& placement) {  // "layers 0-1 and 6-7"
  std::string out = "layers ";
  for (const int stage : placement.stages) {
    const Range r = placement.layers(stage);
    out += (stage == placement.stages.front() ? "" : stage == placement.stages.back() ? " and " : ", ") + fmt::format("{}-{}", r.begin, r.end - 1);
  }
  return out;
}

struct RankLine { int64_t expert_begin, expert_end, parameters, weights, grads, optimizer; int32_t threads, first, last, pad; std::array<char, 32> host; std::array<char, 96> layers; };
}  // namespace

std::string banner(const RunConfig& c, Engine& engine, const HostInfo& host, double gemm_peak, int64_t store_tokens, int64_t resumed_step) {
  Communicator& world = engine.groups().world;
  Memory& memory = engine.ctx().memory;
  RankLine mine{};
  mine.expert_begin = engine.placement().experts.begin;
  mine.expert_end = engine.placement().experts.end;
  mine.parameters = engine.parameters().num_local_elements();
  mine.weights = memory.weights.used();
  mine.grads = memory.grads.used();
  mine.optimizer = memory.optimizer.used();
  mine.threads = engine.ctx().num_threads;
  mine.first = engine.placement().is_first();
  mine.last = engine.placement().is_last();
  std::copy_n(host.name.begin(), std::min<size_t>(host.name.size(), mine.host.size() - 1), mine.host.begin());
  const std::string layers = layers_text(engine.placement());
  std::copy_n(layers.begin(), std::min(layers.size(), mine.layers.size() - 1), mine.layers.begin());
  std::vector<RankLine> all(static_cast<size_t>(world.size()));
  world.all_gather(&mine, sizeof mine, all.data());
  if (world.rank() != 0) return {};

  const ModelCounts counts = count_model(c.model);
  const Mesh& mesh = engine.mesh();
  std::string out = fmt::format("model: {} parameters (+ {} of MTP), {} active per token (head included, embedding not); {:.3f} GFLOP per token\n", with_thousands(counts.parameters),
                                with_thousands(counts.mtp_parameters), with_thousands(counts.active), training_flops_per_token(c.model, c.data.seq_len) * 1e-9);
  const int64_t batch = c.train.global_batch, per_micro = c.train.micro_batch * mesh.size(Axis::kDp), microbatches = (batch + per_micro - 1) / per_micro;
  out += fmt::format("layout: {} ranks = pp {} x dp {} (ep {} x edp {}), schedule {}, {} micro-batches of up to {} sequences a rank, {} storage\n", world.size(), mesh.size(Axis::kPp),
                     mesh.size(Axis::kDp), mesh.size(Axis::kEp), mesh.size(Axis::kEdp), c.parallel.vpp > 1 ? fmt::format("{} (vpp {})", c.parallel.schedule, c.parallel.vpp) : c.parallel.grad_halves > 1 ? c.parallel.schedule + " in halves" : c.parallel.schedule, microbatches, c.train.micro_batch, name_of(c.train.dtype));
  for (int r = 0; r < world.size(); ++r) {
    const RankLine& l = all[static_cast<size_t>(r)];
    out += fmt::format("  {} on {}, {} thread{}: {}{}, experts {}-{}{}; {} parameters; weights {}, main grads {}, optimizer {}\n", mesh.describe(r), l.host.data(), l.threads,
                       l.threads == 1 ? "" : "s", l.first ? "embedding, " : "", l.layers.data(), l.expert_begin, l.expert_end - 1,
                       l.last ? (c.model.num_nextn_predict_layers > 0 ? ", MTP, head" : ", head") : "", with_thousands(l.parameters), megabytes(l.weights), megabytes(l.grads),
                       megabytes(l.optimizer));
  }
  const int64_t wanted = c.batch().after(c.total_steps()).tokens;
  out += fmt::format("data: {} training tokens in {}; the run feeds about {} ({:.2f} epochs)\n", with_thousands(store_tokens), c.data.store, with_thousands(wanted),
                     store_tokens > 0 ? static_cast<double>(wanted) / static_cast<double>(store_tokens) : 0.0);
  const GemmProbe& p = engine.ctx().probe;
  out += fmt::format("machine: {} instructions; BF16 products {}{}; GEMM peak of all ranks {:.0f} GFLOP/s (the denominator of MFU)\n", name_of(best_isa()),
                     engine.ctx().bf16_gemm == Bf16Gemm::kNative ? "native" : engine.ctx().bf16_gemm == Bf16Gemm::kWiden ? "widened to FP32" : "not used",
                     p.native > 0 ? fmt::format(" (probe: native {:.0f}, widened {:.0f} GFLOP/s a rank)", p.native, p.widened) : "", gemm_peak * 1e-9);
  out += fmt::format("{} at step {} of {}", resumed_step > 0 ? "goes on" : "starts", resumed_step, c.total_steps());
  return out;
}

std::string op_table(const Context& ctx) {
  std::vector<int> order(static_cast<size_t>(Op::kNumOps));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int a, int b) { return ctx.op_stats[a].seconds > ctx.op_stats[b].seconds; });
  double total = 0;
  for (int i : order) total += ctx.op_stats[i].seconds;
  std::string out = fmt::format("time by op (rank 0, {:.2f} s in ops):\n  {:<30} {:>9} {:>9} {:>6} {:>9}\n", total, "op", "calls", "seconds", "share", "GFLOP/s");
  for (int i : order) {
    const Context::OpStat& s = ctx.op_stats[i];
    if (s.calls > 0)
      out += fmt::format("  {:<30} {:>9} {:>9.3f} {:>5.1f}% {:>9}\n", name_of(static_cast<Op>(i)), s.calls, s.seconds, 100 * s.seconds / std::max(total, 1e-12),
                         s.flops > 0 ? fmt::format("{:.1f}", s.flops * 1e-9 / std::max(s.seconds, 1e-12)) : "");
  }
  return out;
}

std::string memory_table(Context& ctx) {
  std::string out = "memory by segment (rank 0, high-water marks):";
  for (Segment* s : ctx.memory.all()) out += fmt::format(" {} {};", s->name(), megabytes(s->high_water()));
  out.pop_back();
  return out;
}

}  // namespace atoll
