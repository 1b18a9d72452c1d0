// How far a tensor core's sum may be from the exact one. FP8 sums are the simulator's 13-bit model unless GPUSIM_ACC=f32 asks for FP32;
// both bounds are derived from how the sums are made, none is fitted to results.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

inline bool fp8_sums_are_fp32() {
  const char* sums = std::getenv("GPUSIM_ACC");
  return sums && !std::strcmp(sums, "f32");
}
// FP32: K sums and a few more operations, half a unit in the last place each.
inline double fp32_sum_error(double magnitude, int K) { return (K + 4) * std::ldexp(magnitude, -24); }

// The model: in each step of 32 the 32 products and the accumulator are cut to 13 bits below the largest of them, and so is their sum.
// Every `promote` of K the accumulator starts afresh. a, b: the factors; subnormal ones count as 2^-6.
template <class A, class B>
double fp8_sum_error(A a, B b, int K, int promote) {
  double sum = 0, error = 0, total = 0;
  for (int begin = 0; begin < K; begin += 32) {
    if (begin % promote == 0) total += error, sum = 0, error = 0;
    double top = std::fabs(sum) + error;
    for (int k = begin; k < std::min(K, begin + 32); k++) {
      const double x = a(k), y = b(k);
      sum += x * y;
      if (x != 0 && y != 0) top = std::max(top, std::max(std::fabs(x), 1 / 64.) * std::max(std::fabs(y), 1 / 64.));
    }
    error += std::ldexp(33 * top + std::fabs(sum) + error, -13);
  }
  return total + error;
}
