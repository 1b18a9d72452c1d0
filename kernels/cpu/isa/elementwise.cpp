// Conversions, addition and sums of squares: loops that the compiler vectorises.
#include "kernels/cpu/isa/elementwise.h"

#include "kernels/cpu/isa/convert.h"

namespace atoll::cpu::ATOLL_ISA {
namespace {

// x may be y when the types are equal.
template <class X, class Y, class Math>
void convert(const X* x, Y* y, int64_t n, Math scale) {
  if (scale == Math{1}) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = from_float<Y>(to_float(x[i]));
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = from_float<Y>(scale * static_cast<Math>(to_float(x[i])));
  }
}

template <class X, class Math>
void convert_from(const X* x, void* y, DType y_type, int64_t n, double scale) {
  if (y_type == DType::kF64) convert(x, static_cast<double*>(y), n, scale);
  if (y_type == DType::kF32) convert(x, static_cast<float*>(y), n, static_cast<Math>(scale));
  if (y_type == DType::kBF16) convert(x, static_cast<bf16_t*>(y), n, static_cast<Math>(scale));
}

template <class T>
void add(const T* a, const T* b, T* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = from_float<T>(to_float(a[i]) + to_float(b[i]));
}

// 16 running sums, one a lane: wide enough for AVX-512, the same additions everywhere.
template <class T>
double sum_of_squares(const T* x, int64_t n) {
  constexpr int kLanes = 16;
  double lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int k = 0; k < kLanes; ++k) {
      const double value = to_float(x[i + k]);
      lane[k] += value * value;
    }
  for (int k = 0; i < n; ++i, ++k) {
    const double value = to_float(x[i]);
    lane[k] += value * value;
  }
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int k = 0; k < width; ++k) lane[k] += lane[k + width];
  return lane[0];
}

}  // namespace

void convert_row(const void* x, DType x_type, void* y, DType y_type, int64_t n, double scale) {
  if (x_type == DType::kF64) convert_from<double, double>(static_cast<const double*>(x), y, y_type, n, scale);
  if (x_type == DType::kF32) convert_from<float, float>(static_cast<const float*>(x), y, y_type, n, scale);
  if (x_type == DType::kBF16) convert_from<bf16_t, float>(static_cast<const bf16_t*>(x), y, y_type, n, scale);
}

void add_row(const void* a, const void* b, void* y, DType type, int64_t n) {
  if (type == DType::kF64) add(static_cast<const double*>(a), static_cast<const double*>(b), static_cast<double*>(y), n);
  if (type == DType::kF32) add(static_cast<const float*>(a), static_cast<const float*>(b), static_cast<float*>(y), n);
  if (type == DType::kBF16) add(static_cast<const bf16_t*>(a), static_cast<const bf16_t*>(b), static_cast<bf16_t*>(y), n);
}

double sum_of_squares_block(const void* x, DType type, int64_t n) {
  if (type == DType::kF64) return sum_of_squares(static_cast<const double*>(x), n);
  if (type == DType::kF32) return sum_of_squares(static_cast<const float*>(x), n);
  return sum_of_squares(static_cast<const bf16_t*>(x), n);
}

}  // namespace atoll::cpu::ATOLL_ISA
