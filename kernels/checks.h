// Checks of arguments that the public ops share. Each op checks once; nothing below asserts again. A message names op, argument, what it is and what it must be.
#pragma once
#include <initializer_list>

#include "kernels/base/tensor.h"
#include "kernels/ops.h"

namespace atoll {

// First in an op that no GPU kernel exists for: what follows reads host memory.
inline void need_cpu(const Context& ctx, Op op) {
  ATOLL_CHECK(ctx.device == Device::kCpu, name_of(op), " has no GPU kernel yet: run it in a context of the CPU, on tensors in host memory (docs/gpu-status.md lists the ops that have one)");
}

inline void check_storage(const char* op, const Tensor& t) {
  ATOLL_CHECK(t.dtype == DType::kBF16 || t.dtype == DType::kF32 || t.dtype == DType::kF64, op, ": ", t.shape(), " must be bf16, fp32 or fp64");
}

// Dims and dtype of one argument; `strided`: rows (all outer dims) may be strided, else contiguous.
inline void check_tensor(const char* what, const Tensor& t, DType dtype, std::initializer_list<int64_t> dims, bool strided = false) {
  Tensor expected(nullptr, dtype, dims);
  bool same = t.dtype == dtype && t.rank == expected.rank;
  for (int k = 0; same && k < t.rank; ++k) same = t.dim[k] == expected.dim[k];
  ATOLL_CHECK(same, what, " is ", t.shape(), ", must be ", expected.shape());
  if (t.size() == 0) return;
  ATOLL_CHECK(t.data, what, " of ", t.shape(), " has no memory");
  const bool inner = t.rank == 0 || t.dim[t.rank - 1] == 1 || t.stride[t.rank - 1] == 1;
  ATOLL_CHECK(strided ? inner : t.is_contiguous(), what, " of ", t.shape(), strided ? ": elements of a row must lie side by side" : " must be contiguous");
}

}  // namespace atoll
