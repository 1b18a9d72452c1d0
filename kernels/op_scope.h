// OpScope: every public op opens one after its checks; it adds the call, its time and its arithmetic to ctx.op_stats, from which "where the time goes" is printed.
// An op that is built from others (head_loss) takes their time off its own, or it would be counted twice.
#pragma once
#include <chrono>

#include "kernels/base/context.h"
#include "kernels/ops.h"

namespace atoll {

class OpScope {
 public:
  OpScope(Context& ctx, Op op, double flops) : stat_(ctx.op_stats[static_cast<size_t>(op)]), flops_(flops), start_(std::chrono::steady_clock::now()) {}
  OpScope(const OpScope&) = delete;
  ~OpScope() {
    stat_.calls += 1;
    stat_.flops += flops_;
    stat_.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  Context::OpStat& stat_;
  double flops_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace atoll
