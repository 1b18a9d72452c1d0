// RoPE in place: (x0, x1) -> (x0 cos - x1 sin, x1 cos + x0 sin) for interleaved pairs. A vector of the table serves all heads of a token.
#include "kernels/cpu/rope.h"

#include "kernels/cpu/isa/vector.h"

namespace atoll::cpu::ATOLL_ISA {
namespace {

template <class S>
void rotate(const RopeRows& a, int64_t begin, int64_t end) {
  typedef typename AccOf<S>::type A;
  typedef typename VecOf<A>::type V;
  typedef typename VecOf<A>::index I;
  constexpr int W = kWidth<A>;
  I even, odd, swapped;
  V sign;  // of the sine: minus in even lanes (plus when rotating back)
  for (int i = 0; i < W; ++i) {
    even[i] = i & ~1;
    odd[i] = i | 1;
    swapped[i] = i ^ 1;
    sign[i] = ((i & 1) == 0) != a.inverse ? A(-1) : A(1);
  }
  for (int64_t t = begin; t < end; ++t) {
    const A* table = static_cast<const A*>(a.table) + a.position[t] * a.R;
    S* x = static_cast<S*>(a.x) + t * a.token_stride;
    for (int64_t d = 0; d < a.R; d += W) {
      const int64_t n = a.R - d;
      const V pairs = n >= W ? load(table + d) : load_part(table + d, n);
      const V cosine = __builtin_shuffle(pairs, even), sine = __builtin_shuffle(pairs, odd) * sign;
      for (int64_t h = 0; h < a.H; ++h) {
        S* p = x + h * a.head_stride + d;
        const V v = n >= W ? load(p) : load_part(p, n);
        const V y = fma(__builtin_shuffle(v, swapped), sine, v * cosine);
        if (n >= W) store(p, y);
        else store_part(p, y, n);
      }
    }
  }
}

}  // namespace

void rope_rows(const RopeRows& a, int64_t begin, int64_t end) { ATOLL_BY_STORAGE(a.dtype, rotate, a, begin, end); }

}  // namespace atoll::cpu::ATOLL_ISA
