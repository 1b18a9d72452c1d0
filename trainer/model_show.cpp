// The two renderings read the same counts (model/flops.h).
#include "trainer/model_show.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "kernels/base/error.h"
#include "model/flops.h"
#include "trainer/hf_config.h"
#include "trainer/run_config.h"

namespace atoll {
namespace {

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::string grouped(int64_t value) {
  std::string digits = std::to_string(value);
  for (int64_t i = static_cast<int64_t>(digits.size()) - 3; i > 0; i -= 3) digits.insert(static_cast<size_t>(i), 1, ',');
  return digits;
}

// 36.62 B, 3.14 M
std::string short_count(double value) {
  for (const auto& [unit, size] : {std::pair{"T", 1e12}, {"B", 1e9}, {"M", 1e6}, {"K", 1e3}})
    if (value >= size) return fmt::format("{:.4g} {}", value / size, unit);
  return fmt::format("{:.4g}", value);
}

}  // namespace

ShownModel find_model(const std::string& what) {
  const auto plain = [&](const ModelConfig& model) { return ShownModel{what, model, std::min<int64_t>(4096, model.max_position_embeddings)}; };
  if (const auto preset = model_preset(what)) return plain(*preset);
  if (ends_with(what, ".json")) return plain(load_hf_config(what));
  if (ends_with(what, ".yaml") || ends_with(what, ".yml")) {
    const RunConfig config = load_run_config(what);
    return {what, config.model, config.data.seq_len};
  }
  std::error_code ignored;
  if (std::filesystem::is_regular_file(what + "/config.json", ignored)) return plain(load_hf_config(what + "/config.json"));
  std::string names;
  for (const std::string& name : model_preset_names()) names += (names.empty() ? "" : ", ") + name;
  throw ConfigError(what + ": no such model; give a preset (" + names + "), a recipe (*.yaml) or a config.json");
}

std::string model_show_text(const ShownModel& shown) {
  const ModelConfig& c = shown.model;
  const ModelCounts n = count_model(c);
  std::string out =
      fmt::format("{}: {}, {} layers ({} dense) + {} MTP, hidden {}, {} heads, {} routed + {} shared experts, top-{}\n\n", shown.name, c.model_type,
                  c.num_hidden_layers, c.n_routed_experts > 0 ? std::min(c.first_k_dense_replace, c.num_hidden_layers) : c.num_hidden_layers,
                  c.num_nextn_predict_layers, c.hidden_size, c.num_attention_heads, c.n_routed_experts, c.n_shared_experts, c.num_experts_per_tok);
  out += fmt::format("{:<20}{:>4}{:>20}{:>18}{:>14}\n", "module", "x", "parameters", "active", "GF/token");
  for (const ModuleCount& m : n.modules)
    out += fmt::format("{:<20}{:>4}{:>20}{:>18}{:>14.4g}\n", m.module, m.instances, grouped(m.parameters), grouped(m.active),
                       training_flops_per_token(m, shown.seq_len, AttentionCount::kCausal) / 1e9);
  out += fmt::format("\nparameters   {} ({})", grouped(n.parameters), short_count(static_cast<double>(n.parameters)));
  if (n.router_bias > 0) out += fmt::format(", {} router-bias elements included", grouped(n.router_bias));
  if (n.mtp_parameters > 0) out += fmt::format("\n + MTP       {} ({})", grouped(n.mtp_parameters), short_count(static_cast<double>(n.mtp_parameters)));
  out += fmt::format("\nactive       {} ({}) without embedding, {} with it\n", grouped(n.active), short_count(static_cast<double>(n.active)),
                     grouped(n.active_with_embedding));
  const auto gf = [&](AttentionCount a, MtpCount m) { return training_flops_per_token(c, shown.seq_len, a, m) / 1e9; };
  out += fmt::format("training     {:.6g} GF/token causal, {:.6g} non-causal at S={}", gf(AttentionCount::kCausal, MtpCount::kExclude),
                     gf(AttentionCount::kNonCausal, MtpCount::kExclude), shown.seq_len);
  if (n.mtp_parameters > 0) out += fmt::format("; {:.6g} causal with MTP", gf(AttentionCount::kCausal, MtpCount::kInclude));
  return out + "\n             6 x matrix parameters of a token (head in; embedding, router, norms, MTP out) + 3 x attention products\n";
}

std::string model_show_json(const ShownModel& shown) {
  const ModelCounts n = count_model(shown.model);
  const auto flops = [&](AttentionCount a, MtpCount m) { return training_flops_per_token(shown.model, shown.seq_len, a, m); };
  nlohmann::ordered_json out;
  out["name"] = shown.name;
  out["model_type"] = shown.model.model_type;
  out["seq_len"] = shown.seq_len;
  out["parameters"] = n.parameters;
  out["mtp_parameters"] = n.mtp_parameters;
  out["router_bias_elements"] = n.router_bias;
  out["active_parameters"] = n.active;
  out["active_parameters_with_embedding"] = n.active_with_embedding;
  out["matmul_parameters"] = n.matmul;
  out["flops_per_token_causal"] = flops(AttentionCount::kCausal, MtpCount::kExclude);
  out["flops_per_token_non_causal"] = flops(AttentionCount::kNonCausal, MtpCount::kExclude);
  out["flops_per_token_causal_with_mtp"] = flops(AttentionCount::kCausal, MtpCount::kInclude);
  out["modules"] = nlohmann::ordered_json::array();
  for (const ModuleCount& m : n.modules)
    out["modules"].push_back({{"module", m.module},
                              {"instances", m.instances},
                              {"parameters", m.parameters},
                              {"active", m.active},
                              {"flops_per_token_causal", training_flops_per_token(m, shown.seq_len, AttentionCount::kCausal)}});
  return out.dump(2) + "\n";
}

}  // namespace atoll
