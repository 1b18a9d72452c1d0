// A label that is not predicted: out of the loss, out of the count of labels. What data writes, model and kernels obey.
#pragma once
#include <cstdint>

namespace atoll {
constexpr int32_t kIgnoredLabel = -100;
}  // namespace atoll
