// Un-permutation: a token's rows are added in registers, k ascending, and rounded once.
#include "kernels/cpu/permute.h"

#include "kernels/cpu/isa/vector.h"

namespace atoll::cpu::ATOLL_ISA {
namespace {

template <class S>
void sum(const UnpermuteRows& a, int64_t begin, int64_t end) {
  typedef typename AccOf<S>::type A;
  typedef typename VecOf<A>::type V;
  const S* y = static_cast<const S*>(a.y);
  for (int64_t t = begin; t < end; ++t) {
    const int32_t* row_of = a.row_of + t * a.K;
    for (int64_t d = 0; d < a.D; d += kWidth<A>) {
      const int64_t n = a.D - d;
      const bool whole = n >= kWidth<A>;
      V v = {};
      if (a.add) {
        const S* add = static_cast<const S*>(a.add) + t * a.D + d;
        v = whole ? load(add) : load_part(add, n);
      }
      for (int64_t k = 0; k < a.K; ++k) {
        const S* row = y + row_of[k] * a.D + d;
        v += whole ? load(row) : load_part(row, n);
      }
      S* out = static_cast<S*>(a.out) + t * a.D + d;
      if (whole) store(out, v);
      else store_part(out, v, n);
    }
  }
}

}  // namespace

void unpermute_rows(const UnpermuteRows& a, int64_t begin, int64_t end) { ATOLL_BY_STORAGE(a.dtype, sum, a, begin, end); }

}  // namespace atoll::cpu::ATOLL_ISA
