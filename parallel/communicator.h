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
#include <utility>
#include <vector>

namespace atoll {

struct ByteCount { int64_t sent = 0, received = 0, messages = 0; };  // payload bytes that crossed to another rank; a rank's message to itself is not counted

// A posted operation. Movable; wait() completes it (buffers are free again afterwards); a wait() or test() that throws has ended it too. Its state is pooled in the
// communicator, which must outlive it: posting allocates nothing once the pool has grown. Destroying an unfinished one outside of unwinding ends the program.
class Request {
 public:
  struct State {
    virtual ~State() = default;
    virtual void wait() = 0;
    virtual bool test() = 0;
    virtual void recycle() noexcept = 0;  // back into the pool; an unfinished one is given up instead (only while unwinding)
  };
  Request() = default;  // complete
  explicit Request(State* state) : state_(state) {}
  Request(Request&& other) noexcept : state_(std::exchange(other.state_, nullptr)) {}
  Request& operator=(Request&& other) noexcept {
    if (this != &other) { reset(); state_ = std::exchange(other.state_, nullptr); }
    return *this;
  }
  ~Request() { reset(); }
  void wait();
  bool test();  // true: complete
  explicit operator bool() const { return state_ != nullptr; }

 private:
  void reset() noexcept;
  State* state_ = nullptr;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  int rank() const { return rank_; }
  int size() const { return size_; }

  // channel: 0..15, chosen by the caller; messages of one channel do not overtake each other. Zero bytes are legal and are a message. A receive of another size
  // than was sent is an Error at the receiver.
  virtual Request isend(const void* data, int64_t bytes, int destination, int channel) = 0;
  virtual Request irecv(void* data, int64_t bytes, int source, int channel) = 0;
  void send(const void* data, int64_t bytes, int destination, int channel) { isend(data, bytes, destination, channel).wait(); }
  void recv(void* data, int64_t bytes, int source, int channel) { irecv(data, bytes, source, channel).wait(); }

  // Counts and displacements in bytes, one entry a rank. Bytes [send_begin[r], + send_bytes[r]) of `send` go to rank r. The spans are read at posting; the two
  // buffers must live until wait(). Posting blocks on nothing.
  virtual Request iall_to_all_v(const void* send, std::span<const int64_t> send_bytes, std::span<const int64_t> send_begin, void* recv, std::span<const int64_t> recv_bytes,
                                std::span<const int64_t> recv_begin) = 0;
  // Each rank's `bytes` land at recv + r * bytes (own part included; it may already lie there). A flat exchange, and counted as one: bytes * (size - 1).
  virtual void all_gather(const void* send, int64_t bytes, void* recv);
  virtual void all_gather_v(const void* send, int64_t bytes, void* recv, std::span<const int64_t> recv_bytes, std::span<const int64_t> recv_begin);
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
  void check_peer(const char* call, int peer, int64_t bytes, int channel) const;
  void check_counts(const char* call, std::span<const int64_t> bytes, std::span<const int64_t> begin) const;
  void count_sent(int64_t bytes, int destination) { if (destination != rank_) { bytes_.sent += bytes; ++bytes_.messages; } }
  void count_received(int64_t bytes, int source) { if (source != rank_) bytes_.received += bytes; }
  ByteCount bytes_;

 private:
  template <class T>
  std::span<const T> gather_values(std::span<const T> values);  // [rank, value]

  int rank_, size_;
  std::vector<std::byte> gathered_;
  std::vector<int64_t> gather_bytes_, gather_zeros_, gather_recv_bytes_, gather_recv_begin_;
};
inline constexpr int kNumChannels = 16;

// main() holds one. MPI_Init_thread(FUNNELED) only where a launcher has set OMPI_COMM_WORLD_SIZE, PMIX_RANK or PMI_RANK: without one the program is a world of one
// rank and never starts MPI (a singleton start costs seconds and a daemon). Finalizes unless unwinding. host_rank/host_size: ranks of this host (shared memory).
// host_cores: the cores that the ranks of this host may use between them, after a binding that mpirun made unasked was widened (cores.h).
class MpiSession {
 public:
  MpiSession(int* argc, char*** argv);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;
  int world() const { return world_; }
  int rank() const { return rank_; }
  int host_rank() const { return host_rank_; }
  int host_size() const { return host_size_; }
  int host_cores() const { return host_cores_; }
  int widened_from() const { return widened_from_; }  // cores this rank was bound to; 0: nothing was widened

 private:
  int world_ = 1, rank_ = 0, host_rank_ = 0, host_size_ = 1, host_cores_ = 1, widened_from_ = 0;
};
// Dups MPI_COMM_WORLD; where MPI was not started, a world of one rank. Error handler: returns, checked, becomes Error. Longer messages than `largest_message`
// travel in parts (MPI counts are ints); both ends must use the same bound.
std::unique_ptr<Communicator> mpi_world(int64_t largest_message = int64_t{1} << 30);
// Flushes the logs and ends the whole job at once with this code, with or without MPI. What main() does with an error that left the rank.
[[noreturn]] void abort_job(int exit_code);

// A world of one rank without MPI; its abort() ends the process.
std::unique_ptr<Communicator> one_rank_world();
// Runs `body(world communicator)` on `world` threads; rethrows the first error of any rank, "rank 3: " before its message (the others are released with an error that is dropped).
void run_ranks_as_threads(int world, const std::function<void(Communicator&)>& body);

}  // namespace atoll
