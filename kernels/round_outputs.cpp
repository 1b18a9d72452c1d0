// Rounds a strided FP64 tensor through FP32 to BF16 values in place. Policy: the same two roundings that a BF16 kernel's store makes, so only the storage type differs.
#include "kernels/round_outputs.h"

namespace atoll {

void round_to_bf16(const Tensor& t) {
  if (t.rank > 1) {
    for (int64_t i = 0; i < t.dim[0]; ++i) {
      Tensor row = t;
      row.data = t.as<double>() + i * t.stride[0];
      row.rank = t.rank - 1;
      for (int k = 0; k < row.rank; ++k) {
        row.dim[k] = t.dim[k + 1];
        row.stride[k] = t.stride[k + 1];
      }
      round_to_bf16(row);
    }
    return;
  }
  for (int64_t i = 0; i < t.dim[0]; ++i) t.as<double>()[i] = static_cast<float>(bf16(static_cast<float>(t.as<double>()[i])));
}

}  // namespace atoll
