// Public RoPE op, and the host functions that fill its table: plain RoPE and YaRN (Peng et al. 2023, DeepSeek's constants). Always FP64 before the last rounding.
#include <algorithm>
#include <cmath>

#include "kernels/checks.h"
#include "kernels/cpu/rope.h"
#include "kernels/op_scope.h"
#include "kernels/round_outputs.h"

namespace atoll {
namespace {

// The (fractional) frequency index whose wave makes `turns` turns within the original context.
double correction_dim(double turns, double dim, double theta, double original_max_position) {
  return dim * std::log(original_max_position / (turns * 2 * M_PI)) / (2 * std::log(theta));
}
double temperature(double factor, double mscale) { return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0; }

}  // namespace

void rope(Context& ctx, const Rope& op) {
  need_cpu(ctx, Op::kRope);
  const Tensor& x = op.x_THR;
  ATOLL_CHECK(x.rank == 3 && x.dim[2] % 2 == 0, "rope: x must be [T, H, R] with even R, is ", x.shape());
  check_storage("rope: x", x);
  const int64_t T = x.dim[0], H = x.dim[1], R = x.dim[2];
  if (x.size() == 0) return;
  check_tensor("rope: x", x, x.dtype, {T, H, R}, true);
  ATOLL_CHECK(op.table_PR.rank == 2, "rope: table must be [positions, R], is ", op.table_PR.shape());
  const int64_t P = op.table_PR.dim[0];
  check_tensor("rope: table", op.table_PR, acc_dtype(x.dtype), {P, R});
  ATOLL_CHECK(static_cast<int64_t>(op.position_T.size()) == T, "rope: ", op.position_T.size(), " positions for ", T, " tokens");
  const auto [low, high] = std::minmax_element(op.position_T.begin(), op.position_T.end());
  ATOLL_CHECK(*low >= 0 && *high < P, "rope: positions ", *low, "..", *high, " in a table of ", P, "; build it for the longest sequence");
  OpScope scope(ctx, Op::kRope, 3.0 * static_cast<double>(x.size()));
  cpu::rope(ctx, op);
  round_outputs(ctx, {op.x_THR});
}

void fill_rope_table(Tensor table_PR, double theta, const RopeScaling& scaling) {
  ATOLL_CHECK(table_PR.rank == 2 && table_PR.dim[1] % 2 == 0, "fill_rope_table: table must be [positions, R] with even R, is ", table_PR.shape());
  ATOLL_CHECK(table_PR.dtype == DType::kF32 || table_PR.dtype == DType::kF64, "fill_rope_table: table must be fp32 or fp64, is ", table_PR.shape());
  ATOLL_CHECK(table_PR.is_contiguous(), "fill_rope_table: table must be contiguous");
  const int64_t P = table_PR.dim[0], R = table_PR.dim[1];
  double low = 0, high = 0;
  if (scaling.is_yarn) {
    const double original = static_cast<double>(scaling.original_max_position), dim = static_cast<double>(R);
    low = std::max(std::floor(correction_dim(scaling.beta_fast, dim, theta, original)), 0.0);
    high = std::min(std::ceil(correction_dim(scaling.beta_slow, dim, theta, original)), dim - 1);
    if (low == high) high += 0.001;
  }
  const double amplitude = scaling.is_yarn ? temperature(scaling.factor, scaling.mscale) / temperature(scaling.factor, scaling.mscale_all_dim) : 1.0;
  for (int64_t i = 0; i < R / 2; ++i) {
    double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(R));
    if (scaling.is_yarn) {
      const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
      frequency *= ramp / scaling.factor + 1 - ramp;
    }
    for (int64_t p = 0; p < P; ++p) {
      const double angle = static_cast<double>(p) * frequency;
      const double cosine = amplitude * std::cos(angle), sine = amplitude * std::sin(angle);
      if (table_PR.dtype == DType::kF64) {
        table_PR.as<double>()[p * R + 2 * i] = cosine;
        table_PR.as<double>()[p * R + 2 * i + 1] = sine;
      } else {
        table_PR.as<float>()[p * R + 2 * i] = static_cast<float>(cosine);
        table_PR.as<float>()[p * R + 2 * i + 1] = static_cast<float>(sine);
      }
    }
  }
}

double attention_scale(int64_t qk_head_dim, const RopeScaling& scaling) {
  const double m = scaling.is_yarn && scaling.mscale_all_dim != 0 ? temperature(scaling.factor, scaling.mscale_all_dim) : 1.0;
  return m * m / std::sqrt(static_cast<double>(qk_head_dim));
}

}  // namespace atoll
