// Row loops over one contiguous run of elements; the callers walk strided rows and threads. Types are DType values of float types only.
#pragma once
#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/cpu/isa.h"

namespace atoll::cpu {
// y = round(scale x), each element converted through FP32, or FP64 if either side is FP64.
ATOLL_DECLARE_ISA(void convert_row(const void* x, DType x_type, void* y, DType y_type, int64_t n, double scale))
// y = a + b, all of one type; y may be a or b.
ATOLL_DECLARE_ISA(void add_row(const void* a, const void* b, void* y, DType type, int64_t n))
// Sum of squares of at most kSumBlock elements in FP64, in an order that is the same on every instruction set.
ATOLL_DECLARE_ISA(double sum_of_squares_block(const void* x, DType type, int64_t n))
}  // namespace atoll::cpu
