// oneDNN's C interface behind a cache of primitives. Policy: a primitive is created for one thread, with scratch given by the caller, and keyed by shape and strides;
// creation happens outside of parallel regions; a run then only executes.
#include "kernels/cpu/onednn.h"

#include <dnnl.h>
#include <omp.h>

#include <cstdlib>
#include <map>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/base/handle.h"
#include "kernels/base/library_call.h"
#include "kernels/cpu/gemm.h"
#include "kernels/ops.h"

namespace atoll::cpu {
namespace {

void check(dnnl_status_t status, const char* call) { ATOLL_CHECK(status == dnnl_success, "oneDNN: ", call, " failed with status ", static_cast<int>(status)); }
// Calls the library; only that is marked as its time, so that what we allocate around it is counted as ours.
#define ATOLL_DNNL(call, ...)             \
  do {                                    \
    const LibraryCall library;            \
    check(call(__VA_ARGS__), #call);      \
  } while (false)

template <class T, dnnl_status_t (*kDestroy)(T)>
struct DnnlTraits {
  using type = T;
  static T null() { return nullptr; }
  static void destroy(T handle) noexcept { kDestroy(handle); }
};
using Engine = Handle<DnnlTraits<dnnl_engine_t, dnnl_engine_destroy>>;
using Stream = Handle<DnnlTraits<dnnl_stream_t, dnnl_stream_destroy>>;
using Primitive = Handle<DnnlTraits<dnnl_primitive_t, dnnl_primitive_destroy>>;
using PrimitiveDesc = Handle<DnnlTraits<dnnl_primitive_desc_t, dnnl_primitive_desc_destroy>>;
using DnnlMemory = Handle<DnnlTraits<dnnl_memory_t, dnnl_memory_destroy>>;
using Attributes = Handle<DnnlTraits<dnnl_primitive_attr_t, dnnl_primitive_attr_destroy>>;
using PostOps = Handle<DnnlTraits<dnnl_post_ops_t, dnnl_post_ops_destroy>>;

dnnl_data_type_t to_dnnl(DType dtype) { return dtype == DType::kBF16 ? dnnl_bf16 : dnnl_f32; }

dnnl_memory_desc_t matrix(DType dtype, int64_t rows, int64_t cols, int64_t ld, bool transposed) {
  const dnnl_dims_t dims = {rows, cols};
  const dnnl_dims_t strides = {transposed ? 1 : ld, transposed ? ld : 1};
  dnnl_memory_desc_t desc;
  ATOLL_DNNL(dnnl_memory_desc_init_by_strides, &desc, 2, dims, to_dnnl(dtype), strides);
  return desc;
}

// ATOLL_ISA narrows oneDNN too; it accepts that only before its first use in the process, later it keeps what it has.
void narrow_isa() {
  if (!std::getenv("ATOLL_ISA")) return;
  switch (best_isa()) {
    case Isa::kX86_64: dnnl_set_max_cpu_isa(dnnl_cpu_isa_sse41); break;
    case Isa::kAvx2: dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2); break;
    case Isa::kAvx512: break;
  }
}

PrimitiveDesc describe(dnnl_engine_t engine, const MatmulKey& key) {
  const dnnl_memory_desc_t a = matrix(key.ab, key.m, key.k, key.lda, key.transpose_a);
  const dnnl_memory_desc_t b = matrix(key.ab, key.k, key.n, key.ldb, key.transpose_b);
  const dnnl_memory_desc_t c = matrix(key.c, key.m, key.n, key.ldc, false);
  dnnl_primitive_attr_t attributes_raw = nullptr;
  ATOLL_DNNL(dnnl_primitive_attr_create, &attributes_raw);
  const Attributes attributes(attributes_raw);
  ATOLL_DNNL(dnnl_primitive_attr_set_scratchpad_mode, attributes.get(), dnnl_scratchpad_mode_user);
  if (key.accumulate) {
    dnnl_post_ops_t post_ops_raw = nullptr;
    ATOLL_DNNL(dnnl_post_ops_create, &post_ops_raw);
    const PostOps post_ops(post_ops_raw);
    ATOLL_DNNL(dnnl_post_ops_append_sum, post_ops.get(), 1.0f);
    ATOLL_DNNL(dnnl_primitive_attr_set_post_ops, attributes.get(), post_ops.get());
  }
  dnnl_matmul_desc_t operation;
  ATOLL_DNNL(dnnl_matmul_desc_init, &operation, &a, &b, nullptr, &c);
  dnnl_primitive_desc_t description_raw = nullptr;
  ATOLL_DNNL(dnnl_primitive_desc_create, &description_raw, &operation, attributes.get(), engine, nullptr);
  return PrimitiveDesc(description_raw);
}

}  // namespace

class Matmul {
 public:
  Matmul(dnnl_engine_t engine, const std::vector<Stream>& streams, const MatmulKey& key, bool is_sizing) : streams_(streams), description_(describe(engine, key)) {
    const dnnl_memory_desc_t* scratch = dnnl_primitive_desc_query_md(description_.get(), dnnl_query_scratchpad_md, 0);
    scratch_bytes_ = scratch ? static_cast<int64_t>(dnnl_memory_desc_get_size(scratch)) : 0;
    if (is_sizing) return;
    dnnl_primitive_t primitive = nullptr;
    ATOLL_DNNL(dnnl_primitive_create, &primitive, description_.get());
    primitive_ = Primitive(primitive);
    const dnnl_memory_desc_t* descs[4] = {dnnl_primitive_desc_query_md(description_.get(), dnnl_query_src_md, 0),
                                          dnnl_primitive_desc_query_md(description_.get(), dnnl_query_weights_md, 0),
                                          dnnl_primitive_desc_query_md(description_.get(), dnnl_query_dst_md, 0), scratch};
    memories_.reserve(streams.size() * 4);
    for (size_t t = 0; t < streams.size(); ++t)
      for (int i = 0; i < 4; ++i) {
        dnnl_memory_t memory = nullptr;
        if (descs[i]) ATOLL_DNNL(dnnl_memory_create, &memory, descs[i], engine, DNNL_MEMORY_NONE);
        memories_.emplace_back(memory);
      }
  }
  int64_t scratch_bytes() const { return scratch_bytes_; }
  // No exception leaves: this runs inside parallel regions. A failure would be a broken installation; it ends the process with a line.
  void run(int thread, const void* a, const void* b, void* c, void* scratch) const {
    const LibraryCall library;
    const DnnlMemory* m = &memories_[static_cast<size_t>(thread) * 4];
    dnnl_memory_set_data_handle(m[0].get(), const_cast<void*>(a));
    dnnl_memory_set_data_handle(m[1].get(), const_cast<void*>(b));
    dnnl_memory_set_data_handle(m[2].get(), c);
    if (m[3]) dnnl_memory_set_data_handle(m[3].get(), scratch);
    const dnnl_exec_arg_t args[4] = {{DNNL_ARG_SRC, m[0].get()}, {DNNL_ARG_WEIGHTS, m[1].get()}, {DNNL_ARG_DST, m[2].get()}, {DNNL_ARG_SCRATCHPAD, m[3].get()}};
    const dnnl_status_t status = dnnl_primitive_execute(primitive_.get(), streams_[static_cast<size_t>(thread)].get(), m[3] ? 4 : 3, args);
    if (status != dnnl_success) fail(status);
  }

 private:
  [[noreturn]] static void fail(dnnl_status_t status) noexcept { check(status, "dnnl_primitive_execute"), std::abort(); }

  const std::vector<Stream>& streams_;
  PrimitiveDesc description_;
  Primitive primitive_;
  int64_t scratch_bytes_ = 0;
  std::vector<DnnlMemory> memories_;  // [thread][a, b, c, scratch]
};

struct MatmulCache::Impl {
  bool is_sizing;
  Engine engine;
  std::vector<Stream> streams;
  std::map<MatmulKey, Matmul> matmuls;
};

MatmulCache::MatmulCache(int num_threads, bool is_sizing) : impl_(std::make_unique<Impl>()) {
  impl_->is_sizing = is_sizing;
  narrow_isa();
  dnnl_engine_t engine = nullptr;
  ATOLL_DNNL(dnnl_engine_create, &engine, dnnl_cpu, 0);
  impl_->engine = Engine(engine);
  for (int t = 0; t < num_threads; ++t) {
    dnnl_stream_t stream = nullptr;
    ATOLL_DNNL(dnnl_stream_create, &stream, engine, dnnl_stream_default_flags);
    impl_->streams.emplace_back(stream);
  }
}
MatmulCache::~MatmulCache() = default;

const Matmul& MatmulCache::lookup(const MatmulKey& key) {
  const auto found = impl_->matmuls.find(key);
  if (found != impl_->matmuls.end()) return found->second;
  const OneThread one;
  return impl_->matmuls.try_emplace(key, impl_->engine.get(), impl_->streams, key, impl_->is_sizing).first->second;
}

int64_t scratch_bytes(const Matmul& matmul) { return matmul.scratch_bytes(); }
void run(const Matmul& matmul, int thread, const void* a, const void* b, void* c, void* scratch) { matmul.run(thread, a, b, c, scratch); }

OneThread::OneThread() : saved_(omp_get_max_threads()) { omp_set_num_threads(1); }
OneThread::~OneThread() { omp_set_num_threads(saved_); }

bool has_native_bf16_gemm() {
  narrow_isa();
  const dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
  return (isa & dnnl_cpu_isa_avx512_core) == dnnl_cpu_isa_avx512_core;
}

}  // namespace atoll::cpu
