// Tensor: a non-owning view. Rank <= 4, inner stride 1, explicit outer strides (MLA splits rows). Copying one is free.
#pragma once
#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "kernels/base/dtype.h"
#include "kernels/base/error.h"

namespace atoll {

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int rank = 0;
  std::array<int64_t, 4> dim{};     // elements
  std::array<int64_t, 4> stride{};  // elements; stride[rank-1] == 1

  Tensor() = default;
  Tensor(void* pointer, DType type, std::initializer_list<int64_t> dims) : data(pointer), dtype(type), rank(static_cast<int>(dims.size())) {
    int i = 0;
    for (int64_t d : dims) dim[i++] = d;
    int64_t s = 1;
    for (int k = rank - 1; k >= 0; --k) { stride[k] = s; s *= dim[k]; }
  }

  explicit operator bool() const { return data != nullptr; }
  int64_t size() const {
    int64_t n = 1;
    for (int k = 0; k < rank; ++k) n *= dim[k];
    return rank == 0 ? 0 : n;
  }
  int64_t bytes() const { return size() * static_cast<int64_t>(size_of(dtype)); }
  bool is_contiguous() const {
    int64_t s = 1;
    for (int k = rank - 1; k >= 0; --k) {
      if (dim[k] != 1 && stride[k] != s) return false;
      s *= dim[k];
    }
    return true;
  }
  template <class T>
  T* as() const { return static_cast<T*>(data); }

  // Elements [begin, begin+count) of dimension `axis`; same strides.
  Tensor slice(int axis, int64_t begin, int64_t count) const {
    ATOLL_CHECK(axis < rank && begin >= 0 && count >= 0 && begin + count <= dim[axis], "slice [", begin, ", ", begin + count, ") of ", shape());
    Tensor t = *this;
    t.data = static_cast<char*>(data) + begin * stride[axis] * static_cast<int64_t>(size_of(dtype));
    t.dim[axis] = count;
    return t;
  }
  Tensor rows(int64_t begin, int64_t count) const { return slice(0, begin, count); }
  Tensor cols(int64_t begin, int64_t count) const { return slice(rank - 1, begin, count); }
  // Same elements under other dims; the tensor must be contiguous.
  Tensor view(std::initializer_list<int64_t> dims) const {
    Tensor t(data, dtype, dims);
    ATOLL_CHECK(is_contiguous() && t.size() == size(), "view of ", shape(), " as ", t.shape());
    return t;
  }
  // [T, H*d] rows (possibly strided) seen as [T, H, d].
  Tensor heads(int64_t num_heads) const {
    ATOLL_CHECK(rank == 2 && dim[1] % num_heads == 0, num_heads, " heads of ", shape());
    Tensor t = *this;
    t.rank = 3;
    t.dim = {dim[0], num_heads, dim[1] / num_heads, 0};
    t.stride = {stride[0], dim[1] / num_heads, 1, 0};
    return t;
  }
  std::string shape() const {  // "bf16[4, 8]"
    std::string s = std::string(name_of(dtype)) + "[";
    for (int k = 0; k < rank; ++k) s += (k ? ", " : "") + std::to_string(dim[k]);
    return s + "]";
  }
};

}  // namespace atoll
