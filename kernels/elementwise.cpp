// add, cast and sum_of_squares. Tensors are walked as rows of the innermost dimension; contiguous ones as runs of equal length.
#include <algorithm>

#include "kernels/checks.h"
#include "kernels/cpu/isa/elementwise.h"
#include "kernels/cpu/threads.h"
#include "kernels/op_scope.h"
#include "kernels/round_outputs.h"
#include "kernels/ops.h"

namespace atoll {
namespace {

constexpr int64_t kRun = 16384, kSumBlock = 4096;

bool is_float(DType type) { return type == DType::kF64 || type == DType::kF32 || type == DType::kBF16; }
bool same_dims(const Tensor& a, const Tensor& b) {
  if (a.rank != b.rank) return false;
  for (int k = 0; k < a.rank; ++k)
    if (a.dim[k] != b.dim[k]) return false;
  return true;
}
void check_inner_stride(const char* what, const Tensor& t) {
  ATOLL_CHECK(t.rank == 0 || t.dim[t.rank - 1] <= 1 || t.stride[t.rank - 1] == 1, what, " ", t.shape(), " has inner stride ", t.stride[t.rank - 1], "; rows may be strided, elements not");
}
// Where row `row` of the outer dimensions starts.
char* row_of(const Tensor& t, int64_t row) {
  int64_t offset = 0;
  for (int k = t.rank - 2; k >= 0; --k) {
    offset += row % t.dim[k] * t.stride[k];
    row /= t.dim[k];
  }
  return t.as<char>() + offset * static_cast<int64_t>(size_of(t.dtype));
}
char* at(const Tensor& t, int64_t element) { return t.as<char>() + element * static_cast<int64_t>(size_of(t.dtype)); }

// body(pointers of `count` elements) over all elements of tensors of the same dims.
template <size_t kCount, class Body>
void for_each_run(Context& ctx, const std::array<Tensor, kCount>& tensors, const Body& body) {
  const Tensor& shape = tensors[0];
  const bool contiguous = std::all_of(tensors.begin(), tensors.end(), [](const Tensor& t) { return t.is_contiguous(); });
  const int64_t n = shape.size(), width = contiguous ? kRun : shape.dim[shape.rank - 1];
  // Several short rows make an item: an item is about kRun elements.
  const int64_t num_rows = (n + width - 1) / width, rows_of_item = std::max<int64_t>(1, kRun / width), num_items = (num_rows + rows_of_item - 1) / rows_of_item;
  cpu::parallel_for(ctx.num_threads, num_items, [&](int64_t item) {
    for (int64_t row = item * rows_of_item; row < std::min(num_rows, (item + 1) * rows_of_item); ++row) {
      std::array<char*, kCount> p;
      for (size_t i = 0; i < kCount; ++i) p[i] = contiguous ? at(tensors[i], row * width) : row_of(tensors[i], row);
      body(p, contiguous ? std::min(width, n - row * width) : width);
    }
  });
}

}  // namespace

double sum_of_squares(Context& ctx, const Tensor& x) {
  need_cpu(ctx, Op::kSumOfSquares);
  ATOLL_CHECK(is_float(x.dtype) && x.is_contiguous(), "sum_of_squares: ", x.shape(), " must be a contiguous float tensor");
  const int64_t n = x.size();
  if (n == 0) return 0;
  const OpScope scope(ctx, Op::kSumOfSquares, 2.0 * static_cast<double>(n));
  const int64_t num_blocks = (n + kSumBlock - 1) / kSumBlock;
  const Buffer partial = ctx.memory.workspace.take({num_blocks}, DType::kF64);
  if (ctx.is_sizing) return 0;
  double* sums = partial.tensor().as<double>();
  const Isa isa = cpu::isa_of(ctx);
  cpu::parallel_for(ctx.num_threads, num_blocks, [&](int64_t b) {
    sums[b] = ATOLL_CALL_ISA(isa, sum_of_squares_block(at(x, b * kSumBlock), x.dtype, std::min(kSumBlock, n - b * kSumBlock)));
  });
  double sum = 0;
  for (int64_t b = 0; b < num_blocks; ++b) sum += sums[b];
  return sum;
}

void add(Context& ctx, const Add& op) {
  need_cpu(ctx, Op::kAdd);
  ATOLL_CHECK(is_float(op.y.dtype) && op.a.dtype == op.y.dtype && op.b.dtype == op.y.dtype && same_dims(op.a, op.y) && same_dims(op.b, op.y), "add: a ",
              op.a.shape(), ", b ", op.b.shape(), ", y ", op.y.shape(), " must have one float dtype and the same dims");
  if (op.y.size() == 0) return;
  for (const auto& [name, t] : {std::pair{"add: a", &op.a}, {"add: b", &op.b}, {"add: y", &op.y}}) check_inner_stride(name, *t);
  const OpScope scope(ctx, Op::kAdd, static_cast<double>(op.y.size()));
  const Isa isa = cpu::isa_of(ctx);
  for_each_run<3>(ctx, {op.a, op.b, op.y}, [&](const std::array<char*, 3>& p, int64_t n) { ATOLL_CALL_ISA(isa, add_row(p[0], p[1], p[2], op.y.dtype, n)); });
  round_outputs(ctx, {op.y});
}

void cast(Context& ctx, const Cast& op) {
  need_cpu(ctx, Op::kCast);
  ATOLL_CHECK(is_float(op.x.dtype) && is_float(op.y.dtype) && same_dims(op.x, op.y), "cast: x ", op.x.shape(), " and y ", op.y.shape(),
              " must be float tensors of the same dims");
  if (op.y.size() == 0) return;
  for (const auto& [name, t] : {std::pair{"cast: x", &op.x}, {"cast: y", &op.y}}) check_inner_stride(name, *t);
  const OpScope scope(ctx, Op::kCast, 0);
  const Isa isa = cpu::isa_of(ctx);
  for_each_run<2>(ctx, {op.x, op.y},
                  [&](const std::array<char*, 2>& p, int64_t n) { ATOLL_CALL_ISA(isa, convert_row(p[0], op.x.dtype, p[1], op.y.dtype, n, op.scale)); });
}

}  // namespace atoll
