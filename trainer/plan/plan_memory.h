// Memory of each pipeline rank of a plan, by segment, with the moment of its peak. Policy: the same replay and walk as the trainer's forecast; only caches and
// recomputation differ.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "trainer/plan/memory_walk.h"
#include "trainer/plan/step_time.h"

namespace atoll::plan {

struct RankMemory {
  double weights = 0, grads = 0, optimizer = 0, activations = 0, routed = 0, reserve = 0;  // activations and routed at the peak of their sum
  double peak_time = 0;                                                                    // s after the step's begin
  std::string moment;
  int peak_action = -1;  // in the rank's list
  int live = 0;          // micro-batches that hold activations then
  double shared = 0, experts = 0, tables = 0;  // parameters of its stages; of the shared ones the embedding's and the head's
  double gathered = 0, unreduced = 0;          // ZeRO-3: of weights, the layers that compute or are being gathered; of grads, those not yet reduced
  double total() const { return weights + grads + optimizer + activations + routed + reserve; }
};
// routing: balanced, zipf or worst.
std::vector<RankMemory> plan_memory(const PlanInput& input, const StepPrediction& step, const std::string& routing);
// Stages that plans of one model share: alike in what they hold, in shape and in recomputation.
class StageMemories {
 public:
  std::shared_ptr<const StageMemory> get(const PlanInput& input, const Priced& priced, const StageSpec& spec, const MemoryShape& shape);

 private:
  using Key = std::tuple<int64_t, int, int, int, int, double, std::vector<std::string>, std::string, int64_t, int64_t, bool, bool, int64_t>;
  std::mutex mutex_;
  std::map<Key, std::shared_ptr<const StageMemory>> known_;
};
// The fullest rank's bytes; where a rank holds too much already, is_enough ends the walk there.
double fullest_bytes(const PlanInput& input, const StepPrediction& step, StageMemories& known, const std::function<bool(double)>& is_enough);
MemoryShape memory_shape(const PlanInput& input, const Priced& priced, double imbalance);
const RankMemory& fullest(const std::vector<RankMemory>& ranks);
void explain_memory(const PlanInput& input, const StepPrediction& step, const std::vector<RankMemory>& ranks, Ledger& ledger);

}  // namespace atoll::plan
