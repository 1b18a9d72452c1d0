// Results of other implementations (tests/golden), in every layout that the reference runs must hold in. Ranks are threads here; tests/mpi runs one case under mpirun.
#include <catch2/catch.hpp>
#include <mutex>

#include "kernels/base/error.h"
#include "kernels/cpu/isa.h"
#include "tests/unit/kernels/child.h"
#include "trainer/golden_case.h"
#include "trainer/hf_config.h"
#include "trainer/verify_golden.h"

using namespace atoll;

namespace {
const std::vector<std::string>& cases() {
  static const std::vector<std::string> names = {"deepseek_v3_tiny", "deepseek_v3_yarn_tiny", "deepseek_v2_lite_tiny", "deepseek_v2_group_tiny", "mtp_tiny/depth1", "mtp_tiny/depth2"};
  return names;
}
std::string folder(const std::string& name) { return std::string(ATOLL_SOURCE_DIR) + "/tests/golden/" + name; }

GoldenReport verify(const std::string& name, DType type, int pp, int ep, int world = 0) {
  GoldenOptions options;
  options.dtype = type;
  options.mesh = {.pp = pp, .ep = ep};
  options.world = world > 0 ? world : pp * ep;
  GoldenReport report;
  std::mutex mutex;
  run_ranks_as_threads(options.world, [&](Communicator& comm) {
    GoldenReport mine = verify_golden(folder(name), options, comm);
    const std::lock_guard lock(mutex);
    if (comm.rank() == 0) report = std::move(mine);
  });
  return report;
}

void check_holds(const std::string& name, DType type, int pp, int ep, int world = 0) {
  const GoldenReport report = verify(name, type, pp, ep, world);
  INFO(report.text(false));
  CHECK(report.rows.size() > 50);
  CHECK(report.ok());
}

bool has_row(const GoldenReport& report, const std::string& name) {
  for (const GoldenRow& r : report.rows)
    if (r.name == name) return true;
  return false;
}
}  // namespace

TEST_CASE("One pass of each reference model holds in FP64 and FP32 over pipeline and expert ranks", "[golden]") {
  for (const std::string& name : cases())
    for (DType type : {DType::kF64, DType::kF32})
      for (int pp : {1, 2})
        for (int ep : {1, 2, 4}) check_holds(name, type, pp, ep);
}

// Hidden: run below in processes of other instruction sets.
TEST_CASE("One reference model holds on this process's instruction set", "[.this-isa]") {
  for (DType type : {DType::kF64, DType::kF32, DType::kBF16}) check_holds("mtp_tiny/depth1", type, 1, 1);
}

TEST_CASE("One reference model holds in a process of each narrower instruction set", "[golden]") {
  for (Isa isa : {Isa::kX86_64, Isa::kAvx2}) {
    if (!cpu::has_isa(isa)) continue;
    const test::Child child = test::run_in_child(std::string("ATOLL_ISA=") + name_of(isa), "[this-isa]");
    INFO(name_of(isa) << '\n' << child.output);
    CHECK(child.status == 0);
    CHECK(child.output.find("All tests passed") != std::string::npos);
  }
}

TEST_CASE("30 reference training steps hold in FP64 and FP32 over pipeline and expert ranks", "[golden]") {
  for (DType type : {DType::kF64, DType::kF32})
    for (int pp : {1, 2})
      for (int ep : {1, 2, 4}) check_holds("train_v3_tiny", type, pp, ep);
}

TEST_CASE("Reference results hold with more data-parallel ranks than sequences", "[golden]") {
  for (int pp : {1, 2})
    for (int ep : {1, 2}) check_holds("mtp_tiny/depth2", DType::kF64, pp, ep, pp * 4);
}

TEST_CASE("A golden report covers logits, routing, losses, gradients, biases and both rows of documents", "[golden]") {
  const GoldenReport mtp = verify("mtp_tiny/depth2", DType::kF64, 2, 2);
  for (const char* name : {"logits", "mtp.2.logits", "moe.1.router_logits", "moe.1.topk_ids", "moe.1.topk_weights", "loss total", "loss main", "loss mtp 2", "loss balance", "grad norm",
                           "grad model.embed_tokens.weight", "grad lm_head.weight", "counts of layer 1", "bias_after.model.layers.1.mlp.gate.e_score_correction_bias"}) {
    INFO(name);
    CHECK(has_row(mtp, name));
  }
  const GoldenReport yarn = verify("deepseek_v3_yarn_tiny", DType::kF64, 1, 1);
  for (const char* name : {"hidden.0", "hidden.1", "hidden.final_norm", "logits", "packed: logits", "packed: grad model.embed_tokens.weight"}) {
    INFO(name);
    CHECK(has_row(yarn, name));
  }
  const GoldenReport training = verify("train_v3_tiny", DType::kF64, 1, 2);
  for (const char* name : {"step 30 loss", "step 30 grad norm", "step 30 expert counts", "final model.embed_tokens.weight"}) {
    INFO(name);
    CHECK(has_row(training, name));
  }
}

TEST_CASE("A folder that cannot be run is an error, not a pass", "[golden]") {
  for (const char* name : {"llama_tiny", "mixtral_tiny", "qwen3_moe_tiny", "granite_moe_tiny", "optim", "no_such_folder"}) {
    INFO(name);
    CHECK_THROWS_AS(verify(name, DType::kF64, 1, 1), Error);
  }
  CHECK_THROWS_AS(verify("train_v3_tiny", DType::kBF16, 1, 1), Error);
}

// The balance loss is a thousandth of the whole: its gradient is compared alone, as the difference of two passes.
TEST_CASE("The gradient of the balance loss alone is the reference's", "[golden]") {
  for (const char* name : {"mtp_tiny/depth1", "mtp_tiny/depth2"}) {
    const std::string at = folder(name);
    const SafetensorsFile weights(at + "/model.safetensors"), io(at + "/io.safetensors"), reference(at + "/grads_balance.safetensors");
    const Tensor ids = io.tensor("input_ids"), labels = io.tensor("labels");
    MicroBatch batch;
    batch.clear();
    for (int64_t b = 0, S = ids.dim[1]; b < ids.dim[0]; ++b) {
      const std::vector<int32_t> x(ids.as<int64_t>() + b * S, ids.as<int64_t>() + (b + 1) * S), y(labels.as<int64_t>() + b * S, labels.as<int64_t>() + (b + 1) * S);
      batch.add_sequence(x, y, {});
    }
    std::vector<MicroBatch> batches{batch};
    const auto world = one_rank_world();
    Engine engine(golden_engine_options(load_hf_config(at + "/config.json"), {}, ids.dim[1]), *world);
    load_golden_weights(engine, weights);
    const auto gradients = [&](double alpha) {
      engine.accumulate_gradients(batches, {.mtp_lambda = 0.3, .balance_alpha = alpha});
      engine.reduce_gradients();
      std::map<std::string, std::vector<double>> grads;
      for (const ShardedAdamW::Owned& o : engine.optimizer().owned()) grads[o.parameter->spec->name].assign(o.grad.as<double>(), o.grad.as<double>() + o.grad.size());
      return grads;
    };
    const auto with = gradients(0.001), without = gradients(0.0);
    CHECK(reference.entries().size() >= 4);
    for (const SafetensorsEntry& entry : reference.entries()) {
      Deviation d;
      for (int64_t i = 0; i < entry.size(); ++i) d.add(with.at(entry.name)[i] - without.at(entry.name)[i], element(reference.tensor(entry.name), i));
      INFO(name << ' ' << entry.name << ' ' << d.relative_max());
      CHECK(d.relative_max() <= 2e-7);
    }
  }
}
