// The environment variables of the simulator (options.h).
#include "tests/gpusim/options.h"

#include <cstdlib>

namespace atoll::gpusim {

const Options& options() {
  static const Options o = [] {
    Options x;
    auto num = [](const char* n, uint64_t d) {
      const char* s = getenv(n);
      return s && *s ? strtoull(s, nullptr, 0) : d;
    };
    auto text = [](const char* n) {
      const char* s = getenv(n);
      return std::string(s ? s : "");
    };
    const uint64_t strict = num("GPUSIM_STRICT", 0);
    x.threads = (int)num("GPUSIM_THREADS", 1);
    x.verbose = (int)num("GPUSIM_VERBOSE", 0);
    x.resident = (int)num("GPUSIM_RESIDENT", strict ? 3 : 1);
    x.race = num("GPUSIM_RACE", strict);
    x.uninit = num("GPUSIM_UNINIT", strict);
    x.lazy = num("GPUSIM_LAZY_ASYNC", strict);
    x.registers = num("GPUSIM_REGISTERS", strict);
    x.leaks = num("GPUSIM_LEAKS", strict);
    x.async_streams = num("GPUSIM_ASYNC_STREAMS", strict);
    x.seed = num("GPUSIM_SEED", strict);
    x.stats = num("GPUSIM_STATS", 0);  // counting costs time
    x.eager = num("GPUSIM_EAGER", strict);
    x.poison = num("GPUSIM_POISON", 1);
    x.poison_global = num("GPUSIM_POISON", strict);
    x.profile = num("GPUSIM_PROFILE", 0);
    x.quantum = (uint32_t)num("GPUSIM_QUANTUM", 2000);
    x.max_inst = num("GPUSIM_MAX_INST", 0);
    x.counters = text("GPUSIM_COUNTERS");
    x.count = x.stats || !x.counters.empty();
    const std::string acc = text("GPUSIM_ACC");  // f32, hopper8 (FP8 wgmma only), hopper (all tensor-core types)
    x.tc_acc = acc == "f32" ? 0 : acc == "hopper" ? 2 : 1;
    x.approx_worst = text("GPUSIM_APPROX") == "worst";
    if (x.race || x.uninit || x.registers) x.threads = 1;  // the shadows are not locked
    return x;
  }();
  return o;
}

}  // namespace atoll::gpusim
