// Cores of a host, shared out among its ranks. A mask that somebody asked for is kept; one that mpirun set unasked is widened.
#include "parallel/cores.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

namespace atoll {
namespace {
static_assert(sizeof(CoreMask) == sizeof(cpu_set_t));

struct Process { std::string name; int parent = 0; };
Process process_of(int pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  Process process;
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("Name:", 0) == 0) process.name = line.substr(line.find_first_not_of(" \t", 5));
    if (line.rfind("PPid:", 0) == 0) process.parent = std::atoi(line.c_str() + 5);
  }
  return process;
}
}  // namespace

int num_cores(const CoreMask& mask) {
  int cores = 0;
  for (const uint64_t word : mask) cores += std::popcount(word);
  return cores;
}

CoreMask cores_of_process(int pid) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(pid, sizeof set, &set) != 0) CPU_ZERO(&set);
  CoreMask mask;
  std::memcpy(mask.data(), &set, sizeof set);
  return mask;
}

CoreMask cores_of_launcher() {
  int pid = getppid();
  for (int hops = 0; hops < 8 && pid > 1; ++hops) {
    const Process process = process_of(pid);
    for (const char* daemon : {"mpirun", "mpiexec", "orterun", "orted", "prterun", "prted"})
      if (process.name == daemon) return cores_of_process(pid);
    pid = process.parent;
  }
  return {};
}

bool widen_binding(int ranks_on_host) {
  if (std::getenv("OMPI_MCA_orte_bound_at_launch") == nullptr || std::getenv("OMPI_MCA_hwloc_base_binding_policy") != nullptr) return false;
  const CoreMask mine = cores_of_process(), launcher = cores_of_launcher();
  if (num_cores(mine) >= std::max(1, num_cores(launcher) / std::max(1, ranks_on_host))) return false;
  cpu_set_t set;
  std::memcpy(&set, launcher.data(), sizeof set);
  return sched_setaffinity(0, sizeof set, &set) == 0;
}

}  // namespace atoll
