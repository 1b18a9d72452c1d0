// A GPU under a Context: opening it, memory and copies, streams and events, tensor maps. Policy: every call to the runtime is checked where it is made; errors of
// kernels, which come later, are thrown by synchronize().
#include "kernels/cuda/state.h"

namespace atoll {
namespace cuda {

void check(cudaError_t status, const char* what) {
  ATOLL_CHECK(status == cudaSuccess, what, ": ", cudaGetErrorName(status), ": ", cudaGetErrorString(status));
}

CudaState::~CudaState() { cudaDeviceSynchronize(); }

CudaState& state_of(Context& ctx) {
  auto* state = dynamic_cast<CudaState*>(ctx.backend.get());
  ATOLL_CHECK(state, "this context has no GPU; call use_gpu() first");
  return *state;
}

void* scratch(Context& ctx, int64_t bytes) {
  CudaState& state = state_of(ctx);
  ATOLL_CHECK(bytes <= state.workspace.bytes(), "an op needs ", bytes, " bytes of GPU workspace, there are ", state.workspace.bytes(), "; raise GpuOptions::workspace_bytes");
  return state.workspace.data();
}

void comm_waits_for_compute(CudaState& state) {
  check(cudaEventRecord(state.compute_done.get(), state.compute.get()), "record compute");
  check(cudaStreamWaitEvent(state.comm.get(), state.compute_done.get(), 0), "comm waits for compute");
}
void compute_waits_for_comm(CudaState& state) {
  check(cudaEventRecord(state.comm_done.get(), state.comm.get()), "record comm");
  check(cudaStreamWaitEvent(state.compute.get(), state.comm_done.get(), 0), "compute waits for comm");
}

CUtensorMap make_map(Context& ctx, const char* what, void* data, CUtensorMapDataType type, CUtensorMapSwizzle swizzle, const MapShape& shape) {
  cuuint64_t dims[3], strides[2];
  cuuint32_t box[3];
  const cuuint32_t ones[3] = {1, 1, 1};
  for (int k = 0; k < shape.rank; ++k) {
    dims[k] = static_cast<cuuint64_t>(shape.dim[k]);
    box[k] = static_cast<cuuint32_t>(shape.box[k]);
    if (k > 0) strides[k - 1] = static_cast<cuuint64_t>(shape.stride_bytes[k - 1]);
  }
  CUtensorMap map;
  const CUresult status = state_of(ctx).encode(&map, type, static_cast<cuuint32_t>(shape.rank), data, dims, strides, box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                                               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  ATOLL_CHECK(status == CUDA_SUCCESS, what, ": no tensor map over ", shape.dim[0], " x ", shape.dim[1], " elements, row stride ", shape.stride_bytes[0],
              " bytes: address and strides must be multiples of 16 bytes");
  return map;
}

}  // namespace cuda

bool built_with_cuda() { return true; }

bool has_gpu() {
  int count = 0, major = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    cudaGetLastError();
    return false;
  }
  return cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) == cudaSuccess && major == 9;
}

std::string gpu_name() {
  cudaDeviceProp properties;
  cuda::check(cudaGetDeviceProperties(&properties, 0), "device properties");
  return properties.name;
}

void use_gpu(Context& ctx, const GpuOptions& options) {
  using cuda::check;
  ATOLL_CHECK(has_gpu(), "no GPU of compute capability 9.0 was found (nor the simulator on the library path)");
  check(cudaSetDevice(options.device), "choose the device");
  auto state = std::make_unique<cuda::CudaState>();
  state->device = options.device;
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "compute stream");
  state->compute = cuda::Stream(stream);
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "comm stream");
  state->comm = cuda::Stream(stream);
  for (cuda::Event* event : {&state->compute_done, &state->comm_done}) {
    cudaEvent_t e = nullptr;
    check(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), "event");
    *event = cuda::Event(e);
  }
  cudaDriverEntryPointQueryResult found;
  void* entry = nullptr;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found), "cuTensorMapEncodeTiled");
  ATOLL_CHECK(entry && found == cudaDriverEntryPointSuccess, "the driver has no cuTensorMapEncodeTiled; Hopper needs a driver of CUDA 12 or later");
  state->encode = reinterpret_cast<cuda::CudaState::Encode>(entry);
  state->workspace = GpuBuffer(options.workspace_bytes);
  ctx.backend = std::move(state);
  ctx.device = Device::kCuda;
  set_num_sms(ctx, options.num_sms);
}

void set_num_sms(Context& ctx, int num_sms) {
  cuda::CudaState& state = cuda::state_of(ctx);
  int all = 0;
  cuda::check(cudaDeviceGetAttribute(&all, cudaDevAttrMultiProcessorCount, state.device), "SM count");
  ATOLL_CHECK(num_sms >= 0 && num_sms <= all, "num_sms is ", num_sms, ", the device has ", all);
  state.num_sms = num_sms == 0 ? all : num_sms;
}

void synchronize(Context& ctx) {
  cuda::check(cudaStreamSynchronize(cuda::state_of(ctx).compute.get()), "a kernel failed");
  cuda::check(cudaGetLastError(), "a launch failed");
}

GpuBuffer::GpuBuffer(int64_t bytes) : bytes_(bytes) {
  if (bytes > 0) cuda::check(cudaMalloc(&data_, static_cast<size_t>(bytes)), "GPU memory");
}
GpuBuffer::~GpuBuffer() {
  if (data_) cudaFree(data_);
}

void copy_to_gpu(Context& ctx, void* to, const void* from, int64_t bytes) {
  cudaStream_t stream = cuda::state_of(ctx).compute.get();
  cuda::check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream), "copy to the GPU");
  cuda::check(cudaStreamSynchronize(stream), "copy to the GPU");
}
void copy_from_gpu(Context& ctx, void* to, const void* from, int64_t bytes) {
  cudaStream_t stream = cuda::state_of(ctx).compute.get();
  cuda::check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream), "copy from the GPU");
  cuda::check(cudaStreamSynchronize(stream), "copy from the GPU");
}

}  // namespace atoll
