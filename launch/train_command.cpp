// atoll train: threads per rank, affinity, signals; then the Trainer.
#include <sched.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>
#include <cstdlib>

#include "kernels/base/log.h"
#include "launch/commands.h"
#include "launch/mpirun_line.h"
#include "trainer/trainer.h"

namespace atoll {
namespace {
std::atomic<int> stop_signal{0};  // a signal handler can reach nothing else
void on_signal(int signal) { stop_signal = signal; }

int cores_in_mask() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  return sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : 1;
}

// mpirun binds a rank to one core unless told otherwise; a rank that should have several threads takes back the cores of its host.
HostInfo look_at_host(const MpiSession& session) {
  HostInfo host;
  host.ranks_on_host = session.host_size();
  char name[256] = {};
  gethostname(name, sizeof name - 1);
  host.name = name;
  const int online = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)), bound = cores_in_mask();
  host.cores = bound;
  if (session.world() == 1 && !std::getenv("OMPI_COMM_WORLD_SIZE")) return host;  // started by hand: the mask is the user's wish
  if (bound >= std::max(1, online / host.ranks_on_host)) {
    host.cores = std::max(bound, std::min(online, bound * host.ranks_on_host));
    return host;
  }
  cpu_set_t all;
  CPU_ZERO(&all);
  for (int c = 0; c < online; ++c) CPU_SET(c, &all);
  if (sched_setaffinity(0, sizeof all, &all) == 0) {
    if (session.rank() == 0) log::info("mpirun bound each rank to " + std::to_string(bound) + " core(s); widened to the " + std::to_string(cores_in_mask()) + " of this host");
    host.cores = cores_in_mask();
  } else {
    log::warn("mpirun bound this rank to " + std::to_string(bound) + " core(s) of " + std::to_string(online) + "; start it with `mpirun --bind-to none`");
    host.cores = bound * host.ranks_on_host;
  }
  return host;
}
}  // namespace

void add_train(CLI::App& app, Command& chosen, const std::vector<std::string>& words) {
  CLI::App* train = app.add_subcommand("train", "train a model: [mpirun -n RANKS] atoll train RECIPE.yaml key=value ...");
  static std::string recipe;  // CLI11 fills variables that must outlive parsing; they are read by this command alone
  static std::vector<std::string> overrides;
  train->add_option("recipe", recipe, "YAML file; docs/configuration.md lists every key")->required();
  train->add_option("overrides", overrides, "key=value, as train.steps=2000 or parallel.pp=4; the last of equal keys wins");
  train->footer("ranks = parallel.pp x data-parallel ranks; parallel.ep divides the latter. SIGUSR1 or SIGTERM: save, exit 85. The run lies in run.dir/run.name; the same command goes on from its newest checkpoint.");
  train->callback([&chosen, words] {
    chosen = [words](MpiSession& session, std::string& phase) {
      phase = "reading the configuration";
      const RunConfig config = load_run_config(recipe, overrides);
      check_mesh(session.world(), config.parallel.mesh, words);
      std::signal(SIGUSR1, on_signal);
      std::signal(SIGTERM, on_signal);
      std::signal(SIGINT, on_signal);
      log::set_console_level(config.log.level == "debug" ? log::Level::kDebug : config.log.level == "warn" ? log::Level::kWarn : config.log.level == "error" ? log::Level::kError : log::Level::kInfo);
      log::set_rank(session.rank(), session.world());
      phase = "start";
      const std::unique_ptr<Communicator> world = mpi_world();
      Trainer trainer(config, *world, look_at_host(session), stop_signal, phase);
      return static_cast<int>(trainer.run());
    };
  });
}

}  // namespace atoll
