// Gradient of an embedding table: rows of dy added to rows of the table's gradient, tokens ascending.
#include "kernels/cpu/embedding.h"

#include "kernels/cpu/isa/vector.h"

namespace atoll::cpu::ATOLL_ISA {
namespace {

template <class S>
void add_columns(const EmbeddingColumns& a, int64_t begin, int64_t end) {
  typedef typename AccOf<S>::type A;
  const int64_t n = end - begin;
  for (int64_t t = 0; t < a.T; ++t) {
    const S* dy = static_cast<const S*>(a.dy) + t * a.D + begin;
    A* row = static_cast<A*>(a.dtable) + a.ids[t] * a.D + begin;
    ATOLL_FOR_VECTORS(A, d, n, store(row + d, load(row + d) + load(dy + d)), store_part(row + d, load_part(row + d, n - d) + load_part(dy + d, n - d), n - d));
  }
}

}  // namespace

void embedding_backward_columns(const EmbeddingColumns& a, int64_t begin, int64_t end) { ATOLL_BY_STORAGE(a.dtype, add_columns, a, begin, end); }

}  // namespace atoll::cpu::ATOLL_ISA
