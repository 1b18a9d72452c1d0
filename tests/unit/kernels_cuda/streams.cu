// A copy on the communication stream between ops of the compute stream, as communication will be; with or without the events that order it.
#include "tests/unit/kernels_cuda/streams.h"

#include "kernels/cuda/state.h"

namespace atoll::gpu_test {

void copy_on_comm(Context& ctx, const CommCopy& copy) {
  cuda::CudaState& state = cuda::state_of(ctx);
  if (copy.after_compute) cuda::comm_waits_for_compute(state);
  cuda::check(cudaMemcpyAsync(copy.to, copy.from, static_cast<size_t>(copy.bytes), cudaMemcpyDeviceToDevice, state.comm.get()), "copy on comm");
  if (copy.before_compute) cuda::compute_waits_for_comm(state);
  else cuda::check(cudaEventRecord(state.comm_done.get(), state.comm.get()), "record comm");
}
void write_workspace(Context& ctx, int64_t bytes) {
  cuda::check(cudaMemsetAsync(cuda::scratch(ctx, bytes), 0, static_cast<size_t>(bytes), cuda::state_of(ctx).compute.get()), "fill the workspace");
}

}  // namespace atoll::gpu_test
