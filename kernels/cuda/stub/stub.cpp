// The CUDA back end where there is no nvcc: the same symbols, so that callers need no #ifdef. There is no GPU, and whoever insists is told what to install.
#include "kernels/cuda/ops.h"
#include "kernels/gpu.h"

namespace atoll {
namespace {
[[noreturn]] void absent() { throw Error("this build has no CUDA kernels: nvcc was not found when it was configured; install the CUDA toolkit (13.0) and configure again"); }
}  // namespace

bool built_with_cuda() { return false; }
bool has_gpu() { return false; }
std::string gpu_name() { absent(); }
void use_gpu(Context&, const GpuOptions&) { absent(); }
void set_num_sms(Context&, int) { absent(); }
void synchronize(Context&) { absent(); }
GpuBuffer::GpuBuffer(int64_t) { absent(); }
GpuBuffer::~GpuBuffer() = default;
void copy_to_gpu(Context&, void*, const void*, int64_t) { absent(); }
void copy_from_gpu(Context&, void*, const void*, int64_t) { absent(); }

namespace cuda {
void cast_tiles(Context&, const CastTiles&) { absent(); }
void cast_blocks(Context&, const CastBlocks&) { absent(); }
void cast_transposed(Context&, const CastTransposed&) { absent(); }
void recast_transposed(Context&, const RecastTransposed&) { absent(); }
void cast_e5m6(Context&, const CastE5m6&) { absent(); }
void read_e5m6(Context&, const ReadE5m6&) { absent(); }
void scales_to_mn_major(Context&, const ScalesToMnMajor&) { absent(); }
void fp8_linear(Context&, const Fp8Linear&) { absent(); }
void fp8_weight_gradient(Context&, const Fp8WeightGradient&) { absent(); }
void linear(Context&, const Linear&) { absent(); }
void linear_backward_input(Context&, const LinearBackwardInput&) { absent(); }
void linear_backward_weight(Context&, const LinearBackwardWeight&) { absent(); }
void grouped_linear(Context&, const GroupedLinear&) { absent(); }
void grouped_linear_backward_input(Context&, const GroupedLinearBackwardInput&) { absent(); }
void grouped_linear_backward_weight(Context&, const GroupedLinearBackwardWeight&) { absent(); }
void rms_norm(Context&, const RmsNorm&) { absent(); }
void rms_norm_backward(Context&, const RmsNormBackward&) { absent(); }
void swiglu(Context&, const Swiglu&) { absent(); }
void swiglu_backward(Context&, const SwigluBackward&) { absent(); }
void adamw(Context&, const AdamW&) { absent(); }
void rms_norm_cast(Context&, const RmsNormCast&) { absent(); }
void swiglu_cast(Context&, const SwigluCast&) { absent(); }
}  // namespace cuda
}  // namespace atoll
