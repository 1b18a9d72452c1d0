// Tensor -> Rows, for the sources that call the builds of kernels/cpu/isa (which must not see this: it is inline).
#pragma once
#include "kernels/base/tensor.h"
#include "kernels/cpu/rows.h"

namespace atoll::cpu {

inline Rows rows_of(const Tensor& t) { return {t.data, t.rank > 1 ? t.stride[0] : 1}; }

}  // namespace atoll::cpu
