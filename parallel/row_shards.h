// ZeRO-1 in whole rows: rank i of a group owns a contiguous run of rows of each tensor. Gradients are brought to the owner and added there in rank order, ((g0+g1)+g2)+...;
// updated weights go back to everyone. Exchanges are cut into buckets of bounded bytes through scratch of a Segment; nothing is allocated once the vectors have grown.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/base/memory.h"
#include "parallel/communicator.h"
#include "parallel/mesh.h"

namespace atoll {

// Rows (dimension 0) that rank `group_rank` owns; a tensor with fewer rows than ranks leaves some with none.
inline Range owned_rows(int64_t rows, int group_size, int group_rank) { return split_evenly(rows, group_size, group_rank); }

class RowShards {
 public:
  // bucket_bytes bounds the scratch (sent and received bytes together) that one exchange takes from `scratch`. Both must outlive this.
  RowShards(Communicator& group, Segment& scratch, int64_t bucket_bytes = 32 << 20);
  Range owned(int64_t rows) const { return owned_rows(rows, group_.size(), group_.rank()); }

  // The tensors, in the same order with the same shapes on all ranks of the group; a row is contiguous, rows may be strided; rank 1: n rows of one element.
  // grads: all FP32 or all FP64. Afterwards the owned rows hold the sum; the other rows are unspecified (they keep this rank's part).
  void reduce_to_owned_rows(std::span<const Tensor> grads);
  // Any dtypes. Afterwards every rank holds every owner's rows.
  void gather_updated_rows(std::span<const Tensor> weights);

 private:
  struct Cursor { size_t tensor = 0; int64_t byte = 0; };  // a place in the stream of all rows that one rank owns, tensor after tensor
  template <class Visit>
  void advance(std::span<const Tensor> tensors, int owner, Cursor& cursor, int64_t bytes, Visit&& visit) const;
  int64_t start(std::span<const Tensor> tensors);  // fills lengths_, resets cursors_; returns the longest stream
  int64_t slice_bytes(int owner, int64_t begin, int64_t slice) const;

  Communicator& group_;
  Segment& scratch_;
  int64_t bucket_bytes_;
  std::vector<int64_t> lengths_, send_bytes_, send_begin_, recv_bytes_, recv_begin_;
  std::vector<Cursor> cursors_;  // [owner]
};

}  // namespace atoll
