// Results of other implementations (tests/golden), in every layout that the reference runs must hold in. Ranks are threads here; tests/mpi runs them under mpirun.
#include <catch2/catch.hpp>
#include <filesystem>
#include <limits>
#include <mutex>
#include <nlohmann/json.hpp>

#include "checkpoint_fixture.h"
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

namespace {
// A copy of a golden folder whose files are changed: `edit` gets the header's text and the bytes behind it.
struct EditedFolder {
  atoll::test::TempDir dir;
  explicit EditedFolder(const std::string& name) {
    for (const auto& e : std::filesystem::directory_iterator(folder(name)))
      if (e.is_regular_file()) std::filesystem::copy(e.path(), dir.path());
  }
  void rename(const std::string& file, const std::string& from, const std::string& to) const {  // of equal length
    const std::string path = dir.path() + "/" + file;
    std::string bytes = atoll::test::text_of(path);
    const size_t at = bytes.find('"' + from + '"');
    REQUIRE((at != std::string::npos && from.size() == to.size()));
    bytes.replace(at + 1, to.size(), to);
    atoll::test::write_text(path, bytes);
  }
  void set_last(const std::string& file, const std::string& tensor, const std::string& value) const {  // the bytes of the last element
    const std::string path = dir.path() + "/" + file;
    std::string bytes = atoll::test::text_of(path);
    uint64_t header = 0;
    std::memcpy(&header, bytes.data(), sizeof header);
    const auto end = nlohmann::json::parse(bytes.substr(8, header)).at(tensor).at("data_offsets").at(1).get<size_t>();
    bytes.replace(8 + header + end - value.size(), value.size(), value);
    atoll::test::write_text(path, bytes);
  }
};
template <class T>
std::string bytes_of(T value) { return {reinterpret_cast<const char*>(&value), sizeof value}; }

// The rows that do not hold.
std::vector<std::string> failures(const EditedFolder& edited, DType type = DType::kF64) {
  const auto world = one_rank_world();
  GoldenOptions options;
  options.dtype = type;
  std::vector<std::string> names;
  const GoldenReport report = verify_golden(edited.dir.path(), options, *world);
  for (const GoldenRow& r : report.rows)
    if (!r.ok) names.push_back(r.name);
  CHECK(report.ok() == names.empty());
  return names;
}
}  // namespace

TEST_CASE("A reference that is not a number fails, in every type", "[golden]") {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  for (DType type : {DType::kF64, DType::kF32, DType::kBF16})
    for (float bad : {nan, infinity}) {
      const EditedFolder edited("mtp_tiny/depth1");
      edited.set_last("io.safetensors", "logits", bytes_of(bad));
      edited.set_last("grads.safetensors", "model.norm.weight", bytes_of(bad));
      edited.set_last("io.safetensors", "bias_after.model.layers.1.mlp.gate.e_score_correction_bias", bytes_of(bad));
      CHECK(failures(edited, type) == std::vector<std::string>{"bias_after.model.layers.1.mlp.gate.e_score_correction_bias", "grad model.norm.weight", "logits"});
    }
  const EditedFolder training("train_v3_tiny");  // beside the folder that its initial weights lie in
  std::filesystem::create_directories(training.dir.path() + "/train");
  for (const char* name : {"case.json", "config.json", "data.safetensors", "final.safetensors"}) std::filesystem::rename(training.dir.path() + "/" + name, training.dir.path() + "/train/" + name);
  std::filesystem::copy(folder("mtp_tiny"), training.dir.path() + "/mtp_tiny", std::filesystem::copy_options::recursive);
  training.set_last("train/final.safetensors", "model.norm.weight", bytes_of(nan));
  const auto world = one_rank_world();
  const GoldenReport report = verify_golden(training.dir.path() + "/train", {}, *world);
  CHECK_FALSE(report.ok());
  CHECK_THAT(report.text(false), Catch::Contains("the first out of line: final model.norm.weight"));
}

TEST_CASE("Each stored tensor is compared, an input that is named, or a failure", "[golden]") {
  const std::vector<std::string> none;
  const EditedFolder sound("mtp_tiny/depth2");
  CHECK(failures(sound) == none);
  const GoldenReport report = verify("mtp_tiny/depth2", DType::kF64, 1, 1);
  CHECK(report.not_compared == std::vector<std::string>{"input_ids (an input)", "labels (an input)"});
  CHECK_THAT(report.text(false), Catch::Contains("stored, not compared: input_ids (an input), labels (an input)"));
  for (const char* name : {"moe.1.balance_f", "moe.3.balance_P", "mtp.2.labels", "grad of balance: model.layers.2.mlp.gate.weight"}) CHECK(has_row(report, name));

  const EditedFolder unknown("mtp_tiny/depth2");
  unknown.rename("io.safetensors", "moe.1.balance_P", "moe.1.balance_Q");
  unknown.rename("grads_balance.safetensors", "model.layers.1.mlp.gate.weight", "model.layers.1.mlp.gate.WEIGHT");
  std::filesystem::copy(unknown.dir.path() + "/io.safetensors", unknown.dir.path() + "/io_more.safetensors");
  CHECK(failures(unknown) == std::vector<std::string>{"stored, but compared with nothing: moe.1.balance_Q", "stored, but compared with nothing: grads_balance: model.layers.1.mlp.gate.WEIGHT",
                                                      "a file that nothing reads: io_more.safetensors"});

  const EditedFolder wrong("mtp_tiny/depth2");
  wrong.set_last("io.safetensors", "moe.2.balance_P", bytes_of(0.5f));
  wrong.set_last("io.safetensors", "moe.2.balance_f", bytes_of(0.5f));
  wrong.set_last("io.safetensors", "mtp.1.labels", bytes_of(int64_t{3}));  // where no label is
  wrong.set_last("grads_balance.safetensors", "model.layers.3.mlp.gate.weight", bytes_of(0.5f));
  CHECK(failures(wrong) == std::vector<std::string>{"grad of balance: model.layers.3.mlp.gate.weight", "moe.2.balance_P", "moe.2.balance_f", "mtp.1.labels"});

  const EditedFolder packed("deepseek_v3_yarn_tiny");
  packed.set_last("io_packed.safetensors", "position_ids", bytes_of(int64_t{47}));
  packed.set_last("io_packed.safetensors", "document_of_token", bytes_of(int64_t{7}));
  CHECK(failures(packed) == std::vector<std::string>{"packed: document_of_token", "packed: position_ids"});
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
