// Which cores a process may use. Policy: what the user set by taskset or a cpuset is kept; only a binding that mpirun made unasked is widened, and never
// beyond the cores that mpirun itself has.
#pragma once
#include <array>
#include <cstdint>

namespace atoll {

using CoreMask = std::array<uint64_t, 16>;  // one bit a core, 1024 of them: glibc's cpu_set_t

int num_cores(const CoreMask& mask);
CoreMask cores_of_process(int pid = 0);  // 0: this one. Where the system does not say, no core at all
CoreMask cores_of_launcher();            // of the nearest ancestor that is a daemon of Open MPI; none: no core at all

// Open MPI binds ranks to a core each, or a socket, unless told otherwise (and then says so in the environment). True: this rank had less than its share of
// its launcher's cores by such a binding, and may now use all of them.
bool widen_binding(int ranks_on_host);

}  // namespace atoll
