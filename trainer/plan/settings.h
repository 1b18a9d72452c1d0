// What `atoll plan` is asked: a recipe (or a preset) with its `plan:` section, a cluster, a calibration. Policy: everything that the planner assumes is a named
// quantity here, with the default's source; a recipe's model, batch and layout are the trainer's own configuration.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "trainer/plan/cluster.h"
#include "trainer/run_config.h"

namespace atoll::plan {

struct ContextStage {  // a later stage of the run with longer sequences
  std::string name;
  int64_t seq_len = 0, global_batch = 0, steps = 0, cp = 1, pp = 0, ep = 0, tp = 0;  // pp, ep, tp 0: as in pre-training
  std::string schedule;                                                              // empty: as in pre-training
  std::string place;                                                                 // file:line
};
struct FleetPart {  // of the owner's machines, for the total cost of ownership
  std::string gpu, source;
  double count = 0, server = 0, operation = 0;  // dollars a GPU: purchase, and operation over tco.years
};
struct Published {  // a number that others published, beside ours
  std::string item, source;
  double value = 0;
};

struct PlanInput {
  std::string name;  // of the recipe
  RunConfig run;
  bool is_batch_chosen = false;  // train.global_batch is nobody's: a preset names none
  Sheet plan;
  Cluster cluster;
  Calibration calibration;
  std::vector<ContextStage> context;
  std::vector<FleetPart> fleet;
  std::vector<Published> published;

  int64_t gpus() const;
  int64_t dp() const;         // data-parallel ranks
  int64_t sequences() const;  // the global batch is a multiple of so many
  std::string schedule() const;
  int chunks() const;  // stages a rank
};
// Another value of a key of the plan; what is said of its source stays.
void set_text(PlanInput& in, const std::string& key, const std::string& text);
void set_number(PlanInput& in, const std::string& key, double number);

// Multiprocessors that the exchange kernels hold in another schedule than the plan's: none where exchanges are exposed; beside computation what the plan says,
// or, where it says nothing and the device is a GPU, the 20 of the DeepSeek-V3 report, section 3.2.2.
double comm_sms_of(const PlanInput& base, const std::string& overlap);

struct PlanFolders {
  std::string recipes, clusters, calibration;
};
const std::vector<SheetKey>& plan_schema();
// what: FOLDER/NAME.yaml by name, a file.yaml, or a model preset. arguments: cluster=NAME, cluster.KEY=..., plan.KEY=..., and keys of the run configuration.
// for_search: a layout that cannot be built is no error.
PlanInput load_plan(const std::string& what, const std::vector<std::string>& arguments, const PlanFolders& folders, bool for_search = false);
// What is wrong with a recipe's plan section, for those who do not plan: `atoll train` refuses it too.
Errors plan_section_errors(const YamlNode& section, const std::string& file);
// What cannot be laid out on the cluster, all at once, with the numbers; empty: it can. Throws nothing.
std::vector<std::string> layout_problems(const PlanInput& input);
std::string plan_reference();  // the keys, for docs/planning.md

}  // namespace atoll::plan
