// A whole plan: step, memory, money, other choices beside it; as a page and as JSON. Policy: the page prints what the ledger holds.
#pragma once
#include <functional>

#include "trainer/plan/money.h"
#include "trainer/plan/plan_memory.h"

namespace atoll::plan {

struct Choice {  // the same plan with one thing changed
  std::string name;
  double step = 0, bubble = 0, exposed = 0, optimizer = 0, memory = 0;
  double copies = 0;  // of a token that leave its node, in one exchange
  bool fits = false;
  std::string problem;  // why it cannot be built; the numbers are then nothing
};

struct Report {
  PlanInput in;
  StepPrediction step;
  std::vector<StepPrediction> context;                         // of in.context, which holds those that can be laid out
  std::vector<double> context_memory;                          // bytes of the fullest rank
  std::vector<std::string> context_problems;                   // of the others
  std::vector<RankMemory> memory;                              // of the plan's routing
  std::vector<std::pair<std::string, RankMemory>> by_routing;  // the fullest rank, for balanced, zipf, worst
  std::vector<Choice> choices;                                 // the plan itself first
  double computation = 0, exchanges = 0;                       // of one layer pair
  double step_with_more_bandwidth = 0;                         // one GB/s more between nodes
  Ledger ledger;
};
Report make_report(const PlanInput& input, bool with_choices);
std::string report_text(const Report& report);
std::string report_json(const Report& report);

// What it would take, with these quantities of the plan changed ("schedule=zb-h1") or the layout's.
Choice price_choice(const PlanInput& input, const std::string& name, const std::function<void(PlanInput&)>& change);

}  // namespace atoll::plan
