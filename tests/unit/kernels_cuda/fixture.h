// What the GPU tests share: a context on each back end, tensors that exist on both, inputs of several kinds, comparison by bits and against a double oracle.
// Policy: a test fills host memory, runs the op on the GPU and on the CPU back end, and compares; nothing is compared with a stored file.
#pragma once
#include <cstring>
#include <string>
#include <vector>

#include "kernels/base/context.h"
#include "kernels/base/qtensor.h"
#include "kernels/base/rng.h"
#include "kernels/gpu.h"

namespace atoll::gpu_test {

struct Backends {
  Context cpu, gpu;
  explicit Backends(GpuOptions options = {}) { use_gpu(gpu, options); }
};
uint64_t seed();  // ATOLL_GPU_SEED

// A tensor in host memory and its twin on the GPU, [rows, cols] with a row stride of cols + pad elements. Both begin as NaN or 0xFF bytes.
class Twin {
 public:
  Twin(DType type, int64_t rows, int64_t cols, int64_t pad = 0);
  Tensor host() const { return host_; }
  Tensor gpu() const { return gpu_; }
  float at(int64_t r, int64_t c) const;
  void set(int64_t r, int64_t c, float value);
  void upload(Backends& b);
  std::vector<uint8_t> download(Backends& b) const;         // the GPU's bytes, rows with their padding
  bool same_bits(Backends& b) const;                        // of the elements proper; padding must be untouched on the GPU
  bool padding_untouched(Backends& b) const;                // what lies beyond the columns is nobody's
  std::vector<float> values(Backends& b) const;             // the GPU's elements as FP32, without padding

 private:
  std::vector<uint8_t> bytes_;
  GpuBuffer device_;
  Tensor host_, gpu_;
};

// A QTensor with a twin.
struct QTwin {
  Twin codes, scales;
  QTensor q;  // host; on_gpu() is the other
  QTwin(int64_t rows, int64_t cols, int block_rows, ScaleFormat format, ScaleLayout layout, int64_t pad = 0);
  QTensor on_gpu() const;
  void upload(Backends& b) { codes.upload(b); scales.upload(b); }
  bool same_bits(Backends& b) const;  // scales in the padding of kMnMajor are nobody's
};

// Shapes drawn by the seed.
class Dice {
 public:
  explicit Dice(const std::string& purpose) : rng_(seed(), purpose) {}
  int64_t one_of(int64_t first, int64_t last) { return first + static_cast<int64_t>(rng_.below(at_++, static_cast<uint64_t>(last - first + 1))); }
  std::vector<int64_t> offsets(int num_groups, int64_t most_rows);  // of each group; about a third are empty

 private:
  Rng rng_;
  uint64_t at_ = 0;
};

enum class Kind { kNormal, kOutliers, kGradient, kSpecial };  // N(0,1); 1 in 500 a thousandfold; 1e-7 with heavy tails; zeros, infinities, NaNs, subnormals
void fill(Twin& t, Kind kind, const std::string& purpose);

}  // namespace atoll::gpu_test
