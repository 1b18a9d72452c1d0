// The CUDA runtime API: the device and its attributes, function attributes, occupancy, error names, driver entry points.
#include <dlfcn.h>

#include "tests/gpusim/runtime.h"

namespace atoll::gpusim {
int take_last_error(bool clear);
}
extern "C" {
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
API cudaError_t cudaDeviceReset() { return cudaDeviceSynchronize(); }
API cudaError_t cudaDeviceSynchronize() {
  Guard lk(api_mutex());
  streams().synchronize_all();
  return synced();
}
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
  p->multiProcessorCount = sm_count();
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
    case 16: return sm_count();
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
  *n = blocks_per_sm(k, c->blockDim.x * c->blockDim.y * c->blockDim.z, c->dynamicSmemBytes) * sm_count() / std::max(cs, 1);
  OK;
}

// ---- errors, entry points -------------------------------------------------------------------
API cudaError_t cudaGetLastError() { return (cudaError_t)take_last_error(true); }
API cudaError_t cudaPeekAtLastError() { return (cudaError_t)take_last_error(false); }
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
            {209, "cudaErrorNoKernelImageForDevice", "no kernel image is available for execution on the device"},
            {400, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
            {500, "cudaErrorSymbolNotFound", "named symbol not found"},
            {600, "cudaErrorNotReady", "device not ready"},
            {720, "cudaErrorCooperativeLaunchTooLarge", "too many blocks in cooperative launch"}};
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
  static const char here = 0;  // not this function: a preloaded library may stand before it
  Dl_info me;
  dladdr((const void*)&here, &me);
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
