// Embedding on threads: rows forward, columns backward.
#include "kernels/cpu/embedding.h"

#include <algorithm>

#include "kernels/cpu/permute.h"
#include "kernels/cpu/threads.h"
#include "kernels/ops.h"

namespace atoll::cpu {

void embedding(Context& ctx, const Embedding& op) {
  gather_rows(ctx, op.table_VD.data, op.ids_T.as<int32_t>(), op.y_TD.dim[0], op.y_TD.dim[1] * static_cast<int64_t>(size_of(op.y_TD.dtype)), op.y_TD.data);
}

void embedding_backward(Context& ctx, const EmbeddingBackward& op) {
  constexpr int64_t kUnit = 32;  // columns are shared out in whole cache lines
  const Isa isa = isa_of(ctx);
  const EmbeddingColumns a{op.dy_TD.dtype, op.dy_TD.dim[0], op.dy_TD.dim[1], op.ids_T.as<int32_t>(), op.dy_TD.data, op.dtable_VD.data};
  parallel_ranges(ctx.num_threads, (a.D + kUnit - 1) / kUnit, [&](int, int64_t begin, int64_t end) {
    ATOLL_CALL_ISA(isa, embedding_backward_columns(a, begin * kUnit, std::min(a.D, end * kUnit)));
  });
}

}  // namespace atoll::cpu
