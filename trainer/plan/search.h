// atoll plan --search: layouts, schedules, recomputation and layer partitions under the memory limit, each priced by the same simulator and walk as the page.
// Policy: nothing is scored by a rule of thumb: what is left out cannot be built, cannot fit, or cannot be better than what was priced (search_space.h).
#pragma once
#include <functional>

#include "trainer/plan/report.h"

namespace atoll::plan {

struct Candidate {
  PlanInput in;
  int64_t gpus = 0;
  double step = 0, tokens_per_gpu_second = 0, memory = 0, bubble = 0, exposed = 0, optimizer = 0, messages = 0, host = 0;
  std::string text;      // "pp 16 dp 128 tp 1 ep 64, dualpipe, ..."
  std::string bound_by;  // what takes most of a step beside computation
};
struct Search {
  PlanInput in;
  Candidate given;              // the best one, where what was given cannot be built
  std::string why_not_given;    // empty: it can
  std::vector<Candidate> front;                                  // Pareto: nothing else is faster in as little memory on as few devices; fastest first
  int64_t tried = 0, impossible = 0, too_large = 0, beaten = 0;  // simulated; cannot be built; cannot fit; cannot be better than one that was priced
  double seconds = 0;
  double step_with_more_memory = 0, step_with_more_bandwidth = 0;  // one GB, one GB/s
  std::vector<std::string> hinges;                                 // what would turn the order of the best and the given one
};
// progress, if there is one, is called with (meshes done, meshes in all) as the search goes on.
Search search_layouts(const PlanInput& input, const std::function<void(size_t, size_t)>& progress = {});
std::string search_text(const Search& search);
std::string search_json(const Search& search);
std::string search_svg(const Search& search);  // the front as a curve of time over memory, and the table

}  // namespace atoll::plan
