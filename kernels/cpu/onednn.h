// oneDNN matrix products behind a cache of primitives. Each is created for one thread and run by one; we do the threading. Policy: lookup() creates and is called
// outside parallel regions; run() only executes, on the calling thread, with that thread's memory objects and the caller's scratch.
#pragma once
#include <cstdint>
#include <memory>

#include "kernels/base/dtype.h"

namespace atoll::cpu {

struct MatmulKey {  // c[m, n] (+)= op(a) op(b); leading dims in elements
  DType ab = DType::kF32, c = DType::kF32;
  bool transpose_a = false, transpose_b = false, accumulate = false;
  int32_t m = 0, n = 0, k = 0;
  int64_t lda = 0, ldb = 0, ldc = 0;
  auto operator<=>(const MatmulKey&) const = default;
};

class Matmul;  // a primitive and, for each thread, its memory objects

class MatmulCache {
 public:
  // is_sizing: primitives are described, for what they take, and can not run.
  MatmulCache(int num_threads, bool is_sizing);
  ~MatmulCache();
  const Matmul& lookup(const MatmulKey& key);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

int64_t scratch_bytes(const Matmul& matmul);
void run(const Matmul& matmul, int thread, const void* a, const void* b, void* c, void* scratch);

// While it lives, oneDNN on this thread uses one thread, whatever OMP_NUM_THREADS says.
class OneThread {
 public:
  OneThread();
  ~OneThread();
  OneThread(const OneThread&) = delete;

 private:
  int saved_;
};

}  // namespace atoll::cpu
