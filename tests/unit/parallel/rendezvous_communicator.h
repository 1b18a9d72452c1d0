// A communicator whose messages stay in the sender's buffer until they are received, as a large one of MPI does: what is overwritten too early arrives wrong.
// Policy: point-to-point only, for tests of code that sends; errors of one rank release the others, so that a broken sender fails and does not hang.
#pragma once
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

#include "kernels/base/error.h"
#include "parallel/communicator.h"

namespace atoll::test {

class Rendezvous {  // shared by all ranks
 public:
  struct Posted { const void* data; int64_t bytes; bool is_taken = false; };
  using Channel = std::tuple<int, int, int>;  // source, destination, channel

  Posted* post(const Channel& channel, const void* data, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    Posted& posted = messages_[channel].emplace_back(Posted{data, bytes});
    changed_.notify_all();
    return &posted;  // a deque keeps its elements where they are
  }
  size_t next_receive(const Channel& channel) {
    const std::lock_guard lock(mutex_);
    return num_receives_[channel]++;
  }
  bool is_taken(const Posted& posted, bool blocks) {
    std::unique_lock lock(mutex_);
    if (blocks) changed_.wait(lock, [&] { return has_failed_ || posted.is_taken; });
    ATOLL_CHECK(!has_failed_, "another rank failed");
    return posted.is_taken;
  }
  bool take(const Channel& channel, size_t number, void* data, int64_t bytes, bool blocks) {
    std::unique_lock lock(mutex_);
    std::deque<Posted>& queue = messages_[channel];
    if (blocks) changed_.wait(lock, [&] { return has_failed_ || queue.size() > number; });
    ATOLL_CHECK(!has_failed_, "another rank failed");
    if (queue.size() <= number) return false;
    Posted& posted = queue[number];
    ATOLL_CHECK(posted.bytes == bytes, "expected ", bytes, " bytes, ", posted.bytes, " were sent");
    if (bytes > 0) std::memcpy(data, posted.data, static_cast<size_t>(bytes));
    posted.is_taken = true;
    changed_.notify_all();
    return true;
  }
  void fail() {
    const std::lock_guard lock(mutex_);
    has_failed_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<Channel, std::deque<Posted>> messages_;
  std::map<Channel, size_t> num_receives_;
  bool has_failed_ = false;
};

class RendezvousCommunicator final : public Communicator {
 public:
  RendezvousCommunicator(Rendezvous& meeting, int rank, int size) : Communicator(rank, size), meeting_(meeting) {}
  Request isend(const void* data, int64_t bytes, int destination, int channel) override {
    Rendezvous::Posted* posted = meeting_.post({rank(), destination, channel}, data, bytes);
    return started([this, posted](bool blocks) { return meeting_.is_taken(*posted, blocks); });
  }
  Request irecv(void* data, int64_t bytes, int source, int channel) override {
    const Rendezvous::Channel from{source, rank(), channel};
    return started([this, from, number = meeting_.next_receive(from), data, bytes](bool blocks) { return meeting_.take(from, number, data, bytes, blocks); });
  }
  Request iall_to_all_v(const void*, std::span<const int64_t>, std::span<const int64_t>, void*, std::span<const int64_t>, std::span<const int64_t>) override { throw not_here(); }
  void broadcast(void*, int64_t, int) override { throw not_here(); }
  void barrier() override { throw not_here(); }
  std::unique_ptr<Communicator> split(int, int) override { throw not_here(); }
  [[noreturn]] void abort(int) override { throw not_here(); }

 private:
  struct State final : Request::State {
    explicit State(std::function<bool(bool blocks)> finish) : finish_(std::move(finish)) {}
    void wait() override { finish_(true); }
    bool test() override { return finish_(false); }
    void recycle() noexcept override {}  // kept until the communicator goes
    std::function<bool(bool)> finish_;
  };
  Request started(std::function<bool(bool)> finish) {
    states_.push_back(std::make_unique<State>(std::move(finish)));
    return Request(states_.back().get());
  }
  static Error not_here() { return Error("a rendezvous has point-to-point messages only"); }

  Rendezvous& meeting_;
  std::vector<std::unique_ptr<State>> states_;
};

}  // namespace atoll::test
