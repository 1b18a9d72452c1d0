// Registry cases of embedding and its backward.
#include <catch2/catch.hpp>

#include "op_cases.h"

namespace atoll::test {
namespace {

Array ids_of(int64_t T, int64_t V) {
  Array ids;
  for (int64_t t = 0; t < T; ++t) ids.push_back(static_cast<double>(t * t % V));  // many repeats
  return ids;
}

void declare_shape(int64_t T, int64_t V, int64_t D) {
  const std::string text = std::to_string(T) + " of " + std::to_string(V) + "x" + std::to_string(D);
  const auto table_size = static_cast<size_t>(V * D), size = static_cast<size_t>(T * D), width = static_cast<size_t>(D);
  register_op_case({.op = Op::kEmbedding, .name = "embedding " + text,
                    .inputs = [=] { return Arrays{{"table", draw("table", table_size)}}; },
                    .oracle = [=](const Arrays& in, const Rounding&) {
                      Array y;
                      for (double id : ids_of(T, V))
                        for (size_t d = 0; d < width; ++d) y.push_back(in.at("table")[static_cast<size_t>(id) * width + d]);
                      return Arrays{{"y", y}};
                    },
                    .run = [=](Context& ctx, DType storage, const Arrays& in) {
                      const Owned table(storage, {V, D}, in.at("table")), ids(DType::kI32, {T}, ids_of(T, V)), y(storage, {T, D});
                      embedding(ctx, {.ids_T = ids, .table_VD = table, .y_TD = y});
                      return Arrays{{"y", y.values()}};
                    },
                    .exact = {"y"}});
  OpCase c{.op = Op::kEmbeddingBackward, .name = "embedding_backward " + text,
           .inputs = [=] { return Arrays{{"dy", draw("dy", size)}, {"table", draw("table", table_size)}}; },
           .oracle = [=](const Arrays& in, const Rounding& r) {
             Array d(table_size, 1.0);  // is added to
             const Array ids = ids_of(T, V);
             for (size_t i = 0; i < size; ++i) {
               double& x = d[static_cast<size_t>(ids[i / width]) * width + i % width];
               x = r.acc(x + in.at("dy")[i]);
             }
             return Arrays{{"dtable", d}};
           },
           .run = [=](Context& ctx, DType storage, const Arrays& in) {
             const Owned dy(storage, {T, D}, in.at("dy")), ids(DType::kI32, {T}, ids_of(T, V)), dtable(acc_dtype(storage), {V, D}, Array(table_size, 1.0));
             embedding_backward(ctx, {.ids_T = ids, .dy_TD = dy, .dtable_VD = dtable});
             return Arrays{{"dtable", dtable.values()}};
           }};
  c.objective = [=](const Arrays& in) {
    double sum = 0;
    const Array ids = ids_of(T, V);
    for (size_t i = 0; i < size; ++i) sum += in.at("dy")[i] * in.at("table")[static_cast<size_t>(ids[i / width]) * width + i % width];
    for (double x : in.at("table")) sum += x;
    return sum;
  };
  c.gradients = {{"table", "dtable"}};
  register_op_case(c);
}

bool declare() {
  declare_shape(0, 3, 4);
  declare_shape(1, 1, 1);
  declare_shape(40, 11, 67);
  declare_shape(100, 300, 128);
  return true;
}
[[maybe_unused]] const bool registered = declare();

}  // namespace

TEST_CASE("Embedding refuses an id outside its vocabulary") {
  Context ctx;
  const Owned table(DType::kF32, {3, 2}), ids(DType::kI32, {1}, {3}), y(DType::kF32, {1, 2});
  CHECK_THROWS_WITH(embedding(ctx, {.ids_T = ids, .table_VD = table, .y_TD = y}), Catch::Contains("vocabulary of 3"));
}

}  // namespace atoll::test
