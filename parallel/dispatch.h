// Expert dispatch over an EP group, flat all-to-all with exact variable counts: no token is dropped, a rank with no tokens still joins every exchange.
// The plan is made on the host from routing counts. Rows leave grouped by global expert and arrive grouped by (source rank, local expert);
// `expert_order` puts them by local expert, sources ascending, `arrival_order` puts them back.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/mesh.h"

namespace atoll {

struct DispatchPlan {
  int64_t rows_sent = 0, rows_received = 0;
  std::vector<int64_t> send_rows, recv_rows;      // [ep] rows to / from each rank
  std::vector<int64_t> expert_offsets;            // [local experts + 1]: rows of each local expert in expert order
  std::vector<int32_t> expert_order;              // [rows_received] expert-ordered row r is arrival row expert_order[r]
  std::vector<int32_t> arrival_order;             // inverse: arrival row a is expert-ordered row arrival_order[a]
};

class Dispatcher {
 public:
  // experts_of[r] = split_evenly(num_experts, ep size, r). max rows are reserved so that a steady step allocates nothing.
  Dispatcher(Communicator& ep, int num_experts);
  Range local_experts() const { return local_; }
  // Exchanges counts (this rank's rows for each of the num_experts) and fills `plan` (its vectors are reused). Collective.
  void plan(std::span<const int64_t> counts_E, DispatchPlan& plan);
  // Room in `plan` for the most rows that any plan has held so far: a state that is used later for a larger micro-batch allocates nothing then.
  void reserve(DispatchPlan& plan) const;
  int64_t most_rows() const { return most_rows_; }  // of the whole group in one plan, so far
  // Rows grouped by global expert -> arrival rows (and back). row_bytes: payload of one row. Posts; wait on the request. Buffers must live until then.
  Request dispatch(const DispatchPlan& plan, const void* rows, int64_t row_bytes, void* arrived);
  Request combine(const DispatchPlan& plan, const void* arrived, int64_t row_bytes, void* rows);
  void wait(Request& posted);                           // until it is complete
  double seconds() const { return seconds_; }           // in plan and wait, since construction
  int64_t bytes_dispatched() const { return bytes_dispatched_; }  // payload to other ranks, since construction
  int64_t bytes_combined() const { return bytes_combined_; }

 private:
  Communicator& ep_;
  int num_experts_;
  Range local_;
  std::vector<int64_t> gathered_, next_row_, send_bytes_, send_begin_, recv_bytes_, recv_begin_;
  int64_t most_rows_ = 0;  // of the whole group in one plan: the worst case is that all are this rank's
  int64_t bytes_dispatched_ = 0, bytes_combined_ = 0;
  double seconds_ = 0;
};

}  // namespace atoll
