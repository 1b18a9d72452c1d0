// Ranks as threads of one process: for tests, the debugger, and worlds of one rank. Policy: a send is copied into the receiver's inbox at once; the receiver's own
// thread copies it out, matched by sequence number, so no thread ever writes another rank's buffers. The first error of any rank releases all others.
// Messages under way lie in the transport's memory, as MPI's do: how many there are at once depends on timing, so their growth counts as a library's (LibraryCall).
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#include "kernels/base/error.h"
#include "kernels/base/library_call.h"
#include "kernels/base/log.h"
#include "parallel/communicator.h"
#include "parallel/request_pool.h"

namespace atoll {
namespace {
constexpr int kCollectiveChannel = kNumChannels, kAllChannels = kNumChannels + 1;

struct Block {
  std::unique_ptr<char[]> data;
  int64_t capacity = 0;
};
struct Message {
  uint64_t sequence;
  int64_t bytes;
  Block block;
};
struct Queue {  // of one (source, channel)
  std::vector<Message> messages;
  uint64_t num_sent = 0;
};
struct Inbox {
  std::mutex mutex;
  std::condition_variable arrived;
  std::vector<Queue> queues;
  std::vector<Block> free;

  Block take(int64_t bytes) {  // the smallest free block that is large enough
    auto best = free.end();
    for (auto it = free.begin(); it != free.end(); ++it)
      if (it->capacity >= bytes && (best == free.end() || it->capacity < best->capacity)) best = it;
    if (best == free.end()) return {std::make_unique<char[]>(static_cast<size_t>(bytes)), bytes};
    Block block = std::move(*best);
    *best = std::move(free.back());
    free.pop_back();
    return block;
  }
};

struct World;
struct Group {
  Group(std::vector<int> ranks) : world_ranks(std::move(ranks)), inboxes(world_ranks.size()) {
    for (Inbox& inbox : inboxes) inbox.queues.resize(world_ranks.size() * kAllChannels);
  }
  std::vector<int> world_ranks;
  std::vector<Inbox> inboxes;
};

struct World {
  explicit World(int size, bool ends_process_) : finished(static_cast<size_t>(size)), ends_process(ends_process_) {}
  std::vector<std::atomic<bool>> finished;  // ranks whose body has returned: nothing more will come from them
  std::atomic<bool> failed{false};
  const bool ends_process;  // abort() ends the process instead of throwing
  std::mutex mutex;         // taken before an inbox's, never after
  std::vector<std::weak_ptr<Group>> groups;
  std::map<std::tuple<const Group*, int, int>, std::pair<std::shared_ptr<Group>, int>> splitting;  // (parent, number of the split, color) -> group, members that took it

  void wake_all() {
    const std::lock_guard lock(mutex);
    for (auto& weak : groups)
      if (const auto group = weak.lock())
        for (Inbox& inbox : group->inboxes) {
          { const std::lock_guard inbox_lock(inbox.mutex); }  // a waiter is either before its test or asleep
          inbox.arrived.notify_all();
        }
  }
  void fail() {
    failed = true;
    wake_all();
  }
};

struct Released : Error {
  explicit Released(int rank) : Error(detail::concat("rank ", rank, " was released: another rank failed")) {}
};

class ThreadsCommunicator final : public Communicator {
 public:
  ThreadsCommunicator(std::shared_ptr<World> world, std::shared_ptr<Group> group, int rank)
      : Communicator(rank, static_cast<int>(group->world_ranks.size())), world_(std::move(world)), group_(std::move(group)),
        num_posted_(static_cast<size_t>(size()) * kAllChannels) {}

  Request isend(const void* data, int64_t bytes, int destination, int channel) override {
    check_peer("isend", destination, bytes, channel);
    count_sent(bytes, destination);
    put(data, bytes, destination, channel);
    return {};
  }
  Request irecv(void* data, int64_t bytes, int source, int channel) override {
    check_peer("irecv", source, bytes, channel);
    count_received(bytes, source);
    Receives* state = new_state();
    state->list.push_back(post(data, bytes, source, channel));
    return Request(state);
  }
  Request iall_to_all_v(const void* send, std::span<const int64_t> send_bytes, std::span<const int64_t> send_begin, void* recv, std::span<const int64_t> recv_bytes,
                        std::span<const int64_t> recv_begin) override {
    check_counts("iall_to_all_v (send)", send_bytes, send_begin);
    check_counts("iall_to_all_v (recv)", recv_bytes, recv_begin);
    Receives* state = new_state();
    Request request(state);
    for (int step = 0; step < size(); ++step) {
      const int to = (rank() + step) % size(), from = (rank() - step + size()) % size();
      count_sent(send_bytes[to], to);
      count_received(recv_bytes[from], from);
      put(static_cast<const char*>(send) + send_begin[to], send_bytes[to], to, kCollectiveChannel);
      state->list.push_back(post(static_cast<char*>(recv) + recv_begin[from], recv_bytes[from], from, kCollectiveChannel));
    }
    return request;
  }
  void broadcast(void* data, int64_t bytes, int root) override {
    check_peer("broadcast", root, bytes, 0);
    if (rank() == root) {
      for (int r = 0; r < size(); ++r)
        if (r != root) { count_sent(bytes, r); put(data, bytes, r, kCollectiveChannel); }
    } else {
      count_received(bytes, root);
      take(post(data, bytes, root, kCollectiveChannel), true);
    }
  }
  void barrier() override {
    for (int r = 0; r < size(); ++r) put(nullptr, 0, r, kCollectiveChannel);
    for (int r = 0; r < size(); ++r) take(post(nullptr, 0, r, kCollectiveChannel), true);
  }
  std::unique_ptr<Communicator> split(int color, int key) override;
  [[noreturn]] void abort(int exit_code) override {
    log::flush();
    if (world_->ends_process) std::_Exit(exit_code);
    world_->fail();
    throw Error(detail::concat("rank ", rank(), " aborted the job with exit code ", exit_code), static_cast<ExitCode>(exit_code));
  }

 private:
  struct Receive { void* data; int64_t bytes; int source, channel; uint64_t sequence; };
  struct Receives final : Request::State {
    explicit Receives(ThreadsCommunicator* owner_) : owner(owner_) {}
    void wait() override { for (; next < list.size(); ++next) owner->take(list[next], true); }
    bool test() override {
      while (next < list.size() && owner->take(list[next], false)) ++next;
      return next == list.size();
    }
    void recycle() noexcept override { owner->pool_.give_back(this); }
    ThreadsCommunicator* owner;
    std::vector<Receive> list;
    size_t next = 0;
  };
  Receives* new_state() {
    Receives* state = pool_.take(this);
    state->list.clear();
    state->next = 0;
    return state;
  }
  static size_t queue_of(int source, int channel) { return static_cast<size_t>(source * kAllChannels + channel); }
  void put(const void* data, int64_t bytes, int destination, int channel) {
    Inbox& inbox = group_->inboxes[destination];
    {
      const std::lock_guard lock(inbox.mutex);
      if (world_->failed) throw Released(rank());
      const LibraryCall transport;
      Queue& queue = inbox.queues[queue_of(rank(), channel)];
      Block block = inbox.take(bytes);
      if (bytes > 0) std::memcpy(block.data.get(), data, static_cast<size_t>(bytes));
      queue.messages.push_back({queue.num_sent++, bytes, std::move(block)});
    }
    inbox.arrived.notify_all();
  }
  Receive post(void* data, int64_t bytes, int source, int channel) { return {data, bytes, source, channel, num_posted_[queue_of(source, channel)]++}; }
  bool take(const Receive& receive, bool blocks);

  std::shared_ptr<World> world_;
  std::shared_ptr<Group> group_;
  std::vector<uint64_t> num_posted_;
  RequestPool<Receives> pool_;
  int num_splits_ = 0;
};

bool ThreadsCommunicator::take(const Receive& receive, bool blocks) {
  Inbox& inbox = group_->inboxes[rank()];
  std::unique_lock lock(inbox.mutex);
  auto& messages = inbox.queues[queue_of(receive.source, receive.channel)].messages;
  const std::atomic<bool>& source_finished = world_->finished[static_cast<size_t>(group_->world_ranks[receive.source])];
  const auto find = [&] { return std::find_if(messages.begin(), messages.end(), [&](const Message& m) { return m.sequence == receive.sequence; }); };
  if (blocks) inbox.arrived.wait(lock, [&] { return world_->failed || source_finished || find() != messages.end(); });
  if (world_->failed) throw Released(rank());
  const auto it = find();
  if (it == messages.end()) {
    ATOLL_CHECK(!source_finished, "rank ", rank(), " waits for ", receive.bytes, " bytes from rank ", receive.source, " on channel ", receive.channel, ", which has finished without sending them");
    return false;
  }
  const int64_t bytes = it->bytes;
  if (bytes == receive.bytes && bytes > 0) std::memcpy(receive.data, it->block.data.get(), static_cast<size_t>(bytes));
  {
    const LibraryCall transport;
    inbox.free.push_back(std::move(it->block));
  }
  messages.erase(it);
  ATOLL_CHECK(bytes == receive.bytes, "receive on rank ", rank(), " from rank ", receive.source, " on channel ", receive.channel, ": expected ", receive.bytes, " bytes, ", bytes, " were sent");
  return true;
}

std::unique_ptr<Communicator> ThreadsCommunicator::split(int color, int key) {
  const ByteCount before = bytes_;
  std::vector<int64_t> all(2 * static_cast<size_t>(size()));
  const int64_t mine[2] = {color, key};
  all_gather(mine, sizeof mine, all.data());
  bytes_ = before;  // making a group is not payload
  std::vector<std::pair<int64_t, int>> members;  // (key, rank)
  for (int r = 0; r < size(); ++r)
    if (all[2 * static_cast<size_t>(r)] == color) members.emplace_back(all[2 * static_cast<size_t>(r) + 1], r);
  std::sort(members.begin(), members.end());
  const std::lock_guard lock(world_->mutex);
  const auto name = std::tuple{static_cast<const Group*>(group_.get()), num_splits_++, color};
  auto& [group, num_taken] = world_->splitting[name];
  if (!group) {
    std::vector<int> world_ranks;
    for (const auto& member : members) world_ranks.push_back(group_->world_ranks[member.second]);
    group = std::make_shared<Group>(std::move(world_ranks));
    world_->groups.push_back(group);
  }
  const int new_rank = static_cast<int>(std::find(members.begin(), members.end(), std::pair<int64_t, int>{key, rank()}) - members.begin());
  auto result = std::make_unique<ThreadsCommunicator>(world_, group, new_rank);
  if (++num_taken == static_cast<int>(members.size())) world_->splitting.erase(name);
  return result;
}

std::shared_ptr<Group> group_of_all(World& world) {
  std::vector<int> ranks(world.finished.size());
  for (size_t r = 0; r < ranks.size(); ++r) ranks[r] = static_cast<int>(r);
  auto group = std::make_shared<Group>(std::move(ranks));
  world.groups.push_back(group);
  return group;
}
}  // namespace

std::unique_ptr<Communicator> one_rank_world() {
  auto world = std::make_shared<World>(1, true);
  auto group = group_of_all(*world);
  return std::make_unique<ThreadsCommunicator>(std::move(world), std::move(group), 0);
}

namespace {
// The error of the rank that failed, with its rank: the process as a whole has none.
std::exception_ptr with_rank(int rank) {
  const std::string where = "rank " + std::to_string(rank) + ": ";
  try {
    throw;
  } catch (const ConfigError& e) {
    return std::make_exception_ptr(ConfigError(where + e.what()));
  } catch (const DataError& e) {
    return std::make_exception_ptr(DataError(where + e.what()));
  } catch (const Error& e) {
    return std::make_exception_ptr(Error(where + e.what(), e.code()));
  } catch (...) {
    return std::current_exception();
  }
}
}  // namespace

void run_ranks_as_threads(int world_size, const std::function<void(Communicator&)>& body) {
  ATOLL_CHECK(world_size >= 1, "a world of ", world_size, " ranks");
  auto world = std::make_shared<World>(world_size, false);
  const auto group = group_of_all(*world);
  std::mutex mutex;
  std::exception_ptr first;
  const auto rank_main = [&](int rank) {
    try {
      ThreadsCommunicator comm(world, group, rank);
      body(comm);
    } catch (const Released&) {  // the rank that failed reports
    } catch (...) {
      {
        const std::lock_guard lock(mutex);
        if (!first) first = world_size > 1 ? with_rank(rank) : std::current_exception();
      }
      world->fail();
    }
    world->finished[static_cast<size_t>(rank)] = true;
    world->wake_all();
  };
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world_size; ++rank) threads.emplace_back(rank_main, rank);
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
  ATOLL_CHECK(!world->failed, "a rank called abort() and swallowed its error");
}

}  // namespace atoll
