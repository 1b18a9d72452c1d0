// A program of planted bugs: each case runs with its bug or repaired. `PROGRAM --list` prints names and the text a report must contain;
// `PROGRAM NAME bug|fixed` runs one. The status is 0 only if no CUDA call failed and the case's own result was right.
#pragma once
#include <cstring>
#include <functional>
#include <string>

#include "tests/gpusim/cases/check.h"

struct Bug {
  const char* name;
  const char* report;  // extended regular expression
  std::function<void(bool fixed)> run;
};
inline __device__ unsigned sp(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

template <size_t N>
int run_bug(const Bug (&bugs)[N], int argc, char** argv) {
  if (argc == 2 && !std::strcmp(argv[1], "--list")) {
    for (const Bug& b : bugs) std::printf("%s\t%s\n", b.name, b.report);
    return 0;
  }
  for (const Bug& b : bugs)
    if (argc == 3 && !std::strcmp(argv[1], b.name)) {
      b.run(!std::strcmp(argv[2], "fixed"));
      return finish();
    }
  std::printf("usage: %s --list | NAME bug|fixed\n", argv[0]);
  return 64;
}
