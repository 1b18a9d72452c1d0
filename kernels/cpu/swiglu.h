// SwiGLU on the CPU: what kernels/swiglu.cpp calls, and the row loops built for each instruction set.
#pragma once
#include "kernels/cpu/isa.h"

namespace atoll {
struct Swiglu;
struct SwigluBackward;
}

namespace atoll::cpu {

void swiglu(Context& ctx, const Swiglu& op);
void swiglu_backward(Context& ctx, const SwigluBackward& op);

struct SwigluRows {
  DType dtype;
  int64_t F;
  const void *gate_up, *weight, *dy;  // weight null: 1
  void *y, *dgate_up, *dweight;       // dweight null: not wanted
};
ATOLL_DECLARE_ISA(void swiglu_rows(const SwigluRows& a, int64_t begin, int64_t end))
ATOLL_DECLARE_ISA(void swiglu_backward_rows(const SwigluRows& a, int64_t begin, int64_t end))

}  // namespace atoll::cpu
