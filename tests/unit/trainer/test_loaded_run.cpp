// What a checkpoint decides for the process that evaluates it.
#include <catch2/catch.hpp>

#include "kernels/cpu/gemm.h"
#include "trainer/loaded_run.h"

using namespace atoll;

TEST_CASE("A checkpoint is evaluated with the products of the run that saved it, if this machine has them", "[trainer]") {
  RunConfig config;
  config.train.dtype = DType::kBF16;
  config.train.bf16_gemm = Bf16Gemm::kAuto;
  const auto extra = [](Bf16Gemm mode) { return "{\"bf16_gemm\": " + std::to_string(static_cast<int>(mode)) + ", \"updates\": 3}"; };
  CHECK(bf16_gemm_of(config, extra(Bf16Gemm::kWiden)) == Bf16Gemm::kWiden);
  CHECK(bf16_gemm_of(config, extra(Bf16Gemm::kNative)) == (cpu::has_native_bf16_gemm() ? Bf16Gemm::kNative : Bf16Gemm::kAuto));
  CHECK(bf16_gemm_of(config, "{}") == Bf16Gemm::kAuto);
  CHECK(bf16_gemm_of(config, "{\"bf16_gemm\": 17}") == Bf16Gemm::kAuto);
  config.train.bf16_gemm = Bf16Gemm::kWiden;
  CHECK(bf16_gemm_of(config, extra(Bf16Gemm::kNative)) == Bf16Gemm::kWiden);
  config.train.dtype = DType::kF32;
  config.train.bf16_gemm = Bf16Gemm::kAuto;
  CHECK(bf16_gemm_of(config, extra(Bf16Gemm::kWiden)) == Bf16Gemm::kAuto);
}
