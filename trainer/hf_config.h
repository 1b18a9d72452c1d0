// A Hugging Face config.json (deepseek_v3, deepseek_v2) to a ModelConfig. Policy: fields that change the maths and that we do not implement are errors,
// cosmetic ones are ignored; initializer_range is taken as it stands (released files say 0.02, DeepSeek trained with 0.006).
#pragma once
#include <string>

#include "model/config.h"

namespace atoll {

// Throws ConfigError with every problem at once; `name` is used in messages.
ModelConfig parse_hf_config(const std::string& json, const std::string& name);
ModelConfig load_hf_config(const std::string& path);

}  // namespace atoll
