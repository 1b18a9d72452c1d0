// Cross-entropy of rows of logits: max; exp and sum, the exponentials kept in place; gradient. A row stays in cache between the three passes. BF16 gradients
// are packed into the front half of the row they come from: element i is read (4i bytes in) before anything is written at 2i.
#include "kernels/cpu/head_loss.h"

#include "kernels/cpu/isa/vector.h"

namespace atoll::cpu::ATOLL_ISA {
namespace {

template <class A>
A largest(const A* x, int64_t n) {
  typedef typename VecOf<A>::type V;
  constexpr int W = kWidth<A>;
  V m0 = splat(-static_cast<A>(__builtin_inff())), m1 = m0;
  int64_t i = 0;
  for (; i + 2 * W <= n; i += 2 * W) {
    m0 = max(m0, load(x + i));
    m1 = max(m1, load(x + i + W));
  }
  A m = max_lanes<A>(max(m0, m1));
  for (; i < n; ++i) m = x[i] > m ? x[i] : m;
  return m;
}

// x -> exp(x - m); their sum.
template <class A>
A exponentials(A* x, int64_t n, A m) {
  typedef typename VecOf<A>::type V;
  constexpr int W = kWidth<A>;
  V sum0 = {}, sum1 = {};
  int64_t i = 0;
  for (; i + 2 * W <= n; i += 2 * W) {
    const V a = exp(load(x + i) - m), b = exp(load(x + i + W) - m);
    store(x + i, a);
    store(x + i + W, b);
    sum0 += a;
    sum1 += b;
  }
  A sum = sum_lanes<A>(sum0 + sum1);
  for (; i < n; i += W) {
    const int64_t left = n - i < W ? n - i : W;
    const V a = exp(load_part(x + i, left) - m);
    store_part(x + i, a, left);
    for (int j = 0; j < left; ++j) sum += a[j];
  }
  return sum;
}

template <class S>
void rows(const LossRows& a, int64_t begin, int64_t end) {
  typedef typename AccOf<S>::type A;
  typedef typename VecOf<A>::type V;
  constexpr int W = kWidth<A>;
  for (int64_t r = begin; r < end; ++r) {
    A* x = static_cast<A*>(a.logits) + r * a.V;
    S* d = reinterpret_cast<S*>(x);
    const int32_t label = a.labels[r];
    if (label < 0) {
      static_cast<A*>(a.loss)[r] = 0;
      for (int64_t i = 0; a.gradient && i < a.V; i += W) {
        if (a.V - i >= W) store(d + i, V{});
        else store_part(d + i, V{}, a.V - i);
      }
      continue;
    }
    const A m = largest(x, a.V), at_label = x[label];
    const A sum = exponentials(x, a.V, m);
    if constexpr (sizeof(A) == 8) static_cast<A*>(a.loss)[r] = __builtin_log(sum) + m - at_label;
    else static_cast<A*>(a.loss)[r] = __builtin_logf(sum) + (m - at_label);
    if (!a.gradient) continue;
    const A f = static_cast<A>(a.scale) / sum;
    const A p = x[label];
    x[label] = (p - sum);  // f (p - sum) = scale (p / sum - 1)
    int64_t i = 0;
    for (; i + W <= a.V; i += W) store(d + i, load(x + i) * f);
    if (i < a.V) {  // through memory of its own: the pieces overlap
      const V left = load_part(x + i, a.V - i) * f;
      store_part(d + i, left, a.V - i);
    }
  }
}

}  // namespace

void loss_rows(const LossRows& a, int64_t begin, int64_t end) { ATOLL_BY_STORAGE(a.dtype, rows, a, begin, end); }

}  // namespace atoll::cpu::ATOLL_ISA
