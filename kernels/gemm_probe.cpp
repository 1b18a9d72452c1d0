// The start-up probe: on some CPUs BF16 multiplies at twice FP32's rate, on others at half. Policy: measured, never guessed from the CPU's name, and in a context of
// its own: a run's bound on scratch does not limit it, and a run's high-water marks are its own.
#include <algorithm>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa.h"
#include "kernels/ops.h"

namespace atoll {
namespace {

class Bench {
 public:
  explicit Bench(Context& like) : ctx_(like.num_threads) { cpu::set_isa(ctx_, cpu::isa_of(like)); }
  double rate(Bf16Gemm mode, DType dtype, int64_t n, int repeats) {
    ctx_.bf16_gemm = mode;
    return cpu::measure_gemm(ctx_, dtype, n, repeats);
  }

 private:
  Context ctx_;
};

}  // namespace

// Rounds over the modes, the best of each: a neighbour that takes the core for one time slice does not decide.
void probe_gemm(Context& ctx) {
  constexpr int64_t kSize = 512;
  constexpr int kRounds = 4, kRepeats = 3;
  GemmProbe& probe = ctx.probe = {};
  Bench bench(ctx);
  for (int round = 0; round < kRounds; ++round) {
    probe.fp32 = std::max(probe.fp32, bench.rate(Bf16Gemm::kWiden, DType::kF32, kSize, kRepeats));
    probe.widened = std::max(probe.widened, bench.rate(Bf16Gemm::kWiden, DType::kBF16, kSize, kRepeats));
    if (cpu::has_native_bf16_gemm()) probe.native = std::max(probe.native, bench.rate(Bf16Gemm::kNative, DType::kBF16, kSize, kRepeats));
  }
  if (ctx.bf16_gemm == Bf16Gemm::kAuto) ctx.bf16_gemm = probe.native > probe.widened ? Bf16Gemm::kNative : Bf16Gemm::kWiden;
}

double measure_gemm_peak(Context& ctx, bool thorough) {
  double best = 0;
  Bench bench(ctx);
  for (int64_t n : {int64_t{2048}, int64_t{4096}}) {
    if (n > 2048 && !thorough) continue;
    const int repeats = thorough ? 10 : 1;  // the best: the peak is what the machine can do, not what it did on average
    best = std::max(best, bench.rate(Bf16Gemm::kWiden, DType::kF32, n, repeats));
    if (cpu::has_native_bf16_gemm()) best = std::max(best, bench.rate(Bf16Gemm::kNative, DType::kBF16, n, repeats));
  }
  return best;
}

}  // namespace atoll
