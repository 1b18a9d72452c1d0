// Main of the MPI tests: one Catch2 session on every rank, the same cases in the same order; rank 0 alone writes the normal report. Policy: after a failed case the ranks
// are out of step, so the rank that failed says where and aborts the job: no other rank waits for it in a collective.
#define CATCH_CONFIG_RUNNER
#define CATCH_CONFIG_NO_POSIX_SIGNALS  // an aborted job ends the other ranks by SIGTERM: they have nothing to report
#include <catch2/catch.hpp>
#include <iostream>

#include "parallel/communicator.h"

namespace {
struct RankInReports {
  static int& rank() {
    static int value = 0;
    return value;
  }
};

struct AbortOnFailure : Catch::TestEventListenerBase {
  using TestEventListenerBase::TestEventListenerBase;
  bool assertionEnded(const Catch::AssertionStats& stats) override {
    const auto& result = stats.assertionResult;
    if (result.isOk()) return false;
    std::string info;
    for (const auto& message : stats.infoMessages) info += "\n  with: " + message.message;
    std::cerr << "rank " + std::to_string(RankInReports::rank()) + ": " + result.getSourceInfo().file + ":" + std::to_string(result.getSourceInfo().line) + ": FAILED " +
                     result.getExpressionInMacro() + "\n  " + (result.hasExpandedExpression() ? result.getExpandedExpression() + "\n  " : "") + static_cast<std::string>(result.getMessage()) +
                     info + "\n" << std::flush;
    return false;
  }
  void testCaseEnded(const Catch::TestCaseStats& stats) override {
    if (stats.totals.assertions.failed == 0) return;
    std::cerr << "rank " + std::to_string(RankInReports::rank()) + ": test case '" + stats.testInfo.name + "' failed; the run ends\n" << std::flush;
    std::cout << std::flush;
    atoll::abort_job(1);
  }
};
CATCH_REGISTER_LISTENER(AbortOnFailure)
}  // namespace

int main(int argc, char** argv) {
  atoll::MpiSession session(&argc, &argv);
  RankInReports::rank() = session.rank();
  Catch::Session catch_session;
  const int usage_error = catch_session.applyCommandLine(argc, argv);
  if (usage_error != 0) return usage_error;
  if (session.rank() != 0) catch_session.configData().outputFilename = "/dev/null";
  const int failed = catch_session.run();
  // A failed case has aborted above; what is left is a run without any test, say by a wrong filter.
  return failed == 0 ? 0 : 1;
}
