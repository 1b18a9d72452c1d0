// Shared between the runtime API and the driver API.
#pragma once
#include "tests/gpusim/machine.h"
namespace atoll::gpusim {
struct KernelEntry {
  LoadedModule* mod = nullptr;
  Func* fn = nullptr;  // decoded on first use
  std::string name;
  int max_dyn_smem = 48 * 1024;  // set by cudaFuncSetAttribute
  bool max_dyn_set = false, non_portable_cluster = false;
  const void* host = nullptr;
};
struct FatModule {       // one __cudaRegisterFatBinary
  std::string ptx, why;  // chosen PTX, or why there is none
  LoadedModule* mod = nullptr;
  std::string name;
};
LoadedModule* loaded_of(FatModule& f);                                                      // parses on first use
std::vector<std::string> fatbin_ptx(const void* data, std::string& why, size_t limit = 0);  // all PTX texts of a fatbin
int prepare(KernelEntry& k);                                                                // decodes; prints and returns an Err on failure
struct LaunchDim {
  u32 grid[3], block[3], cluster[3];
  u32 smem;
  bool coop;
};
int launch(KernelEntry& k, const LaunchDim& d, void** args, int stream);  // checks the configuration, enqueues; errors of the run come later
int sm_count();
std::string demangle(const std::string& s);
void set_error(int e, bool sticky);
int sticky_error();
}  // namespace atoll::gpusim
