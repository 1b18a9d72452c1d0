// State and helpers that the files of the runtime API share: the last error, registered kernels, stream handles.
// The C API has no place for a handle: this is the one mutable state of the process, behind functions.
#pragma once
#include <cuda_runtime_api.h>

#include <chrono>

#include "tests/gpusim/api.h"
#include "tests/gpusim/memory.h"
#include "tests/gpusim/stream_engine.h"

#undef cudaGetDeviceProperties
#undef cudaGetDriverEntryPoint
#define API __attribute__((visibility("default")))
#define OK return ret(0)

namespace atoll::gpusim {

struct Stream {
  int queue;
  unsigned flags;
  int priority;
};
struct Event {
  bool has_time = true;
  std::shared_ptr<std::chrono::steady_clock::time_point> time;
  StreamEngine::Mark mark;  // seq 0: never recorded
};
struct Symbol {
  FatModule* module;
  std::string name;
};
cudaError_t ret(int e);                     // records and returns
KernelEntry* ready(const void* f, int& e);  // a registered kernel, decoded
KernelEntry* kernel_of(const void* f);
const Symbol* symbol_of(const void* host);
int queue_of(cudaStream_t s);
bool is_stream(cudaStream_t s);  // one that exists
// Says what is wrong with a call, and returns `code`.
cudaError_t refuse(const char* call, const std::string& why, int code);
inline cudaError_t refuse_stream(const char* call) { return refuse(call, "no such stream (never created, or destroyed)", 400); }
cudaError_t synced();  // the sticky error, after a synchronisation
using Guard = std::lock_guard<std::recursive_mutex>;
inline std::recursive_mutex& api_mutex() { return streams().mutex(); }

}  // namespace atoll::gpusim
using namespace atoll::gpusim;
