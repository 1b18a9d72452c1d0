// Random schedules that tests of the checker, the simulator and the executor share: any builder, any numbers it admits.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "kernels/base/rng.h"
#include "parallel/schedule.h"

namespace atoll::test {

struct Dice {  // a counter-based stream
  explicit Dice(uint64_t seed, const char* purpose) : rng(seed, purpose) {}
  int below(int n) { return static_cast<int>(rng.below(at++, static_cast<uint64_t>(n))); }
  int between(int low, int high) { return low + below(high - low + 1); }
  double real(double high) { return high * static_cast<double>(rng.below(at++, 1u << 20)) / (1u << 20); }
  Rng rng;
  uint64_t at = 0;
};

inline std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const auto& line : lines) text += line + "\n";
  return text;
}

// 2..max_stages stages, 1..max_microbatches micro-batches.
inline Schedule random_schedule(Dice& dice, int max_stages, int max_microbatches) {
  const std::string name = schedule_names()[static_cast<size_t>(dice.below(static_cast<int>(schedule_names().size())))];
  int ranks = dice.between(2, max_stages), microbatches = dice.between(1, max_microbatches), chunks = 1;
  if (name == "interleaved") {
    chunks = dice.between(2, std::min(4, max_stages));
    ranks = dice.between(1, max_stages / chunks);
    microbatches = ranks * dice.between(1, std::max(1, max_microbatches / ranks));
  } else if (name == "dualpipe") {
    ranks = 2 * dice.between(1, max_stages / 2);
    microbatches = 2 * dice.between(ranks, std::max(ranks, max_microbatches / 2));
  } else if (name == "dualpipev") {
    ranks = dice.between(1, max_stages / 2);
    microbatches = dice.between(2 * ranks, std::max(2 * ranks, max_microbatches));
  }
  return build_schedule(name, ranks, microbatches, chunks);
}
inline std::string describe(const Schedule& s) {
  return s.name + ": " + std::to_string(s.num_ranks) + " ranks, " + std::to_string(s.num_stages) + " stages, " + std::to_string(s.num_microbatches) + " micro-batches";
}

}  // namespace atoll::test
