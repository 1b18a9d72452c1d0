// Context: the device of one rank, built once and passed. CPU (the default): a number of threads, how BF16 operands are multiplied, memory.
#pragma once
#include <array>
#include <memory>
#include <string>

#include "kernels/base/memory.h"

namespace atoll {

enum class Isa { kX86_64, kAvx2, kAvx512 };  // the widest one this CPU has, unless forced by ATOLL_ISA
enum class Device : uint8_t { kCpu, kCuda };
enum class Fp8Sums { kExact, kHopper };  // a CPU's block sums of an FP8 product: exact, or the published model of Hopper's tensor cores (fp8_accumulate.h), for a GPU's bits
enum class Bf16Gemm { kAuto, kNative, kWiden };  // native: BF16 (or AMX) instructions; widen: to FP32 while packing, exact

struct GemmProbe {                // what the start-up probe measured, GFLOP/s of one 512^3-like product with this context's threads
  double native = 0, widened = 0, fp32 = 0;
};

// Back-end private state (primitive caches, thread scratch); defined by kernels/cpu, destroyed with the Context.
struct BackendState {
  virtual ~BackendState() = default;
};

struct Context {
  explicit Context(int num_threads_ = 1, Memory::Bounds bounds = {}) : num_threads(num_threads_), memory(bounds) {}
  Context(const Context&) = delete;
  int num_threads;
  Device device = Device::kCpu;  // kCuda after use_gpu() (kernels/gpu.h): ops then want device memory
  Memory memory;
  Bf16Gemm bf16_gemm = Bf16Gemm::kAuto;  // kAuto is replaced by the probe's choice at the first BF16 GEMM or by probe()
  GemmProbe probe;
  Fp8Sums fp8_sums = Fp8Sums::kExact;
  bool is_sizing = false;  // CPU: ops take their scratch and return without computing; memory.workspace.high_water() then says what shapes need (model/stage_ops.h)
  bool round_outputs_to_bf16 = false;  // FP64 only: every op's storage-typed outputs are rounded to BF16 values. What a BF16 run's error is measured against
  // Filled by every op (kernels/op_scope.h): what "where the time goes" is printed from. Indexed by Op (kernels/ops.h).
  struct OpStat { int64_t calls = 0; double seconds = 0, flops = 0; };
  std::array<OpStat, 64> op_stats{};
  int64_t num_weight_gradient_gemms = 0;  // counted for the proof that no weight gradient is computed inside B
  std::unique_ptr<BackendState> backend;
};

}  // namespace atoll
