// atoll: one binary, many subcommands. main() parses, runs one command, and is the only place where an error leaves a rank:
// it is printed once, with rank, host and phase, and ends the whole job.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <optional>
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

int fail(const MpiSession* session, const std::string& phase, const std::string& what, int code) {
  const bool is_one_process = session != nullptr && session->world() == 1;
  if (session != nullptr && session->world() > 1) wait_for_turn(session->rank(), session->world());
  const bool is_users = code == static_cast<int>(ExitCode::kConfig) || code == static_cast<int>(ExitCode::kData);
  std::string text = "atoll: error";
  if (session != nullptr && !is_one_process) text += " on rank " + std::to_string(session->rank()) + " (host " + host_name() + ")";
  else if (!is_users) text += " on " + host_name();  // ranks that are threads say which they are in the message
  if (!phase.empty()) text += " while " + phase;
  log::flush();
  std::fprintf(stderr, "%s: %s\n", text.c_str(), what.c_str());
  std::fflush(stderr);
  if (!is_one_process) abort_job(code);
  return code;
}

// `--train.steps=5` is a common slip where keys go without dashes, and nothing but a mistyped option elsewhere.
std::string dashes_hint(const std::vector<std::string>& words) {
  if (words.size() < 2 || (words[1] != "train" && words[1] != "verify")) return "";
  for (size_t i = 2; i < words.size(); ++i)
    if (words[i][0] == '-' && words[i].find('=') != std::string::npos && words[i].find_first_not_of('-') != std::string::npos)
      return "; configuration keys have no dashes: write " + words[i].substr(words[i].find_first_not_of('-'));
  return "";
}

int run(int argc, char** argv, MpiSession& session, std::string& phase) {
  CLI::App app{"Atoll pre-trains DeepSeek-V3-class mixture-of-experts models: pipeline, data and expert parallelism under MPI.\n"
               "Exit codes: 0 done, 64 bad configuration, 65 bad data, 85 saved on a signal (start again to go on), 93 do not restart."};
  app.footer("In this order:\n"
             "  atoll data prepare DIR --out STORE\n"
             "  mpirun -n 4 atoll train launch/recipes/quickstart.yaml data.store=STORE parallel.pp=2 parallel.ep=2 run.name=mine\n"
             "  atoll eval runs/mine;  atoll generate runs/mine --prompt TEXT;  atoll checkpoint ls runs/mine\n"
             "`atoll COMMAND --help` says the rest. train and verify golden are started by mpirun for more than one rank; everything else is one process.");
  app.require_subcommand(1);
  app.failure_message(CLI::FailureMessage::help);
  const std::vector<std::string> words(argv, argv + argc);
  Command chosen;
  add_train(app, chosen, words);
  add_data(app, chosen);
  add_inspect(app, chosen);
  add_use(app, chosen);
  add_prove(app, chosen, words);
  add_plan(app, chosen);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& e) {
    if (session.rank() == 0) app.exit(e);
    return 0;
  } catch (const CLI::CallForAllHelp& e) {
    if (session.rank() == 0) app.exit(e);
    return 0;
  } catch (const CLI::ParseError& e) {
    std::string hint = e.what() + dashes_hint(words);
    if (hint.find("subcommand") != std::string::npos && argc > 1) hint = std::string("no such command: ") + argv[1] + " (" + e.what() + ")";
    throw ConfigError(hint + "; `atoll --help` and `atoll COMMAND --help` say what there is");
  }
  if (session.world() > 1 && words[1] != "train" && words[1] != "verify") throw ConfigError("atoll " + words[1] + " is one process; start it without mpirun");
  return chosen(session, phase);
}
}  // namespace
}  // namespace atoll

int main(int argc, char** argv) {
  using namespace atoll;
  std::string phase = "starting MPI";
  std::optional<MpiSession> session;
  const auto fail = [&](const std::string& what, int code) { return atoll::fail(session ? &*session : nullptr, phase, what, code); };
  try {
    session.emplace(&argc, &argv);
    phase.clear();
    log::set_rank(session->rank(), session->world());
    const int code = run(argc, argv, *session, phase);
    log::flush();
    return code;
  } catch (const Error& e) {
    return fail(e.what(), static_cast<int>(e.code()));
  } catch (const std::bad_alloc&) {
    return fail("out of memory" + std::string(argc > 1 && std::string(argv[1]) == "train" ? "; use smaller micro-batches (train.micro_batch), more pipeline stages or more ranks" : ""), 1);
  } catch (const std::exception& e) {
    return fail(e.what(), 1);
  }
}
