// One launch in flight, resumable: each step gives every resident cluster one pass over its warps, so that the stream engine can let other launches,
// copies and host functions happen in between. A launch belongs to one Execution; with several host threads it runs whole in the first step.
#pragma once
#include "tests/gpusim/machine.h"

namespace atoll::gpusim {

class Execution {
 public:
  // world: counts what any launch or operation has achieved; a kernel that spins while it grows is waiting, not hung.
  Execution(Launch& launch, u64& world);
  ~Execution();
  bool step();                       // false: the launch is over
  int finish(std::string& report);   // prints the counters; 0 or an Err
  void abandon();                    // another operation has failed: the device is lost
  std::string waits() const;         // where each warp is
  double seconds = 0;                // spent in its steps

 private:
  struct State;
  std::unique_ptr<State> s_;
};

}  // namespace atoll::gpusim
