// The CPU back end's private state of a Context: the instruction set it calls, and what other parts of the back end keep between calls.
#pragma once
#include <memory>

#include "kernels/base/context.h"

namespace atoll::cpu {

struct CpuState : BackendState {
  explicit CpuState(Isa isa_) : isa(isa_) {}
  Isa isa;
  std::unique_ptr<BackendState> gemm;  // primitive cache and thread scratch, made by kernels/cpu/gemm.cpp
};

CpuState& state_of(Context& ctx);  // made on first use

}  // namespace atoll::cpu
