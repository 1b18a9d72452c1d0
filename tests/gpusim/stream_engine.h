// Streams as queues of launches, copies, fills and event records, run when the program waits for something: in issue order, or in a random
// order that respects nothing but the streams, the events and the default stream's rules (GPUSIM_ASYNC_STREAMS). One instance, behind the C API.
#pragma once
#include <deque>
#include <functional>
#include <memory>

#include "tests/gpusim/machine.h"

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
  // run gets the launch, returns 0 or an Err; it sees launch.op and launch.before.
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
    bool blocking = true;
    std::deque<Op> ops;
    u32 issued = 0, done = 0;
    std::vector<u32> before;                 // of the newest operation, itself included
    std::vector<std::pair<int, u32>> waits;  // of the next operation
  };
  bool run_one();
  std::recursive_mutex mu_;
  std::deque<Queue> queues_;
  std::vector<u32> host_;  // what the host has waited for
  std::mt19937_64 rng_;
};
StreamEngine& streams();

bool op_seen(const std::vector<u32>& before, u32 op);
std::string op_name(u32 op);

}  // namespace atoll::gpusim
