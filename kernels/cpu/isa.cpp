// The choice between the builds of kernels/cpu/isa, made once for a context. Policy: the widest one that this CPU has; ATOLL_ISA narrows it and never widens it beyond that.
#include "kernels/cpu/isa.h"

#include <cstdlib>
#include <string>

#include "kernels/base/error.h"
#include "kernels/cpu/state.h"
#include "kernels/ops.h"

namespace atoll {
namespace cpu {

bool has_isa(Isa isa) {
  switch (isa) {
    case Isa::kX86_64: return true;
    case Isa::kAvx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    case Isa::kAvx512:
      return has_isa(Isa::kAvx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
  }
  return false;
}

CpuState& state_of(Context& ctx) {
  ATOLL_CHECK(ctx.device == Device::kCpu, "the CPU back end was asked to run in a context of a GPU; use one of the CPU");
  if (!ctx.backend) ctx.backend = std::make_unique<CpuState>(best_isa());
  return static_cast<CpuState&>(*ctx.backend);
}
Isa isa_of(Context& ctx) { return state_of(ctx).isa; }
void set_isa(Context& ctx, Isa isa) {
  if (!has_isa(isa)) throw ConfigError(detail::concat("this CPU has no ", name_of(isa)));
  state_of(ctx).isa = isa;
}

}  // namespace cpu

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::kX86_64: return "x86-64";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
  }
  return "?";
}

Isa best_isa() {
  const char* forced = std::getenv("ATOLL_ISA");
  Isa best = Isa::kX86_64;
  for (Isa isa : {Isa::kAvx2, Isa::kAvx512})
    if (cpu::has_isa(isa)) best = isa;
  if (!forced || !*forced) return best;
  for (Isa isa : {Isa::kX86_64, Isa::kAvx2, Isa::kAvx512}) {
    if (std::string(forced) != name_of(isa)) continue;
    if (!cpu::has_isa(isa)) throw ConfigError(detail::concat("ATOLL_ISA=", forced, ": this CPU has no ", forced, "; the widest it has is ", name_of(best)));
    return isa;
  }
  throw ConfigError(detail::concat("ATOLL_ISA=", forced, ": no such instruction set; known are x86-64, avx2, avx512"));
}

}  // namespace atoll
