// Memory where the system counts what may be written: a process whose data segment is limited, as all are under vm.overcommit_memory=2.
#include <catch2/catch.hpp>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>

#include "kernels/base/context.h"

namespace atoll::test {
namespace {

int64_t data_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("VmData:", 0) == 0) return std::stoll(line.substr(7)) * 1024;
  return 0;
}

// What body says in a child that may have `bytes` more of writable memory.
int status_under_limit(int64_t bytes, int (*body)()) {
  const pid_t child = fork();
  if (child == 0) {
    const rlimit limit{static_cast<rlim_t>(data_bytes() + bytes), static_cast<rlim_t>(data_bytes() + bytes)};
    setrlimit(RLIMIT_DATA, &limit);
    int result = 100;
    try {
      result = body();
    } catch (...) {
    }
    _exit(result);
  }
  int status = -1;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int use_every_segment() {
  Memory memory;
  int good = 0;
  for (Segment* s : memory.all()) {
    const Buffer b = s->take({1 << 20}, DType::kU8), more = s->take({20 << 20}, DType::kU8);
    std::memset(b.tensor().data, 1, 1 << 20);
    std::memset(more.tensor().data, 1, 20 << 20);
    good += b.tensor().as<char>()[(1 << 20) - 1] == 1 && more.tensor().as<char>()[(20 << 20) - 1] == 1;
  }
  return good;
}

int take_too_much() {
  Memory memory;
  const Buffer first = memory.weights.take({1 << 20}, DType::kU8);
  try {
    const Buffer b = memory.weights.take({int64_t{1} << 30}, DType::kU8);
    return 1;
  } catch (const ConfigError& error) {
    const std::string text = error.what();
    const Buffer still_works = memory.weights.take({1 << 20}, DType::kU8);
    return text.find("'weights'") != std::string::npos && text.find("overcommit") != std::string::npos ? 0 : 2;
  }
}

}  // namespace

TEST_CASE("Segments need no more writable memory than is taken from them") { CHECK(status_under_limit(int64_t{512} << 20, use_every_segment) == 7); }

TEST_CASE("What the system refuses is an error that names the segment and the limit") { CHECK(status_under_limit(int64_t{512} << 20, take_too_much) == 0); }

}  // namespace atoll::test
