// Rules between keys: what can be said without knowing the number of ranks.
#include <algorithm>
#include <numeric>
#include <sstream>

#include "kernels/base/error.h"
#include "parallel/schedule.h"
#include "trainer/config_schema.h"
#include "trainer/config_values.h"
#include "trainer/schedule_file.h"

namespace atoll {
namespace {

class Problems {
 public:
  template <class T>
  void require(bool holds, const std::string& key, const T& value, const std::string& why) {
    if (holds) return;
    std::ostringstream text;
    text << key << " = " << value << ": " << why;
    list.push_back({key, text.str()});
  }
  // "key = value: why" of a part of the configuration that does not know its section.
  void adopt(const std::string& section, const std::vector<std::string>& lines) {
    for (const std::string& line : lines) list.push_back({section + line.substr(0, line.find(' ')), section + line});
  }
  std::vector<ConfigProblem> list;
};

void check_points(Problems& p, const std::string& key, const PiecewiseConstant& f) {
  const std::string text = print_points(f.values);
  p.require(!f.values.empty() && f.values[0].at.value == 0 && f.values[0].at.unit != RunPoint::Unit::kEnd, key, text, "the first point must be 0");
  for (size_t i = 0; i < f.values.size(); ++i) {
    if (f.values[i].value < 0) return p.require(false, key, text, "values must not be negative");
    if (i == 0) continue;
    const bool comparable = f.values[i].at.unit == f.values[i - 1].at.unit || i == 1;
    if (!comparable || f.values[i].at.unit == RunPoint::Unit::kEnd || f.values[i].at.value <= f.values[i - 1].at.value)
      return p.require(false, key, text, "points must ascend, all in steps or all in tokens");
  }
}

void check_train(Problems& p, const RunConfig& c) {
  const TrainConfig& t = c.train;
  if (t.steps == 0 && t.tokens == 0) p.require(false, "train.steps", 0, "give the length of the run: train.steps or train.tokens");
  if (t.steps > 0 && t.tokens > 0) p.require(false, "train.tokens", t.tokens, "train.steps is given too; give one of them");
  p.adopt("train.lr.", LrSchedule::problems(t.lr, c.length()));
  check_points(p, "train.mtp_lambda", t.mtp_lambda);
  check_points(p, "train.balance_alpha", t.balance_alpha);
  check_points(p, "train.bias_gamma", t.bias_gamma);
  p.require(t.batch_ramp.start <= t.global_batch, "train.batch_ramp.start", t.batch_ramp.start,
            "larger than train.global_batch = " + std::to_string(t.global_batch));
  p.require(t.batch_ramp.start == 0 || t.batch_ramp.until_tokens > 0, "train.batch_ramp.until_tokens", t.batch_ramp.until_tokens,
            "must be positive where train.batch_ramp.start is given");
  p.require(t.adam.beta1 < 1, "train.adam.beta1", t.adam.beta1, "must be less than 1");
  p.require(t.adam.beta2 < 1, "train.adam.beta2", t.adam.beta2, "must be less than 1");
  p.require(!t.resume.empty(), "train.resume", "\"\"", "must be auto, never, or a checkpoint's folder");
}

void check_layout(Problems& p, const RunConfig& c) {
  const int64_t layers = c.model.num_hidden_layers, pp = c.parallel.mesh.pp;
  const std::string the_layers = std::to_string(layers) + " layers (model.num_hidden_layers" + (c.model.num_nextn_predict_layers > 0 ? "; MTP is on the last stage and is not counted)" : ")");
  p.require(pp <= layers, "parallel.pp", pp, "more stages than the model's " + the_layers);
  int64_t num_stages = pp;
  const bool is_file = is_schedule_file(c.parallel.schedule);  // read at the start of a run, not here: a checkpoint's configuration outlives the file
  p.require(!is_file || c.parallel.vpp == 1, "parallel.vpp", c.parallel.vpp, "the stages of a rank are in the schedule's file: leave it 1");
  if (!is_file) try {  // 2 pp micro-batches are admitted by all: what else is wrong concerns pp and vpp
    const Schedule frame = schedule_frame(c.parallel.schedule, c.parallel.mesh.pp, 2 * c.parallel.mesh.pp, static_cast<int>(c.parallel.vpp));
    num_stages = frame.num_stages;
    p.require(pp > layers || num_stages <= layers, "parallel.schedule", c.parallel.schedule,
              std::to_string(num_stages) + " stages on parallel.pp = " + std::to_string(pp) + " ranks are more than the model's " + the_layers);
  } catch (const ConfigError& e) {
    p.require(false, "parallel.schedule", c.parallel.schedule, e.what());
  }
  const int64_t experts = c.model.n_routed_experts;
  p.require(c.parallel.mesh.ep <= std::max<int64_t>(1, experts), "parallel.ep", c.parallel.mesh.ep,
            experts == 0 ? "the model has no routed experts (model.n_routed_experts): nothing to split, use 1" : "more ranks than the " + std::to_string(experts) + " experts of a layer");
  const std::vector<int64_t>& stages = c.parallel.stage_layers;
  if (stages.empty()) return;
  const std::string text = print_wholes(stages);
  const int64_t sum = std::accumulate(stages.begin(), stages.end(), int64_t{0});
  p.require(is_file || static_cast<int64_t>(stages.size()) == num_stages, "parallel.stage_layers", text,
            std::to_string(stages.size()) + " entries for " + std::to_string(num_stages) + " stages (parallel.pp" + (num_stages == pp ? ")" : " = " + std::to_string(pp) + ", parallel.schedule = " + c.parallel.schedule + ")"));
  p.require(sum == layers, "parallel.stage_layers", text, "sums to " + std::to_string(sum) + ", the model has " + the_layers);
  for (int64_t n : stages)
    if (n < 1) return p.require(false, "parallel.stage_layers", text, "every stage needs at least one layer");
}

}  // namespace

std::vector<ConfigProblem> config_problems(const RunConfig& c) {
  Problems p;
  p.adopt("model.", c.model.problems());
  p.require(c.data.seq_len <= c.model.max_position_embeddings, "data.seq_len", c.data.seq_len,
            "longer than model.max_position_embeddings = " + std::to_string(c.model.max_position_embeddings));
  p.require(c.data.seq_len > c.model.num_nextn_predict_layers, "data.seq_len", c.data.seq_len,
            "MTP of depth " + std::to_string(c.model.num_nextn_predict_layers) + " needs longer sequences");
  const double slots = static_cast<double>(c.train.micro_batch) * static_cast<double>(c.data.seq_len) * static_cast<double>(c.model.n_routed_experts > 0 ? c.model.num_experts_per_tok : 1);
  p.require(slots < 0x1p31, "train.micro_batch", c.train.micro_batch, "times data.seq_len and model.num_experts_per_tok is 2^31 or more; rows are counted in 32 bits");
  check_train(p, c);
  check_layout(p, c);
  const std::string& name = c.run.name;
  p.require(!name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos, "run.name", print_text(name), "must be a plain folder name");
  p.require(!c.run.dir.empty(), "run.dir", "\"\"", "must name a folder");
  return std::move(p.list);
}

}  // namespace atoll
