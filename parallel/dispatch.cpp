// Flat expert dispatch. Policy: every rank joins every exchange, with or without rows; counts are exact, nothing is padded or dropped.
#include "parallel/dispatch.h"

#include <algorithm>

#include "kernels/base/error.h"
#include "parallel/stopwatch.h"

namespace atoll {
namespace {
Range experts_of_rank(const Communicator& ep, int num_experts, int rank) {
  if (num_experts == 0) return {0, 0};  // a model without experts: the dispatcher is never asked
  if (num_experts < ep.size())
    throw ConfigError(detail::concat(num_experts, " routed experts cannot be split over ep=", ep.size(), " ranks: each needs at least one; use ep <= ", num_experts));
  return split_evenly(num_experts, ep.size(), rank);
}
int64_t bytes_to_others(std::span<const int64_t> bytes, int rank) {
  int64_t sum = 0;
  for (int r = 0; r < std::ssize(bytes); ++r)
    if (r != rank) sum += bytes[static_cast<size_t>(r)];
  return sum;
}
void scale_counts(const std::vector<int64_t>& rows, int64_t row_bytes, std::vector<int64_t>& bytes, std::vector<int64_t>& begin) {
  int64_t at = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    bytes[r] = rows[r] * row_bytes;
    begin[r] = at;
    at += bytes[r];
  }
}
}  // namespace

Dispatcher::Dispatcher(Communicator& ep, int num_experts) : ep_(ep), num_experts_(num_experts), local_(experts_of_rank(ep, num_experts, ep.rank())) {
  const size_t ranks = static_cast<size_t>(ep.size());
  gathered_.resize(ranks * static_cast<size_t>(num_experts));
  send_bytes_.resize(ranks);
  send_begin_.resize(ranks);
  recv_bytes_.resize(ranks);
  recv_begin_.resize(ranks);
}

void Dispatcher::plan(std::span<const int64_t> counts_E, DispatchPlan& plan) {
  const Stopwatch watch(seconds_);
  ATOLL_CHECK(std::ssize(counts_E) == num_experts_, counts_E.size(), " counts for ", num_experts_, " experts");
  for (int64_t count : counts_E) ATOLL_CHECK(count >= 0, "a routing count of ", count);
  ep_.all_gather(counts_E.data(), static_cast<int64_t>(counts_E.size_bytes()), gathered_.data());
  const int ranks = ep_.size();
  const auto count_of = [&](int rank, int64_t expert) { return gathered_[static_cast<size_t>(rank) * num_experts_ + expert]; };

  int64_t rows_of_group = 0;
  for (int64_t count : gathered_) rows_of_group += count;
  most_rows_ = std::max(most_rows_, rows_of_group);
  reserve(plan);
  plan.send_rows.assign(static_cast<size_t>(ranks), 0);
  plan.recv_rows.assign(static_cast<size_t>(ranks), 0);
  plan.expert_offsets.assign(static_cast<size_t>(local_.size()) + 1, 0);
  plan.rows_sent = plan.rows_received = 0;
  for (int r = 0; r < ranks; ++r) {
    const Range theirs = split_evenly(num_experts_, ranks, r);
    for (int64_t e = theirs.begin; e < theirs.end; ++e) plan.send_rows[r] += counts_E[e];
    for (int64_t e = local_.begin; e < local_.end; ++e) {
      plan.recv_rows[r] += count_of(r, e);
      plan.expert_offsets[e - local_.begin + 1] += count_of(r, e);
    }
    plan.rows_sent += plan.send_rows[r];
    plan.rows_received += plan.recv_rows[r];
  }
  for (int64_t e = 0; e < local_.size(); ++e) plan.expert_offsets[e + 1] += plan.expert_offsets[e];
  ATOLL_CHECK(plan.rows_received <= INT32_MAX, plan.rows_received, " rows for one rank; use smaller micro-batches or a larger ep");

  plan.expert_order.resize(static_cast<size_t>(plan.rows_received));
  plan.arrival_order.resize(static_cast<size_t>(plan.rows_received));
  next_row_.assign(plan.expert_offsets.begin(), plan.expert_offsets.end());
  int32_t arrival = 0;
  for (int r = 0; r < ranks; ++r)
    for (int64_t e = local_.begin; e < local_.end; ++e)
      for (int64_t i = count_of(r, e); i > 0; --i, ++arrival) {
        const int64_t row = next_row_[e - local_.begin]++;
        plan.expert_order[row] = arrival;
        plan.arrival_order[arrival] = static_cast<int32_t>(row);
      }
}

void Dispatcher::reserve(DispatchPlan& plan) const {
  plan.send_rows.reserve(static_cast<size_t>(ep_.size()));
  plan.recv_rows.reserve(static_cast<size_t>(ep_.size()));
  plan.expert_offsets.reserve(static_cast<size_t>(local_.size()) + 1);
  plan.expert_order.reserve(static_cast<size_t>(most_rows_));
  plan.arrival_order.reserve(static_cast<size_t>(most_rows_));
}

void Dispatcher::wait(Request& posted) {
  const Stopwatch watch(seconds_);
  posted.wait();
}

Request Dispatcher::dispatch(const DispatchPlan& plan, const void* rows, int64_t row_bytes, void* arrived) {
  scale_counts(plan.send_rows, row_bytes, send_bytes_, send_begin_);
  scale_counts(plan.recv_rows, row_bytes, recv_bytes_, recv_begin_);
  bytes_dispatched_ += bytes_to_others(send_bytes_, ep_.rank());
  return ep_.iall_to_all_v(rows, send_bytes_, send_begin_, arrived, recv_bytes_, recv_begin_);
}

Request Dispatcher::combine(const DispatchPlan& plan, const void* arrived, int64_t row_bytes, void* rows) {
  scale_counts(plan.recv_rows, row_bytes, send_bytes_, send_begin_);
  scale_counts(plan.send_rows, row_bytes, recv_bytes_, recv_begin_);
  bytes_combined_ += bytes_to_others(send_bytes_, ep_.rank());
  return ep_.iall_to_all_v(arrived, send_bytes_, send_begin_, rows, recv_bytes_, recv_begin_);
}

}  // namespace atoll
