// atoll: one binary, many subcommands. main() parses, runs one command, and is the only place where an error leaves a rank:
// it is printed once, with rank, host and phase, and ends the whole job.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <thread>

#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "launch/commands.h"

namespace atoll {
namespace {
std::string host_name() {
  char name[256] = {};
  gethostname(name, sizeof name - 1);
  return name;
}

// Where every rank fails alike (a bad key, a missing file), rank 0 speaks and ends the job before the others' turn comes. Where some of the others
// do, the first of them: each has a time of its own, within some seconds, and the end of the job (SIGTERM) finds no handler that would let it speak on.
void wait_for_turn(int rank, int world) {
  std::signal(SIGTERM, SIG_DFL);
  std::signal(SIGINT, SIG_DFL);
  if (rank == 0) return;
  const int64_t step = std::min(200000, 4000000 / world);
  std::this_thread::sleep_for(std::chrono::microseconds(3000000 + rank * step));
}

int fail(MpiSession& session, const std::string& phase, const std::string& what, int code) {
  if (session.world() > 1) wait_for_turn(session.rank(), session.world());
  const bool is_users = code == static_cast<int>(ExitCode::kConfig) || code == static_cast<int>(ExitCode::kData);
  std::string text = "atoll: error";
  if (session.world() > 1 || !is_users) text += " on rank " + std::to_string(session.rank()) + " (host " + host_name() + ")";
  if (!phase.empty()) text += " while " + phase;
  log::flush();
  std::fprintf(stderr, "%s: %s\n", text.c_str(), what.c_str());
  std::fflush(stderr);
  if (session.world() > 1) abort_job(code);
  return code;
}

int run(int argc, char** argv, MpiSession& session, std::string& phase) {
  CLI::App app{"Atoll pre-trains DeepSeek-V3-class mixture-of-experts models: pipeline, data and expert parallelism under MPI.\n"
               "Exit codes: 0 done, 64 bad configuration, 65 bad data, 85 saved on a signal (start again to go on), 93 do not restart."};
  app.require_subcommand(1);
  app.failure_message(CLI::FailureMessage::help);
  const std::vector<std::string> words(argv, argv + argc);
  Command chosen;
  add_train(app, chosen, words);
  add_data(app, chosen);
  add_inspect(app, chosen);
  add_use(app, chosen);
  add_prove(app, chosen, words);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& e) {
    if (session.rank() == 0) app.exit(e);
    return 0;
  } catch (const CLI::CallForAllHelp& e) {
    if (session.rank() == 0) app.exit(e);
    return 0;
  } catch (const CLI::ParseError& e) {
    std::string hint = e.what();
    for (int i = 1; i < argc; ++i)
      if (std::string(argv[i]).find('=') != std::string::npos && argv[i][0] == '-') hint += std::string("; configuration keys have no dashes: write ") + (argv[i] + std::string(argv[i]).find_first_not_of('-'));
    if (hint.find("subcommand") != std::string::npos && argc > 1) hint = std::string("no such command: ") + argv[1] + " (" + e.what() + ")";
    throw ConfigError(hint + "; `atoll --help` and `atoll COMMAND --help` say what there is");
  }
  return chosen(session, phase);
}
}  // namespace
}  // namespace atoll

int main(int argc, char** argv) {
  using namespace atoll;
  std::string phase;
  MpiSession session(&argc, &argv);
  log::set_rank(session.rank(), session.world());
  try {
    const int code = run(argc, argv, session, phase);
    log::flush();
    return code;
  } catch (const Error& e) {
    return fail(session, phase, e.what(), static_cast<int>(e.code()));
  } catch (const std::bad_alloc&) {
    return fail(session, phase, "out of memory; use smaller micro-batches (train.micro_batch), more pipeline stages or more ranks", 1);
  } catch (const std::exception& e) {
    return fail(session, phase, e.what(), 1);
  }
}
