// Row shards: the owner's sum is the sum in rank order to the bit, at every bucket size; weights come back whole. Rows fewer than ranks, strided rows, 1-D and 3-D tensors.
#include <catch2/catch.hpp>
#include <cstring>

#include "kernels/base/rng.h"
#include "parallel/row_shards.h"

using namespace atoll;

namespace {
struct Shape { std::vector<int64_t> dims; int64_t row_stride; };
const std::vector<Shape> kShapes{{{13, 7}, 7}, {{3, 5}, 9}, {{17}, 1}, {{1, 11}, 11}, {{6, 3, 2}, 6}, {{0, 4}, 4}, {{2}, 1}, {{64, 33}, 40}};

Tensor tensor_of(const Shape& shape, DType dtype, std::vector<char>& storage) {
  Tensor t;
  t.dtype = dtype;
  t.rank = static_cast<int>(shape.dims.size());
  int64_t stride = 1;
  for (int k = t.rank - 1; k >= 0; --k) {
    t.dim[k] = shape.dims[static_cast<size_t>(k)];
    t.stride[k] = stride;
    stride *= t.dim[k];
  }
  t.stride[0] = shape.row_stride;
  storage.assign(static_cast<size_t>(t.dim[0] * shape.row_stride) * size_of(dtype), 0x5a);
  t.data = storage.data();
  return t;
}
int64_t row_size(const Tensor& t) {
  int64_t n = 1;
  for (int k = 1; k < t.rank; ++k) n *= t.dim[k];
  return n;
}
double value(int rank, size_t tensor, int64_t i) { return Rng(3, "grads").normal(static_cast<uint64_t>(rank) * 1000000 + tensor * 10000 + static_cast<uint64_t>(i)) * std::pow(10.0, (rank * 3 + i) % 7); }

template <class T>
void reduce_case(Communicator& group, DType dtype, int64_t bucket) {
  Segment scratch("comm", 1 << 20, "memory.comm");
  RowShards shards(group, scratch, bucket);
  std::vector<std::vector<char>> storage(kShapes.size());
  std::vector<Tensor> grads;
  for (size_t k = 0; k < kShapes.size(); ++k) {
    grads.push_back(tensor_of(kShapes[k], dtype, storage[k]));
    const int64_t n = row_size(grads[k]);
    for (int64_t r = 0; r < grads[k].dim[0]; ++r)
      for (int64_t c = 0; c < n; ++c) grads[k].as<T>()[r * grads[k].stride[0] + c] = static_cast<T>(value(group.rank(), k, r * n + c));
  }
  shards.reduce_to_owned_rows(grads);
  ATOLL_CHECK(scratch.used() == 0 && scratch.high_water() <= bucket + 128, "scratch of ", scratch.high_water(), " bytes for buckets of ", bucket);
  for (size_t k = 0; k < kShapes.size(); ++k) {
    const Range own = shards.owned(grads[k].dim[0]);
    const int64_t n = row_size(grads[k]), stride = grads[k].stride[0];
    for (int64_t r = 0; r < grads[k].dim[0]; ++r)
      for (int64_t c = 0; c < n; ++c) {
        T expected = static_cast<T>(value(0, k, r * n + c));
        for (int rank = 1; rank < group.size(); ++rank) expected += static_cast<T>(value(rank, k, r * n + c));
        if (r < own.begin || r >= own.end) expected = static_cast<T>(value(group.rank(), k, r * n + c));
        ATOLL_CHECK(std::memcmp(&expected, grads[k].as<T>() + r * stride + c, sizeof(T)) == 0, "tensor ", k, " row ", r, " column ", c);
      }
    for (int64_t r = 0; r < grads[k].dim[0]; ++r)
      for (int64_t b = n * static_cast<int64_t>(sizeof(T)); b < stride * static_cast<int64_t>(sizeof(T)); ++b)
        ATOLL_CHECK(storage[k][static_cast<size_t>(r * stride) * sizeof(T) + static_cast<size_t>(b)] == 0x5a, "wrote between rows of tensor ", k);
  }
}

void gather_case(Communicator& group, int64_t bucket) {
  Segment scratch("comm", 1 << 20, "memory.comm");
  RowShards shards(group, scratch, bucket);
  std::vector<std::vector<char>> storage(kShapes.size());
  std::vector<Tensor> weights;
  const auto byte = [](size_t k, int64_t r, int64_t b) { return static_cast<char>(k * 41 + static_cast<size_t>(r) * 7 + static_cast<size_t>(b)); };
  constexpr DType kTypes[] = {DType::kBF16, DType::kF32, DType::kF64};
  int64_t expected_sent = 0;
  for (size_t k = 0; k < kShapes.size(); ++k) {
    weights.push_back(tensor_of(kShapes[k], kTypes[k % 3], storage[k]));
    const int64_t element = static_cast<int64_t>(size_of(weights[k].dtype)), bytes = row_size(weights[k]) * element;
    const Range own = shards.owned(weights[k].dim[0]);
    expected_sent += own.size() * bytes * (group.size() - 1);
    for (int64_t r = own.begin; r < own.end; ++r)
      for (int64_t b = 0; b < bytes; ++b) weights[k].as<char>()[r * weights[k].stride[0] * element + b] = byte(k, r, b);
  }
  const int64_t before = group.bytes().sent;
  shards.gather_updated_rows(weights);
  ATOLL_CHECK(group.bytes().sent - before == expected_sent, "sent ", group.bytes().sent - before, ", owned rows are ", expected_sent);
  for (size_t k = 0; k < kShapes.size(); ++k) {
    const int64_t element = static_cast<int64_t>(size_of(weights[k].dtype)), bytes = row_size(weights[k]) * element;
    for (int64_t r = 0; r < weights[k].dim[0]; ++r)
      for (int64_t b = 0; b < weights[k].stride[0] * element; ++b)
        ATOLL_CHECK(weights[k].as<char>()[r * weights[k].stride[0] * element + b] == (b < bytes ? byte(k, r, b) : 0x5a), "tensor ", k, " row ", r, " byte ", b);
  }
}
}  // namespace

TEST_CASE("Gradients are added in rank order at the owner, to the bit") {
  for (int ranks = 1; ranks <= 5; ++ranks)
    for (int64_t bucket : {80, 1000, 32 << 20}) {
      INFO(ranks << " ranks, bucket " << bucket);
      CHECK_NOTHROW(run_ranks_as_threads(ranks, [&](Communicator& group) { reduce_case<float>(group, DType::kF32, bucket); }));
      CHECK_NOTHROW(run_ranks_as_threads(ranks, [&](Communicator& group) { reduce_case<double>(group, DType::kF64, bucket); }));
    }
}

TEST_CASE("Updated rows reach every rank, in any storage type") {
  for (int ranks = 1; ranks <= 5; ++ranks)
    for (int64_t bucket : {80, 1000, 32 << 20}) {
      INFO(ranks << " ranks, bucket " << bucket);
      CHECK_NOTHROW(run_ranks_as_threads(ranks, [&](Communicator& group) { gather_case(group, bucket); }));
    }
}

TEST_CASE("Row shards refuse what they cannot add") {
  CHECK_THROWS_WITH(run_ranks_as_threads(2,
                                         [](Communicator& group) {
                                           Segment scratch("comm", 1 << 20, "memory.comm");
                                           float a[4] = {};
                                           double b[4] = {};
                                           const Tensor mixed[] = {{a, DType::kF32, {4}}, {b, DType::kF64, {4}}};
                                           RowShards(group, scratch).reduce_to_owned_rows(mixed);
                                         }),
                    Catch::Contains("all fp32 or all fp64"));
}
