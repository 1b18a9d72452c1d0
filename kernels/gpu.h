// A GPU under a Context: found, opened, filled and read. Without CUDA (kernels/cuda/stub/stub.cpp) has_gpu() is false and the rest throws, so callers have no #ifdef.
// Policy: ops and copies of one context run in order on its compute stream; the host waits only in synchronize() and copy_from_gpu().
#pragma once
#include <cstdint>
#include <string>
#include <utility>

#include "kernels/base/context.h"

namespace atoll {

struct GpuOptions {
  int device = 0;
  int num_sms = 0;                              // SMs that persistent kernels may use; 0: all. What is left is free for communication
  int64_t workspace_bytes = int64_t{64} << 20;  // scratch of the ops
};
bool built_with_cuda();
bool has_gpu();                                 // a card of compute capability 9.0 (or the simulator standing in for one)
std::string gpu_name();
void use_gpu(Context& ctx, const GpuOptions& options = {});  // from here on ctx's ops run there
void set_num_sms(Context& ctx, int num_sms);
void synchronize(Context& ctx);                 // throws what any kernel since the last call did wrong

// Owns device memory.
class GpuBuffer {
 public:
  GpuBuffer() = default;
  explicit GpuBuffer(int64_t bytes);
  GpuBuffer(GpuBuffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  GpuBuffer& operator=(GpuBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~GpuBuffer();
  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};
void copy_to_gpu(Context& ctx, void* to, const void* from, int64_t bytes);    // `from` may be reused on return
void copy_from_gpu(Context& ctx, void* to, const void* from, int64_t bytes);  // complete on return

}  // namespace atoll
