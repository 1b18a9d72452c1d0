// Communicator: messages between the ranks of one group, host buffers. MPI and threads implement the point-to-point part and native collectives where they have them;
// one contract test runs on all. Policy: floats are exchanged and added locally in rank order, never reduced inside MPI. Only the main thread of a rank calls it.
// The order of calls on a group is equal on all its ranks; a Communicator is FIFO per (source, destination, channel).
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace atoll {

struct ByteCount { int64_t sent = 0, received = 0, messages = 0; };  // payload bytes that crossed to another rank; a rank's message to itself is not counted

// A posted operation. Movable; wait() completes it (buffers are free again afterwards). Destroying an unfinished one outside of unwinding is an error.
class Request {
 public:
  struct State { virtual ~State() = default; virtual void wait() = 0; virtual bool test() = 0; };
  Request() = default;
  explicit Request(std::unique_ptr<State> state) : state_(std::move(state)) {}
  void wait() { if (state_) { state_->wait(); state_.reset(); } }
  bool test() { if (state_ && state_->test()) state_.reset(); return !state_; }
  explicit operator bool() const { return static_cast<bool>(state_); }

 private:
  std::unique_ptr<State> state_;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  int rank() const { return rank_; }
  int size() const { return size_; }

  // channel: 0..15, chosen by the caller; messages of different channels do not overtake within a channel. Zero bytes are legal and are a message.
  virtual Request isend(const void* data, int64_t bytes, int destination, int channel) = 0;
  virtual Request irecv(void* data, int64_t bytes, int source, int channel) = 0;
  void send(const void* data, int64_t bytes, int destination, int channel) { isend(data, bytes, destination, channel).wait(); }
  void recv(void* data, int64_t bytes, int source, int channel) { irecv(data, bytes, source, channel).wait(); }

  // Counts and displacements in bytes, one entry a rank. send[r] goes to rank r. The spans must live until wait(); posting blocks on nothing.
  virtual Request iall_to_all_v(const void* send, std::span<const int64_t> send_bytes, std::span<const int64_t> send_begin, void* recv, std::span<const int64_t> recv_bytes,
                                std::span<const int64_t> recv_begin) = 0;
  // Each rank's `bytes` land at recv + r * bytes (own part included).
  virtual void all_gather(const void* send, int64_t bytes, void* recv) = 0;
  virtual void all_gather_v(const void* send, int64_t bytes, void* recv, std::span<const int64_t> recv_bytes, std::span<const int64_t> recv_begin) = 0;
  virtual void broadcast(void* data, int64_t bytes, int root) = 0;
  virtual void barrier() = 0;
  // Ranks with equal color form a group, ordered by (key, rank).
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;
  // Ends the whole job at once with this exit code; does not return. (threads: every other rank's next or pending call throws.)
  [[noreturn]] virtual void abort(int exit_code) = 0;

  // In place; all-gather, then added in rank order on every rank: the same bits everywhere.
  void sum_in_rank_order(std::span<double> values);
  void sum_in_rank_order(std::span<int64_t> values);
  int64_t max(int64_t value);
  const ByteCount& bytes() const { return bytes_; }

 protected:
  Communicator(int rank, int size) : rank_(rank), size_(size) {}
  ByteCount bytes_;
  std::vector<double> gathered_;

 private:
  int rank_, size_;
};

// Dups MPI_COMM_WORLD; MPI_Init_thread(FUNNELED) must have been called by MpiSession. Error handler: returns, checked, becomes Error.
std::unique_ptr<Communicator> mpi_world();
class MpiSession {  // main() holds one; finalizes unless unwinding. host_rank/host_size: ranks of this host (shared memory).
 public:
  MpiSession(int* argc, char*** argv);
  ~MpiSession();
  int world() const { return world_; }
  int rank() const { return rank_; }
  int host_rank() const { return host_rank_; }
  int host_size() const { return host_size_; }

 private:
  int world_ = 1, rank_ = 0, host_rank_ = 0, host_size_ = 1;
};

// Runs `body(world communicator)` on `world` threads; rethrows the first error of any rank (the others are released with an error that is dropped).
void run_ranks_as_threads(int world, const std::function<void(Communicator&)>& body);

}  // namespace atoll
