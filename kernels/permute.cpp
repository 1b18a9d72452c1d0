// Public permutation ops. The plan is a counting sort on the host: rows grouped by expert, tokens ascending inside, the order every back end produces.
#include <algorithm>
#include <utility>

#include "kernels/checks.h"
#include "kernels/cpu/permute.h"
#include "kernels/op_scope.h"
#include "kernels/round_outputs.h"

namespace atoll {
namespace {

void check_index(const char* what, const Tensor& index, int64_t bound) {
  const int32_t* p = index.as<int32_t>();
  for (int64_t i = 0; i < index.size(); ++i) ATOLL_CHECK(p[i] >= 0 && p[i] < bound, what, " ", p[i], " at ", i, " is not in [0, ", bound, ")");
}

}  // namespace

void permutation_plan(Tensor topk_idx_TK, Tensor row_of_TK, Tensor token_of_R, std::span<int64_t> counts_E) {
  ATOLL_CHECK(topk_idx_TK.rank == 2, "permutation_plan: topk_idx must be [T, K], is ", topk_idx_TK.shape());
  const int64_t T = topk_idx_TK.dim[0], K = topk_idx_TK.dim[1], E = static_cast<int64_t>(counts_E.size());
  std::fill(counts_E.begin(), counts_E.end(), 0);
  if (T * K == 0) return;
  check_tensor("permutation_plan: topk_idx", topk_idx_TK, DType::kI32, {T, K});
  check_tensor("permutation_plan: row_of", row_of_TK, DType::kI32, {T, K});
  check_tensor("permutation_plan: token_of", token_of_R, DType::kI32, {T * K});
  check_index("permutation_plan: expert", topk_idx_TK, E);
  const int32_t* ids = topk_idx_TK.as<int32_t>();
  for (int64_t i = 0; i < T * K; ++i) ++counts_E[static_cast<size_t>(ids[i])];
  int64_t begin = 0;
  for (int64_t& c : counts_E) begin += std::exchange(c, begin);  // counts -> first rows
  for (int64_t i = 0; i < T * K; ++i) {
    const int64_t row = counts_E[static_cast<size_t>(ids[i])]++;
    row_of_TK.as<int32_t>()[i] = static_cast<int32_t>(row);
    token_of_R.as<int32_t>()[row] = static_cast<int32_t>(i / K);
  }
  for (size_t e = counts_E.size(); e-- > 1;) counts_E[e] -= counts_E[e - 1];  // ends -> counts
}

void permute(Context& ctx, const Permute& op) {
  need_cpu(ctx, Op::kPermute);
  const Tensor &x = op.x_TD, &y = op.y_RD;
  ATOLL_CHECK(x.rank == 2 && y.rank == 2, "permute: x and y must be [rows, D], are ", x.shape(), " and ", y.shape());
  if (y.size() == 0) return;
  check_tensor("permute: x", x, y.dtype, {x.dim[0], y.dim[1]});
  check_tensor("permute: y", y, y.dtype, {y.dim[0], y.dim[1]});
  check_tensor("permute: index", op.index_R, DType::kI32, {y.dim[0]});
  check_index("permute: index", op.index_R, x.dim[0]);
  OpScope scope(ctx, Op::kPermute, 0);
  cpu::permute(ctx, op);
}

void unpermute(Context& ctx, const Unpermute& op) {
  need_cpu(ctx, Op::kUnpermute);
  const Tensor &out = op.out_TD, &y = op.y_RD;
  ATOLL_CHECK(out.rank == 2 && y.rank == 2 && op.row_of_TK.rank == 2, "unpermute: y, row_of and out must have two dims");
  check_storage("unpermute: out", out);
  const int64_t T = out.dim[0], D = out.dim[1], K = op.row_of_TK.dim[1];
  if (out.size() == 0) return;
  check_tensor("unpermute: out", out, out.dtype, {T, D});
  check_tensor("unpermute: y", y, out.dtype, {y.dim[0], D});
  check_tensor("unpermute: row_of", op.row_of_TK, DType::kI32, {T, K});
  if (op.add_TD) check_tensor("unpermute: add", op.add_TD, out.dtype, {T, D});
  check_index("unpermute: row", op.row_of_TK, y.dim[0]);
  OpScope scope(ctx, Op::kUnpermute, static_cast<double>(T * D * K));
  cpu::unpermute(ctx, op);
  round_outputs(ctx, {op.out_TD});
}

}  // namespace atoll
