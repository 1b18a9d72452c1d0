// Public embedding ops: checks, then the back end.
#include "kernels/checks.h"
#include "kernels/cpu/embedding.h"
#include "kernels/op_scope.h"
#include "kernels/round_outputs.h"

namespace atoll {
namespace {

void check_ids(const Tensor& ids, int64_t V) {
  const int32_t* p = ids.as<int32_t>();
  for (int64_t t = 0; t < ids.dim[0]; ++t) ATOLL_CHECK(p[t] >= 0 && p[t] < V, "embedding: token id ", p[t], " at ", t, " is not in the vocabulary of ", V);
}

}  // namespace

void embedding(Context& ctx, const Embedding& op) {
  need_cpu(ctx, Op::kEmbedding);
  ATOLL_CHECK(op.y_TD.rank == 2 && op.table_VD.rank == 2, "embedding: y and table must have two dims, are ", op.y_TD.shape(), " and ", op.table_VD.shape());
  check_storage("embedding: y", op.y_TD);
  const int64_t T = op.y_TD.dim[0], D = op.y_TD.dim[1];
  if (op.y_TD.size() == 0) return;
  check_tensor("embedding: y", op.y_TD, op.y_TD.dtype, {T, D});
  check_tensor("embedding: table", op.table_VD, op.y_TD.dtype, {op.table_VD.dim[0], D});
  check_tensor("embedding: ids", op.ids_T, DType::kI32, {T});
  check_ids(op.ids_T, op.table_VD.dim[0]);
  OpScope scope(ctx, Op::kEmbedding, 0);
  cpu::embedding(ctx, op);
  round_outputs(ctx, {op.y_TD});
}

void embedding_backward(Context& ctx, const EmbeddingBackward& op) {
  need_cpu(ctx, Op::kEmbeddingBackward);
  ATOLL_CHECK(op.dy_TD.rank == 2 && op.dtable_VD.rank == 2, "embedding_backward: dy and dtable must have two dims, are ", op.dy_TD.shape(), " and ", op.dtable_VD.shape());
  check_storage("embedding_backward: dy", op.dy_TD);
  const int64_t T = op.dy_TD.dim[0], D = op.dy_TD.dim[1];
  if (op.dy_TD.size() == 0) return;
  check_tensor("embedding_backward: dy", op.dy_TD, op.dy_TD.dtype, {T, D});
  check_tensor("embedding_backward: dtable", op.dtable_VD, acc_dtype(op.dy_TD.dtype), {op.dtable_VD.dim[0], D});
  check_tensor("embedding_backward: ids", op.ids_T, DType::kI32, {T});
  check_ids(op.ids_T, op.dtable_VD.dim[0]);
  OpScope scope(ctx, Op::kEmbeddingBackward, static_cast<double>(T * D));
  cpu::embedding_backward(ctx, op);
}

}  // namespace atoll
