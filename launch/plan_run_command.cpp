// atoll plan RECIPE|PRESET cluster=NAME: a run's time, memory, bytes and dollars, before it is paid for.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>

#include "kernels/base/error.h"
#include "launch/commands.h"
#include "trainer/plan/search.h"

namespace atoll {
namespace {
// Beside the program's own sources (build/NAME/atoll), beside an installed program (../share/atoll), or in the current folder.
std::string data_folder() {
  char self[4096] = {};
  const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  const std::filesystem::path at = n > 0 ? std::filesystem::path(self).parent_path() : std::filesystem::path(".");
  std::error_code failed;
  for (const std::filesystem::path& folder : {at / ".." / ".." / "launch", at / ".." / "share" / "atoll", std::filesystem::path("launch")})
    if (std::filesystem::is_directory(folder / "clusters", failed)) return std::filesystem::canonical(folder, failed).string();
  throw ConfigError("the folder with clusters/, calibration/ and recipes/ is not found beside the program, nor in ./launch");
}

// One line on stderr that counts, from the third second on; where stderr is a file, nothing.
std::function<void(size_t, size_t)> search_progress() {
  if (isatty(STDERR_FILENO) == 0) return {};
  const auto begin = std::chrono::steady_clock::now();
  return [begin](size_t done, size_t all) {
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (seconds < 3) return;
    if (done < all)
      std::fprintf(stderr, "\rsearching: %zu of %zu meshes, %.0f s, about %.0f s left ", done, all, seconds,
                   seconds / static_cast<double>(done) * static_cast<double>(all - done));
    else
      std::fprintf(stderr, "\r%60s\r", "");
  };
}
}  // namespace

void add_plan_run(CLI::App& plan, Command& chosen) {
  static std::string what, item, svg;
  static std::vector<std::string> arguments;
  static bool json = false, is_search = false, are_keys_asked = false;
  plan.add_option("recipe", what, "a recipe (by name, as deepseek-v3, or a file.yaml) or a model preset");
  plan.add_option("arguments", arguments,
                  "cluster=NAME or cluster=FILE.yaml (h800-2048, h100-1024, h200-8, laptop), and key=value: keys of the configuration,\n"
                  "plan.KEY (docs/planning.md), cluster.KEY as cluster.links.inter.bandwidth='25 GB/s'");
  plan.add_option("--explain", item, "trace one number to its inputs and their sources");
  plan.add_flag("--search", is_search, "the best layouts under the memory limit, priced by the same simulator");
  plan.add_option("--svg", svg, "with --search: draw the front and its table into this file");
  plan.add_flag("--keys", are_keys_asked, "every key of a recipe's plan section and of a cluster: default, source, meaning (docs/planning.md)");
  plan.add_flag("--json", json, "JSON, for scripts: every number, its formula and its inputs");
  plan.footer(
      "For example: atoll plan deepseek-v3 cluster=h800-2048\n"
      "             atoll plan deepseek-v3 cluster=h800-2048 cluster.links.inter.bandwidth='25 GB/s' --explain step_time");
  plan.callback([&plan, &chosen] {
    if (!plan.get_subcommands().empty()) return;
    if (are_keys_asked) {
      chosen = [](MpiSession&, std::string&) {
        std::fputs(plan::plan_reference().c_str(), stdout);
        return 0;
      };
      return;
    }
    if (!item.empty() && (json || is_search)) throw ConfigError("--explain prints one number's inputs as text: leave out --json and --search");
    if (what.empty())
      throw ConfigError(
          "atoll plan: name a recipe or a preset (atoll plan deepseek-v3 cluster=h800-2048), or `atoll plan schedule`; `atoll plan --help` says more");
    chosen = [](MpiSession&, std::string& phase) {
      phase = "planning";
      const std::string folder = data_folder();
      const plan::PlanInput input = plan::load_plan(what, arguments, {folder + "/recipes", folder + "/clusters", folder + "/calibration"}, is_search);
      if (is_search) {
        const plan::Search search = plan::search_layouts(input, search_progress());
        std::fputs((json ? plan::search_json(search) : plan::search_text(search)).c_str(), stdout);
        if (!svg.empty()) write_file(svg, plan::search_svg(search));
        return 0;
      }
      if (!svg.empty()) throw ConfigError("--svg draws what --search finds; give --search too (a schedule is drawn by `atoll plan schedule NAME --svg FILE`)");
      const plan::Report report = plan::make_report(input, item.empty());
      std::fputs((!item.empty() ? report.ledger.explain(item) : json ? plan::report_json(report) : plan::report_text(report)).c_str(), stdout);
      return 0;
    };
  });
}

}  // namespace atoll
