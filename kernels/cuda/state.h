// What the CUDA back end keeps in a Context: streams, workspace, the SM budget, the driver's tensor map encoder. For .cu files only.
// Policy: compute work goes to `compute`; `comm` is for copies and communication, ordered against compute by events alone.
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>

#include "kernels/base/context.h"
#include "kernels/base/handle.h"
#include "kernels/base/tensor.h"
#include "kernels/gpu.h"

namespace atoll::cuda {

struct StreamTraits {
  using type = cudaStream_t;
  static type null() { return nullptr; }
  static void destroy(type s) noexcept { cudaStreamDestroy(s); }
};
struct EventTraits {
  using type = cudaEvent_t;
  static type null() { return nullptr; }
  static void destroy(type e) noexcept { cudaEventDestroy(e); }
};
using Stream = Handle<StreamTraits>;
using Event = Handle<EventTraits>;

void check(cudaError_t status, const char* what);  // throws Error with the runtime's name and text

struct CudaState : BackendState {
  int device = 0;
  int num_sms = 0;
  Stream compute, comm;
  Event compute_done, comm_done;
  GpuBuffer workspace;  // of one op on the compute stream: the next op on the stream may overwrite it
  using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*, const cuuint32_t*, const cuuint32_t*,
                              CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  Encode encode = nullptr;
  ~CudaState() override;
};
CudaState& state_of(Context& ctx);
void* scratch(Context& ctx, int64_t bytes);        // the whole workspace, checked for size
void comm_waits_for_compute(CudaState& state);     // what was enqueued on compute so far happens before what comes next on comm
void compute_waits_for_comm(CudaState& state);

// A tensor map over `rank` dims, innermost first; strides in bytes of dims 1 and up. 128-byte swizzle for operands of tensor cores, none for scales.
struct MapShape { int rank; int64_t dim[3]; int64_t stride_bytes[2]; int box[3]; };
CUtensorMap make_map(Context& ctx, const char* what, void* data, CUtensorMapDataType type, CUtensorMapSwizzle swizzle, const MapShape& shape);

}  // namespace atoll::cuda
