// Permutation on threads: rows of the output.
#include "kernels/cpu/permute.h"

#include <cstring>

#include "kernels/cpu/threads.h"
#include "kernels/ops.h"

namespace atoll::cpu {

void gather_rows(Context& ctx, const void* x, const int32_t* index, int64_t num_rows, int64_t bytes, void* y) {
  parallel_ranges(ctx.num_threads, num_rows, [&](int, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) std::memcpy(static_cast<char*>(y) + r * bytes, static_cast<const char*>(x) + index[r] * bytes, static_cast<size_t>(bytes));
  });
}

void permute(Context& ctx, const Permute& op) {
  gather_rows(ctx, op.x_TD.data, op.index_R.as<int32_t>(), op.y_RD.dim[0], op.y_RD.dim[1] * static_cast<int64_t>(size_of(op.y_RD.dtype)), op.y_RD.data);
}

void unpermute(Context& ctx, const Unpermute& op) {
  const Isa isa = isa_of(ctx);
  const UnpermuteRows a{op.out_TD.dtype, op.out_TD.dim[1], op.row_of_TK.dim[1], op.y_RD.data, op.row_of_TK.as<int32_t>(), op.add_TD.data, op.out_TD.data};
  parallel_ranges(ctx.num_threads, op.out_TD.dim[0], [&](int, int64_t begin, int64_t end) { ATOLL_CALL_ISA(isa, unpermute_rows(a, begin, end)); });
}

}  // namespace atoll::cpu
