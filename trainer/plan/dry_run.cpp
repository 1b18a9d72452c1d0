// The parts of a start, in its order. Policy: groups are checked against each other, rank by rank: whoever is in my group has me in his, at the same place.
#include "trainer/plan/dry_run.h"

#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/base/error.h"
#include "model/flops.h"
#include "parallel/row_shards.h"
#include "trainer/checkpoint.h"
#include "trainer/checkpoint_manifest.h"
#include "trainer/data_feed.h"
#include "trainer/metrics.h"
#include "trainer/plan/sheet.h"
#include "trainer/run_directory.h"
#include "trainer/schedule_rules.h"
#include "trainer/trainer.h"

namespace atoll::plan {
namespace {
int num_microbatches(const RunConfig& c, const Mesh& mesh) {
  const int64_t per_micro = c.train.micro_batch * mesh.size(Axis::kDp);
  return static_cast<int>((c.train.global_batch + per_micro - 1) / per_micro);  // train.global_batch is at most 2^31
}

struct GroupOf {
  const char* name;
  Axis axis;
  Group RankPlace::* member;
};
constexpr GroupOf kGroups[] = {{"pp", Axis::kPp, &RankPlace::pp}, {"dp", Axis::kDp, &RankPlace::dp}, {"ep", Axis::kEp, &RankPlace::ep}, {"edp", Axis::kEdp, &RankPlace::edp}};

// A group is one object that all of its members name: a copy a rank would take memory with the square of the ranks.
std::vector<RankPlace> place_ranks(const Mesh& mesh, bool is_mirrored) {
  std::vector<RankPlace> ranks(static_cast<size_t>(mesh.world()));
  const int pp = mesh.size(Axis::kPp);
  for (int r = 0; r < mesh.world(); ++r) {
    RankPlace& place = ranks[static_cast<size_t>(r)];
    for (const GroupOf& g : kGroups) {
      if (place.*g.member != nullptr) continue;  // a member before it has shared it
      const Group group = std::make_shared<const std::vector<int>>(mesh.group(g.axis, r));
      for (const int other : *group) ranks[static_cast<size_t>(other)].*g.member = group;
    }
    const int at = mesh.index(Axis::kPp, r);
    if (at > 0) place.previous = (*place.pp)[static_cast<size_t>(at - 1)];
    if (at + 1 < pp) place.next = (*place.pp)[static_cast<size_t>(at + 1)];
    if (!is_mirrored || place.mirror != nullptr) continue;
    const int image = (*place.pp)[static_cast<size_t>(pp - 1 - at)];
    place.mirror = std::make_shared<const std::vector<int>>(std::vector<int>{std::min(r, image), std::max(r, image)});
    ranks[static_cast<size_t>(image)].mirror = place.mirror;
  }
  return ranks;
}

void check_schedule(const Schedule& schedule) {
  const std::vector<std::string> violations = check(schedule);
  if (violations.empty()) return;
  std::string text = "schedule " + schedule.name + " is not proven:";
  for (size_t i = 0; i < std::min<size_t>(5, violations.size()); ++i) text += "\n  " + violations[i];
  throw ConfigError(text);
}

// The first problem is the one that a start would end with, and gives the exit code.
void add_problem(DryRun& run, const std::string& what, ExitCode code) {
  if (run.problems.empty()) run.exit = code;
  run.problems.push_back(what);
}

// The kernel's views of itself: a folder of them is one that root may write, and nothing can be made in it.
bool is_of_kernel(const std::filesystem::path& folder) {
  constexpr int64_t kKinds[] = {PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC, TRACEFS_MAGIC, SECURITYFS_MAGIC, DEVPTS_SUPER_MAGIC};
  struct statfs about = {};
  if (::statfs(folder.c_str(), &about) != 0) return false;
  return std::find(std::begin(kKinds), std::end(kKinds), static_cast<int64_t>(about.f_type)) != std::end(kKinds);
}

// A start makes the run folder; what is there of its path must be a folder that may be written.
void check_can_write(const std::string& run_path) {
  std::filesystem::path at = std::filesystem::absolute(run_path);
  std::error_code failed;
  while (!std::filesystem::exists(std::filesystem::symlink_status(at, failed)) && at.has_relative_path()) at = at.parent_path();
  const bool is_folder = std::filesystem::is_directory(at, failed), is_writable = is_folder && ::access(at.c_str(), W_OK | X_OK) == 0;
  if (is_writable && !is_of_kernel(at)) return;
  const char* why = !is_folder ? " is not a folder" : is_writable ? " is a view of the kernel, which takes no folder" : " may not be written";
  throw ConfigError("run folder " + run_path + " cannot be created: " + at.string() + why + "; choose another run.dir");
}

// What a start would find on disk, in the order in which it looks: the folder, its lock, the configuration of the run there, the data, the checkpoint.
void look_at_disk(const RunConfig& c, DryRun& run) {
  const auto attempt = [&](const auto& body) {
    const size_t before = run.problems.size();
    try {
      body();
    } catch (const Error& e) { add_problem(run, e.what(), e.code()); }
    return run.problems.size() == before;
  };
  const std::string path = c.run.path();
  FolderUse use = FolderUse::kNew;
  std::optional<CheckpointReader> reader;
  const bool is_usable = attempt([&] {
    use = use_of(path);
    require_usable(c, use);
  });
  attempt([&] { check_can_write(path); });
  attempt([&] { require_free(path, RunLock::holder(path + "/lock")); });
  std::optional<DataFeed> feed;
  const auto look_at_checkpoint = [&] {
    if (!is_usable || c.train.resume == "never") return;
    if (use == FolderUse::kTrained) reader = CheckpointReader::open_newest(path);
    if (!reader && c.train.resume != "auto") reader = CheckpointReader::open(c.train.resume);
    if (!reader) return;
    const std::vector<std::string> changes = forbidden_changes(reader->meta().resolved_config_yaml, c);
    std::string text = reader->directory() + " was saved with another configuration:";
    for (const std::string& change : changes) text += "\n  " + change;
    if (!changes.empty()) throw ConfigError(text);
  };
  const bool is_trained = use == FolderUse::kTrained;  // its configuration is compared before the data is opened, that of a checkpoint elsewhere after it
  if (is_trained) attempt(look_at_checkpoint);
  attempt([&] {
    feed.emplace(c);
    check_vocabulary(c, *feed);
  });
  if (!is_trained) attempt(look_at_checkpoint);
  attempt([&] {
    if (feed && reader && reader->meta().data_fingerprint != feed->fingerprint())
      throw DataError("the data of " + c.data.store + " is not what " + reader->directory() + " was trained on; point data.store at the same store");
  });
}

// Who saves which rows: the manifest that a checkpoint of this layout would have, checked by the code that checks a real one (every row once).
void plan_checkpoint(const Mesh& mesh, const std::vector<ParameterSpec>& manifest, DryRun& run) {
  const RunConfig& c = run.config;
  const Schedule& schedule = run.schedule;
  const int dp = mesh.size(Axis::kDp), pp = mesh.size(Axis::kPp), ep = mesh.size(Axis::kEp), edp = mesh.size(Axis::kEdp);
  const DType acc = acc_dtype(c.train.dtype), moments = c.train.adam.moments == DType::kBF16 ? DType::kBF16 : acc;
  const std::vector<Range> layers =
      split_layers(c.model, schedule.num_stages, std::vector<int>(c.parallel.stage_layers.begin(), c.parallel.stage_layers.end()));
  const auto stage_of = [&](const ParameterSpec& s) {
    if (s.layer < 0) return 0;
    if (s.layer >= c.model.num_hidden_layers) return schedule.num_stages - 1;
    return static_cast<int>(std::find_if(layers.begin(), layers.end(), [&](const Range& r) { return s.layer < r.end; }) - layers.begin());
  };
  Manifest m;
  std::vector<int64_t> bytes(static_cast<size_t>(mesh.world()), 0);
  for (int r = 0; r < mesh.world(); ++r) m.files.push_back({fmt::format("rank-{:05}.h5", r), 0, ""});
  for (const ParameterSpec& spec : manifest) {
    const int holder = schedule.rank_of_stage[static_cast<size_t>(stage_of(spec))], mirrors = schedule.is_mirrored ? 2 : 1;
    if (spec.is_router_bias) {
      const int rank = std::min(holder, schedule.is_mirrored ? pp - 1 - holder : holder) * dp;  // the first of those that hold it answers
      m.tensors.push_back({spec.name, "bias", acc, spec.rows, 1, true, {{rank, "", 0, spec.rows, ""}}});
      bytes[static_cast<size_t>(rank)] += spec.rows * static_cast<int64_t>(size_of(acc));
      continue;
    }
    const bool is_expert = spec.expert >= 0;
    int ep_rank = 0;
    while (is_expert && spec.expert >= split_evenly(c.model.n_routed_experts, ep, ep_rank).end) ++ep_rank;
    ManifestTensor tensor{spec.name, "master", acc, spec.rows, spec.is_vector ? 1 : spec.cols, spec.is_vector, {}};
    for (int i = 0; i < (is_expert ? edp : dp); ++i)
      for (int k = 0; k < mirrors; ++k) {
        const Range summed = owned_rows(spec.rows, is_expert ? edp : dp, i), part = owned_rows(summed.size(), mirrors, k);
        if (part.size() == 0) continue;
        const int low = std::min(holder, pp - 1 - holder), pipeline_rank = mirrors == 1 ? holder : k == 0 ? low : pp - 1 - low;
        const int rank = pipeline_rank * dp + (is_expert ? i * ep + ep_rank : i);
        tensor.shards.push_back({rank, "", summed.begin + part.begin, part.size(), ""});
        bytes[static_cast<size_t>(rank)] += part.size() * spec.cols * static_cast<int64_t>(size_of(acc) + 2 * size_of(moments));
      }
    for (const auto& [kind, type] : {std::pair{"master", acc}, {"exp_avg", moments}, {"exp_avg_sq", moments}}) {
      tensor.kind = kind;
      tensor.dtype = type;
      m.tensors.push_back(tensor);
    }
  }
  m.normalize();
  run.checkpoint_tensors = std::ssize(m.tensors);
  for (const ManifestTensor& t : m.tensors) run.checkpoint_shards += std::ssize(t.shards);
  for (const int64_t b : bytes) run.checkpoint_bytes += b;
  run.least_file = *std::min_element(bytes.begin(), bytes.end());
  run.largest_file = *std::max_element(bytes.begin(), bytes.end());
}

void forecast_ranks(const Mesh& mesh, const std::vector<ParameterSpec>& manifest, DryRun& run) {
  const RunConfig& c = run.config;
  const EngineOptions options = engine_options(c, std::max(1, static_cast<int>(c.train.threads)));  // a real start may choose more
  RunShape shape;
  shape.sequences = c.train.micro_batch;
  shape.tokens = c.train.micro_batch * c.data.seq_len;
  shape.num_microbatches = run.schedule.num_microbatches;
  shape.rows_received = static_cast<double>(shape.tokens * (c.model.n_routed_experts > 0 ? c.model.num_experts_per_tok : 0));
  shape.has_balance_loss = !c.train.balance_alpha.values.empty() && c.train.balance_alpha.values.front().value > 0;
  for (int p = 0; p < mesh.size(Axis::kPp); ++p)
    run.forecasts.push_back(forecast_rank(options, run.schedule, manifest, mesh.world(), p * mesh.size(Axis::kDp), shape));
  const auto bound = [&](const char* key, int64_t limit, double needed) {
    if (limit > 0 && needed > static_cast<double>(limit))
      add_problem(run,
                  fmt::format("{} = {}: the fullest rank needs {} with balanced routing; raise it or use smaller micro-batches (train.micro_batch)", key,
                              show(static_cast<double>(limit), Unit::kBytes), show(needed, Unit::kBytes)),
                  ExitCode::kConfig);
  };
  double activations = 0, routed = 0, workspace = 0;
  for (const RankForecast& f : run.forecasts) {
    activations = std::max(activations, f.peaks.activations.bytes);
    routed = std::max(routed, f.peaks.routed.bytes);
    workspace = std::max(workspace, static_cast<double>(f.workspace));
  }
  bound("memory.activations", c.memory.activations, activations);
  bound("memory.routed", c.memory.routed, routed);
  bound("memory.workspace", c.memory.workspace, workspace);
}
}  // namespace

// Whoever names a group is in it once, and whoever is in it names it: the same object, which is the group that a start computes on that rank.
void check_groups(const Mesh& mesh, const std::vector<RankPlace>& ranks) {
  const auto check_each = [&](const char* name, Group RankPlace::* member, const auto& own) {
    std::vector<char> is_seen(ranks.size(), 0);
    for (size_t r = 0; r < ranks.size(); ++r) {
      const Group& group = ranks[r].*member;
      if (group == nullptr) continue;
      ATOLL_CHECK(own(static_cast<int>(r)) == *group, "rank ", r, " would make another ", name, " group than the one that it shares");
      if (group->empty() || group->front() != static_cast<int>(r)) continue;
      for (const int other : *group) {
        const auto o = static_cast<size_t>(other);
        ATOLL_CHECK(o < ranks.size() && ranks[o].*member == group, "ranks ", r, " and ", other, " disagree on their ", name, " group");
        ATOLL_CHECK(!std::exchange(is_seen[o], 1), "rank ", other, " is twice in its ", name, " group");
      }
    }
    for (size_t r = 0; r < ranks.size(); ++r) ATOLL_CHECK(is_seen[r] || ranks[r].*member == nullptr, "rank ", r, " is not in its own ", name, " group");
  };
  for (const GroupOf& g : kGroups) check_each(g.name, g.member, [&](int r) { return mesh.group(g.axis, r); });
  const auto mirror = [&](int r) {
    const int at = mesh.index(Axis::kPp, r), image = r + (mesh.size(Axis::kPp) - 1 - 2 * at) * mesh.size(Axis::kDp);
    return std::vector<int>{std::min(r, image), std::max(r, image)};
  };
  check_each("mirror", &RankPlace::mirror, mirror);
}

DryRun dry_run(const RunConfig& config, int64_t world) {
  if (world < 1) throw ConfigError(detail::concat("world=", world, " must be at least 1"));
  if (world > kMaxWorld) throw ConfigError(detail::concat("world=", world, ": a dry run is of at most ", kMaxWorld, " ranks; `atoll plan` prices larger clusters"));
  DryRun run;
  run.config = config;
  run.world = static_cast<int>(world);
  const Mesh mesh(run.world, config.parallel.mesh);
  const std::shared_ptr<const Schedule> custom = custom_schedule(config);
  check_microbatches(config, mesh.size(Axis::kDp), custom.get());
  look_at_disk(config, run);
  const int n = num_microbatches(config, mesh), halves = config.parallel.grad_halves == 2 && config.parallel.schedule != "dualpipe" && !custom ? 2 : 1;
  run.schedule = custom ? *custom : build_schedule(config.parallel.schedule, mesh.size(Axis::kPp), n / halves, static_cast<int>(config.parallel.vpp));
  check_schedule(run.schedule);
  run.ranks = place_ranks(mesh, run.schedule.is_mirrored);
  check_groups(mesh, run.ranks);
  const std::vector<ParameterSpec> manifest = parameter_manifest(config.model);
  forecast_ranks(mesh, manifest, run);
  plan_checkpoint(mesh, manifest, run);
  return run;
}

namespace {
constexpr int64_t kMaxNumbers = 20'000'000;  // of ranks in a JSON text: 200 MB
std::string shown(double bytes) { return show(bytes, Unit::kBytes); }
std::string group_text(const std::vector<int>& group) {
  if (group.size() <= 4) return fmt::format("{}", fmt::join(group, " "));
  return fmt::format("{} {} .. {} ({})", group[0], group[1], group.back(), group.size());
}
}  // namespace

std::string dry_run_text(const DryRun& run) {
  const RunConfig& c = run.config;
  const Mesh mesh(run.world, c.parallel.mesh);
  const ModelCounts counts = count_model(c.model);
  std::string out =
      fmt::format("dry run of {} ranks: pp {} x dp {} (ep {} x edp {}); {} parameters (+ {} of MTP)\n", run.world, mesh.size(Axis::kPp), mesh.size(Axis::kDp),
                  mesh.size(Axis::kEp), mesh.size(Axis::kEdp), with_thousands(counts.parameters), with_thousands(counts.mtp_parameters));
  out += fmt::format("schedule {}: {} stages, {} micro-batches, proven: every F, B and W once, messages match and cannot deadlock\n", run.schedule.name,
                     run.schedule.num_stages, run.schedule.num_microbatches);
  out += "groups: every rank is once in each of its groups, and all members agree\n";
  for (int r = 0; r < run.world; ++r) {
    if (run.world > 16 && r >= 8 && r < run.world - 2) {
      if (r == 8) out += "  ... (--json has all)\n";
      continue;
    }
    const RankPlace& p = run.ranks[static_cast<size_t>(r)];
    out += fmt::format("  {}: before {}, after {}; dp {}; ep {}; edp {}{}\n", mesh.describe(r), p.previous < 0 ? "-" : std::to_string(p.previous),
                       p.next < 0 ? "-" : std::to_string(p.next), group_text(*p.dp), group_text(*p.ep), group_text(*p.edp),
                       p.mirror == nullptr ? "" : "; mirror " + group_text(*p.mirror));
  }
  out += fmt::format(
      "memory of the first rank of each pipeline position (balanced routing; workspace: scratch of this machine's kernels, {}):\n"
      "  {:>4} {:>10} {:>10} {:>10} {:>12} {:>10} {:>10} {:>10} {:>10}   peak of activations; sends a step\n",
      c.train.threads > 0 ? fmt::format("train.threads = {}", c.train.threads) : "one thread; train.threads is not set", "pp", "weights", "grads", "optimizer",
      "activations", "routed", "comm", "workspace", "sum");
  for (size_t p = 0; p < run.forecasts.size(); ++p) {
    const RankForecast& f = run.forecasts[p];
    const double sum = static_cast<double>(f.persistent.weights + f.persistent.grads + f.persistent.optimizer + f.persistent.comm + f.workspace) + f.peaks.both.bytes;
    out += fmt::format("  {:>4} {:>10} {:>10} {:>10} {:>12} {:>10} {:>10} {:>10} {:>10}   {}; {}\n", p, shown(static_cast<double>(f.persistent.weights)),
                       shown(static_cast<double>(f.persistent.grads)), shown(static_cast<double>(f.persistent.optimizer)), shown(f.peaks.activations.bytes),
                       shown(f.peaks.routed.bytes), shown(static_cast<double>(f.persistent.comm)), shown(static_cast<double>(f.workspace)), shown(sum), f.peaks.activations.moment,
                       shown(static_cast<double>(f.wire_fixed)) + " beside routed rows");
  }
  out += fmt::format("a checkpoint: {} tensors in {} shards, every row saved once; {} in {} files of {} to {}\n", with_thousands(run.checkpoint_tensors),
                     with_thousands(run.checkpoint_shards), shown(static_cast<double>(run.checkpoint_bytes)), run.world,
                     shown(static_cast<double>(run.least_file)), shown(static_cast<double>(run.largest_file)));
  if (run.problems.empty()) return out + "nothing was written; a start would go on from here\n";
  out += "a start would end here:\n";
  for (const std::string& p : run.problems) out += "  " + p + "\n";
  return out;
}

std::string dry_run_json(const DryRun& run) {
  size_t numbers = 0;
  for (const RankPlace& p : run.ranks) numbers += p.pp->size() + p.ep->size() + p.edp->size();
  if (static_cast<int64_t>(numbers) > kMaxNumbers)
    throw ConfigError(fmt::format("--json: every rank's groups are {} numbers here, more than {}: leave out --json, or give fewer ranks", with_thousands(static_cast<int64_t>(numbers)),
                                  with_thousands(kMaxNumbers)));
  nlohmann::ordered_json j;
  j["world"] = run.world;
  j["schedule"] = {{"name", run.schedule.name}, {"stages", run.schedule.num_stages}, {"microbatches", run.schedule.num_microbatches}, {"proven", true}};
  for (const RankPlace& p : run.ranks)
    j["ranks"].push_back(
        {{"previous", p.previous}, {"next", p.next}, {"pp", *p.pp}, {"dp_first", p.dp->front()}, {"ep", *p.ep}, {"edp", *p.edp}, {"mirror", p.mirror == nullptr ? std::vector<int>{} : *p.mirror}});
  for (const RankForecast& f : run.forecasts)
    j["memory"].push_back({{"weights", f.persistent.weights},
                           {"grads", f.persistent.grads},
                           {"optimizer", f.persistent.optimizer},
                           {"activations", f.peaks.activations.bytes},
                           {"routed", f.peaks.routed.bytes},
                           {"comm", f.persistent.comm},
                           {"workspace", f.workspace},
                           {"peak_action", f.peaks.activations.moment},
                           {"wire", f.wire_fixed}});
  j["checkpoint"] = {{"tensors", run.checkpoint_tensors},
                     {"shards", run.checkpoint_shards},
                     {"bytes", run.checkpoint_bytes},
                     {"least_file", run.least_file},
                     {"largest_file", run.largest_file}};
  j["problems"] = run.problems;
  return j.dump(1) + "\n";
}

}  // namespace atoll::plan
