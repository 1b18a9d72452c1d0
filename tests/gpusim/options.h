// Switches of the simulator, read from the environment once. GPUSIM_STRICT=N turns on every check, with seed N; docs/gpusim.md lists them all.
#pragma once
#include <cstdint>
#include <string>

namespace atoll::gpusim {

struct Options {
  int threads = 1, verbose = 0, resident = 1;
  int tc_acc = 1;  // accumulation of the tensor cores: 0 f32, 1 Hopper's for FP8 wgmma, 2 Hopper's for all types
  bool race = false, uninit = false, lazy = false, registers = false, leaks = false, async_streams = false;
  bool stats = false, count = false, eager = false, poison = true, poison_global = false, profile = false, approx_worst = false;
  uint64_t seed = 0;
  uint32_t quantum = 2000;
  uint64_t max_inst = 0;
  std::string counters;  // a file that gets a line of JSON a launch
};
const Options& options();

}  // namespace atoll::gpusim
