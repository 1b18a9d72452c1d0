// The plan's table of quantities, and how a recipe, overrides, cluster and calibration come together. Policy: errors of all of them are collected where that is
// possible.
#include "trainer/plan/settings.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "kernels/base/error.h"
#include "model/config.h"
#include "parallel/schedule.h"
#include "trainer/schedule_file.h"

namespace atoll::plan {
namespace {
const std::vector<SheetKey>& context_schema() {
  using enum Unit;
  static const std::vector<SheetKey> table = {
      {"name", kText, 0, 0, "!", "", "the stage's name"},
      {"seq_len", kCount, 2, 134217728, "!", "", "tokens of a sequence"},
      {"global_batch", kCount, 1, 1e9, "!", "", "sequences of a step"},
      {"steps", kCount, 1, 1e9, "!", "", "optimizer steps"},
      {"cp", kCount, 1, 1e5, "1", "", "context-parallel ranks"},
      {"pp", kCount, 0, 1e5, "0", "", "pipeline ranks; 0: as before"},
      {"ep", kCount, 0, 1e5, "0", "", "expert-parallel ranks; 0: as before"},
      {"tp", kCount, 0, 1e5, "0", "", "tensor-parallel ranks; 0: as before"},
      {"schedule", kText, 0, 0, "", "", "pipeline schedule; empty: as before", schedule_names()},
  };
  return table;
}
const std::vector<SheetKey>& fleet_schema() {
  using enum Unit;
  static const std::vector<SheetKey> table = {
      {"gpu", kText, 0, 0, "!", "", "device"},
      {"count", kCount, 0, 1e9, "!", "", "how many"},
      {"server_per_gpu", kDollars, 0, 1e7, "!", "", "purchase of one with its part of server and network"},
      {"operation_per_gpu", kDollars, 0, 1e7, "!", "", "operation of one over tco.years"},
      {"source", kText, 0, 0, "!", "", "where the figures come from"},
  };
  return table;
}
const std::vector<SheetKey>& published_schema() {
  static const std::vector<SheetKey> table = {
      {"item", Unit::kText, 0, 0, "!", "", "name of a planned number, as --explain takes it"},
      {"value", Unit::kNone, 1e-30, 1e30, "!", "", "what was published, in the base unit (s, $, FLOPS, a fraction)"},
      {"source", Unit::kText, 0, 0, "!", "", "where"},
  };
  return table;
}

const char* kTrace = "DeepSeek's training trace (deepseek-ai/profile-data), counted: recomputation and FP8 casts included";

struct List {
  const char* key;
  const std::vector<SheetKey>& schema;
  const char* name;  // of its keys, the one that names an item; null: items have no name of their own
};
const std::vector<List>& lists() {
  static const std::vector<List> all = {{"context", context_schema(), "name"}, {"fleet", fleet_schema(), "gpu"}, {"published", published_schema(), nullptr}};
  return all;
}

std::vector<Sheet> read_list(const List& list, const YamlNode& plan, const std::string& file, Errors& errors) {
  const std::string path = std::string("plan.") + list.key;
  std::vector<Sheet> sheets = read_sheets(list.schema, plan, list.key, path, file, errors);
  for (size_t i = 0; list.name != nullptr && i < sheets.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      if (const Value& late = sheets[i].at(list.name), &early = sheets[j].at(list.name); !late.text.empty() && late.text == early.text)
        errors.push_back(late.place + ": " + path + ": " + list.name + " = " + late.text + ": given twice, first at " + early.place);
  return sheets;
}

void read_lists(PlanInput& in, const YamlNode& plan, const std::string& file, Errors& errors) {
  const auto whole = [](const Sheet& s, const char* key) { return static_cast<int64_t>(s.number(key)); };
  for (const Sheet& s : read_list(lists()[0], plan, file, errors))
    in.context.push_back({s.text("name"), whole(s, "seq_len"), whole(s, "global_batch"), whole(s, "steps"), whole(s, "cp"), whole(s, "pp"), whole(s, "ep"),
                          whole(s, "tp"), s.text("schedule"), s.at("name").place});
  for (const Sheet& s : read_list(lists()[1], plan, file, errors))
    in.fleet.push_back({s.text("gpu"), s.text("source"), s.number("count"), s.number("server_per_gpu"), s.number("operation_per_gpu")});
  for (const Sheet& s : read_list(lists()[2], plan, file, errors)) in.published.push_back({s.text("item"), s.text("source"), s.number("value")});
}

void read_section(PlanInput& in, YamlNode section, const std::string& file, const std::vector<std::string>& overrides, Errors& errors) {
  if (section.kind == YamlNode::Kind::kScalar || section.kind == YamlNode::Kind::kList) {
    errors.push_back(detail::concat(file, ":", section.line, ": plan: expected keys below it, found ", to_string(section)));
    section = {};
  }
  read_lists(in, section, file, errors);
  for (const char* key : {"context", "fleet", "published", "cluster"}) {  // not on the sheet
    const YamlNode* first = find_entry(section, key);
    for (const auto& [name, node] : section.entries)
      if (name == key && &node != first)
        errors.push_back(detail::concat(file, ":", node.line, ": plan.", key, ": duplicate key, first given at ", file, ":", first->line));
    if (first != nullptr && std::string(key) == "cluster" && first->kind != YamlNode::Kind::kScalar)
      errors.push_back(detail::concat(file, ":", first->line, ": plan.cluster = ", to_string(*first), ": expected a name or a file.yaml"));
    std::erase_if(section.entries, [&](const auto& e) { return e.first == key; });
  }
  Errors of_sheet;
  std::vector<std::string> of_keys;
  for (const std::string& argument : overrides) {
    const std::string key = argument.substr(0, argument.find('='));
    if (key == "cluster")
      errors.push_back("(command line): plan.cluster: on the command line the cluster is cluster=NAME");
    else if (std::any_of(lists().begin(), lists().end(), [&](const List& list) { return key == list.key; }))
      errors.push_back("(command line): plan." + key + ": a list, which stands in a recipe only");
    else
      of_keys.push_back(argument);
  }
  in.plan = read_sheet(plan_schema(), section, file, of_keys, of_sheet);
  add_errors(of_sheet, "plan.", errors);
}

struct Arguments {
  std::string cluster;
  std::vector<std::string> cluster_overrides, plan_overrides, run_overrides;
};
Arguments sort_arguments(const std::vector<std::string>& arguments) {
  Arguments a;
  for (const std::string& argument : arguments) {
    if (argument.compare(0, 8, "cluster=") == 0) {
      if (!a.cluster.empty()) throw ConfigError(argument + " (command line): given twice, first as cluster=" + a.cluster);
      a.cluster = argument.substr(8);
    } else if (argument.compare(0, 8, "cluster.") == 0)
      a.cluster_overrides.push_back(argument.substr(8));
    else if (argument.compare(0, 5, "plan.") == 0)
      a.plan_overrides.push_back(argument.substr(5));
    else
      a.run_overrides.push_back(argument);
  }
  return a;
}

std::string find_recipe(const std::string& what, const PlanFolders& folders) {
  if (is_yaml_path(what)) return what;
  std::error_code failed;
  if (const std::string path = folders.recipes + "/" + what + ".yaml"; std::filesystem::is_regular_file(path, failed)) return path;
  if (model_preset(what)) return "";
  throw ConfigError(no_such(what, "recipe", what, yaml_names(folders.recipes, model_preset_names())) + ", or name a recipe.yaml");
}
}  // namespace

const std::vector<SheetKey>& plan_schema() {
  using enum Unit;
  static const std::vector<SheetKey> table = {
      // layout and arithmetic
      {"gpus", kCount, 0, 1e7, "0", "", "devices used; 0: all of the cluster"},
      {"schedule", kText, 0, 0, "", "", "pipeline schedule; empty: parallel.schedule", schedule_names()},
      {"chunks", kCount, 0, 64, "0", "", "stages a rank of the interleaved schedule; 0: parallel.vpp"},
      {"stages", kWords, 0, 0, "[]", "",
       "what each stage holds: e embedding, a number of layers, m the MTP modules, h head, as [e3, 4, 4m, h]; []: as the trainer splits them"},
      {"flushes", kCount, 1, 1e6, "1", "", "times that the pipeline runs empty in a step (gradient accumulation around the pipeline)"},
      {"kv_heads", kCount, 0, 1e4, "0", "", "for other models: grouped-query attention with so many KV heads; 0: MLA"},
      {"precision", kText, 0, 0, "bf16", "", "operands of the linear layers", {"bf16", "fp8"}},
      {"scaling",
       kText,
       0,
       0,
       "blocks",
       "DeepSeek-V3 report, section 3.3",
       "of FP8 operands: blocks: scales of 128 elements; tensor: one scale, the largest element sought in a pass of its own",
       {"blocks", "tensor"}},
      {"dispatch",
       kText,
       0,
       0,
       "hierarchical",
       "DeepSeek-V3 report, section 3.2.2",
       "hierarchical: a token crosses to a node once; flat: once for each expert",
       {"hierarchical", "flat"}},
      {"dispatch_library",
       kText,
       0,
       0,
       "deepep",
       "",
       "whose exchange kernels: the calibration has figures by library; where it has none of one, its general ones serve",
       {"deepep", "hybridep", "alltoall"}},
      {"dispatch_precision", kText, 0, 0, "bf16", "", "payload of the forward dispatch and of the gradient dispatch", {"bf16", "fp8"}},
      {"overlap",
       kText,
       0,
       0,
       "none",
       "",
       "none: exchanges are exposed; pairs: hidden in pairs of F and B of two micro-batches (DualPipe, interleaved 1F1B); all: everywhere, as if every F and B "
       "had a neighbour",
       {"none", "pairs", "all"}},
      {"head",
       kText,
       0,
       0,
       "separate",
       "",
       "fused: F of the last stage computes the gradients of head and loss, too (as Atoll's trainer does: logits are never kept); separate: B and W do",
       {"separate", "fused"}},
      {"comm_sms", kCount, 0, 1e4, "0", "", "multiprocessors that the exchange kernels hold"},
      {"p2p",
       kText,
       0,
       0,
       "overlapped",
       "",
       "stage-to-stage messages beside the computation, or between the chunks (as the published DualPipe code waits for them)",
       {"overlapped", "exposed"}},
      {"grads_overlap", kFraction, 0, 1, "0", "", "part of the gradient and weight collectives that is hidden"},
      {"recompute", kWords, 0, 0, "[]", "", "recomputed in backward", {"norms", "mla_up", "swiglu", "experts", "attention", "full"}},
      {"cache",
       kText,
       0,
       0,
       "bf16",
       "",
       "precision of saved activations that only weight gradients read (attention output: 12 bits with fp8)",
       {"bf16", "fp8"}},
      {"tp_overlap", kFraction, 0, 1, "0", "", "part of the tensor-parallel collectives that is hidden"},
      {"zero", kCount, 1, 3, "1", "", "1: optimizer state sharded; 2: main gradients too; 3: weights too (gathered for every chunk)"},
      {"grads", kText, 0, 0, "fp32", "Atoll's main gradients", "accumulated gradients", {"fp32", "bf16"}},
      {"reserve", kBytes, 0, 1e12, "4 GB", "assumption: CUDA context, NCCL and exchange buffers, fragmentation", "memory that is not ours"},
      // the host: what launches the kernels
      {"host.launch", kSeconds, 0, 1, "44 us",
       "DeepSeek's training trace: 10.6 ms of host time for the 246 launches of a layer pair, profiler included; 0: no host",
       "the host's time of one launch, with the code around it"},
      {"host.attention_forward", kCount, 0, 1e5, "69", kTrace, "launches of attention and router of a layer"},
      {"host.mlp_forward", kCount, 0, 1e5, "25", kTrace, "launches of a layer's experts or MLP, with dispatch and combine, beside host.expert_forward"},
      {"host.attention_backward", kCount, 0, 1e5, "101", kTrace, "the same, input gradients"},
      {"host.mlp_backward", kCount, 0, 1e5, "34", kTrace, "the same, input gradients"},
      {"host.weight", kCount, 0, 1e5, "9", kTrace, "the same, weight gradients, without those of routed experts"},
      {"host.expert_forward", kCount, 0, 1e3, "0", "grouped GEMMs", "launches for each routed expert of a device more"},
      {"host.expert_backward", kCount, 0, 1e3, "2", kTrace, "the same, backward: one weight gradient for each of the two GEMMs"},
      {"host.graphs", kFraction, 0, 1, "0", "", "part of the attention's and the router's launches that CUDA graphs replay"},
      {"host.waits", kSwitch, 0, 0, "true", "DeepSeek's training trace: the host waits in every dispatch",
       "whether the host waits for the routed counts of every MoE layer"},
      // routing
      {"routing", kText, 0, 0, "balanced", "", "rows of the most loaded rank", {"balanced", "zipf", "worst"}},
      {"zipf_exponent", kNone, 0, 4, "0.5", "assumption", "popularity of the i-th expert is i to the minus this; dealt out to the ranks like cards"},
      // the run
      {"post_training_gpu_hours", kCount, 0, 1e12, "0", "", "supervised fine-tuning and reinforcement learning"},
      {"pretraining_gpu_hours", kCount, 0, 1e12, "0", "", "0: as predicted; else these instead of the prediction, for the money"},
      {"context_gpu_hours", kCount, 0, 1e12, "0", "", "0: as predicted; else these instead of the prediction, for the money"},
      {"rd_multiple", kNone, 0, 1000, "3", "assumption: DeepSeek says that the headline leaves out prior research and ablations, not how much",
       "ablations, failed ideas and smaller runs, as a multiple of the run"},
      // ownership
      {"tco.years", kNone, 0.1, 50, "4", "SemiAnalysis, DeepSeek Debates (January 2025)", "life of the machines"},
      {"tco.utilisation", kFraction, 0.01, 1, "0.8", "assumption", "hours that the machines are in use / all hours"},
      {"tco.staff", kDollars, 0, 1e12, "$0", "not published", "people, over those years"},
  };
  return table;
}

Errors plan_section_errors(const YamlNode& section, const std::string& file) {
  PlanInput ignored;
  Errors errors;
  read_section(ignored, section, file, {}, errors);
  return errors;
}

int64_t PlanInput::gpus() const {
  const auto asked = static_cast<int64_t>(plan.number("gpus"));
  return asked > 0 ? asked : cluster.gpus();
}
int64_t PlanInput::dp() const {
  const MeshSizes& m = run.parallel.mesh;
  return std::max<int64_t>(1, gpus() / (static_cast<int64_t>(m.pp) * m.tp * m.cp));
}
int64_t PlanInput::sequences() const {
  constexpr double kMost = 1e15;  // no batch is as large; products of it stay within 64 bits
  const double exact = static_cast<double>(dp()) * static_cast<double>(run.train.micro_batch) * plan.number("flushes");
  return exact < kMost ? dp() * run.train.micro_batch * static_cast<int64_t>(plan.number("flushes")) : static_cast<int64_t>(kMost);
}
int PlanInput::chunks() const {
  const auto asked = static_cast<int>(plan.number("chunks"));
  return asked > 0 ? asked : static_cast<int>(run.parallel.vpp);
}
std::string PlanInput::schedule() const { return plan.text("schedule").empty() ? run.parallel.schedule : plan.text("schedule"); }

namespace {
// A rate that a device reached and its peak do not go together where the rate is the larger one. One for each precision: the fastest.
void add_peak_problems(const PlanInput& in, std::vector<std::string>& problems) {
  if (in.calibration.gpu != in.cluster.gpu) return;  // of another device: told on the page
  for (const char* precision : {"bf16", "fp8"}) {
    const std::string key = std::string("gpu.") + precision;
    const Value& peak = in.cluster.sheet.at(key);
    const Rate* best = nullptr;
    const auto reached = [&](const Rate& r) { return r.flops / r.sms * in.cluster.sms; };
    for (const Rate& r : in.calibration.rates)
      if (r.precision == precision && reached(r) > peak.number && (best == nullptr || reached(r) > reached(*best))) best = &r;
    if (best == nullptr) continue;
    problems.push_back(detail::concat(peak.place, ": ", key, " = ", show(peak.number, Unit::kFlops), ": less than what ", in.calibration.file, ":", best->line, " measured on ",
                                      in.calibration.gpu, ": ", best->op, " ", best->pass, " reached ", show(best->flops, Unit::kFlops), " on ", best->sms, " multiprocessors, ",
                                      show(reached(*best), Unit::kFlops), " on ", in.cluster.sms, " (", best->source,
                                      "); correct the peak, gpu.sms or gpu.calibration, or give another device another gpu.name"));
  }
}
}  // namespace

PlanInput load_plan(const std::string& what, const std::vector<std::string>& arguments, const PlanFolders& folders, bool for_search) {
  const Arguments a = sort_arguments(arguments);
  const std::string path = find_recipe(what, folders);
  PlanInput in;
  in.name = path.empty() ? what : std::filesystem::path(path).stem().string();
  YamlNode section;
  const std::string file = path.empty() ? what : path;
  if (path.empty()) {
    in.run = parse_run_config("model: " + what + "\ntrain: {tokens: 1T}\n", what, a.run_overrides);
    in.is_batch_chosen = std::none_of(a.run_overrides.begin(), a.run_overrides.end(), [](const std::string& o) { return o.compare(0, 19, "train.global_batch=") == 0; });
    if (in.run.data.seq_len == DataConfig{}.seq_len) in.run.data.seq_len = std::min<int64_t>(4096, in.run.model.max_position_embeddings);
  } else {
    in.run = load_run_config(path, a.run_overrides);
    const YamlNode root = read_tree(read_text(path), path);
    if (const YamlNode* plan = find_entry(root, "plan")) section = *plan;
  }
  Errors errors;
  const YamlNode* named = find_entry(section, "cluster");
  const std::string default_cluster = named == nullptr ? "" : named->text;
  read_section(in, section, file, a.plan_overrides, errors);
  if (!errors.empty()) throw_errors(file + ", section plan", errors);
  const std::string cluster = a.cluster.empty() ? default_cluster : a.cluster;
  if (cluster.empty()) throw ConfigError("no cluster: give cluster=NAME (h800-2048, h100-1024, h200-8, laptop) or cluster=FILE.yaml");
  in.cluster = load_cluster(cluster, folders.clusters, a.cluster_overrides);
  if (in.is_batch_chosen) in.run.train.global_batch = in.sequences() * ((in.run.train.global_batch + in.sequences() - 1) / in.sequences());  // else it would fit by chance
  in.calibration = load_calibration(in.cluster.calibration, folders.calibration, in.cluster.sheet.at("gpu.calibration").place);
  std::vector<std::string> problems = for_search ? std::vector<std::string>{} : layout_problems(in);
  add_peak_problems(in, problems);
  if (const Value& sms = in.plan.at("comm_sms"); sms.number >= std::max(1.0, in.cluster.sms))
    problems.push_back(sms.place + ": plan.comm_sms = " + show(sms.number, Unit::kCount) + ": the device has " + show(in.cluster.sms, Unit::kCount) +
                       " (cluster.gpu.sms), and computes on the rest");
  if (const Value& kv = in.plan.at("kv_heads"); kv.number > 0 && in.run.model.num_attention_heads % static_cast<int64_t>(kv.number) != 0)
    problems.push_back(detail::concat(kv.place, ": plan.kv_heads = ", show(kv.number, Unit::kCount), ": does not divide ", in.run.model.num_attention_heads,
                                      " attention heads"));
  if (!problems.empty()) throw_errors(in.name + " on " + in.cluster.name, problems);
  return in;
}

namespace {
// Whether so many GPUs could be laid out, as far as that is a matter of their number.
bool divides(const PlanInput& in, int64_t gpus) {
  const MeshSizes& m = in.run.parallel.mesh;
  const int64_t group = static_cast<int64_t>(m.pp) * m.tp * m.cp, dp = gpus / group;
  return gpus % group == 0 && dp > 0 && dp * m.tp * m.cp % (static_cast<int64_t>(m.ep) * m.etp) == 0 &&
         std::fmod(static_cast<double>(in.run.train.global_batch), static_cast<double>(dp) * static_cast<double>(in.run.train.micro_batch) * in.plan.number("flushes")) == 0;
}

// What is wrong whatever the number of GPUs is.
void add_shape_problems(const PlanInput& in, std::vector<std::string>& out) {
  const MeshSizes& m = in.run.parallel.mesh;
  const ModelConfig& model = in.run.model;
  const int64_t seq_len = in.run.data.seq_len, pieces = 2 * static_cast<int64_t>(m.cp);
  const auto text = [](const auto&... parts) { return detail::concat(parts...); };
  if (m.ep > 1 && m.ep > model.n_routed_experts) out.push_back(text("ep=", m.ep, ": more ranks than the ", model.n_routed_experts, " experts"));
  if (model.num_attention_heads % m.tp != 0) out.push_back(text("tp=", m.tp, " does not divide ", model.num_attention_heads, " attention heads"));
  // A context stage is what adds YaRN to a model without it; one that has it already ends where it does.
  const RopeScaling& rope = model.rope_scaling;
  const auto longest = std::max(model.max_position_embeddings, static_cast<int64_t>(rope.factor * static_cast<double>(rope.original_max_position)));
  if (rope.is_yarn && seq_len > longest)
    out.push_back(text("seq_len = ", seq_len, ": longer than the ", longest, " positions of the model with its YaRN (model.max_position_embeddings, model.rope_scaling)"));
  if (m.cp > 1 && seq_len % pieces != 0)
    out.push_back(text("cp=", m.cp, ": ", seq_len, " tokens of a sequence are not cut into 2 x cp = ", pieces, " equal pieces (a rank has an early and a late one, so that causal attention is even)"));
}

// The pipeline's micro-batches of one flush, under the bound of every schedule.
void add_schedule_problem(const PlanInput& in, std::vector<std::string>& out) {
  const std::string schedule = in.schedule();
  const int64_t per_rank = schedule == "dualpipev" ? 2 : schedule == "interleaved" ? in.chunks() : 1;
  const int64_t stages = in.run.parallel.mesh.pp * per_rank, n = in.run.train.global_batch / in.sequences();
  if (stages > kMaxScheduleStages || stages * n > kMaxSchedulePairs)
    out.push_back(detail::concat("global_batch = ", in.run.train.global_batch, ": ", n, " micro-batches on ", stages, " stages: ", kScheduleBound));
}
}  // namespace

std::vector<std::string> layout_problems(const PlanInput& in) {
  std::vector<std::string> out, shape;
  add_shape_problems(in, shape);
  const auto all = [&] {
    out.insert(out.end(), shape.begin(), shape.end());
    return out;
  };
  const MeshSizes& m = in.run.parallel.mesh;
  const int64_t gpus = in.gpus(), group = static_cast<int64_t>(m.pp) * m.tp * m.cp;
  const auto text = [](const auto&... parts) { return detail::concat(parts...); };
  if (group > in.cluster.gpus()) {
    out.push_back(text("pp=", m.pp, " x tp=", m.tp, " x cp=", m.cp, " = ", group, " GPUs: the cluster has ", in.cluster.gpus()));
    return all();
  }
  if (gpus > in.cluster.gpus()) out.push_back(text("plan.gpus = ", gpus, ": the cluster has ", in.cluster.gpus()));
  if (gpus % group != 0) {
    int64_t fewer = shape.empty() ? std::min(gpus, in.cluster.gpus()) / group * group : 0;  // advice only where nothing else would refuse it
    while (fewer > 0 && !divides(in, fewer)) fewer -= group;
    out.push_back(text(gpus, " GPUs are not divisible by pp=", m.pp, " x tp=", m.tp, " x cp=", m.cp, fewer > 0 ? text("; set plan.gpus=", fewer) : ""));
    return all();
  }
  const int64_t dp = in.dp(), ranks = dp * m.tp * m.cp;
  if (ranks % (static_cast<int64_t>(m.ep) * m.etp) != 0)
    out.push_back(text("ep=", m.ep, " x etp=", m.etp, " does not divide the ", ranks, " ranks of a pipeline stage (dp=", dp, " x tp x cp)"));
  all();
  const int64_t sequences = in.sequences();
  if (in.run.train.global_batch % sequences != 0) {  // the multiples that the schedule admits, too
    const std::string schedule = in.schedule();
    const bool is_dualpipe = schedule.compare(0, 8, "dualpipe") == 0;
    const int64_t step = sequences * (schedule == "interleaved" ? m.pp : schedule == "dualpipe" ? 2 : 1), least = is_dualpipe ? 2 * m.pp * sequences : step;
    const int64_t below = in.run.train.global_batch / step * step;
    out.push_back(text("train.global_batch = ", in.run.train.global_batch, ": not divisible by dp=", dp, " x train.micro_batch=", in.run.train.micro_batch,
                       " (x plan.flushes) = ", sequences, "; give a multiple of it, as ", below >= least ? text(below, " or ") : "", std::max(least, below + step)));
  }
  add_schedule_problem(in, out);
  return out;
}

double comm_sms_of(const PlanInput& base, const std::string& overlap) {
  constexpr double kCommSms = 20;
  const double asked = base.plan.number("comm_sms");
  return overlap == "none" ? 0 : asked > 0 || base.cluster.sms < 4 * kCommSms ? asked : kCommSms;
}

std::string plan_reference() {
  const auto row = [](const std::string& prefix, const SheetKey& k) {
    const std::string fallback = k.fallback == "!" ? "required" : k.fallback.empty() ? "-" : k.fallback;
    return "| " + prefix + k.name + " | " + fallback + (k.source.empty() ? "" : " (" + k.source + ")") + " | " + k.doc + " |\n";
  };
  std::string out = "| key | default | meaning |\n|---|---|---|\n";
  for (const SheetKey& k : plan_schema()) out += row("plan.", k);
  for (const List& list : lists())
    for (const SheetKey& k : list.schema) out += row(std::string("plan.") + list.key + "[].", k);
  out += "\n| key of a cluster | default | meaning |\n|---|---|---|\n";
  for (const SheetKey& k : cluster_schema()) out += row("", k);
  return out;
}

void set_text(PlanInput& in, const std::string& key, const std::string& text) {
  Value v = in.plan.at(key);
  v.text = text;
  in.plan.set(key, v);
}
void set_number(PlanInput& in, const std::string& key, double number) {
  Value v = in.plan.at(key);
  v.number = number;
  in.plan.set(key, v);
}

}  // namespace atoll::plan
