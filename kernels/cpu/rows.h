// Rows: what the sources of kernels/cpu/isa are given instead of a Tensor (see sources.cmake: they share no inline function with other sources).
#pragma once
#include <stdint.h>

#include "kernels/base/dtype.h"

namespace atoll::cpu {

struct Rows {
  void* data;
  int64_t stride;  // elements from one row to the next
};

}  // namespace atoll::cpu
