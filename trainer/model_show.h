// `atoll model show`: parameters, active parameters and FLOPs per token, by module, as text or JSON.
#pragma once
#include <cstdint>
#include <string>

#include "model/config.h"

namespace atoll {

struct ShownModel {
  std::string name;
  ModelConfig model;
  int64_t seq_len = 4096;  // of a recipe: data.seq_len; else the least of 4096 and max_position_embeddings
};
// `what`: a preset, a recipe (*.yaml, *.yml) or a config.json (or a folder that holds one). ConfigError if it is none.
ShownModel find_model(const std::string& what);

std::string model_show_text(const ShownModel& shown);
// Keys: name, seq_len, parameters, mtp_parameters, router_bias_elements, active_parameters (embedding excluded, head included),
// active_parameters_with_embedding, matmul_parameters, flops_per_token_causal, flops_per_token_non_causal, flops_per_token_causal_with_mtp, modules[] {module,
// instances, parameters, active, flops_per_token_causal}.
std::string model_show_json(const ShownModel& shown);

}  // namespace atoll
