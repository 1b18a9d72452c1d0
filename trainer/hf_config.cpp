// See hf_config.h. Both spellings of RoPE are read: rope_parameters, then rope_theta and rope_scaling over it.
#include "trainer/hf_config.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "kernels/base/error.h"

namespace atoll {
namespace {

using Json = nlohmann::json;

Json parse_strict(const std::string& text, const std::string& name) {
  std::vector<std::set<std::string>> keys;
  std::string duplicate;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth > 32) throw ConfigError(name + ": nested more than 32 deep: not a config.json");
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second && duplicate.empty()) duplicate = value.get<std::string>();
    return true;
  };
  Json json;
  try {
    json = Json::parse(text, watch);
  } catch (const Json::exception& error) { throw ConfigError(name + ": not valid JSON: " + error.what()); }
  if (!json.is_object()) throw ConfigError(name + ": not a config.json: the top level is no object");
  if (!duplicate.empty()) throw ConfigError(name + ": duplicate key \"" + duplicate + "\"");
  return json;
}

class Reader {
 public:
  Reader(const Json& object, std::string where, std::vector<std::string>& problems) : object_(object), where_(std::move(where)), problems_(problems) {}
  bool has(const char* key) const { return object_.contains(key) && !object_.at(key).is_null(); }
  void whole(const char* key, int64_t& out) {
    if (has(key) && !object_.at(key).is_number_integer()) return wrong(key, "expected a whole number");
    if (has(key)) out = object_.at(key).get<int64_t>();
  }
  void needed(const char* key, int64_t& out) {
    if (!has(key)) return problems_.push_back(where_ + key + ": missing");
    whole(key, out);
  }
  void real(const char* key, double& out) {
    if (has(key) && !object_.at(key).is_number()) return wrong(key, "expected a number");
    if (has(key)) out = object_.at(key).get<double>();
  }
  void yes_no(const char* key, bool& out) {
    if (has(key) && !object_.at(key).is_boolean()) return wrong(key, "expected true or false");
    if (has(key)) out = object_.at(key).get<bool>();
  }
  void word(const char* key, std::string& out) {
    if (has(key) && !object_.at(key).is_string()) return wrong(key, "expected text");
    if (has(key)) out = object_.at(key).get<std::string>();
  }
  // A field whose other values would be another model.
  void must_be(const char* key, const Json& only, const std::string& why) {
    if (has(key) && object_.at(key) != only) wrong(key, why);
  }
  void wrong(const char* key, const std::string& why) { problems_.push_back(where_ + key + " = " + object_.at(key).dump() + ": " + why); }

 private:
  const Json& object_;
  std::string where_;
  std::vector<std::string>& problems_;
};

void read_rope_scaling(const Json& object, const std::string& where, ModelConfig& c, std::vector<std::string>& problems) {
  if (!object.is_object()) return problems.push_back(where + ": expected an object");
  Reader r(object, where + ".", problems);
  std::string type = "default";
  r.word("type", type);
  r.word("rope_type", type);
  r.real("rope_theta", c.rope_theta);
  c.rope_scaling = {};
  if (type == "default") return;
  if (type != "yarn") return problems.push_back(where + ": RoPE type \"" + type + "\" is not supported; default and yarn are");
  RopeScaling& s = c.rope_scaling;
  s.is_yarn = true;
  s.original_max_position = c.max_position_embeddings;
  r.real("factor", s.factor);
  r.real("beta_fast", s.beta_fast);
  r.real("beta_slow", s.beta_slow);
  r.whole("original_max_position_embeddings", s.original_max_position);
  if (!r.has("factor")) problems.push_back(where + ".factor: missing");
  if (r.has("mscale_all_dim") && !r.has("mscale")) problems.push_back(where + ".mscale: missing beside mscale_all_dim");
  if (r.has("mscale_all_dim") && r.has("mscale")) {  // mscale alone has no effect in transformers
    r.real("mscale", s.mscale);
    r.real("mscale_all_dim", s.mscale_all_dim);
    for (const auto& [key, value] : {std::pair{"mscale", s.mscale}, {"mscale_all_dim", s.mscale_all_dim}})
      if (value == 0) r.wrong(key, "transformers reads 0 as absent, another model than 0 says; leave both out or give both");
  }
  r.must_be("truncate", true, "correction ranges that are not rounded to whole dimensions are not supported");
  if (r.has("attention_factor")) r.wrong("attention_factor", "not supported; mscale and mscale_all_dim are");
}

void read_shape(Reader& r, const Json& json, ModelConfig& c, std::vector<std::string>& problems) {
  r.needed("vocab_size", c.vocab_size);
  r.needed("hidden_size", c.hidden_size);
  r.needed("intermediate_size", c.intermediate_size);
  r.needed("num_hidden_layers", c.num_hidden_layers);
  r.needed("num_attention_heads", c.num_attention_heads);
  r.needed("kv_lora_rank", c.kv_lora_rank);
  r.needed("qk_nope_head_dim", c.qk_nope_head_dim);
  r.needed("qk_rope_head_dim", c.qk_rope_head_dim);
  r.needed("v_head_dim", c.v_head_dim);
  c.q_lora_rank = 0;
  if (!json.contains("q_lora_rank")) problems.push_back("q_lora_rank: missing (null: no query latent)");
  r.whole("q_lora_rank", c.q_lora_rank);
  c.num_nextn_predict_layers = 0;
  r.whole("num_nextn_predict_layers", c.num_nextn_predict_layers);
  r.whole("max_position_embeddings", c.max_position_embeddings);
  r.real("rms_norm_eps", c.rms_norm_eps);
  r.yes_no("tie_word_embeddings", c.tie_word_embeddings);
  r.real("initializer_range", c.initializer_range);
  r.real("rope_theta", c.rope_theta);
}

void read_moe(Reader& r, ModelConfig& c, std::vector<std::string>& problems) {
  const bool is_v2 = c.model_type == "deepseek_v2";
  c.n_routed_experts = c.n_shared_experts = 0;
  for (const auto& [key, count] : {std::pair{"n_routed_experts", &c.n_routed_experts}, {"n_shared_experts", &c.n_shared_experts}})
    is_v2 ? r.whole(key, *count) : r.needed(key, *count);  // null in V2: a dense model, no shared expert; V3 has no such reading
  c.topk_method = is_v2 ? "greedy" : "noaux_tc";
  c.norm_topk_prob = !is_v2;
  c.routed_scaling_factor = is_v2 ? 1.0 : 2.5;
  c.n_group = c.topk_group = 1;
  if (c.n_routed_experts > 0) {
    r.needed("moe_intermediate_size", c.moe_intermediate_size);
    r.needed("num_experts_per_tok", c.num_experts_per_tok);
    r.needed("first_k_dense_replace", c.first_k_dense_replace);
    is_v2 ? r.whole("n_group", c.n_group) : r.needed("n_group", c.n_group);
    is_v2 ? r.whole("topk_group", c.topk_group) : r.needed("topk_group", c.topk_group);
  }
  if (is_v2) r.word("topk_method", c.topk_method);
  else r.must_be("topk_method", "noaux_tc", "not supported in deepseek_v3, whose router is noaux_tc");
  r.yes_no("norm_topk_prob", c.norm_topk_prob);
  r.real("routed_scaling_factor", c.routed_scaling_factor);
  std::string score = is_v2 ? "softmax" : "sigmoid";
  r.word("scoring_func", score);
  if (score != "softmax" && score != "sigmoid") problems.push_back("scoring_func = \"" + score + "\": not supported; sigmoid and softmax are");
  c.scoring_func = score == "softmax" ? ScoreFunction::kSoftmax : ScoreFunction::kSigmoid;
}

void refuse_other_maths(Reader& r, const ModelConfig& c) {
  r.must_be("hidden_act", "silu", "not supported; silu is");
  r.must_be("attention_bias", false, "projections with a bias are not supported");
  r.must_be("mlp_bias", false, "projections with a bias are not supported");
  r.must_be("attention_dropout", 0.0, "dropout is not supported");
  r.must_be("rope_interleave", true, "weights in half-split order are not supported");
  r.must_be("moe_layer_freq", 1, "not supported; every layer from first_k_dense_replace on is MoE");
  r.must_be("num_key_value_heads", c.num_attention_heads, "must equal num_attention_heads (MLA) or be null");
  r.must_be("qk_head_dim", c.qk_head_dim(), "must be qk_nope_head_dim + qk_rope_head_dim");
}

}  // namespace

ModelConfig parse_hf_config(const std::string& text, const std::string& name) {
  const Json json = parse_strict(text, name);
  std::vector<std::string> problems;
  ModelConfig c;
  Reader r(json, "", problems);
  c.model_type = "";
  r.word("model_type", c.model_type);
  if (c.model_type != "deepseek_v3" && c.model_type != "deepseek_v2")
    throw ConfigError(name + ": model_type = \"" + c.model_type + "\" is not supported; deepseek_v3 and deepseek_v2 are");
  read_shape(r, json, c, problems);
  read_moe(r, c, problems);
  const double theta = c.rope_theta;
  if (r.has("rope_parameters")) read_rope_scaling(json.at("rope_parameters"), "rope_parameters", c, problems);
  if (r.has("rope_theta")) c.rope_theta = theta;
  if (r.has("rope_scaling")) read_rope_scaling(json.at("rope_scaling"), "rope_scaling", c, problems);
  refuse_other_maths(r, c);
  if (problems.empty()) problems = c.problems();
  if (problems.empty()) return c;
  std::string message = name + ": " + std::to_string(problems.size()) + (problems.size() == 1 ? " error" : " errors");
  for (const std::string& problem : problems) message += "\n  " + problem;
  throw ConfigError(message);
}

ModelConfig load_hf_config(const std::string& path) {
  std::error_code failed;
  if (!std::filesystem::is_regular_file(path, failed)) throw ConfigError(path + ": no such file");
  if (std::filesystem::file_size(path, failed) > (1u << 20)) throw ConfigError(path + ": larger than 1 MiB: not a config.json");
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) throw ConfigError(path + ": cannot be read");
  return parse_hf_config(text.str(), path);
}

}  // namespace atoll
