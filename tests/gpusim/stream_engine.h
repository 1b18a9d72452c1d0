// Streams as queues of launches, copies, fills and event records, run as they are issued; or (GPUSIM_ASYNC_STREAMS) when the program waits for something,
// in a random order that respects nothing but the streams, the events and the default stream's rules: several launches are in flight, and whatever is
// ready of other streams happens between their steps. One instance, behind the C API.
#pragma once
#include <deque>
#include <functional>
#include <memory>

#include "tests/gpusim/execution.h"

namespace atoll::gpusim {

class StreamEngine {
 public:
  static constexpr int kLegacy = 0;  // the default stream: orders itself with every blocking stream
  struct Mark {                      // a point of a stream
    int stream = 0;
    u32 seq = 0;
    std::vector<u32> before;  // by stream: what is ordered before the point, itself included
  };

  StreamEngine();
  int create(bool blocking);
  // run gets the launch, returns 0 or an Err; it sees launch.op and launch.before. Null: a kernel.
  void enqueue(int stream, std::shared_ptr<Launch> launch, std::function<int(Launch&)> run);
  Mark tail(int stream);
  void wait(int stream, const Mark& m);  // later work of the stream comes after m
  bool poll(const Mark& m);              // has it happened? makes some progress first
  void synchronize(const Mark& m);       // the host waits
  void synchronize_all();
  bool idle() const;
  std::recursive_mutex& mutex() { return mu_; }

 private:
  struct Op {
    std::shared_ptr<Launch> launch;
    std::function<int(Launch&)> run;
    std::vector<std::pair<int, u32>> waits;
  };
  struct Queue {
    bool blocking = true, busy = false;  // busy: its oldest operation is in flight
    std::deque<Op> ops;
    u32 issued = 0, done = 0;
    std::vector<u32> before;                 // of the newest operation, itself included
    std::vector<std::pair<int, u32>> waits;  // of the next operation
  };
  struct Flight {  // a kernel that has begun
    int stream;
    std::shared_ptr<Launch> launch;
    std::unique_ptr<Execution> run;
  };
  std::vector<int> ready() const;  // streams whose next operation may begin
  bool advance(u64 steps);         // begins an operation, or gives a launch in flight some steps; false when there is nothing to do
  void begin(int stream);
  void advance_flight(size_t k, u64 steps);
  void complete(int stream, Launch& l, int error);
  void synced();
  std::recursive_mutex mu_;
  std::deque<Queue> queues_;
  std::vector<u32> host_;  // what the host has waited for
  std::vector<Flight> flights_;
  u64 world_ = 0;    // see Execution
  size_t turn_ = 0;  // without a seed launches take turns
  std::mt19937_64 rng_;
};
StreamEngine& streams();

bool op_seen(const std::vector<u32>& before, u32 op);
std::string op_name(u32 op);
const std::vector<u32>& op_order(u32 op);  // by stream: what comes before the end of an operation, itself included

}  // namespace atoll::gpusim
