// What pictures share: text that is safe in SVG, and distances of ticks that people like.
#pragma once
#include <cmath>
#include <string>

namespace atoll {

inline std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : std::string(1, c);
  return out;
}

// The least of 1, 2 and 5 times a power of ten that is not below `least` (> 0).
inline double nice_step(double least) {
  const double power = std::pow(10, std::floor(std::log10(least)));
  for (const double factor : {1., 2., 5.})
    if (factor * power >= least) return factor * power;
  return 10 * power;
}

}  // namespace atoll
