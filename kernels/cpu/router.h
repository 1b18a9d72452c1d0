// Router on the CPU. Scalar code, one build: routing is a function of the logits alone, the same bits on every instruction set.
#pragma once
#include "kernels/base/context.h"

namespace atoll {
struct Router;
struct RouterBackward;
struct BalanceLoss;
}

namespace atoll::cpu {

void router(Context& ctx, const Router& op);
void router_backward(Context& ctx, const RouterBackward& op);
void balance_loss(Context& ctx, const BalanceLoss& op);

}  // namespace atoll::cpu
