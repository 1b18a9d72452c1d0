// RoPE on the CPU: what kernels/rope.cpp calls, and the rotation built for each instruction set.
#pragma once
#include "kernels/cpu/isa.h"

namespace atoll {
struct Rope;
}

namespace atoll::cpu {

void rope(Context& ctx, const Rope& op);

struct RopeRows {
  DType dtype;
  void* x;
  int64_t token_stride, head_stride, H, R;
  const int32_t* position;
  const void* table;  // acc, [positions, R]
  bool inverse;
};
ATOLL_DECLARE_ISA(void rope_rows(const RopeRows& a, int64_t begin, int64_t end))

}  // namespace atoll::cpu
