// `atoll model show` against published figures, and by the ways in which a model can be named.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "kernels/base/error.h"
#include "trainer/model_show.h"

using namespace atoll;

TEST_CASE("model show gives DeepSeek-V3's published figures", "[trainer][show]") {
  const auto json = nlohmann::json::parse(model_show_json(find_model("deepseek-v3")));
  CHECK(json["parameters"] == 671'026'419'200);
  CHECK(json["mtp_parameters"] == 11'610'068'224);
  CHECK(json["flops_per_token_non_causal"].get<double>() / 1e9 == Approx(280.51).margin(0.005));
  CHECK(json["flops_per_token_causal"].get<double>() / 1e9 == Approx(249.81).margin(0.005));
  int64_t sum = 0;
  double flops = 0;
  for (const auto& m : json["modules"]) {
    sum += m["parameters"].get<int64_t>();
    flops += m["flops_per_token_causal"].get<double>();
  }
  CHECK(sum == 671'026'419'200 + 11'610'068'224);
  CHECK(flops == Approx(json["flops_per_token_causal_with_mtp"].get<double>()));
  const std::string text = model_show_text(find_model("deepseek-v3"));
  for (const char* part : {"671,026,419,200", "11,610,068,224", "249.81", "280.51", "routed_experts", "36.63 B"}) {
    INFO(text);
    CHECK(text.find(part) != std::string::npos);
  }
}

TEST_CASE("model show takes presets, config.json files and folders, and names what it knows", "[trainer][show]") {
  const std::string golden = std::string(ATOLL_SOURCE_DIR) + "/tests/golden/deepseek_v3_tiny";
  CHECK(find_model(golden).model.hidden_size == 64);
  CHECK(find_model(golden + "/config.json").seq_len == 256);
  CHECK(find_model("debug").seq_len == 1024);
  CHECK_THROWS_WITH(find_model("deepseek-v5"), Catch::Contains("no such model") && Catch::Contains("quickstart"));
}
