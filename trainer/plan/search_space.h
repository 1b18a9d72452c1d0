// The space that a search goes through, layout by layer of choices, and what keeps it short: bounds that no schedule can beat. Policy: a candidate is left out
// only where it cannot be built, where what it holds at least does not fit, or where its computation alone takes longer than a priced layout that needs no more
// memory and devices.
#pragma once
#include <map>
#include <memory>

#include "trainer/plan/search.h"

namespace atoll::plan {

// What is known of the best so far: points that nothing known beats.
struct FrontPoint {
  double step = 0, memory = 0;
  int64_t gpus = 0;
};
class Front {
 public:
  void add(const FrontPoint& p);
  // Whether something known is as fast in as little on as few devices; least: bounds.
  bool beats(const FrontPoint& least) const;

 private:
  std::vector<FrontPoint> points_;
};

struct SpaceCounts {
  int64_t impossible = 0, too_large = 0, beaten = 0;
};
// Meshes of so many devices: pp, tp, cp, ep, those first whose schedules are short.
std::vector<MeshSizes> meshes_of(const PlanInput& input, int64_t gpus);
// What is worth pricing of one mesh: micro-batch, recomputation, schedule with its overlap, ZeRO, dispatch form.
std::vector<Candidate> candidates_of(const PlanInput& input, int64_t gpus, const MeshSizes& mesh, const Front& front, SpaceCounts& counts);
std::string describe(const PlanInput& input);
std::string schedule_text(const PlanInput& input);  // "interleaved x4 overlapped"
// Seconds of computation that the busiest rank has at least.
double least_pipeline(const PlanInput& input, const ChunkModel& model);

}  // namespace atoll::plan
