// SwiGLU times routing weight over rows; one pass. dgate_up may be gate_up itself: an element is read before its gradient is written.
#include "kernels/cpu/swiglu.h"

#include "kernels/cpu/isa/vector.h"

namespace atoll::cpu::ATOLL_ISA {
namespace {

template <class V>
ATOLL_INLINE V sigmoid(V x) { return 1 / (1 + exp(-x)); }

template <class S>
void forward(const SwigluRows& a, int64_t begin, int64_t end) {
  typedef typename AccOf<S>::type A;
  typedef typename VecOf<A>::type V;
  for (int64_t r = begin; r < end; ++r) {
    const S* gate = static_cast<const S*>(a.gate_up) + r * 2 * a.F;
    const S* up = gate + a.F;
    S* y = static_cast<S*>(a.y) + r * a.F;
    const V w = splat(a.weight ? static_cast<const A*>(a.weight)[r] : A(1));
    for (int64_t f = 0; f < a.F; f += kWidth<A>) {
      const int64_t n = a.F - f;
      const bool whole = n >= kWidth<A>;
      const V g = whole ? load(gate + f) : load_part(gate + f, n), u = whole ? load(up + f) : load_part(up + f, n);
      const V out = g * sigmoid(g) * u * w;
      if (whole) store(y + f, out);
      else store_part(y + f, out, n);
    }
  }
}

template <class S>
void backward(const SwigluRows& a, int64_t begin, int64_t end) {
  typedef typename AccOf<S>::type A;
  typedef typename VecOf<A>::type V;
  for (int64_t r = begin; r < end; ++r) {
    const S* gate = static_cast<const S*>(a.gate_up) + r * 2 * a.F;
    const S* up = gate + a.F;
    const S* dy = static_cast<const S*>(a.dy) + r * a.F;
    S* dgate = static_cast<S*>(a.dgate_up) + r * 2 * a.F;
    S* dup = dgate + a.F;
    const V w = splat(a.weight ? static_cast<const A*>(a.weight)[r] : A(1));
    V dot = {};
    for (int64_t f = 0; f < a.F; f += kWidth<A>) {
      const int64_t n = a.F - f;
      const bool whole = n >= kWidth<A>;
      const V g = whole ? load(gate + f) : load_part(gate + f, n), u = whole ? load(up + f) : load_part(up + f, n), d = whole ? load(dy + f) : load_part(dy + f, n);
      const V s = sigmoid(g), silu = g * s, dw = d * w;
      const V dg = dw * s * u * fma(g, 1 - s, V{} + 1), du = dw * silu;
      dot = fma(d * silu, u, dot);
      if (whole) {
        store(dgate + f, dg);
        store(dup + f, du);
      } else {
        store_part(dgate + f, dg, n);
        store_part(dup + f, du, n);
      }
    }
    if (a.dweight) static_cast<A*>(a.dweight)[r] = sum_lanes<A>(dot);
  }
}

}  // namespace

void swiglu_rows(const SwigluRows& a, int64_t begin, int64_t end) { ATOLL_BY_STORAGE(a.dtype, forward, a, begin, end); }
void swiglu_backward_rows(const SwigluRows& a, int64_t begin, int64_t end) { ATOLL_BY_STORAGE(a.dtype, backward, a, begin, end); }

}  // namespace atoll::cpu::ATOLL_ISA
