// Which of the three builds of kernels/cpu/isa/*.cpp a context calls. A function of those sources is declared with ATOLL_DECLARE_ISA and called with
// ATOLL_CALL_ISA; its own source includes the same header and defines it inside namespace atoll::cpu::ATOLL_ISA.
#pragma once
#include "kernels/base/context.h"

// Declares one function in the namespaces of all builds.
#define ATOLL_DECLARE_ISA(...)        \
  namespace x86_64 { __VA_ARGS__; }   \
  namespace avx2 { __VA_ARGS__; }     \
  namespace avx512 { __VA_ARGS__; }

// Calls the build `isa` of a function: ATOLL_CALL_ISA(isa, add_rows(a, b, y)).
#define ATOLL_CALL_ISA(isa, ...)                                                        \
  ((isa) == ::atoll::Isa::kAvx512 ? ::atoll::cpu::avx512::__VA_ARGS__                   \
                                  : (isa) == ::atoll::Isa::kAvx2 ? ::atoll::cpu::avx2::__VA_ARGS__ : ::atoll::cpu::x86_64::__VA_ARGS__)

namespace atoll::cpu {

bool has_isa(Isa isa);                    // what the CPU (and the system's saving of its registers) allows
Isa isa_of(Context& ctx);                 // best_isa() unless set_isa() was called
void set_isa(Context& ctx, Isa isa);      // for tests: another build than the best one; ConfigError if the CPU lacks it

}  // namespace atoll::cpu
