// atoll verify golden, atoll bench step: what is right, and how fast.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "launch/commands.h"
#include "launch/mpirun_line.h"
#include "trainer/bench_step.h"
#include "trainer/model_show.h"
#include "trainer/verify_golden.h"

namespace atoll {
namespace {
int verify_folders(MpiSession& session, const std::vector<std::string>& arguments, bool all_rows, const std::vector<std::string>& words) {
  std::vector<std::string> folders, assignments;
  for (const std::string& a : arguments) (a.find('=') == std::string::npos ? folders : assignments).push_back(a);
  if (folders.empty()) throw ConfigError("verify golden: which folder? `atoll verify golden DIR... [dtype=fp64] [parallel.pp=2] [parallel.ep=2]`");
  GoldenOptions options = parse_golden_options(assignments);
  bool ok = true;
  auto verify_all = [&](Communicator& world) {
    for (const std::string& folder : folders) {
      const GoldenReport report = verify_golden(folder, options, world);
      if (world.rank() != 0) continue;
      std::fputs(report.text(all_rows).c_str(), stdout);
      std::fflush(stdout);
      ok = ok && report.ok();
    }
  };
  if (session.world() > 1) {
    check_mesh(session.world(), options.mesh, words);
    options.world = session.world();
    verify_all(*mpi_world());
  } else {
    run_ranks_as_threads(options.world, verify_all);
  }
  if (session.rank() == 0) std::printf("%s\n", ok ? "all hold" : "NOT all hold");
  return ok ? 0 : 1;
}
}  // namespace

void add_prove(CLI::App& app, Command& chosen, const std::vector<std::string>& words) {
  CLI::App* verify = app.add_subcommand("verify", "compare with reference results");
  verify->require_subcommand(1);
  CLI::App* golden = verify->add_subcommand("golden", "run folders of another implementation's results and compare everything in them");
  static std::vector<std::string> arguments;
  static bool all_rows = false, json = false;
  golden->add_option("arguments", arguments, "folders, and key=value: dtype=fp64|fp32|bf16, parallel.pp, parallel.ep, parallel.schedule, world, threads")->required();
  golden->add_flag("--all", all_rows, "every compared quantity, not only failures and the worst of each kind");
  golden->footer("For example: atoll verify golden tests/golden/deepseek_v3_tiny dtype=bf16 parallel.pp=2 parallel.ep=2\n"
                 "Without mpirun the ranks are threads of this process: world of them, or pp x ep. Exit 0 only if everything holds.");
  golden->callback([&chosen, words] {
    chosen = [words](MpiSession& session, std::string& phase) {
      phase = "verifying golden cases";
      return verify_folders(session, arguments, all_rows, words);
    };
  });

  CLI::App* bench = app.add_subcommand("bench", "this machine against its limits");
  bench->require_subcommand(1);
  CLI::App* step = bench->add_subcommand("step", "a whole optimizer step on random tokens, one process, against the GEMM peak of the same run");
  static BenchStepOptions options;
  static std::string dtype = "bf16";
  step->add_option("model", options.name, "a preset, a recipe or a config.json")->required();
  step->add_option("--batch", options.batch, "sequences of a step")->capture_default_str()->check(CLI::PositiveNumber);
  step->add_option("--micro-batch", options.micro_batch, "sequences at once; 0: the whole batch")->capture_default_str()->check(CLI::NonNegativeNumber);
  step->add_option("--seq", options.seq, "tokens of a sequence")->capture_default_str()->check(CLI::PositiveNumber);
  step->add_option("--steps", options.steps, "timed steps, after two to warm up")->capture_default_str()->check(CLI::PositiveNumber);
  step->add_option("--threads", options.threads, "0: all cores")->capture_default_str()->check(CLI::NonNegativeNumber);
  step->add_option("--dtype", dtype, "storage")->capture_default_str()->check(CLI::IsMember({"bf16", "fp32", "fp64"}));
  step->add_flag("--json", json, "JSON, for scripts");
  step->callback([&chosen] {
    chosen = [](MpiSession&, std::string& phase) {
      phase = "benchmarking a step";
      options.model = find_model(options.name).model;
      options.dtype = dtype == "bf16" ? DType::kBF16 : dtype == "fp32" ? DType::kF32 : DType::kF64;
      options.json = json;
      std::fputs(bench_step(options).c_str(), stdout);
      return 0;
    };
  });
}

}  // namespace atoll
