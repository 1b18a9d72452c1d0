// Measures, then fills in a cluster and a calibration. Policy: every product keeps its own shape's rate, so that the planner's nearest shape is the shape itself.
#include "trainer/plan/this_machine.h"

#include <algorithm>
#include <chrono>
#include <vector>

namespace atoll::plan {
namespace {
constexpr double kMostSeconds = 1;
constexpr int64_t kMessage = int64_t{1} << 20;
constexpr int kRounds = 3;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// The best of a few rounds: a rank that came late is no property of the link.
template <class Body>
double least_seconds(const Body& body) {
  double least = 1e30;
  for (int round = 0; round < kRounds; ++round) {
    const double begin = now();
    body();
    least = std::min(least, now() - begin);
  }
  return least;
}

StageOpsShape shape_of(const RunConfig& c, Engine& engine) {
  StageOpsShape s;
  s.threads = engine.ctx().num_threads;
  s.bf16_gemm = engine.ctx().bf16_gemm;
  s.storage = engine.options().storage;
  s.sequences = c.train.micro_batch;
  s.tokens = c.train.micro_batch * c.data.seq_len;
  s.num_experts = engine.placement().experts.size();
  if (s.num_experts > 0) s.expert_rows = (s.tokens * c.model.num_experts_per_tok + s.num_experts - 1) / s.num_experts;
  s.has_balance_loss = !c.train.balance_alpha.values.empty() && c.train.balance_alpha.values.front().value > 0;
  return s;
}
}  // namespace

MachineRates measure_machine(const RunConfig& c, Engine& engine, double gemm_peak) {
  Communicator& world = engine.groups().world;
  MachineRates rates;
  rates.gemm_peak = gemm_peak;
  world.barrier();
  rates.ops = time_stage_ops(c.model, shape_of(c, engine), gemm_peak / world.size(), kMostSeconds);
  world.barrier();
  if (world.size() == 1) return rates;
  const int64_t part = std::max<int64_t>(1, kMessage / world.size());
  std::vector<char> send(static_cast<size_t>(part)), receive(static_cast<size_t>(part * world.size()));
  rates.link_latency = least_seconds([&] { world.barrier(); });
  rates.link_rate = static_cast<double>(part * (world.size() - 1)) / least_seconds([&] { world.all_gather(send.data(), part, receive.data()); });
  return rates;
}

PlanInput this_machine(const RunConfig& c, int world, const MachineRates& rates) {
  PlanInput in;
  in.name = "this run";
  in.run = c;
  Errors errors;
  in.plan = read_sheet(plan_schema(), {}, "defaults", {}, errors);
  set_number(in, "host.launch", 0);  // ops are computed by who calls them
  set_text(in, "head", "fused");
  in.cluster.name = in.cluster.gpu = "this machine";
  in.cluster.nodes = 1;
  in.cluster.gpus_per_node = world;
  in.cluster.bf16 = in.cluster.fp8 = rates.gemm_peak / world;
  in.cluster.memory_bandwidth = rates.ops.glue_bytes / rates.ops.glue_seconds;
  in.cluster.sms = 1;
  in.cluster.intra = in.cluster.inter = {rates.link_rate > 0 ? rates.link_rate : 1e9, 1, rates.link_latency};
  const char* source = "measured at the start";
  for (const TimedOp& op : rates.ops.ops) in.calibration.rates.push_back({name_of(op.kind), name_of(op.pass), "bf16", op.m, op.n, op.k, op.flops / op.seconds, 1, source});
  in.calibration.glue.push_back({.what = "all", .fraction = 1, .source = source});
  const double moments = c.train.adam.moments == DType::kBF16 ? 4 : 8, update_bytes = 4 * 2 + 8 + 2 * moments + 2;  // of an element, as step_time.cpp counts them
  in.calibration.glue.push_back({.what = "optimizer", .fraction = update_bytes / rates.ops.update_seconds / in.cluster.memory_bandwidth, .source = source});
  in.calibration.exchanges.push_back({.what = "all", .fraction = 1, .source = source});
  return in;
}

}  // namespace atoll::plan
