// Opens a checkpoint as a model of one rank. Policy: the model comes from the checkpoint's own configuration, its layout does not; optimizer moments are left on disk.
#include "trainer/loaded_run.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "kernels/cpu/gemm.h"
#include "trainer/checkpoint.h"
#include "trainer/trainer.h"

namespace atoll {

Bf16Gemm bf16_gemm_of(const RunConfig& config, const std::string& extra_json) {
  if (config.train.bf16_gemm != Bf16Gemm::kAuto || config.train.dtype != DType::kBF16) return config.train.bf16_gemm;
  const nlohmann::json extra = nlohmann::json::parse(extra_json);
  const auto saved = static_cast<Bf16Gemm>(extra.value("bf16_gemm", static_cast<int>(Bf16Gemm::kAuto)));
  const bool is_here = saved == Bf16Gemm::kWiden || (saved == Bf16Gemm::kNative && cpu::has_native_bf16_gemm());
  return is_here ? saved : Bf16Gemm::kAuto;
}

std::unique_ptr<LoadedRun> load_run(const std::string& path, int threads) {
  namespace fs = std::filesystem;
  auto run = std::make_unique<LoadedRun>();
  if (!fs::exists(path)) throw DataError(path + ": no such run or checkpoint; `atoll checkpoint ls RUN` lists a run's");
  std::optional<CheckpointReader> reader;
  if (fs::exists(path + "/manifest.json"))
    reader.emplace(CheckpointReader::open(path));
  else
    reader = CheckpointReader::open_newest(path);
  if (!reader) throw DataError(path + ": no checkpoint in it yet; a run saves one at its end, every checkpoint.every steps, and on SIGUSR1");
  const CheckpointMeta& meta = reader->meta();
  run->directory = reader->directory();
  run->step = meta.step;
  run->tokens = meta.tokens;
  run->sequences = meta.sequences;
  run->data_fingerprint = meta.data_fingerprint;
  run->resolved_yaml = meta.resolved_config_yaml;
  run->config = parse_run_config(meta.resolved_config_yaml, run->directory + " (its configuration)");
  if (run->config.train.bf16_gemm == Bf16Gemm::kNative && !cpu::has_native_bf16_gemm()) run->config.train.bf16_gemm = Bf16Gemm::kWiden;  // exact as well; another host trained it
  run->config.parallel.mesh = {};
  run->config.parallel.schedule = "1f1b";
  run->config.parallel.vpp = run->config.parallel.grad_halves = 1;
  run->config.parallel.stage_layers.clear();
  run->config.train.bf16_gemm = bf16_gemm_of(run->config, meta.extra_json);
  run->tokenizer = std::make_unique<Tokenizer>(Tokenizer::from_serialized(reader->attached("tokenizer.model"), run->directory + "/tokenizer.model"));
  run->world = mpi_world();
  if (run->world->size() != 1) throw ConfigError("this command runs in one process; start it without mpirun");
  run->engine = std::make_unique<Engine>(engine_options(run->config, threads > 0 ? threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))), *run->world);
  std::vector<ShardView> wanted = engine_shards(*run->engine);
  std::erase_if(wanted, [](const ShardView& s) { return s.kind != "master" && s.kind != "bias"; });
  reader->load(wanted, Unexpected::kIgnore);
  run->engine->publish_weights();
  return run;
}

}  // namespace atoll
