// Fault points: named places where a test makes the program die, fail or corrupt a file. Policy: without ATOLL_FAULT in the environment a point is one getenv.
//   ATOLL_FAULT=after-rank-file:rank=1:step=20:action=kill9      rank and step are optional; several faults are separated by commas
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace atoll {

struct FaultPoint { std::string_view name, where; };
std::span<const FaultPoint> fault_points();  // the table of all names

struct FaultSite {
  int rank = 0;
  int64_t step = 0;
  std::string path;  // the file (or folder) being worked on, for the actions flip, truncate and fill
};

// Actions: kill9 (SIGKILL to this process), stop (SIGSTOP: a hang), enospc (throws the Error of a full disk), flip (one bit in the middle of `path`),
// truncate (the last byte of `path`), fill (fills the disk of `path` with a file beside it: a real ENOSPC follows). A malformed ATOLL_FAULT is a ConfigError.
void fault_point(std::string_view name, const FaultSite& site);

}  // namespace atoll
