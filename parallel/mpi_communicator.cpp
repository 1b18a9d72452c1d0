// Communicator on MPI; the only source that includes mpi.h. Policy: every call is checked (MPI_ERRORS_RETURN) and its failure is an Error naming call, rank, peer, bytes and
// MPI's text. Collectives that carry variable counts are flat exchanges of point-to-point messages: no int limits, nothing is reduced inside MPI.
#define OMPI_SKIP_MPICXX 1  // the C interface only
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <thread>

#include "kernels/base/error.h"
#include "kernels/base/handle.h"
#include "kernels/base/log.h"
#include "parallel/communicator.h"
#include "parallel/cores.h"
#include "parallel/request_pool.h"

namespace atoll {
namespace {
constexpr int kCollectiveTag = kNumChannels;
constexpr int kPollsBeforeSleep = 20, kSleepMicroseconds = 30;

std::string mpi_text(int code) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  return {text, static_cast<size_t>(length)};
}
void check_mpi(int code, const char* call, int rank, int peer = -1, int64_t bytes = -1) {
  if (code == MPI_SUCCESS) return;
  throw Error(detail::concat(call, " failed on rank ", rank, peer >= 0 ? detail::concat(", peer ", peer) : "", bytes >= 0 ? detail::concat(", ", bytes, " bytes") : "", ": ", mpi_text(code)));
}
bool mpi_is_up() {
  int initialized = 0, finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  return initialized && !finalized;
}
struct CommTraits {
  using type = MPI_Comm;
  static type null() { return MPI_COMM_NULL; }
  static void destroy(type comm) noexcept {
    if (std::uncaught_exceptions() == 0 && mpi_is_up()) MPI_Comm_free(&comm);  // collective: a failing rank must not wait for the others here
  }
};
using CommHandle = Handle<CommTraits>;

int rank_of(MPI_Comm comm) { int rank = 0; check_mpi(MPI_Comm_rank(comm, &rank), "MPI_Comm_rank", -1); return rank; }
int size_of(MPI_Comm comm) { int size = 0; check_mpi(MPI_Comm_size(comm, &size), "MPI_Comm_size", -1); return size; }

// The cores that these ranks of one host may use between them.
int cores_of_ranks(MPI_Comm on_host) {
  const CoreMask mine = cores_of_process();
  CoreMask all{};
  check_mpi(MPI_Allreduce(mine.data(), all.data(), static_cast<int>(mine.size()), MPI_UINT64_T, MPI_BOR, on_host), "MPI_Allreduce", -1);
  return num_cores(all) > 0 ? num_cores(all) : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
}

class MpiCommunicator final : public Communicator {
 public:
  // is_crowded: this host has more ranks than cores.
  MpiCommunicator(CommHandle comm, int64_t largest_message, bool is_crowded)
      : Communicator(rank_of(comm.get()), atoll::size_of(comm.get())), comm_(std::move(comm)), largest_(largest_message), is_crowded_(is_crowded) {
    check_mpi(MPI_Comm_set_errhandler(comm_.get(), MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler", rank());
    constexpr size_t kOutstanding = 8;  // a pipeline's sends, rows and weights of a dispatch, a collective
    pool_.reserve(kOutstanding, this);
  }
  Request isend(const void* data, int64_t bytes, int destination, int channel) override {
    check_peer("isend", destination, bytes, channel);
    Posted* state = new_state("isend");
    Request request(state);
    post_send(*state, data, bytes, destination, channel);
    return request;
  }
  Request irecv(void* data, int64_t bytes, int source, int channel) override {
    check_peer("irecv", source, bytes, channel);
    Posted* state = new_state("irecv");
    Request request(state);
    post_receive(*state, data, bytes, source, channel);
    return request;
  }
  Request iall_to_all_v(const void* send, std::span<const int64_t> send_bytes, std::span<const int64_t> send_begin, void* recv, std::span<const int64_t> recv_bytes,
                        std::span<const int64_t> recv_begin) override;
  void broadcast(void* data, int64_t bytes, int root) override {
    check_peer("broadcast", root, bytes, 0);
    for (int64_t begin = 0; begin < bytes; begin += largest_)
      run_collective("MPI_Ibcast", root, [&](MPI_Request* request) {
        return MPI_Ibcast(static_cast<char*>(data) + begin, static_cast<int>(std::min(largest_, bytes - begin)), MPI_BYTE, root, comm_.get(), request);
      });
    if (rank() != root) return count_received(bytes, root);
    for (int r = 0; r < size(); ++r) count_sent(bytes, r);
  }
  void barrier() override {
    run_collective("MPI_Ibarrier", 0, [&](MPI_Request* request) { return MPI_Ibarrier(comm_.get(), request); });
  }
  std::unique_ptr<Communicator> split(int color, int key) override {
    ATOLL_CHECK(color >= 0, "split on rank ", rank(), ": color ", color, " is negative");
    MPI_Comm part = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split(comm_.get(), color, key, &part), "MPI_Comm_split", rank());
    return std::make_unique<MpiCommunicator>(CommHandle(part), largest_, is_crowded_);
  }
  [[noreturn]] void abort(int exit_code) override { abort_job(exit_code); }

 private:
  struct Part { int peer; int bytes; bool receives; };
  struct Posted final : Request::State {
    explicit Posted(MpiCommunicator* owner_) : owner(owner_) {  // room for an exchange with all, whatever it is used for first
      const size_t messages = 2 * static_cast<size_t>(owner->size());
      requests.reserve(messages);
      statuses.reserve(messages);
      parts.reserve(messages);
    }
    void wait() override {
      if (owner->is_crowded_) return sleep_until_done();
      finish(MPI_Waitall(static_cast<int>(requests.size()), requests.data(), statuses.data()), "MPI_Waitall");
    }
    bool test() override {
      int done = 0;
      const int code = MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, statuses.data());
      if (code == MPI_SUCCESS && !done) return false;
      finish(code, "MPI_Testall");
      return true;
    }
    // A rank that spins takes the core from the rank it waits for. Open MPI's yielding is not enough: the scheduler hands spinners their full share.
    void sleep_until_done() {
      for (int polls = 0; polls < kPollsBeforeSleep; ++polls)
        if (test()) return;
      while (!test()) std::this_thread::sleep_for(std::chrono::microseconds(kSleepMicroseconds));
    }
    void recycle() noexcept override {
      // MPI may still touch the buffers of an unfinished request: it is never reused. The rank is about to abort the job.
      if (std::all_of(requests.begin(), requests.end(), [](MPI_Request r) { return r == MPI_REQUEST_NULL; })) owner->pool_.give_back(this);
    }
    void finish(int code, const char* wait_call);

    MpiCommunicator* owner;
    const char* call = "";
    std::vector<MPI_Request> requests;
    std::vector<MPI_Status> statuses;
    std::vector<Part> parts;
  };
  Posted* new_state(const char* call) {
    Posted* state = pool_.take(this);
    state->call = call;
    state->requests.clear();
    state->statuses.clear();
    state->parts.clear();
    return state;
  }
  // MPI's own collectives, waited for as messages are: a blocking one would spin where ranks outnumber the cores.
  template <class Post>
  void run_collective(const char* call, int root, Post&& post) {
    Posted* state = new_state(call);
    Request request(state);
    state->requests.push_back(MPI_REQUEST_NULL);
    state->statuses.emplace_back();
    state->parts.push_back({root, 0, false});
    check_mpi(post(&state->requests.back()), call, rank(), root);
    request.wait();
  }
  // One message, or ceil(bytes / largest) parts of one: both ends derive the same parts.
  template <class Post>
  void post_parts(Posted& state, const char* call, int64_t bytes, int peer, bool receives, Post&& post) {
    int64_t begin = 0;
    do {
      const int part = static_cast<int>(std::min(largest_, bytes - begin));
      state.requests.push_back(MPI_REQUEST_NULL);
      state.statuses.emplace_back();
      state.parts.push_back({peer, part, receives});
      check_mpi(post(begin, part, &state.requests.back()), call, rank(), peer, bytes);
      begin += part;
    } while (begin < bytes);
  }
  void post_send(Posted& state, const void* data, int64_t bytes, int destination, int tag) {
    count_sent(bytes, destination);
    post_parts(state, "MPI_Isend", bytes, destination, false, [&](int64_t begin, int part, MPI_Request* request) {
      return MPI_Isend(static_cast<const char*>(data) + begin, part, MPI_BYTE, destination, tag, comm_.get(), request);
    });
  }
  void post_receive(Posted& state, void* data, int64_t bytes, int source, int tag) {
    count_received(bytes, source);
    post_parts(state, "MPI_Irecv", bytes, source, true, [&](int64_t begin, int part, MPI_Request* request) {
      return MPI_Irecv(static_cast<char*>(data) + begin, part, MPI_BYTE, source, tag, comm_.get(), request);
    });
  }

  CommHandle comm_;
  int64_t largest_;
  bool is_crowded_;
  RequestPool<Posted> pool_;
};

void MpiCommunicator::Posted::finish(int code, const char* wait_call) {
  const std::string where = code == MPI_SUCCESS ? "" : detail::concat(wait_call, " of ", call);
  for (size_t i = 0; code == MPI_ERR_IN_STATUS && i < parts.size(); ++i)
    if (statuses[i].MPI_ERROR != MPI_SUCCESS && statuses[i].MPI_ERROR != MPI_ERR_PENDING)
      check_mpi(statuses[i].MPI_ERROR, where.c_str(), owner->rank(), parts[i].peer, parts[i].bytes);
  check_mpi(code, where.c_str(), owner->rank());
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!parts[i].receives) continue;
    int bytes = 0;
    check_mpi(MPI_Get_count(&statuses[i], MPI_BYTE, &bytes), "MPI_Get_count", owner->rank(), parts[i].peer);
    ATOLL_CHECK(bytes == parts[i].bytes, call, " on rank ", owner->rank(), " from rank ", parts[i].peer, ": expected ", parts[i].bytes, " bytes, ", bytes, " were sent");
  }
}

Request MpiCommunicator::iall_to_all_v(const void* send, std::span<const int64_t> send_bytes, std::span<const int64_t> send_begin, void* recv, std::span<const int64_t> recv_bytes,
                                       std::span<const int64_t> recv_begin) {
  check_counts("iall_to_all_v (send)", send_bytes, send_begin);
  check_counts("iall_to_all_v (recv)", recv_bytes, recv_begin);
  ATOLL_CHECK(send_bytes[rank()] == recv_bytes[rank()], "iall_to_all_v on rank ", rank(), ": ", send_bytes[rank()], " bytes to itself, ", recv_bytes[rank()], " expected");
  Posted* state = new_state("iall_to_all_v");
  Request request(state);
  char* to = static_cast<char*>(recv);
  const char* from = static_cast<const char*>(send);
  for (int step = 1; step < size(); ++step) {
    const int source = (rank() - step + size()) % size();
    post_receive(*state, to + recv_begin[source], recv_bytes[source], source, kCollectiveTag);
  }
  for (int step = 1; step < size(); ++step) {
    const int destination = (rank() + step) % size();
    post_send(*state, from + send_begin[destination], send_bytes[destination], destination, kCollectiveTag);
  }
  if (send_bytes[rank()] > 0) std::memmove(to + recv_begin[rank()], from + send_begin[rank()], static_cast<size_t>(send_bytes[rank()]));
  return request;
}
}  // namespace

std::unique_ptr<Communicator> mpi_world(int64_t largest_message) {
  ATOLL_CHECK(largest_message >= 1 && largest_message <= (int64_t{1} << 30), "largest message of ", largest_message, " bytes; MPI takes 1 to 2^30");
  if (!mpi_is_up()) return one_rank_world();
  MPI_Comm copy = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &copy), "MPI_Comm_dup", rank_of(MPI_COMM_WORLD));
  MPI_Comm on_host = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &on_host), "MPI_Comm_split_type", -1);
  const CommHandle host(on_host);
  const bool is_crowded = atoll::size_of(host.get()) > cores_of_ranks(host.get());
  return std::make_unique<MpiCommunicator>(CommHandle(copy), largest_message, is_crowded);
}

MpiSession::MpiSession(int* argc, char*** argv) : host_cores_(std::max(1, num_cores(cores_of_process()))) {
  const auto is_set = [](const char* name) { return std::getenv(name) != nullptr; };
  if (!is_set("OMPI_COMM_WORLD_SIZE") && !is_set("PMIX_RANK") && !is_set("PMI_RANK")) return;
  int provided = 0;
  check_mpi(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread", -1);
  ATOLL_CHECK(provided >= MPI_THREAD_FUNNELED, "this MPI library offers thread level ", provided, " only; MPI_THREAD_FUNNELED is needed");
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler", -1);
  world_ = atoll::size_of(MPI_COMM_WORLD);
  rank_ = rank_of(MPI_COMM_WORLD);
  MPI_Comm host = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &host), "MPI_Comm_split_type", rank_);
  const CommHandle handle(host);
  host_rank_ = rank_of(host);
  host_size_ = atoll::size_of(host);
  const int bound = host_cores_;
  if (widen_binding(host_size_)) widened_from_ = bound;
  host_cores_ = cores_of_ranks(host);
}

MpiSession::~MpiSession() {
  if (std::uncaught_exceptions() == 0 && mpi_is_up()) MPI_Finalize();  // an unwinding rank ends by abort_job(): MPI_Finalize would wait for the others
}

void abort_job(int exit_code) {
  log::flush();
  if (mpi_is_up()) MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

}  // namespace atoll
