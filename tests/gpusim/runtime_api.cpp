// The CUDA runtime API over the simulator. Everything is synchronous and in order.
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <chrono>
#include "tests/gpusim/api.h"

#undef cudaGetDeviceProperties
#undef cudaGetDriverEntryPoint
using namespace atoll::gpusim;

namespace {
thread_local int g_last = 0;
int g_sticky = 0;
std::map<const void*, KernelEntry*> g_kernels;  // by host stub and by itself
std::map<const void*, std::pair<FatModule*, std::string>> g_vars;
std::vector<FatModule*> g_modules;
std::recursive_mutex g_mu;
cudaError_t ret(int e) {
  if (e >= 700 || e == kIllegalAddress) g_sticky = e;
  if (g_sticky && !e) e = g_sticky;
  if (e) g_last = e;
  return (cudaError_t)e;
}
#define OK return ret(0)
struct Stream {
  int id;
  unsigned flags;
  int prio;
};
struct Event {
  std::chrono::steady_clock::time_point t;
  bool rec = false;
};
KernelEntry* kernel_of(const void* f) {
  std::lock_guard<std::recursive_mutex> lk(g_mu);
  auto it = g_kernels.find(f);
  return it == g_kernels.end() ? nullptr : it->second;
}
KernelEntry* ready(const void* f, int& e) {
  KernelEntry* k = kernel_of(f);
  if (!k) {
    e = 98;
    return nullptr;
  }  // cudaErrorInvalidDeviceFunction
  if (!k->mod) {
    std::lock_guard<std::recursive_mutex> lk(g_mu);
    FatModule* fm = (FatModule*)k->host;
    k->mod = loaded_of(*fm);
    if (!k->mod) {
      fprintf(stderr, "[gpusim] kernel %s: %s\n", demangle(k->name).c_str(), fm->why.c_str());
      e = kInvalidPtx;
      return nullptr;
    }
  }
  e = prepare(*k);
  return e ? nullptr : k;
}
cudaError_t do_launch(const void* f, dim3 g, dim3 b, dim3 c, void** args, size_t smem, bool coop) {
  if (g_sticky) return ret(g_sticky);
  int e = 0;
  KernelEntry* k = ready(f, e);
  if (!k) return ret(e);
  LaunchDim d{{g.x, g.y, g.z}, {b.x, b.y, b.z}, {c.x, c.y, c.z}, (u32)smem, coop};
  return ret(launch(*k, d, args));
}
struct Cfg {
  dim3 g, b;
  size_t s;
  cudaStream_t st;
};
thread_local std::vector<Cfg> g_cfg;
}  // namespace
namespace atoll::gpusim {
int sticky_error() { return g_sticky; }
void set_error(int e, bool s) {
  if (s) g_sticky = e;
  g_last = e;
}
}  // namespace atoll::gpusim

extern "C" {
#define API __attribute__((visibility("default")))
// ---- registration -------------------------------------------------------------
API void** __cudaRegisterFatBinary(void* fc) {
  struct W {
    int magic, version;
    const void* data;
    void* f;
  }* w = (W*)fc;
  auto* m = new FatModule;
  std::lock_guard<std::recursive_mutex> lk(g_mu);
  m->name = "module" + std::to_string(g_modules.size()) + ".ptx";
  auto v = fatbin_ptx(w->data, m->why);
  if (!v.empty()) {
    m->ptx = v.back();
    m->why.clear();
  }
  for (auto& t : v)
    if (t.find("sm_90a") != std::string::npos) m->ptx = t;
  if (const char* dump = getenv("GPUSIM_DUMP")) {
    FILE* f = fopen((std::string(dump) + "/" + m->name).c_str(), "w");
    if (f) {
      fputs(m->ptx.c_str(), f);
      fclose(f);
    }
  }
  g_modules.push_back(m);
  if (options().eager) loaded_of(*m);
  return (void**)m;
}
API void __cudaRegisterFatBinaryEnd(void**) {}
API void __cudaUnregisterFatBinary(void**) {}
API char __cudaInitModule(void**) { return 1; }
API void __cudaRegisterFunction(void** h, const char* host, char*, const char* dev, int, uint3*, uint3*, dim3*, dim3*, int*) {
  std::lock_guard<std::recursive_mutex> lk(g_mu);
  auto* k = new KernelEntry;
  k->name = dev;
  k->host = h;
  g_kernels[host] = k;
  g_kernels[k] = k;
}
API void __cudaRegisterVar(void** h, char* host, char*, const char* dev, int, size_t, int, int) {
  std::lock_guard<std::recursive_mutex> lk(g_mu);
  g_vars[host] = {(FatModule*)h, dev};
}
API void __cudaRegisterManagedVar(void** h, void** host_ptr, char*, const char* dev, int, size_t, int, int) {
  std::lock_guard<std::recursive_mutex> lk(g_mu);
  FatModule* f = (FatModule*)h;
  if (loaded_of(*f)) {
    auto it = f->mod->sym_addr.find(dev);
    if (it != f->mod->sym_addr.end()) {
      *host_ptr = (void*)it->second;
      g_vars[*host_ptr] = {f, dev};
    }
  }
}
API void __cudaRegisterHostVar(void**, const char*, char*, size_t) {}
API unsigned __cudaPushCallConfiguration(dim3 g, dim3 b, size_t s, struct CUstream_st* st) {
  g_cfg.push_back({g, b, s, st});
  return 0;
}
API cudaError_t __cudaPopCallConfiguration(dim3* g, dim3* b, size_t* s, void* st) {
  if (g_cfg.empty()) return cudaErrorInvalidConfiguration;
  Cfg c = g_cfg.back();
  g_cfg.pop_back();
  *g = c.g;
  *b = c.b;
  *s = c.s;
  *(cudaStream_t*)st = c.st;
  return cudaSuccess;
}
API cudaError_t __cudaGetKernel(cudaKernel_t* k, const void* f) {
  auto* e = kernel_of(f);
  *k = (cudaKernel_t)e;
  return e ? cudaSuccess : cudaErrorInvalidDeviceFunction;
}
API cudaError_t __cudaLaunchKernel(cudaKernel_t k, dim3 g, dim3 b, const void** a, size_t s, cudaStream_t) {
  return do_launch(k, g, b, dim3(1, 1, 1), (void**)a, s, false);
}
API cudaError_t __cudaLaunchKernel_ptsz(cudaKernel_t k, dim3 g, dim3 b, const void** a, size_t s, cudaStream_t st) {
  return __cudaLaunchKernel(k, g, b, a, s, st);
}
API cudaError_t cudaGetKernel(cudaKernel_t* k, const void* f) { return __cudaGetKernel(k, f); }
API cudaError_t cudaGetFuncBySymbol(cudaFunction_t* k, const void* f) {
  auto* e = kernel_of(f);
  *k = (cudaFunction_t)e;
  return e ? cudaSuccess : cudaErrorInvalidDeviceFunction;
}

// ---- launches -------------------------------------------------------------------
API cudaError_t cudaLaunchKernel(const void* f, dim3 g, dim3 b, void** a, size_t s, cudaStream_t) { return do_launch(f, g, b, dim3(1, 1, 1), a, s, false); }
API cudaError_t cudaLaunchCooperativeKernel(const void* f, dim3 g, dim3 b, void** a, size_t s, cudaStream_t) {
  return do_launch(f, g, b, dim3(1, 1, 1), a, s, true);
}
API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* f, void** a) {
  dim3 cl(1, 1, 1);
  bool coop = false;
  for (unsigned k = 0; k < c->numAttrs; k++) {
    if (c->attrs[k].id == cudaLaunchAttributeClusterDimension)
      cl = dim3(c->attrs[k].val.clusterDim.x, c->attrs[k].val.clusterDim.y, c->attrs[k].val.clusterDim.z);
    if (c->attrs[k].id == cudaLaunchAttributeCooperative) coop = c->attrs[k].val.cooperative;
  }
  return do_launch(f, c->gridDim, c->blockDim, cl, a, c->dynamicSmemBytes, coop);
}
API cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t fn, void* u) {
  fn(u);
  OK;
}
API cudaError_t cudaStreamAddCallback(cudaStream_t s, cudaStreamCallback_t cb, void* u, unsigned) {
  cb(s, cudaSuccess, u);
  OK;
}

// ---- memory -----------------------------------------------------------------------
API cudaError_t cudaMalloc(void** p, size_t n) {
  if (n == 0) {
    *p = nullptr;
    OK;
  }
  *p = (void*)mem_alloc(n, "cudaMalloc");
  return ret(*p ? 0 : 2);
}
API cudaError_t cudaMallocManaged(void** p, size_t n, unsigned) {
  *p = (void*)mem_alloc(n, "cudaMallocManaged");
  OK;
}
API cudaError_t cudaMallocHost(void** p, size_t n) {
  *p = (void*)mem_alloc(n, "cudaMallocHost");
  OK;
}
API cudaError_t cudaHostAlloc(void** p, size_t n, unsigned) {
  *p = (void*)mem_alloc(n, "cudaHostAlloc");
  OK;
}
API cudaError_t cudaMallocAsync(void** p, size_t n, cudaStream_t) { return cudaMalloc(p, n); }
API cudaError_t cudaMallocFromPoolAsync(void** p, size_t n, cudaMemPool_t, cudaStream_t) { return cudaMalloc(p, n); }
API cudaError_t cudaMallocPitch(void** p, size_t* pitch, size_t w, size_t h) {
  *pitch = (w + 511) / 512 * 512;
  return cudaMalloc(p, *pitch * h);
}
API cudaError_t cudaFree(void* p) { return ret(!p || mem_free((u64)p) ? 0 : kInvalidValue); }
API cudaError_t cudaFreeAsync(void* p, cudaStream_t) { return cudaFree(p); }
API cudaError_t cudaFreeHost(void* p) { return cudaFree(p); }
API cudaError_t cudaHostRegister(void* p, size_t n, unsigned) {
  mem_register((u64)p, n, "cudaHostRegister");
  OK;
}
API cudaError_t cudaHostUnregister(void*) { OK; }
API cudaError_t cudaHostGetDevicePointer(void** d, void* h, unsigned) {
  *d = h;
  OK;
}
static int check_dev(const void* p, size_t n, const char* what) {  // copies that start inside an allocation must fit
  Alloc a;
  if (n && mem_find((u64)p, a) && (u64)p + n > a.base + a.size) {
    fprintf(stderr, "[gpusim] %s of %zu bytes runs past the allocation: %s\n", what, n, mem_describe((u64)p, n).c_str());
    return kInvalidValue;
  }
  return 0;
}
API cudaError_t cudaMemcpy(void* d, const void* s, size_t n, cudaMemcpyKind) {
  if (g_sticky) return ret(g_sticky);
  if (int e = check_dev(d, n, "cudaMemcpy (destination)")) return ret(e);
  if (int e = check_dev(s, n, "cudaMemcpy (source)")) return ret(e);
  memmove(d, s, n);
  OK;
}
API cudaError_t cudaMemcpyAsync(void* d, const void* s, size_t n, cudaMemcpyKind k, cudaStream_t) { return cudaMemcpy(d, s, n, k); }
API cudaError_t cudaMemcpyPeer(void* d, int, const void* s, int, size_t n) { return cudaMemcpy(d, s, n, cudaMemcpyDefault); }
API cudaError_t cudaMemcpyPeerAsync(void* d, int, const void* s, int, size_t n, cudaStream_t) { return cudaMemcpy(d, s, n, cudaMemcpyDefault); }
API cudaError_t cudaMemcpy2D(void* d, size_t dp, const void* s, size_t sp, size_t w, size_t h, cudaMemcpyKind) {
  for (size_t y = 0; y < h; y++) memmove((char*)d + y * dp, (const char*)s + y * sp, w);
  OK;
}
API cudaError_t cudaMemcpy2DAsync(void* d, size_t dp, const void* s, size_t sp, size_t w, size_t h, cudaMemcpyKind k, cudaStream_t) {
  return cudaMemcpy2D(d, dp, s, sp, w, h, k);
}
API cudaError_t cudaMemset(void* p, int v, size_t n) {
  if (int e = check_dev(p, n, "cudaMemset")) return ret(e);
  memset(p, v, n);
  OK;
}
API cudaError_t cudaMemsetAsync(void* p, int v, size_t n, cudaStream_t) { return cudaMemset(p, v, n); }
API cudaError_t cudaMemset2D(void* p, size_t pitch, int v, size_t w, size_t h) {
  for (size_t y = 0; y < h; y++) memset((char*)p + y * pitch, v, w);
  OK;
}
API cudaError_t cudaMemset2DAsync(void* p, size_t pitch, int v, size_t w, size_t h, cudaStream_t) { return cudaMemset2D(p, pitch, v, w, h); }
API cudaError_t cudaMemGetInfo(size_t* f, size_t* t) {
  *t = 80ull << 30;
  *f = *t - mem_in_use();
  OK;
}
API cudaError_t cudaGetSymbolAddress(void** p, const void* s) {
  std::lock_guard<std::recursive_mutex> lk(g_mu);
  auto it = g_vars.find(s);
  if (it == g_vars.end() || !loaded_of(*it->second.first)) return ret(13);
  auto a = it->second.first->mod->sym_addr.find(it->second.second);
  if (a == it->second.first->mod->sym_addr.end()) return ret(13);
  *p = (void*)a->second;
  OK;
}
API cudaError_t cudaGetSymbolSize(size_t* n, const void* s) {
  auto it = g_vars.find(s);
  if (it == g_vars.end() || !loaded_of(*it->second.first)) return ret(13);
  *n = it->second.first->mod->sym_size[it->second.second];
  OK;
}
API cudaError_t cudaMemcpyToSymbol(const void* s, const void* src, size_t n, size_t off, cudaMemcpyKind) {
  void* p;
  cudaError_t e = cudaGetSymbolAddress(&p, s);
  if (e) return e;
  return cudaMemcpy((char*)p + off, src, n, cudaMemcpyDefault);
}
API cudaError_t cudaMemcpyToSymbolAsync(const void* s, const void* src, size_t n, size_t off, cudaMemcpyKind k, cudaStream_t) {
  return cudaMemcpyToSymbol(s, src, n, off, k);
}
API cudaError_t cudaMemcpyFromSymbol(void* d, const void* s, size_t n, size_t off, cudaMemcpyKind) {
  void* p;
  cudaError_t e = cudaGetSymbolAddress(&p, s);
  if (e) return e;
  return cudaMemcpy(d, (char*)p + off, n, cudaMemcpyDefault);
}
API cudaError_t cudaMemcpyFromSymbolAsync(void* d, const void* s, size_t n, size_t off, cudaMemcpyKind k, cudaStream_t) {
  return cudaMemcpyFromSymbol(d, s, n, off, k);
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

// ---- device ------------------------------------------------------------------------
API cudaError_t cudaGetDeviceCount(int* n) {
  *n = 1;
  OK;
}
API cudaError_t cudaGetDevice(int* d) {
  *d = 0;
  OK;
}
API cudaError_t cudaSetDevice(int d) { return ret(d == 0 ? 0 : 101); }
API cudaError_t cudaInitDevice(int, unsigned, unsigned) { OK; }
API cudaError_t cudaSetDeviceFlags(unsigned) { OK; }
API cudaError_t cudaGetDeviceFlags(unsigned* f) {
  *f = 0;
  OK;
}
API cudaError_t cudaDeviceReset() { OK; }
API cudaError_t cudaDeviceSynchronize() { return ret(g_sticky); }
API cudaError_t cudaDeviceSetLimit(cudaLimit, size_t) { OK; }
API cudaError_t cudaDeviceGetLimit(size_t* v, cudaLimit) {
  *v = 1 << 20;
  OK;
}
API cudaError_t cudaDeviceSetCacheConfig(cudaFuncCache) { OK; }
API cudaError_t cudaDeviceGetCacheConfig(cudaFuncCache* c) {
  *c = cudaFuncCachePreferNone;
  OK;
}
API cudaError_t cudaDeviceGetStreamPriorityRange(int* lo, int* hi) {
  if (lo) *lo = 0;
  if (hi) *hi = -5;
  OK;
}
API cudaError_t cudaDeviceCanAccessPeer(int* c, int, int) {
  *c = 0;
  OK;
}
API cudaError_t cudaCtxResetPersistingL2Cache() { OK; }
API cudaError_t cudaDriverGetVersion(int* v) {
  *v = 13000;
  OK;
}
API cudaError_t cudaRuntimeGetVersion(int* v) {
  *v = 13000;
  OK;
}
API cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "GPUSIM (simulated H100)");
  p->major = 9;
  p->minor = 0;
  p->multiProcessorCount = smCount();
  p->totalGlobalMem = 80ull << 30;
  p->sharedMemPerBlock = 49152;
  p->sharedMemPerBlockOptin = 232448;
  p->sharedMemPerMultiprocessor = 233472;
  p->reservedSharedMemPerBlock = 1024;
  p->regsPerBlock = 65536;
  p->regsPerMultiprocessor = 65536;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = 2048;
  p->maxBlocksPerMultiProcessor = 32;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->totalConstMem = 65536;
  p->l2CacheSize = 50 << 20;
  p->memoryBusWidth = 5120;
  p->concurrentKernels = 1;
  p->unifiedAddressing = 1;
  p->managedMemory = 1;
  p->concurrentManagedAccess = 1;
  p->cooperativeLaunch = 1;
  p->canMapHostMemory = 1;
  p->asyncEngineCount = 3;
  p->clusterLaunch = 1;
  p->memPitch = 2147483647;
  p->textureAlignment = 512;
  OK;
}
API int gpusim_device_attribute(int a) {
  switch (a) {
    case 1: return 1024;
    case 2:
    case 3: return 1024;
    case 4: return 64;
    case 5: return 2147483647;
    case 6:
    case 7: return 65535;
    case 8: return 49152;
    case 9: return 65536;
    case 10: return 32;
    case 11: return 2147483647;
    case 12: return 65536;
    case 13: return 1755000;
    case 14: return 512;
    case 15: return 1;
    case 16: return smCount();
    case 18: return 0;
    case 19: return 1;
    case 31: return 1;
    case 36: return 2619000;
    case 37: return 5120;
    case 38: return 50 << 20;
    case 39: return 2048;
    case 40: return 3;
    case 41: return 1;
    case 75: return 9;
    case 76: return 0;
    case 78: return 1;
    case 81: return 233472;
    case 82: return 65536;
    case 83: return 1;
    case 88: return 1;
    case 89: return 1;
    case 95: return 1;
    case 97: return 232448;
    case 106: return 32;
    case 111: return 1024;
    case 115: return 1;
    case 120: return 1;
    default: return 0;
  }
}
API cudaError_t cudaDeviceGetAttribute(int* v, cudaDeviceAttr a, int) {
  *v = gpusim_device_attribute(a);
  OK;
}

// ---- functions -----------------------------------------------------------------------
API cudaError_t cudaFuncSetAttribute(const void* f, cudaFuncAttribute a, int v) {
  int e = 0;
  KernelEntry* k = ready(f, e);
  if (!k) return ret(e);
  if (a == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (v < 0 || (u32)v + k->fn->static_smem > kSmemMax) return ret(kInvalidValue);
    k->max_dyn_smem = v;
    k->max_dyn_set = true;
  }
  if (a == cudaFuncAttributeNonPortableClusterSizeAllowed) k->non_portable_cluster = v;
  OK;
}
API cudaError_t cudaFuncSetCacheConfig(const void*, cudaFuncCache) { OK; }
API cudaError_t cudaFuncGetName(const char** n, const void* f) {
  KernelEntry* k = kernel_of(f);
  if (!k) return ret(98);
  *n = k->name.c_str();
  OK;
}
API cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* a, const void* f) {
  memset(a, 0, sizeof *a);
  int e = 0;
  KernelEntry* k = ready(f, e);
  if (!k) return ret(e);
  a->sharedSizeBytes = k->fn->static_smem;
  a->localSizeBytes = k->fn->local_size;
  a->numRegs = 64;
  a->ptxVersion = 90;
  a->binaryVersion = 90;
  a->maxDynamicSharedSizeBytes = k->max_dyn_smem;
  a->maxThreadsPerBlock = k->fn->ast->maxntid[0] ? k->fn->ast->maxntid[0] * k->fn->ast->maxntid[1] * k->fn->ast->maxntid[2] : 1024;
  OK;
}
static int blocks_per_sm(KernelEntry* k, int threads, size_t smem) {
  size_t tot = smem + k->fn->static_smem + 1024;
  int warps = (threads + 31) / 32;
  if (threads > 1024 || tot > 233472) return 0;
  return std::min<int>({64 / std::max(warps, 1), 32, (int)(233472 / tot)});
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* n, const void* f, int t, size_t s) {
  int e = 0;
  KernelEntry* k = ready(f, e);
  if (!k) return ret(e);
  *n = blocks_per_sm(k, t, s);
  OK;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void* f, int t, size_t s, unsigned) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(n, f, t, s);
}
API cudaError_t cudaOccupancyAvailableDynamicSMemPerBlock(size_t* s, const void*, int nb, int) {
  *s = 233472 / std::max(nb, 1) - 1024;
  OK;
}
API cudaError_t cudaOccupancyMaxPotentialClusterSize(int* n, const void*, const cudaLaunchConfig_t*) {
  *n = 8;
  OK;
}
API cudaError_t cudaOccupancyMaxActiveClusters(int* n, const void* f, const cudaLaunchConfig_t* c) {
  int e = 0;
  KernelEntry* k = ready(f, e);
  if (!k) return ret(e);
  int cs = 1;
  for (unsigned q = 0; q < c->numAttrs; q++)
    if (c->attrs[q].id == cudaLaunchAttributeClusterDimension) cs = c->attrs[q].val.clusterDim.x * c->attrs[q].val.clusterDim.y * c->attrs[q].val.clusterDim.z;
  *n = blocks_per_sm(k, c->blockDim.x * c->blockDim.y * c->blockDim.z, c->dynamicSmemBytes) * smCount() / std::max(cs, 1);
  OK;
}

// ---- streams, events --------------------------------------------------------------------
API cudaError_t cudaStreamCreate(cudaStream_t* s) {
  *s = (cudaStream_t) new Stream{0, 0, 0};
  OK;
}
API cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned f) {
  *s = (cudaStream_t) new Stream{0, f, 0};
  OK;
}
API cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned f, int p) {
  *s = (cudaStream_t) new Stream{0, f, p};
  OK;
}
API cudaError_t cudaStreamDestroy(cudaStream_t s) {
  if ((u64)s > 2) delete (Stream*)s;
  OK;
}
API cudaError_t cudaStreamSynchronize(cudaStream_t) { return ret(g_sticky); }
API cudaError_t cudaStreamQuery(cudaStream_t) { return ret(g_sticky); }
API cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { OK; }
API cudaError_t cudaStreamGetFlags(cudaStream_t, unsigned* f) {
  *f = 0;
  OK;
}
API cudaError_t cudaStreamGetPriority(cudaStream_t, int* p) {
  *p = 0;
  OK;
}
API cudaError_t cudaStreamGetDevice(cudaStream_t, int* d) {
  *d = 0;
  OK;
}
API cudaError_t cudaStreamGetId(cudaStream_t s, unsigned long long* id) {
  *id = (u64)s;
  OK;
}
API cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* s) {
  *s = cudaStreamCaptureStatusNone;
  OK;
}
API cudaError_t cudaStreamGetCaptureInfo(cudaStream_t, cudaStreamCaptureStatus* s, unsigned long long* id, cudaGraph_t*, const cudaGraphNode_t**,
                                         const cudaGraphEdgeData**, size_t*) {
  *s = cudaStreamCaptureStatusNone;
  if (id) *id = 0;
  OK;
}
API cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) { return ret(801); }
API cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t*) { return ret(801); }
API cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { OK; }
API cudaError_t cudaStreamSetAttribute(cudaStream_t, cudaStreamAttrID, const cudaStreamAttrValue*) { OK; }
API cudaError_t cudaStreamGetAttribute(cudaStream_t, cudaStreamAttrID, cudaStreamAttrValue* v) {
  memset(v, 0, sizeof *v);
  OK;
}
API cudaError_t cudaEventCreate(cudaEvent_t* e) {
  *e = (cudaEvent_t) new Event;
  OK;
}
API cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) { return cudaEventCreate(e); }
API cudaError_t cudaEventDestroy(cudaEvent_t e) {
  delete (Event*)e;
  OK;
}
API cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t) {
  ((Event*)e)->t = std::chrono::steady_clock::now();
  ((Event*)e)->rec = true;
  OK;
}
API cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned) { return cudaEventRecord(e, s); }
API cudaError_t cudaEventSynchronize(cudaEvent_t) { return ret(g_sticky); }
API cudaError_t cudaEventQuery(cudaEvent_t) { return ret(g_sticky); }
API cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t a, cudaEvent_t b) {
  *ms = std::chrono::duration<float, std::milli>(((Event*)b)->t - ((Event*)a)->t).count();
  OK;
}
API cudaError_t cudaProfilerStart() { OK; }
API cudaError_t cudaProfilerStop() { OK; }

// ---- errors, entry points -------------------------------------------------------------------
API cudaError_t cudaGetLastError() {
  int e = g_sticky ? g_sticky : g_last;
  g_last = 0;
  return (cudaError_t)e;
}
API cudaError_t cudaPeekAtLastError() { return (cudaError_t)(g_sticky ? g_sticky : g_last); }
static const struct {
  int c;
  const char *n, *s;
} kErr[] = {{0, "cudaSuccess", "no error"},
            {1, "cudaErrorInvalidValue", "invalid argument"},
            {2, "cudaErrorMemoryAllocation", "out of memory"},
            {9, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
            {13, "cudaErrorInvalidSymbol", "invalid device symbol"},
            {98, "cudaErrorInvalidDeviceFunction", "invalid device function"},
            {101, "cudaErrorInvalidDevice", "invalid device ordinal"},
            {218, "cudaErrorInvalidPtx", "a PTX JIT compilation failed (gpusim: see stderr)"},
            {700, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
            {702, "cudaErrorLaunchTimeout", "the launch timed out and was terminated (gpusim: deadlock)"},
            {710, "cudaErrorAssert", "device-side assert triggered"},
            {714, "cudaErrorHardwareStackError", "hardware stack error"},
            {715, "cudaErrorIllegalInstruction", "an illegal instruction was encountered"},
            {716, "cudaErrorMisalignedAddress", "misaligned address"},
            {719, "cudaErrorLaunchFailure", "unspecified launch failure"},
            {801, "cudaErrorNotSupported", "operation not supported"},
            {500, "cudaErrorSymbolNotFound", "named symbol not found"}};
API const char* cudaGetErrorString(cudaError_t e) {
  for (auto& k : kErr)
    if (k.c == (int)e) return k.s;
  return "unknown error";
}
API const char* cudaGetErrorName(cudaError_t e) {
  for (auto& k : kErr)
    if (k.c == (int)e) return k.n;
  return "cudaErrorUnknown";
}
API cudaError_t cudaGetDriverEntryPointByVersion(const char* sym, void** f, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* st) {
  Dl_info me;
  dladdr((void*)&cudaGetDriverEntryPointByVersion, &me);
  static void* self = dlopen(me.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  std::string n = sym;
  *f = dlsym(self, (n + "_v2").c_str());
  if (!*f) *f = dlsym(self, n.c_str());
  if (st) *st = *f ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  OK;
}
API cudaError_t cudaGetDriverEntryPoint(const char* s, void** f, unsigned long long fl, cudaDriverEntryPointQueryResult* st) {
  return cudaGetDriverEntryPointByVersion(s, f, 13000, fl, st);
}
API cudaError_t cudaGetExportTable(const void** t, const cudaUUID_t*) {
  *t = nullptr;
  return ret(801);
}
}
