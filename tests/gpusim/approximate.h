// The documented error bounds of PTX's approximate functions, and results that use them up (GPUSIM_APPROX=worst).
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <string_view>

namespace atoll::gpusim {

struct ErrorBound {
  double relative, absolute;  // an error up to relative * |exact| or up to absolute is within the documentation
};
// f32 forms, by the name of the instruction. PTX ISA 9.0, "Floating Point Instructions"; exact ones have no bound.
inline ErrorBound error_bound(std::string_view name, double x) {
  if (name == "rcp" || name == "sqrt") return {0x1p-23, 0};
  if (name == "rsqrt") return {std::exp2(-22.9), 0};
  if (name == "div" || name == "ex2") return {0x1p-22, 0};  // 2 ulp
  if (name == "lg2") return x > 0.5 && x < 2 ? ErrorBound{0, 0x1p-22} : ErrorBound{0x1p-22, 0};
  if (name == "tanh") return {0x1p-11, 0};
  if (name == "sin" || name == "cos") return {0, std::exp2(-20.5)};  // for |x| <= pi
  return {0, 0};
}
// The float farthest from `exact` that the bound allows; the side depends on the argument's bits, so that errors do not cancel by accident.
inline float worst_within(double exact, ErrorBound b, float argument, uint64_t seed) {
  const double room = std::fmax(b.relative * std::fabs(exact), b.absolute);
  if (room == 0 || !std::isfinite(exact)) return (float)exact;
  const uint64_t h = (std::bit_cast<uint32_t>(argument) + seed * 0x9e3779b9u) * 0x9e3779b97f4a7c15ull;
  float y = (float)(exact + (h >> 63 ? room : -room));
  for (int k = 0; k < 4 && std::fabs(y - exact) > room; ++k) y = std::nextafterf(y, (float)exact);
  return y;
}

}  // namespace atoll::gpusim
