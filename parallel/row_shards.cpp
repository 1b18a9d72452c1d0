// Row shards as streams: the rows that one rank owns, tensor after tensor, are one stream of bytes; bucket k exchanges the k-th slice of every owner's stream. Slices may cut
// a row (only transfer is cut, ownership is not), never an element.
#include "parallel/row_shards.h"

#include <algorithm>
#include <cstring>

#include "kernels/base/error.h"

namespace atoll {
namespace {
struct Rows {  // one tensor seen as rows of bytes
  char* data;
  int64_t num_rows, row_bytes, stride_bytes;
};
Rows rows_of(const Tensor& t) {
  const int64_t element = static_cast<int64_t>(size_of(t.dtype));
  int64_t row = 1;
  for (int k = 1; k < t.rank; ++k) row *= t.dim[k];
  return {t.as<char>(), t.dim[0], row * element, t.stride[0] * element};
}
void check_tensor(const Tensor& t) {
  bool has_dense_rows = t.rank >= 1;
  int64_t expected = 1;
  for (int k = t.rank - 1; k >= 1; --k) {
    has_dense_rows &= t.dim[k] == 1 || t.stride[k] == expected;
    expected *= t.dim[k];
  }
  ATOLL_CHECK(has_dense_rows, "row shards need tensors whose rows are contiguous, not ", t.shape());
}

// out[i] = ((c_0 + c_1) + c_2) + ...; contribution `self` is `out` itself, the others lie in the bucket, `stride` bytes apart (self left out).
template <class T>
void add_in_rank_order(T* out, const char* others, int64_t stride, int64_t n, int size, int self) {
  constexpr int64_t kBlock = 512;
  T sum[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = std::min(kBlock, n - begin);
    for (int r = 0; r < size; ++r) {
      const T* part = (r == self ? out : reinterpret_cast<const T*>(others + (r < self ? r : r - 1) * stride)) + begin;
      if (r == 0) std::copy(part, part + count, sum);
      else for (int64_t i = 0; i < count; ++i) sum[i] += part[i];
    }
    std::copy(sum, sum + count, out + begin);
  }
}
}  // namespace

RowShards::RowShards(Communicator& group, Segment& scratch, int64_t bucket_bytes) : group_(group), scratch_(scratch), bucket_bytes_(bucket_bytes) {
  const int64_t least = 16 * int64_t{group.size()};
  ATOLL_CHECK(bucket_bytes >= least, "a bucket of ", bucket_bytes, " bytes; ", group.size(), " ranks need at least ", least);
  for (auto* counts : {&lengths_, &send_bytes_, &send_begin_, &recv_bytes_, &recv_begin_}) counts->resize(static_cast<size_t>(group.size()));
  cursors_.resize(static_cast<size_t>(group.size()));
}

int64_t RowShards::start(std::span<const Tensor> tensors) {
  std::fill(lengths_.begin(), lengths_.end(), 0);
  std::fill(cursors_.begin(), cursors_.end(), Cursor{});
  for (const Tensor& t : tensors) {
    check_tensor(t);
    const Rows rows = rows_of(t);
    for (int r = 0; r < group_.size(); ++r) lengths_[r] += owned_rows(rows.num_rows, group_.size(), r).size() * rows.row_bytes;
  }
  return *std::max_element(lengths_.begin(), lengths_.end());
}

int64_t RowShards::slice_bytes(int owner, int64_t begin, int64_t slice) const { return std::clamp<int64_t>(lengths_[owner] - begin, 0, slice); }

// Calls visit(pointer, bytes, dtype) for each contiguous run of the next `bytes` bytes of the owner's stream.
template <class Visit>
void RowShards::advance(std::span<const Tensor> tensors, int owner, Cursor& cursor, int64_t bytes, Visit&& visit) const {
  while (bytes > 0) {
    const Tensor& t = tensors[cursor.tensor];
    const Rows rows = rows_of(t);
    const Range own = owned_rows(rows.num_rows, group_.size(), owner);
    const int64_t left = own.size() * rows.row_bytes - cursor.byte;
    if (left == 0) {
      cursor = {cursor.tensor + 1, 0};
      continue;
    }
    const int64_t row = cursor.byte / rows.row_bytes, within = cursor.byte % rows.row_bytes;
    const bool is_dense = rows.stride_bytes == rows.row_bytes;
    const int64_t run = std::min(bytes, is_dense ? left : rows.row_bytes - within);
    visit(rows.data + (own.begin + row) * rows.stride_bytes + within, run, t.dtype);
    cursor.byte += run;
    bytes -= run;
  }
}

void RowShards::reduce_to_owned_rows(std::span<const Tensor> grads) {
  const int size = group_.size(), self = group_.rank();
  if (size == 1 || grads.empty()) return;
  for (const Tensor& t : grads)
    ATOLL_CHECK(t.dtype == grads[0].dtype && (t.dtype == DType::kF32 || t.dtype == DType::kF64), "gradients of one reduction are all fp32 or all fp64, not ", t.shape());
  const int64_t longest = start(grads);
  const int64_t slice = std::min(bucket_bytes_ / (2 * (size - 1)) / 8 * 8, (longest + 7) / 8 * 8);  // to each of the others, and from each
  const Buffer scratch = scratch_.take({2 * (size - 1) * slice}, DType::kU8);
  char* const sent = scratch.tensor().as<char>();
  char* const received = sent + (size - 1) * slice;
  for (int64_t begin = 0; begin < longest; begin += slice) {
    const int64_t own_bytes = slice_bytes(self, begin, slice);
    for (int r = 0; r < size; ++r) {
      const int64_t place = (r < self ? r : r - 1) * slice;
      send_bytes_[r] = r == self ? 0 : slice_bytes(r, begin, slice);
      recv_bytes_[r] = r == self ? 0 : own_bytes;
      send_begin_[r] = recv_begin_[r] = r == self ? 0 : place;
      char* to = sent + place;
      if (r != self)
        advance(grads, r, cursors_[r], send_bytes_[r], [&](const char* from, int64_t bytes, DType) {
          std::memcpy(to, from, static_cast<size_t>(bytes));
          to += bytes;
        });
    }
    group_.iall_to_all_v(sent, send_bytes_, send_begin_, received, recv_bytes_, recv_begin_).wait();
    const char* others = received;
    advance(grads, self, cursors_[self], own_bytes, [&](char* out, int64_t bytes, DType dtype) {
      if (dtype == DType::kF64) add_in_rank_order(reinterpret_cast<double*>(out), others, slice, bytes / 8, size, self);
      else add_in_rank_order(reinterpret_cast<float*>(out), others, slice, bytes / 4, size, self);
      others += bytes;
    });
  }
}

void RowShards::gather_updated_rows(std::span<const Tensor> weights) {
  const int size = group_.size(), self = group_.rank();
  if (size == 1 || weights.empty()) return;
  const int64_t longest = start(weights);
  const int64_t slice = std::min(bucket_bytes_ / size / 8 * 8, (longest + 7) / 8 * 8);
  const Buffer scratch = scratch_.take({size * slice}, DType::kU8);
  char* const slices = scratch.tensor().as<char>();
  for (int64_t begin = 0; begin < longest; begin += slice) {
    for (int r = 0; r < size; ++r) {
      recv_bytes_[r] = slice_bytes(r, begin, slice);
      recv_begin_[r] = r * slice;
    }
    char* own = slices + self * slice;
    advance(weights, self, cursors_[self], recv_bytes_[self], [&](const char* from, int64_t bytes, DType) {
      std::memcpy(own, from, static_cast<size_t>(bytes));
      own += bytes;
    });
    group_.all_gather_v(slices + self * slice, recv_bytes_[self], slices, recv_bytes_, recv_begin_);
    for (int r = 0; r < size; ++r) {
      const char* from = slices + r * slice;
      if (r != self)
        advance(weights, r, cursors_[r], recv_bytes_[r], [&](char* to, int64_t bytes, DType) {
          std::memcpy(to, from, static_cast<size_t>(bytes));
          from += bytes;
        });
    }
  }
}

}  // namespace atoll
