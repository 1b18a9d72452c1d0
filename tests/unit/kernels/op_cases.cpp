// The registry of op cases and the arrays they work on. Policy: reading and writing goes by element through the strides, so a case with strided tensors needs no code of its own.
#include "op_cases.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace atoll::test {
namespace {

std::vector<OpCase>& registry() {
  static std::vector<OpCase> cases;
  return cases;
}

double load(const Tensor& t, int64_t at) {
  switch (t.dtype) {
    case DType::kF64: return t.as<double>()[at];
    case DType::kF32: return t.as<float>()[at];
    case DType::kBF16: return static_cast<float>(t.as<bf16>()[at]);
    case DType::kI32: return t.as<int32_t>()[at];
    case DType::kI64: return static_cast<double>(t.as<int64_t>()[at]);
    case DType::kU8: return t.as<uint8_t>()[at];
  }
  return 0;
}
void store(const Tensor& t, int64_t at, double value) {
  switch (t.dtype) {
    case DType::kF64: t.as<double>()[at] = value; return;
    case DType::kF32: t.as<float>()[at] = static_cast<float>(value); return;
    case DType::kBF16: t.as<bf16>()[at] = bf16(static_cast<float>(value)); return;
    case DType::kI32: t.as<int32_t>()[at] = static_cast<int32_t>(value); return;
    case DType::kI64: t.as<int64_t>()[at] = static_cast<int64_t>(value); return;
    case DType::kU8: t.as<uint8_t>()[at] = static_cast<uint8_t>(value); return;
  }
}

// Offsets of the elements, row by row.
template <class F>
void for_each_element(const Tensor& t, const F& f) {
  const int64_t width = t.rank == 0 ? 0 : t.dim[t.rank - 1];
  const int64_t rows = width == 0 ? 0 : t.size() / width;
  for (int64_t row = 0; row < rows; ++row) {
    int64_t offset = 0, rest = row;
    for (int k = t.rank - 2; k >= 0; --k) {
      offset += rest % t.dim[k] * t.stride[k];
      rest /= t.dim[k];
    }
    for (int64_t i = 0; i < width; ++i) f(offset + i);
  }
}

}  // namespace

bool register_op_case(OpCase op_case) {
  registry().push_back(std::move(op_case));
  return true;
}
const std::vector<OpCase>& op_cases() { return registry(); }

double round_to(DType dtype, double value) {
  if (dtype == DType::kF32) return static_cast<float>(value);
  if (dtype == DType::kBF16) return static_cast<float>(bf16(static_cast<float>(value)));
  return value;
}
double Rounding::acc(double value) const { return is_exact ? value : round_to(acc_dtype(dtype), value); }
double Rounding::storage(double value) const { return is_exact ? value : round_to(dtype, value); }

Array draw(const std::string& name, size_t n, double scale) {
  const Rng rng(1, name);
  Array a(n);
  for (size_t i = 0; i < n; ++i) a[i] = round_to(DType::kBF16, scale * rng.normal(i));
  return a;
}

Owned::Owned(DType dtype, std::initializer_list<int64_t> dims, int64_t extra) : tensor_(nullptr, dtype, dims) {
  if (tensor_.rank >= 2) {
    tensor_.stride[tensor_.rank - 2] += extra;
    for (int k = tensor_.rank - 3; k >= 0; --k) tensor_.stride[k] = tensor_.stride[k + 1] * tensor_.dim[k + 1];
  }
  const int64_t elements = std::max<int64_t>(1, tensor_.rank == 0 ? 0 : tensor_.dim[0] * tensor_.stride[0]);
  const bool is_float = dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kBF16;
  bytes_.assign(static_cast<size_t>(elements) * size_of(dtype), static_cast<char>(is_float ? 0xff : 0x5a));
  tensor_.data = bytes_.data();
}
Owned::Owned(DType dtype, std::initializer_list<int64_t> dims, const Array& values, int64_t extra) : Owned(dtype, dims, extra) {
  ATOLL_CHECK(static_cast<int64_t>(values.size()) == tensor_.size(), values.size(), " values for ", tensor_.shape());
  size_t i = 0;
  for_each_element(tensor_, [&](int64_t at) { store(tensor_, at, values[i++]); });
}
Array Owned::values() const {
  Array a;
  a.reserve(static_cast<size_t>(tensor_.size()));
  for_each_element(tensor_, [&](int64_t at) { a.push_back(load(tensor_, at)); });
  return a;
}
bool Owned::padding_is_untouched() const {
  std::vector<char> rest = bytes_;
  const size_t size = size_of(tensor_.dtype);
  const bool is_float = tensor_.dtype == DType::kF64 || tensor_.dtype == DType::kF32 || tensor_.dtype == DType::kBF16;
  const char fill = static_cast<char>(is_float ? 0xff : 0x5a);
  for_each_element(tensor_, [&](int64_t at) { std::memset(rest.data() + static_cast<size_t>(at) * size, fill, size); });
  return std::all_of(rest.begin(), rest.end(), [&](char c) { return c == fill; });
}

double relative_error(const Array& a, const Array& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double difference = 0, largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    if (std::isnan(a[i]) || std::isnan(b[i])) return std::numeric_limits<double>::infinity();
    if (a[i] != b[i]) difference = std::max(difference, std::abs(a[i] - b[i]));
    largest = std::max(largest, std::abs(b[i]));
  }
  return difference == 0 ? 0 : difference / largest;
}

}  // namespace atoll::test
