// Judging a product against the FP64 oracle.
#include "tests/unit/kernels_cuda/oracle.h"

#include <cmath>

namespace atoll::gpu_test {

Verdict judge(const Oracle& o, const std::vector<float>& got, double rounding, const std::vector<float>& before) {
  Verdict v;
  double errors = 0, values = 0;
  for (size_t i = 0; i < o.value.size(); ++i) {
    const double old = before.empty() ? 0 : before[i], want = o.value[i] + old, error = static_cast<double>(got.at(i)) - want;
    if (!(std::abs(error) <= o.bound[i] + (rounding + 0x1p-23) * std::abs(want) + 0x1p-140)) ++v.beyond;
    errors += error * error;
    values += o.value[i] * o.value[i];
  }
  v.rms = values > 0 ? std::sqrt(errors / values) : std::sqrt(errors);
  if (std::isnan(errors)) v.rms = 1e30;
  return v;
}

}  // namespace atoll::gpu_test
