// atoll train: threads per rank, affinity, signals; then the Trainer.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <optional>

#include "kernels/base/log.h"
#include "launch/commands.h"
#include "launch/mpirun_line.h"
#include "trainer/config_values.h"
#include "trainer/plan/dry_run.h"
#include "trainer/trainer.h"

namespace atoll {
namespace {
std::atomic<int> stop_signal{0};  // a signal handler can reach nothing else
void on_signal(int signal) { stop_signal = signal; }

HostInfo look_at_host(const MpiSession& session) {
  char name[256] = {};
  gethostname(name, sizeof name - 1);
  if (session.widened_from() > 0 && session.rank() == 0)
    log::info("mpirun bound this rank to " + std::to_string(session.widened_from()) + " core(s); its host's ranks now share the " + std::to_string(session.host_cores()) + " that mpirun has (--bind-to core keeps them apart)");
  return {.cores = session.host_cores(), .ranks_on_host = session.host_size(), .name = name};
}
}  // namespace

namespace {
int dry_run(const std::string& recipe, std::vector<std::string> overrides, bool json, std::string& phase) {
  std::optional<int64_t> world;
  for (const std::string& o : overrides) {
    if (o.rfind("world=", 0) != 0) continue;
    const std::string problem = parse_whole({.kind = YamlNode::Kind::kScalar, .text = o.substr(6)}, world.emplace());
    if (!problem.empty()) throw ConfigError(o + " (command line): " + problem);
  }
  std::erase_if(overrides, [](const std::string& o) { return o.rfind("world=", 0) == 0; });
  if (!world) throw ConfigError("--dry-run needs the number of ranks: world=16");
  const RunConfig config = load_run_config(recipe, overrides);
  phase = "start";
  const plan::DryRun run = plan::dry_run(config, *world);
  std::fputs((json ? plan::dry_run_json(run) : plan::dry_run_text(run)).c_str(), stdout);
  return static_cast<int>(run.exit);
}
}  // namespace

void add_train(CLI::App& app, Command& chosen, const std::vector<std::string>& words) {
  CLI::App* train = app.add_subcommand("train", "train a model: [mpirun -n RANKS] atoll train RECIPE.yaml key=value ...");
  static std::string recipe;  // CLI11 fills variables that must outlive parsing; they are read by this command alone
  static std::vector<std::string> overrides;
  train->add_option("recipe", recipe, "YAML file; docs/configuration.md lists every key")->required();
  train->add_option("overrides", overrides, "key=value, as train.steps=2000 or parallel.pp=4; the last of equal keys wins");
  static bool is_dry = false, json = false;
  train->add_flag("--dry-run", is_dry, "with world=N (at most " + std::to_string(plan::kMaxWorld) + "): all that a start of N ranks does but the steps, in this process; nothing is written");
  train->add_flag("--json", json, "the dry run as JSON, every rank's groups");
  train->footer("For example: mpirun -n 4 atoll train launch/recipes/quickstart.yaml data.store=runs/store parallel.pp=2 parallel.ep=2 run.name=mine\n"
                "(as root, or with more ranks than cores: mpirun --allow-run-as-root --oversubscribe). Without mpirun it is one rank.\n"
                "ranks = parallel.pp x data-parallel ranks; parallel.ep divides the latter. `atoll config reference` prints every key.\n"
                "The run lies in run.dir/run.name (config.yaml, metrics.jsonl, log/, checkpoints/); the same command goes on from its newest checkpoint.\n"
                "To stop it and have it saved: kill -USR1 the mpirun, or SIGTERM without mpirun; it saves after the step and exits 85.");
  train->callback([&chosen, words] {
    chosen = [words](MpiSession& session, std::string& phase) {
      phase = "reading the configuration";
      if (is_dry) return dry_run(recipe, overrides, json, phase);
      const RunConfig config = load_run_config(recipe, overrides);
      check_mesh(session.world(), config.parallel.mesh, words);
      std::signal(SIGUSR1, on_signal);
      std::signal(SIGTERM, on_signal);
      std::signal(SIGINT, on_signal);
      log::set_rank(session.rank(), session.world());
      const log::Level level = config.log.level == "debug" ? log::Level::kDebug : config.log.level == "warn" ? log::Level::kWarn : config.log.level == "error" ? log::Level::kError : log::Level::kInfo;
      log::set_console_level(session.rank() == 0 ? level : std::max(level, log::Level::kWarn));  // after set_rank, which sets one too; the others speak of trouble alone
      phase = "start";
      const std::unique_ptr<Communicator> world = mpi_world();
      Trainer trainer(config, *world, look_at_host(session), stop_signal, phase);
      return static_cast<int>(trainer.run());
    };
  });
}

}  // namespace atoll
