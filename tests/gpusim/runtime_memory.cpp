// The CUDA runtime API: allocations, copies, fills, symbols. Copies and fills are operations of streams.
#include <dlfcn.h>

#include "tests/gpusim/runtime.h"

namespace {
std::string caller(void* address) {
  Dl_info i;
  if (!dladdr(address, &i) || !i.dli_sname) return "";
  return demangle(i.dli_sname);
}
#define CALLER caller(__builtin_return_address(0))

int check_range(const void* p, size_t n, const char* what) {  // copies that start inside an allocation must fit
  Alloc a;
  if (n && (u64)p < 4096) {
    fprintf(stderr, "[gpusim] %s of %zu bytes: a null pointer\n", what, n);
    return kInvalidValue;
  }
  if (n && mem_find((u64)p, a) && n > a.base + a.size - (u64)p) {
    fprintf(stderr, "[gpusim] %s of %zu bytes runs past the allocation: %s\n", what, n, mem_describe((u64)p, n).c_str());
    return kInvalidValue;
  }
  if (n && !mem_find((u64)p, a) && mem_was_freed((u64)p)) {
    fprintf(stderr, "[gpusim] %s of %zu bytes: use after free: %s\n", what, n, mem_describe((u64)p, n).c_str());
    return kInvalidValue;
  }
  return 0;
}
constexpr u64 kDeviceBytes = 80ull << 30, kHostBytes = 1ull << 40;
enum class Where { kDevice, kPinned, kPageable };
Where where_is(const void* p) {
  Alloc a;
  if (!mem_find((u64)p, a)) return Where::kPageable;
  return a.what.find("Host") != std::string::npos || a.what == "cudaMallocManaged" ? Where::kPinned : Where::kDevice;
}
// A direction that the pointers contradict; managed and pinned memory is on both sides.
const char* wrong_way(const void* to, const void* from, cudaMemcpyKind kind) {
  const bool wants_device_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice, wants_device_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind == cudaMemcpyDefault) return nullptr;
  if (wants_device_to ? where_is(to) == Where::kPageable : where_is(to) == Where::kDevice) return wants_device_to ? "the destination is no device memory" : "the destination is device memory";
  if (wants_device_from ? where_is(from) == Where::kPageable : where_is(from) == Where::kDevice) return wants_device_from ? "the source is no device memory" : "the source is device memory";
  return nullptr;
}
struct Plane {  // rows of a copy
  void* to;
  const void* from;
  size_t width, height, to_pitch, from_pitch;
};
int run_copy(Launch& l, const Plane& p) {
  const bool to_device = where_is(p.to) == Where::kDevice, from_device = where_is(p.from) == Where::kDevice;
  for (size_t y = 0; y < p.height; y++) {
    const u64 to = (u64)p.to + y * p.to_pitch, from = (u64)p.from + y * p.from_pitch;
    if (options().race) {
      if (from_device) race_host(l, from, p.width, false);
      if (to_device) race_host(l, to, p.width, true);
    }
    memmove((void*)to, (const void*)from, p.width);
    if (!options().uninit || !to_device) continue;
    Shadow *d = mem_shadow_of(to), *s = mem_shadow_of(from);
    if (d && d->uninit && s && s->uninit)
      memcpy(&d->written[to - d->base], &s->written[from - s->base], p.width);
    else
      mem_mark_written(to, p.width);
  }
  return 0;
}
cudaError_t copy(Plane p, cudaStream_t stream, cudaMemcpyKind kind, bool waits, const char* name) {
  Guard lk(api_mutex());
  if (sticky_error()) return synced();
  if (!is_stream(stream)) return refuse_stream(name);
  const int queue = queue_of(stream);
  if (!p.width || !p.height) OK;
  if (int e = check_range(p.to, (p.height - 1) * p.to_pitch + p.width, (std::string(name) + " (destination)").c_str())) return ret(e);
  if (int e = check_range(p.from, (p.height - 1) * p.from_pitch + p.width, (std::string(name) + " (source)").c_str())) return ret(e);
  if (const char* why = wrong_way(p.to, p.from, kind)) return refuse(name, std::string("the pointers contradict the direction of the copy: ") + why, kInvalidValue);
  std::shared_ptr<std::vector<u8>> staged;
  if (!waits && where_is(p.from) == Where::kPageable) {  // the program may reuse pageable memory when the call returns
    staged = std::make_shared<std::vector<u8>>(p.width * p.height);
    for (size_t y = 0; y < p.height; y++) memcpy(staged->data() + y * p.width, (const u8*)p.from + y * p.from_pitch, p.width);
    p.from = staged->data();
    p.from_pitch = p.width;
  }
  if (where_is(p.to) == Where::kPageable) waits = true;
  auto op = std::make_shared<Launch>();
  op->name = name;
  streams().enqueue(queue, op, [p, staged](Launch& l) { return run_copy(l, p); });
  if (waits) streams().synchronize(streams().tail(queue));
  return synced();
}
cudaError_t fill(void* to, int value, size_t width, size_t height, size_t pitch, cudaStream_t stream, const char* name) {
  Guard lk(api_mutex());
  if (sticky_error()) return synced();
  if (!is_stream(stream)) return refuse_stream(name);
  const int queue = queue_of(stream);
  if (!width || !height) OK;
  if (int e = check_range(to, (height - 1) * pitch + width, name)) return ret(e);
  if (where_is(to) == Where::kPageable) return refuse(name, "the destination is no device memory", kInvalidValue);
  auto op = std::make_shared<Launch>();
  op->name = name;
  streams().enqueue(queue, op, [=](Launch& l) {
    for (size_t y = 0; y < height; y++) {
      const u64 row = (u64)to + y * pitch;
      if (options().race) race_host(l, row, width, true);
      memset((void*)row, value, width);
      if (options().uninit) mem_mark_written(row, width);
    }
    return 0;
  });
  return ret(0);
}
cudaError_t allocate(void** p, size_t n, const char* what, const std::string& where) {
  Guard lk(api_mutex());
  if (!p) return refuse(what, "nowhere to put the pointer", kInvalidValue);
  *p = nullptr;
  if (!n) OK;
  const bool is_device = std::string(what).find("Host") == std::string::npos;
  if (n > (is_device ? kDeviceBytes - std::min<u64>(kDeviceBytes, mem_in_use()) : kHostBytes)) return ret(2);
  try {
    *p = (void*)mem_alloc(n, what, 512, where);
  } catch (const std::exception& e) { fprintf(stderr, "[gpusim] %s of %zu bytes: %s\n", what, n, e.what()); }
  return ret(*p ? 0 : 2);
}
// The address is good at once; who uses it must come after the allocation, which happens in its stream.
cudaError_t allocate_in(void** p, size_t n, cudaStream_t stream, const char* what, const std::string& where) {
  Guard lk(api_mutex());
  if (!is_stream(stream)) return refuse_stream(what);
  if (cudaError_t e = allocate(p, n, what, where)) return e;
  Shadow* shadow = mem_shadow_of((u64)*p);
  if (!shadow) OK;
  auto op = std::make_shared<Launch>();
  op->name = what;
  streams().enqueue(queue_of(stream), op, [](Launch&) { return 0; });
  shadow->born = op->op;
  OK;
}
}  // namespace

extern "C" {
API cudaError_t cudaMalloc(void** p, size_t n) { return allocate(p, n, "cudaMalloc", CALLER); }
API cudaError_t cudaMallocManaged(void** p, size_t n, unsigned) { return allocate(p, n, "cudaMallocManaged", CALLER); }
API cudaError_t cudaMallocHost(void** p, size_t n) { return allocate(p, n, "cudaMallocHost", CALLER); }
API cudaError_t cudaHostAlloc(void** p, size_t n, unsigned) { return allocate(p, n, "cudaHostAlloc", CALLER); }
API cudaError_t cudaMallocAsync(void** p, size_t n, cudaStream_t s) { return allocate_in(p, n, s, "cudaMallocAsync", CALLER); }
API cudaError_t cudaMallocFromPoolAsync(void** p, size_t n, cudaMemPool_t, cudaStream_t s) { return allocate_in(p, n, s, "cudaMallocFromPoolAsync", CALLER); }
API cudaError_t cudaMallocPitch(void** p, size_t* pitch, size_t w, size_t h) {
  if (!pitch || w > kDeviceBytes || h > kDeviceBytes || (w > 0 && h > kDeviceBytes / w)) return ret(pitch ? 2 : kInvalidValue);
  *pitch = (w + 511) / 512 * 512;
  return allocate(p, *pitch * h, "cudaMallocPitch", CALLER);
}
API cudaError_t cudaFree(void* p) {
  Guard lk(api_mutex());
  streams().synchronize_all();
  if (!p || mem_free((u64)p)) OK;
  return refuse("cudaFree", "not the base of an allocation: " + mem_describe((u64)p, 1), kInvalidValue);
}
API cudaError_t cudaFreeAsync(void* p, cudaStream_t s) {
  Guard lk(api_mutex());
  if (!is_stream(s)) return refuse_stream("cudaFreeAsync");
  Alloc a;
  if (p && (!mem_find((u64)p, a) || a.base != (u64)p)) return refuse("cudaFreeAsync", "not the base of an allocation: " + mem_describe((u64)p, 1), kInvalidValue);
  auto op = std::make_shared<Launch>();
  op->name = "cudaFreeAsync";
  streams().enqueue(queue_of(s), op, [p](Launch& l) {
    if (options().race) race_free(l, (u64)p);
    if (!p || mem_free((u64)p)) return 0;
    fprintf(stderr, "[gpusim] cudaFreeAsync: freed before: %s\n", mem_describe((u64)p, 1).c_str());
    return (int)kIllegalAddress;
  });
  OK;
}
API cudaError_t cudaFreeHost(void* p) { return cudaFree(p); }
API cudaError_t cudaHostRegister(void* p, size_t n, unsigned) {
  mem_register((u64)p, n, "cudaHostRegister");
  OK;
}
API cudaError_t cudaHostUnregister(void* p) { return ret(mem_unregister((u64)p) ? 0 : kInvalidValue); }
API cudaError_t cudaHostGetDevicePointer(void** d, void* h, unsigned) {
  *d = h;
  OK;
}
API cudaError_t cudaMemcpy(void* d, const void* s, size_t n, cudaMemcpyKind k) { return copy({d, s, n, 1, n, n}, nullptr, k, true, "cudaMemcpy"); }
API cudaError_t cudaMemcpyAsync(void* d, const void* s, size_t n, cudaMemcpyKind k, cudaStream_t st) {
  return copy({d, s, n, 1, n, n}, st, k, false, "cudaMemcpyAsync");
}
API cudaError_t cudaMemcpyPeer(void* d, int, const void* s, int, size_t n) { return cudaMemcpy(d, s, n, cudaMemcpyDefault); }
API cudaError_t cudaMemcpyPeerAsync(void* d, int, const void* s, int, size_t n, cudaStream_t st) { return cudaMemcpyAsync(d, s, n, cudaMemcpyDefault, st); }
API cudaError_t cudaMemcpy2D(void* d, size_t dp, const void* s, size_t sp, size_t w, size_t h, cudaMemcpyKind k) {
  return copy({d, s, w, h, dp, sp}, nullptr, k, true, "cudaMemcpy2D");
}
API cudaError_t cudaMemcpy2DAsync(void* d, size_t dp, const void* s, size_t sp, size_t w, size_t h, cudaMemcpyKind k, cudaStream_t st) {
  return copy({d, s, w, h, dp, sp}, st, k, false, "cudaMemcpy2DAsync");
}
API cudaError_t cudaMemset(void* p, int v, size_t n) { return fill(p, v, n, 1, n, nullptr, "cudaMemset"); }
API cudaError_t cudaMemsetAsync(void* p, int v, size_t n, cudaStream_t s) { return fill(p, v, n, 1, n, s, "cudaMemsetAsync"); }
API cudaError_t cudaMemset2D(void* p, size_t pitch, int v, size_t w, size_t h) { return fill(p, v, w, h, pitch, nullptr, "cudaMemset2D"); }
API cudaError_t cudaMemset2DAsync(void* p, size_t pitch, int v, size_t w, size_t h, cudaStream_t s) {
  return fill(p, v, w, h, pitch, s, "cudaMemset2DAsync");
}
API cudaError_t cudaMemGetInfo(size_t* f, size_t* t) {
  *t = kDeviceBytes;
  *f = *t - std::min<u64>(*t, mem_in_use());
  OK;
}
API cudaError_t cudaGetSymbolAddress(void** p, const void* s) {
  Guard lk(api_mutex());
  const Symbol* y = symbol_of(s);
  if (!y || !loaded_of(*y->module)) return ret(13);
  auto a = y->module->mod->sym_addr.find(y->name);
  if (a == y->module->mod->sym_addr.end()) return ret(13);
  *p = (void*)a->second;
  OK;
}
API cudaError_t cudaGetSymbolSize(size_t* n, const void* s) {
  Guard lk(api_mutex());
  const Symbol* y = symbol_of(s);
  if (!y || !loaded_of(*y->module)) return ret(13);
  *n = y->module->mod->sym_size[y->name];
  OK;
}
API cudaError_t cudaMemcpyToSymbol(const void* s, const void* src, size_t n, size_t off, cudaMemcpyKind) {
  void* p;
  cudaError_t e = cudaGetSymbolAddress(&p, s);
  if (e) return e;
  return cudaMemcpy((char*)p + off, src, n, cudaMemcpyDefault);
}
API cudaError_t cudaMemcpyToSymbolAsync(const void* s, const void* src, size_t n, size_t off, cudaMemcpyKind k, cudaStream_t st) {
  void* p;
  if (cudaError_t e = cudaGetSymbolAddress(&p, s)) return e;
  return cudaMemcpyAsync((char*)p + off, src, n, k, st);
}
API cudaError_t cudaMemcpyFromSymbol(void* d, const void* s, size_t n, size_t off, cudaMemcpyKind) {
  void* p;
  cudaError_t e = cudaGetSymbolAddress(&p, s);
  if (e) return e;
  return cudaMemcpy(d, (char*)p + off, n, cudaMemcpyDefault);
}
API cudaError_t cudaMemcpyFromSymbolAsync(void* d, const void* s, size_t n, size_t off, cudaMemcpyKind k, cudaStream_t st) {
  void* p;
  if (cudaError_t e = cudaGetSymbolAddress(&p, s)) return e;
  return cudaMemcpyAsync(d, (char*)p + off, n, k, st);
}
API cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
  memset(a, 0, sizeof *a);
  Alloc al;
  bool in = mem_find((u64)p, al);
  a->type = !in                                         ? cudaMemoryTypeUnregistered
            : al.what == "cudaMallocManaged"            ? cudaMemoryTypeManaged
            : al.what.find("Host") != std::string::npos ? cudaMemoryTypeHost
                                                        : cudaMemoryTypeDevice;
  a->device = 0;
  a->devicePointer = in ? (void*)p : nullptr;
  a->hostPointer = (void*)p;
  OK;
}
API cudaError_t cudaMemPrefetchAsync(const void*, size_t, cudaMemLocation, unsigned, cudaStream_t) { OK; }
API cudaError_t cudaMemAdvise(const void*, size_t, cudaMemoryAdvise, cudaMemLocation) { OK; }
API cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* p, int) {
  *p = (cudaMemPool_t)1;
  OK;
}
API cudaError_t cudaDeviceGetMemPool(cudaMemPool_t* p, int) {
  *p = (cudaMemPool_t)1;
  OK;
}
API cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { OK; }
API cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void* v) {
  *(u64*)v = 0;
  OK;
}
API cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { OK; }
}
