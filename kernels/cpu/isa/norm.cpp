// RMSNorm over rows. A row is read from memory once: the second pass finds it in cache. The mean uses h as stored.
#include "kernels/cpu/norm.h"

#include "kernels/cpu/isa/vector.h"

namespace atoll::cpu::ATOLL_ISA {
namespace {

template <class S>
void forward(const RmsNormRows& a, int64_t begin, int64_t end) {
  typedef typename AccOf<S>::type A;
  typedef typename VecOf<A>::type V;
  const S* gain = static_cast<const S*>(a.gain);
  const int64_t D = a.D;
  for (int64_t t = begin; t < end; ++t) {
    const S* x = static_cast<const S*>(a.x.data) + t * a.x.stride;
    const S* residual = a.residual.data ? static_cast<const S*>(a.residual.data) + t * a.residual.stride : nullptr;
    S* h = residual ? static_cast<S*>(a.h.data) + t * a.h.stride : nullptr;
    S* y = static_cast<S*>(a.y.data) + t * a.y.stride;
    V sum0 = {}, sum1 = {}, sum2 = {}, sum3 = {};
    constexpr int W = kWidth<A>;
    int64_t d = 0;
    if (residual) {
      for (; d + 2 * W <= D; d += 2 * W) {
        const V v0 = round_to(h, load(x + d) + load(residual + d)), v1 = round_to(h, load(x + d + W) + load(residual + d + W));
        store(h + d, v0);
        store(h + d + W, v1);
        sum0 = fma(v0, v0, sum0);
        sum1 = fma(v1, v1, sum1);
      }
      for (; d < D; d += W) {
        const int64_t n = D - d < W ? D - d : W;
        const V v = round_to(h, load_part(x + d, n) + load_part(residual + d, n));
        store_part(h + d, v, n);
        sum0 = fma(v, v, sum0);
      }
    } else {
      for (; d + 4 * W <= D; d += 4 * W) {
        const V v0 = load(x + d), v1 = load(x + d + W), v2 = load(x + d + 2 * W), v3 = load(x + d + 3 * W);
        sum0 = fma(v0, v0, sum0);
        sum1 = fma(v1, v1, sum1);
        sum2 = fma(v2, v2, sum2);
        sum3 = fma(v3, v3, sum3);
      }
      for (; d < D; d += W) {
        const V v = load_part(x + d, D - d < W ? D - d : W);
        sum0 = fma(v, v, sum0);
      }
    }
    const A mean = sum_lanes<A>((sum0 + sum1) + (sum2 + sum3)) / static_cast<A>(D);
    A rstd;
    if constexpr (sizeof(A) == 8) rstd = 1 / __builtin_sqrt(mean + a.eps);
    else rstd = 1 / __builtin_sqrtf(mean + static_cast<float>(a.eps));
    static_cast<A*>(a.rstd)[t] = rstd;
    const S* in = residual ? h : x;
    const V r = splat(rstd);
    ATOLL_FOR_VECTORS(A, i, D, store(y + i, load(in + i) * r * load(gain + i)), store_part(y + i, load_part(in + i, D - i) * r * load_part(gain + i, D - i), D - i));
  }
}

template <class S>
void backward(const RmsNormBackwardRows& a, int64_t begin, int64_t end, typename AccOf<S>::type* dgain) {
  typedef typename AccOf<S>::type A;
  typedef typename VecOf<A>::type V;
  const S* gain = static_cast<const S*>(a.gain);
  const int64_t D = a.D;
  if (dgain)
    for (int64_t d = 0; d < D; ++d) dgain[d] = 0;
  for (int64_t t = begin; t < end; ++t) {
    const S* dy = static_cast<const S*>(a.dy.data) + t * a.dy.stride;
    const S* h = static_cast<const S*>(a.h.data) + t * a.h.stride;
    const S* add = a.add.data ? static_cast<const S*>(a.add.data) + t * a.add.stride : nullptr;
    S* dx = static_cast<S*>(a.dx.data) + t * a.dx.stride;
    const A rstd = static_cast<const A*>(a.rstd)[t];
    const V r = splat(rstd);
    constexpr int W = kWidth<A>;
    V dot0 = {}, dot1 = {};
    int64_t d = 0;
    for (; d + 2 * W <= D; d += 2 * W) {
      const V dy0 = load(dy + d), dy1 = load(dy + d + W), x0 = load(h + d) * r, x1 = load(h + d + W) * r;
      const V g0 = dy0 * x0, g1 = dy1 * x1;
      dot0 = fma(g0, load(gain + d), dot0);
      dot1 = fma(g1, load(gain + d + W), dot1);
      if (dgain) {
        store(dgain + d, load(dgain + d) + g0);
        store(dgain + d + W, load(dgain + d + W) + g1);
      }
    }
    for (; d < D; d += W) {
      const int64_t n = D - d < W ? D - d : W;
      const V g = load_part(dy + d, n) * (load_part(h + d, n) * r);
      dot0 = fma(g, load_part(gain + d, n), dot0);
      if (dgain) store_part(dgain + d, load_part(dgain + d, n) + g, n);
    }
    const V c = splat(sum_lanes<A>(dot0 + dot1) / static_cast<A>(D) * rstd);  // mean(dy gain x^) / rms
    for (d = 0; d < D; d += W) {
      const bool whole = d + W <= D;
      const int64_t n = D - d;
      const V in = whole ? load(h + d) : load_part(h + d, n);
      const V grad = whole ? load(dy + d) * load(gain + d) : load_part(dy + d, n) * load_part(gain + d, n);
      V out = (grad - in * c) * r;
      if (add) out = out + (whole ? load(add + d) : load_part(add + d, n));
      if (whole) store(dx + d, out);
      else store_part(dx + d, out, n);
    }
  }
}

template <class A>
void sum_blocks(const A* partial, int64_t num_blocks, int64_t D, A* dgain, int64_t begin, int64_t end) {
  for (int64_t d = begin; d < end; ++d) {
    A sum = 0;
    for (int64_t b = 0; b < num_blocks; ++b) sum += partial[b * D + d];
    dgain[d] += sum;
  }
}

}  // namespace

void rms_norm_rows(const RmsNormRows& a, int64_t begin, int64_t end) { ATOLL_BY_STORAGE(a.dtype, forward, a, begin, end); }

void rms_norm_backward_rows(const RmsNormBackwardRows& a, int64_t begin, int64_t end, void* dgain) {
  if (a.dtype == DType::kBF16) backward<Bf16>(a, begin, end, static_cast<float*>(dgain));
  else if (a.dtype == DType::kF32) backward<float>(a, begin, end, static_cast<float*>(dgain));
  else backward<double>(a, begin, end, static_cast<double*>(dgain));
}

void add_blocks(DType acc, const void* partial, int64_t num_blocks, int64_t D, void* dgain, int64_t begin, int64_t end) {
  if (acc == DType::kF64) sum_blocks(static_cast<const double*>(partial), num_blocks, D, static_cast<double*>(dgain), begin, end);
  else sum_blocks(static_cast<const float*>(partial), num_blocks, D, static_cast<float*>(dgain), begin, end);
}

}  // namespace atoll::cpu::ATOLL_ISA
