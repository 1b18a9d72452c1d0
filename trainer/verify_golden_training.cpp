// A golden training run: every step's losses, norm, clip coefficient and expert counts, then every final parameter and bias.
#include <fmt/format.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "trainer/golden_case.h"
#include "trainer/hf_config.h"

namespace atoll {
namespace {
std::vector<MicroBatch> step_batches(const SafetensorsFile& data, int step, int dp, int rank, std::set<std::string>& used) {
  std::vector<MicroBatch> batches;
  for (int m = 0;; ++m) {
    const std::string name = fmt::format("step.{}.micro.{}.", step, m);
    if (!data.find(name + "input_ids")) break;
    const Tensor ids = data.tensor(name + "input_ids"), labels = data.tensor(name + "labels");
    used.insert({name + "input_ids", name + "labels"});
    const int64_t S = ids.dim[1];
    const Range mine = split_evenly(ids.dim[0], dp, rank);
    MicroBatch batch;
    batch.clear();
    for (int64_t s = mine.begin; s < mine.end; ++s)
      batch.add_sequence({ids.as<int32_t>() + s * S, static_cast<size_t>(S)}, {labels.as<int32_t>() + s * S, static_cast<size_t>(S)}, {});
    batches.push_back(std::move(batch));
  }
  return batches;
}
}  // namespace

GoldenReport verify_golden_training(const std::string& folder, const GoldenOptions& options, Communicator& world) {
  if (options.dtype == DType::kBF16) throw ConfigError(folder + ": a training case is compared in fp64 or fp32: after a few BF16 updates routing differs, and nothing is left to compare");
  const std::string facts_path = folder + "/case.json";
  std::ifstream in(facts_path);
  if (!in) throw DataError(facts_path + ": cannot be read");
  const nlohmann::json facts = nlohmann::json::parse(in, nullptr, false);
  if (facts.is_discarded()) throw DataError(facts_path + ": not JSON");
  const nlohmann::json& hyper = facts.at("hyper");
  const std::string initial = facts.at("initial_weights").get<std::string>();
  const SafetensorsFile data(folder + "/data.safetensors"), final_file(folder + "/final.safetensors"), weights(folder + "/" + initial.substr(0, initial.find(' ')));

  EngineOptions o = golden_engine_options(load_hf_config(folder + "/config.json"), options, facts.at("seq").get<int64_t>());
  o.adamw = {.beta1 = hyper.at("betas").at(0), .beta2 = hyper.at("betas").at(1), .eps = hyper.at("eps"), .weight_decay = hyper.at("weight_decay")};
  Engine engine(o, world);
  load_golden_weights(engine, weights);
  for (const char* key : {"decay", "no_decay"})
    for (const auto& name : facts.at(key))
      for (const ParameterSpec& s : engine.manifest())
        if (s.name == name.get<std::string>() && s.decays != (std::string(key) == "decay")) throw DataError(folder + ": " + s.name + " is listed under " + key);

  GoldenReport report;
  const bool is_double = options.dtype == DType::kF64;
  auto add = [&](const std::string& name, double deviation, double tolerance) { report.rows.push_back({name, deviation, tolerance, std::isfinite(deviation) && deviation <= tolerance}); };
  auto scalar = [&](const std::string& name, double value, double reference, double fp32) {
    add(name, std::abs(value - reference) / std::max(std::abs(reference), 1e-300), is_double ? 1e-10 : fp32);
  };
  std::set<std::string> used;  // tensors of the data file
  const int64_t E = o.model.n_routed_experts;
  for (const nlohmann::json& s : facts.at("steps")) {
    const int step = s.at("step");
    std::vector<MicroBatch> batches = step_batches(data, step, engine.groups().dp->size(), engine.groups().dp->rank(), used);
    const StepPlan plan{.lr = hyper.at("lr").get<double>() * std::min(1.0, step / hyper.at("warmup_steps").get<double>()), .mtp_lambda = hyper.at("lambda_mtp"),
                        .balance_alpha = hyper.at("alpha"), .bias_gamma = hyper.at("gamma"), .clip_norm = hyper.at("clip"), .step = step};
    StepResult r = engine.train_step(batches, plan);
    const std::string at = fmt::format("step {:2} ", step);
    scalar(at + "loss", r.total, s.at("loss"), 1e-6);
    scalar(at + "main loss", r.loss, s.at("main"), 1e-6);
    for (size_t k = 0; k < r.mtp_loss.size(); ++k) scalar(at + "mtp loss", r.mtp_loss[k], s.at("mtp").at(k), 1e-6);
    scalar(at + "balance loss", r.balance, s.at("balance"), 1e-6);
    scalar(at + "grad norm", r.grad_norm, s.at("grad_norm"), 1e-5);
    scalar(at + "clip coefficient", r.clip, s.at("clip_coefficient"), 1e-5);
    add(at + "labels", std::abs(static_cast<double>(r.labels) - s.at("n_valid").get<double>()), 0);
    int64_t mismatches = 0;
    engine.groups().pp->sum_in_rank_order(std::span<int64_t>(r.expert_counts));  // each stage knows its own layers
    for (auto& [layer, counts] : s.at("counts").items())
      for (int64_t e = 0; e < E; ++e) mismatches += r.expert_counts[static_cast<size_t>(std::stoll(layer) * E + e)] != counts.at(static_cast<size_t>(e)).get<int64_t>();
    add(at + "expert counts", static_cast<double>(mismatches), 0);
  }
  Deviations d;
  for (const ShardedAdamW::Owned& owned : engine.optimizer().owned())
    d.compare("final " + owned.parameter->spec->name, owned.master, final_file.tensor(owned.parameter->spec->name).rows(owned.rows.begin, owned.rows.size()));
  for (const ParameterStore::Bias& b : engine.parameters().router_biases()) d.compare("final " + b.name, b.value, final_file.tensor(b.name));
  d.merge(world);
  for (const auto& [name, deviation] : d.all()) add(name, deviation.relative_max(), is_double ? 2e-7 : 1e-4);
  const auto unknown = [&](const std::string& name) { add("stored, but compared with nothing: " + name, std::numeric_limits<double>::infinity(), 0); };
  for (const SafetensorsEntry& e : data.entries())
    if (!used.count(e.name)) unknown("data: " + e.name);
  for (const SafetensorsEntry& e : final_file.entries())
    if (!d.all().count("final " + e.name)) unknown("final: " + e.name);
  report.not_compared.push_back("step.*.micro.*.input_ids and .labels (inputs)");
  return report;
}

}  // namespace atoll
