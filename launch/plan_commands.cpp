// atoll plan schedule: what is known before a run is paid for.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>

#include "launch/commands.h"
#include "kernels/base/error.h"
#include "trainer/plan_schedule.h"
#include "trainer/schedule_picture.h"

namespace atoll {
void write_file(const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
  out.close();
  if (!out) throw ConfigError(path + ": cannot be written");
}

namespace {
void add_plan_schedule(CLI::App& plan, Command& chosen) {
  CLI::App* command = plan.add_subcommand("schedule", "one pipeline schedule: proven, timed from given costs, drawn");
  static std::string name, svg, trace;
  static std::vector<std::string> assignments;
  static bool json = false;
  command->add_option("name", name, "gpipe, 1f1b, 1f1b-split, interleaved, zb-h1, dualpipe, dualpipev, or a file with a schedule of one's own (*.yaml, *.csv; docs/schedules.md)")->required();
  command->add_option("assignments", assignments, "key=value: stages, microbatches, vpp (stages a rank, interleaved), and costs of a stage in any unit of time:\n"
                                                  "f forward, b full backward, w its weight part, pair (F and full backward overlapped), comm (a message);\n"
                                                  "activation (bytes of a live micro-batch of a stage)");
  command->add_option("--svg", svg, "draw it into this file");
  command->add_option("--trace", trace, "write a trace for chrome://tracing or Perfetto (one unit of time is a millisecond)");
  command->add_flag("--json", json, "JSON, for scripts: every rank's actions with begin and end");
  command->footer("For example: atoll plan schedule dualpipe stages=16 microbatches=120 f=1 b=2 w=1 pair=2.5 --svg dualpipe.svg\n"
                  "stages counts the pipeline's, so dualpipev has stages/2 ranks and interleaved stages/vpp.");
  command->callback([&chosen] {
    chosen = [](MpiSession&, std::string& phase) {
      phase = "planning a schedule";
      const SchedulePlan plan = plan_schedule(name, assignments);
      if (!svg.empty()) write_file(svg, schedule_svg(plan.schedule, plan.simulation));
      if (!trace.empty()) write_file(trace, schedule_trace(plan.schedule, plan.simulation));
      std::fputs((json ? schedule_json(plan) : schedule_text(plan)).c_str(), stdout);
      return 0;
    };
  });
}
}  // namespace

void add_plan(CLI::App& app, Command& chosen) {
  CLI::App* plan = app.add_subcommand("plan", "what a run takes, before it is paid for");
  plan->require_subcommand(0, 1);
  add_plan_schedule(*plan, chosen);
  add_plan_run(*plan, chosen);
}

}  // namespace atoll
