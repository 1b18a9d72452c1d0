// The FP8 GEMM with promotion off, for the test that shows what promotion is worth: the same skeleton, all of K in the tensor cores' accumulators.
#include "kernels/cuda/gemm_launch.h"
#include "tests/unit/kernels_cuda/oracle.h"

namespace atoll::gpu_test {

void unpromoted_product(Context& ctx, const Tensor& a_MK, const Tensor& b_NK, const Tensor& c_MN) {
  using Traits = cuda::GemmTraits<true, false, false, cuda::Scales::kNone, cuda::GroupedBy::kRows, false>;
  cuda::GemmMaps<1> maps{};
  maps.a[0] = cuda::operand_map(ctx, "a", a_MK.data, true, a_MK.dim[0], a_MK.dim[1], a_MK.stride[0], 1);
  maps.b[0] = cuda::operand_map(ctx, "b", b_NK.data, true, b_NK.dim[0], b_NK.dim[1], b_NK.stride[0], 1);
  cuda::GemmArgs args;
  args.offsets[1] = static_cast<int>(a_MK.dim[0]);
  args.n = static_cast<int>(b_NK.dim[0]);
  args.k = static_cast<int>(a_MK.dim[1]);
  args.c = c_MN.data;
  args.c_stride = c_MN.stride[0];
  args.c_is_fp32 = true;
  cuda::launch_gemm<Traits>(ctx, "unpromoted product", args, maps);
}

}  // namespace atoll::gpu_test
