// AdamW over a run of elements, in the arithmetic of the master's type. Policy: one pass, so every element is read and written once; each index stands alone,
// so the bits do not depend on where a run is cut.
#include "kernels/cpu/isa/adamw.h"

#include "kernels/cpu/isa/convert.h"

namespace atoll::cpu::ATOLL_ISA {
namespace {

inline float root(float x) { return __builtin_sqrtf(x); }
inline double root(double x) { return __builtin_sqrt(x); }

// master and weight may be the same memory when their types are equal: each index is read before it is written.
template <class Acc, class Moment, class Weight>
void update(const AdamWRun& r, int64_t begin, int64_t end) {
  Acc* master = static_cast<Acc*>(r.master);
  const Acc* grad = static_cast<const Acc*>(r.grad);
  Moment* m = static_cast<Moment*>(r.m);
  Moment* v = static_cast<Moment*>(r.v);
  Weight* weight = static_cast<Weight*>(r.weight);
  const Acc decay = static_cast<Acc>(r.decay), beta1 = static_cast<Acc>(r.beta1), beta2 = static_cast<Acc>(r.beta2);
  const Acc rest1 = static_cast<Acc>(r.one_minus_beta1), rest2 = static_cast<Acc>(r.one_minus_beta2);
  const Acc step_size = static_cast<Acc>(r.step_size), inv_sqrt_bias2 = static_cast<Acc>(r.inv_sqrt_bias2);
  const Acc eps = static_cast<Acc>(r.eps), scale = static_cast<Acc>(r.grad_scale);
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    const Acc g = grad[i] * scale;
    const Acc m_new = beta1 * static_cast<Acc>(to_float(m[i])) + rest1 * g;
    const Acc v_new = beta2 * static_cast<Acc>(to_float(v[i])) + rest2 * (g * g);
    const Acc p = master[i] * decay - step_size * m_new / (root(v_new) * inv_sqrt_bias2 + eps);
    m[i] = from_float<Moment>(m_new);
    v[i] = from_float<Moment>(v_new);
    master[i] = p;
    weight[i] = from_float<Weight>(p);
  }
}

}  // namespace

void adamw_run(const AdamWRun& r, int64_t begin, int64_t end) {
  if (r.acc == DType::kF64) return r.moments == DType::kF64 ? update<double, double, double>(r, begin, end) : update<double, bf16_t, double>(r, begin, end);
  if (r.storage == DType::kBF16) return r.moments == DType::kF32 ? update<float, float, bf16_t>(r, begin, end) : update<float, bf16_t, bf16_t>(r, begin, end);
  return r.moments == DType::kF32 ? update<float, float, float>(r, begin, end) : update<float, bf16_t, float>(r, begin, end);
}

}  // namespace atoll::cpu::ATOLL_ISA
