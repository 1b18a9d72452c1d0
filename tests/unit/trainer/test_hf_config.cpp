// config.json of Hugging Face models: what is read, and what is refused. Policy: a field that would make another model is an error, never ignored.
#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "kernels/base/error.h"
#include "trainer/hf_config.h"

using namespace atoll;

static const std::string kGolden = std::string(ATOLL_SOURCE_DIR) + "/tests/golden/";

static nlohmann::json golden_json(const std::string& which) {
  std::ifstream file(kGolden + which + "/config.json");
  return nlohmann::json::parse(file);
}
static std::string error_of(const std::string& json) {
  try {
    parse_hf_config(json, "config.json");
  } catch (const ConfigError& error) { return error.what(); }
  return "";
}
static bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_CASE("The golden DeepSeek configs are read field by field", "[trainer][hf]") {
  const ModelConfig v3 = load_hf_config(kGolden + "deepseek_v3_tiny/config.json");
  CHECK(v3.hidden_size == 64);
  CHECK(v3.q_lora_rank == 48);
  CHECK(v3.n_group == 4);
  CHECK(v3.num_nextn_predict_layers == 0);
  CHECK(v3.topk_method == "noaux_tc");
  CHECK(v3.initializer_range == 0.12);
  CHECK_FALSE(v3.rope_scaling.is_yarn);

  const ModelConfig yarn = load_hf_config(kGolden + "deepseek_v3_yarn_tiny/config.json");
  CHECK(yarn.rope_scaling.is_yarn);
  CHECK(yarn.rope_scaling.factor == 4.0);
  CHECK(yarn.rope_scaling.original_max_position == 32);
  CHECK(yarn.rope_scaling.mscale == 1.0);
  CHECK(yarn.rope_scaling.mscale_all_dim == 1.0);
  CHECK(yarn.n_shared_experts == 2);
  CHECK(yarn.tie_word_embeddings);

  const ModelConfig lite = load_hf_config(kGolden + "deepseek_v2_lite_tiny/config.json");
  CHECK(lite.q_lora_rank == 0);
  CHECK(lite.router().group_score == GroupScore::kNone);
  CHECK(lite.scoring_func == ScoreFunction::kSoftmax);
  const ModelConfig group = load_hf_config(kGolden + "deepseek_v2_group_tiny/config.json");
  CHECK(group.router().group_score == GroupScore::kMax);
  CHECK(group.routed_scaling_factor == 16.0);
  CHECK(group.v_head_dim == 12);

  CHECK(load_hf_config(kGolden + "mtp_tiny/depth1/config.json").num_nextn_predict_layers == 1);
  CHECK(load_hf_config(kGolden + "mtp_tiny/depth2/config.json").num_nextn_predict_layers == 2);
  CHECK(load_hf_config(kGolden + "train_v3_tiny/config.json").n_routed_experts == 8);
}

TEST_CASE("Other architectures are refused by name", "[trainer][hf]") {
  for (const char* which : {"granite_moe_tiny", "llama_tiny", "mixtral_tiny", "qwen3_moe_tiny"}) {
    const std::string error = error_of(golden_json(which).dump());
    CHECK(has(error, golden_json(which)["model_type"].get<std::string>()));
    CHECK(has(error, "deepseek_v3 and deepseek_v2 are"));
  }
}

TEST_CASE("Either spelling of RoPE alone says the same", "[trainer][hf]") {
  const nlohmann::json whole = golden_json("deepseek_v3_yarn_tiny");
  nlohmann::json a = whole, b = whole;
  a.erase("rope_parameters");
  b.erase("rope_scaling");
  b.erase("rope_theta");
  for (const auto& json : {a, b}) {
    const ModelConfig c = parse_hf_config(json.dump(), "config.json");
    CHECK(c.rope_scaling.is_yarn);
    CHECK(c.rope_scaling.factor == 4.0);
    CHECK(c.rope_theta == 10000.0);
  }
  b["rope_parameters"]["rope_theta"] = 50000.0;
  CHECK(parse_hf_config(b.dump(), "config.json").rope_theta == 50000.0);
  b["rope_parameters"]["rope_type"] = "dynamic";
  CHECK(has(error_of(b.dump()), "\"dynamic\" is not supported"));
}

TEST_CASE("Fields that transformers leaves out have V3's meaning", "[trainer][hf]") {
  nlohmann::json json = golden_json("deepseek_v3_tiny");
  for (const char* key : {"scoring_func", "topk_method", "num_nextn_predict_layers", "num_key_value_heads"}) json.erase(key);
  const ModelConfig c = parse_hf_config(json.dump(), "config.json");
  CHECK(c.scoring_func == ScoreFunction::kSigmoid);
  CHECK(c.topk_method == "noaux_tc");
  CHECK(c.num_nextn_predict_layers == 0);
}

TEST_CASE("Fields that would be another model are errors, all at once", "[trainer][hf]") {
  nlohmann::json json = golden_json("deepseek_v3_tiny");
  json["num_key_value_heads"] = 2;
  json["hidden_act"] = "gelu";
  json["attention_bias"] = true;
  json["hidden_size"] = "wide";
  json.erase("vocab_size");
  const std::string error = error_of(json.dump());
  CHECK(has(error, "5 errors"));
  for (const char* part : {"num_key_value_heads = 2", "hidden_act = \"gelu\"", "attention_bias = true", "hidden_size = \"wide\"", "vocab_size: missing"}) {
    INFO(error);
    CHECK(has(error, part));
  }
}

TEST_CASE("A V3 config without its experts is no dense model, a V2 one is", "[trainer][hf]") {
  for (const char* key : {"n_routed_experts", "n_shared_experts"}) {
    nlohmann::json json = golden_json("deepseek_v3_tiny");
    json.erase(key);
    CHECK(has(error_of(json.dump()), std::string(key) + ": missing"));
    json[key] = nullptr;
    CHECK(has(error_of(json.dump()), std::string(key) + ": missing"));
    nlohmann::json v2 = golden_json("deepseek_v2_lite_tiny");
    v2[key] = nullptr;
    CHECK(error_of(v2.dump()) == "");
  }
}

TEST_CASE("Fields that change the maths in transformers are refused by name", "[trainer][hf]") {
  nlohmann::json v3 = golden_json("deepseek_v3_tiny");
  v3["topk_method"] = "greedy";
  CHECK(has(error_of(v3.dump()), "topk_method = \"greedy\""));
  for (const char* spelling : {"rope_scaling", "rope_parameters"}) {
    const auto with = [&](const char* key, const nlohmann::json& value) {
      nlohmann::json json = golden_json("deepseek_v3_yarn_tiny");
      json[spelling][key] = value;
      return error_of(json.dump());
    };
    CHECK(with("truncate", true) == "");
    CHECK(has(with("truncate", false), std::string(spelling) + ".truncate = false"));
    CHECK(has(with("mscale", 0), std::string(spelling) + ".mscale = 0"));
    CHECK(has(with("mscale_all_dim", 0.0), std::string(spelling) + ".mscale_all_dim = 0.0"));
  }
}

TEST_CASE("A config.json that is none is refused", "[trainer][hf]") {
  CHECK(has(error_of("{"), "not valid JSON"));
  CHECK(has(error_of("[]"), "no object"));
  CHECK(has(error_of(R"({"model_type": "deepseek_v3", "hidden_size": 1, "hidden_size": 2})"), "duplicate key \"hidden_size\""));
  CHECK(has(error_of(std::string(1000, '[')), "nested"));
  CHECK(has(error_of("{}"), "model_type"));
  CHECK_THROWS_AS(load_hf_config("/nowhere/config.json"), ConfigError);
}
