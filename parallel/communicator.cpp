// What all communicators share: requests, argument checks, the flat all-gather, sums in rank order.
// Policy: the sum of rank 0 is the start, then rank 1, 2, ... are added, on every rank: the same bits everywhere.
#include "parallel/communicator.h"

#include <algorithm>
#include <cstring>
#include <exception>

#include "kernels/base/error.h"
#include "kernels/base/log.h"

namespace atoll {
namespace {
struct Recycler {
  Request::State* state;
  ~Recycler() { state->recycle(); }
};
}  // namespace

void Request::wait() {
  if (!state_) return;
  const Recycler done{std::exchange(state_, nullptr)};
  done.state->wait();
}

bool Request::test() {
  if (!state_) return true;
  try {
    if (!state_->test()) return false;
  } catch (...) {
    std::exchange(state_, nullptr)->recycle();
    throw;
  }
  std::exchange(state_, nullptr)->recycle();
  return true;
}

void Request::reset() noexcept {
  if (!state_) return;
  if (std::uncaught_exceptions() == 0) {
    log::error("a communication request was destroyed before wait(): its buffers may still be in use");
    log::flush();
    std::terminate();
  }
  std::exchange(state_, nullptr)->recycle();
}

void Communicator::check_peer(const char* call, int peer, int64_t bytes, int channel) const {
  ATOLL_CHECK(peer >= 0 && peer < size_ && bytes >= 0 && channel >= 0 && channel < kNumChannels, call, " on rank ", rank_, " of ", size_, ": peer ", peer, ", ", bytes,
              " bytes, channel ", channel);
}

void Communicator::check_counts(const char* call, std::span<const int64_t> bytes, std::span<const int64_t> begin) const {
  ATOLL_CHECK(std::ssize(bytes) == size_ && std::ssize(begin) == size_, call, " on rank ", rank_, ": ", bytes.size(), " counts and ", begin.size(), " displacements for ", size_, " ranks");
  for (int r = 0; r < size_; ++r) ATOLL_CHECK(bytes[r] >= 0 && begin[r] >= 0, call, " on rank ", rank_, ": ", bytes[r], " bytes at ", begin[r], " for rank ", r);
}

void Communicator::all_gather(const void* send, int64_t bytes, void* recv) {
  gather_recv_bytes_.assign(static_cast<size_t>(size_), bytes);
  gather_recv_begin_.resize(static_cast<size_t>(size_));
  for (int r = 0; r < size_; ++r) gather_recv_begin_[r] = r * bytes;
  all_gather_v(send, bytes, recv, gather_recv_bytes_, gather_recv_begin_);
}

void Communicator::all_gather_v(const void* send, int64_t bytes, void* recv, std::span<const int64_t> recv_bytes, std::span<const int64_t> recv_begin) {
  check_counts("all_gather_v", recv_bytes, recv_begin);
  ATOLL_CHECK(recv_bytes[rank_] == bytes, "all_gather_v on rank ", rank_, " sends ", bytes, " bytes but expects ", recv_bytes[rank_], " of itself");
  gather_bytes_.assign(static_cast<size_t>(size_), bytes);
  gather_zeros_.assign(static_cast<size_t>(size_), 0);
  iall_to_all_v(send, gather_bytes_, gather_zeros_, recv, recv_bytes, recv_begin).wait();
}

template <class T>
std::span<const T> Communicator::gather_values(std::span<const T> values) {
  const size_t bytes = values.size_bytes() * static_cast<size_t>(size_);
  if (gathered_.size() < bytes) gathered_.resize(bytes);
  all_gather(values.data(), static_cast<int64_t>(values.size_bytes()), gathered_.data());
  return {reinterpret_cast<const T*>(gathered_.data()), values.size() * static_cast<size_t>(size_)};
}

void Communicator::sum_in_rank_order(std::span<double> values) {
  if (size_ == 1) return;
  const auto all = gather_values<double>(values);
  for (size_t i = 0; i < values.size(); ++i) {
    double sum = all[i];
    for (int r = 1; r < size_; ++r) sum += all[static_cast<size_t>(r) * values.size() + i];
    values[i] = sum;
  }
}

void Communicator::sum_in_rank_order(std::span<int64_t> values) {
  if (size_ == 1) return;
  const auto all = gather_values<int64_t>(values);
  for (size_t i = 0; i < values.size(); ++i) {
    int64_t sum = 0;
    for (int r = 0; r < size_; ++r) sum += all[static_cast<size_t>(r) * values.size() + i];
    values[i] = sum;
  }
}

int64_t Communicator::max(int64_t value) {
  if (size_ == 1) return value;
  const auto all = gather_values<int64_t>({&value, 1});
  return *std::max_element(all.begin(), all.end());
}

}  // namespace atoll
