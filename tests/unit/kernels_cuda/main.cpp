// The GPU tests' main: runs on a card, or on the simulator when that is first on the library path; where there is neither it says so and exits 77, it never passes.
// Policy: ATOLL_GPU_SEED (default 1) seeds every case's inputs and shapes; the simulator's own seed comes from its own variable (tests/unit/kernels_cuda/gpusim.cmake).
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#include <cstdio>

#include "kernels/gpu.h"

int main(int argc, char** argv) {
  Catch::Session session;
  const int status = session.applyCommandLine(argc, argv);
  if (status != 0) return status;
  if (!atoll::has_gpu() && !session.configData().listTests && !session.configData().listTestNamesOnly) {
    std::printf("skipped: no GPU\n");
    return 77;
  }
  return session.run();
}
