// Runs some of this test binary's cases in a child process of its own environment: what a library reads once a process can be tested in no other way.
#pragma once
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <string>

namespace atoll::test {

struct Child {
  int status = -1;  // of system(): 0 is success
  std::string output;
};

// environment: "NAME=value NAME=value"; cases: a Catch2 selection, which may name hidden ones.
inline Child run_in_child(const std::string& environment, const std::string& cases) {
  char self[PATH_MAX] = {};
  Child child;
  if (readlink("/proc/self/exe", self, sizeof self - 1) < 0) return child;
  FILE* pipe = popen(("env " + environment + " '" + self + "' '" + cases + "' 2>&1").c_str(), "r");
  if (!pipe) return child;
  char buffer[4096];
  while (const size_t n = fread(buffer, 1, sizeof buffer, pipe)) child.output.append(buffer, n);
  child.status = pclose(pipe);
  return child;
}

}  // namespace atoll::test
