// A part of the CUDA driver API: modules from PTX text, launches, memory, tensor maps.
#include <cuda.h>
#include "tests/gpusim/runtime.h"
#include "tests/gpusim/tma.h"

#undef API
#define API extern "C" __attribute__((visibility("default")))
extern "C" int gpusim_device_attribute(int a);
namespace {
struct Mod {
  LoadedModule* lm;
  std::map<std::string, KernelEntry*> k;
};
}  // namespace

API CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
API CUresult cuDriverGetVersion(int* v) {
  *v = 13000;
  return CUDA_SUCCESS;
}
API CUresult cuDeviceGetCount(int* n) {
  *n = 1;
  return CUDA_SUCCESS;
}
API CUresult cuDeviceGet(CUdevice* d, int) {
  *d = 0;
  return CUDA_SUCCESS;
}
API CUresult cuDeviceGetName(char* n, int len, CUdevice) {
  snprintf(n, len, "GPUSIM (simulated H100)");
  return CUDA_SUCCESS;
}
API CUresult cuDeviceGetAttribute(int* v, CUdevice_attribute a, CUdevice) {
  *v = gpusim_device_attribute(a);
  return CUDA_SUCCESS;
}
API CUresult cuDeviceTotalMem_v2(size_t* n, CUdevice) {
  *n = 80ull << 30;
  return CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxRetain(CUcontext* c, CUdevice) {
  *c = (CUcontext)1;
  return CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) { return CUDA_SUCCESS; }
API CUresult cuCtxGetCurrent(CUcontext* c) {
  *c = (CUcontext)1;
  return CUDA_SUCCESS;
}
API CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
API CUresult cuCtxGetDevice(CUdevice* d) {
  *d = 0;
  return CUDA_SUCCESS;
}
API CUresult cuCtxSynchronize() {
  std::lock_guard<std::recursive_mutex> lk(streams().mutex());
  streams().synchronize_all();
  return (CUresult)sticky_error();
}
API CUresult cuStreamSynchronize(CUstream s) { return (CUresult)cudaStreamSynchronize((cudaStream_t)s); }
API CUresult cuGetErrorString(CUresult e, const char** s) {
  *s = e == CUDA_SUCCESS ? "no error" : "error (see stderr of gpusim)";
  return CUDA_SUCCESS;
}
API CUresult cuGetErrorName(CUresult e, const char** s) {
  *s = e == CUDA_SUCCESS ? "CUDA_SUCCESS" : "CUDA_ERROR";
  return CUDA_SUCCESS;
}

API CUresult cuModuleLoadData(CUmodule* m, const void* image) {
  try {
    u32 magic;
    memcpy(&magic, image, 4);
    std::string text, why;
    if (magic == 0xBA55ED50) {
      auto v = fatbin_ptx(image, why);
      if (v.empty()) {
        fprintf(stderr, "[gpusim] %s\n", why.c_str());
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
      }
      text = v.back();
    } else
      text = (const char*)image;
    *m = (CUmodule) new Mod{load_module(text, "data.ptx"), {}};
    return CUDA_SUCCESS;
  } catch (std::exception& e) {
    fprintf(stderr, "[gpusim] %s\n", e.what());
    return CUDA_ERROR_INVALID_PTX;
  }
}
API CUresult cuModuleLoadDataEx(CUmodule* m, const void* image, unsigned, CUjit_option*, void**) { return cuModuleLoadData(m, image); }
API CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
API CUresult cuModuleGetFunction(CUfunction* f, CUmodule m, const char* name) {
  Mod* mo = (Mod*)m;
  auto& k = mo->k[name];
  if (!k) {
    k = new KernelEntry;
    k->mod = mo->lm;
    k->name = name;
  }
  int e = prepare(*k);
  *f = (CUfunction)k;
  return (CUresult)e;
}
API CUresult cuModuleGetGlobal_v2(CUdeviceptr* p, size_t* n, CUmodule m, const char* name) {
  Mod* mo = (Mod*)m;
  auto it = mo->lm->sym_addr.find(name);
  if (it == mo->lm->sym_addr.end()) return CUDA_ERROR_NOT_FOUND;
  if (p) *p = it->second;
  if (n) *n = mo->lm->sym_size[name];
  return CUDA_SUCCESS;
}
API CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute a, int v) {
  auto* k = (KernelEntry*)f;
  if (a == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
    if (v < 0 || (u32)v > kSmemMax) return CUDA_ERROR_INVALID_VALUE;
    k->max_dyn_smem = v;
    k->max_dyn_set = true;
  }
  if (a == CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED) k->non_portable_cluster = v;
  return CUDA_SUCCESS;
}
API CUresult cuFuncGetAttribute(int* v, CUfunction_attribute a, CUfunction f) {
  auto* k = (KernelEntry*)f;
  *v = a == CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES       ? (int)k->fn->static_smem
       : a == CU_FUNC_ATTRIBUTE_NUM_REGS              ? 64
       : a == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024
                                                      : 0;
  return CUDA_SUCCESS;
}
API CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }
API CUresult cuLaunchKernelEx(const CUlaunchConfig* c, CUfunction f, void** args, void** extra) {
  if (extra) return CUDA_ERROR_NOT_SUPPORTED;
  LaunchDim d{{c->gridDimX, c->gridDimY, c->gridDimZ}, {c->blockDimX, c->blockDimY, c->blockDimZ}, {1, 1, 1}, c->sharedMemBytes, false};
  for (unsigned k = 0; k < c->numAttrs; k++) {
    auto& a = c->attrs[k];
    if (a.id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) {
      d.cluster[0] = a.value.clusterDim.x;
      d.cluster[1] = a.value.clusterDim.y;
      d.cluster[2] = a.value.clusterDim.z;
    }
    if (a.id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) d.coop = a.value.cooperative;
  }
  if (sticky_error()) return (CUresult)sticky_error();
  const CUstream stream = c->hStream;
  return (CUresult)ret(launch(*(KernelEntry*)f, d, args, queue_of((cudaStream_t)stream)));
}
API CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned smem, CUstream stream,
                            void** args, void** extra) {
  if (extra) return CUDA_ERROR_NOT_SUPPORTED;
  if (sticky_error()) return (CUresult)sticky_error();
  LaunchDim d{{gx, gy, gz}, {bx, by, bz}, {1, 1, 1}, smem, false};
  return (CUresult)ret(launch(*(KernelEntry*)f, d, args, queue_of((cudaStream_t)stream)));
}
API CUresult cuMemAlloc_v2(CUdeviceptr* p, size_t n) {
  *p = mem_alloc(n, "cuMemAlloc");
  return CUDA_SUCCESS;
}
API CUresult cuMemFree_v2(CUdeviceptr p) { return (CUresult)cudaFree((void*)p); }
API CUresult cuMemcpyHtoD_v2(CUdeviceptr d, const void* s, size_t n) { return (CUresult)cudaMemcpy((void*)d, s, n, cudaMemcpyDefault); }
API CUresult cuMemcpyDtoH_v2(void* d, CUdeviceptr s, size_t n) { return (CUresult)cudaMemcpy(d, (void*)s, n, cudaMemcpyDefault); }
API CUresult cuMemcpyDtoD_v2(CUdeviceptr d, CUdeviceptr s, size_t n) { return (CUresult)cudaMemcpy((void*)d, (void*)s, n, cudaMemcpyDefault); }
API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr d, const void* s, size_t n, CUstream q) {
  return (CUresult)cudaMemcpyAsync((void*)d, s, n, cudaMemcpyDefault, q);
}
API CUresult cuMemcpyDtoHAsync_v2(void* d, CUdeviceptr s, size_t n, CUstream q) { return (CUresult)cudaMemcpyAsync(d, (void*)s, n, cudaMemcpyDefault, q); }
API CUresult cuMemsetD8_v2(CUdeviceptr d, unsigned char v, size_t n) { return (CUresult)cudaMemset((void*)d, v, n); }
API CUresult cuMemsetD32_v2(CUdeviceptr d, unsigned v, size_t n) {
  const std::vector<unsigned> words(n, v);
  return cuMemcpyHtoD_v2(d, words.data(), n * 4);
}
API CUresult cuStreamCreate(CUstream* s, unsigned flags) { return (CUresult)cudaStreamCreateWithFlags(s, flags); }
API CUresult cuStreamDestroy_v2(CUstream s) { return (CUresult)cudaStreamDestroy(s); }
API CUresult cuStreamWaitEvent(CUstream s, CUevent e, unsigned flags) { return (CUresult)cudaStreamWaitEvent(s, e, flags); }
API CUresult cuEventCreate(CUevent* e, unsigned flags) { return (CUresult)cudaEventCreateWithFlags(e, flags); }
API CUresult cuEventRecord(CUevent e, CUstream s) { return (CUresult)cudaEventRecord(e, s); }
API CUresult cuEventSynchronize(CUevent e) { return (CUresult)cudaEventSynchronize(e); }
API CUresult cuEventDestroy_v2(CUevent e) { return (CUresult)cudaEventDestroy(e); }

API CUresult cuTensorMapEncodeTiled(CUtensorMap* out, CUtensorMapDataType dt, cuuint32_t rank, void* addr, const cuuint64_t* dims, const cuuint64_t* strides,
                                    const cuuint32_t* box, const cuuint32_t* estr, CUtensorMapInterleave il, CUtensorMapSwizzle sw, CUtensorMapL2promotion l2,
                                    CUtensorMapFloatOOBfill oob) {
  TensorMap t;
  std::string why = encode_tiled(t, (int)dt, rank, (u64)addr, (const u64*)dims, (const u64*)strides, box, estr, (int)il, (int)sw, (int)l2, (int)oob);
  if (!why.empty()) {
    fprintf(stderr, "[gpusim] cuTensorMapEncodeTiled: %s\n", why.c_str());
    return CUDA_ERROR_INVALID_VALUE;
  }
  memset((void*)out, 0, sizeof *out);
  memcpy((void*)out, &t, sizeof t);
  return CUDA_SUCCESS;
}
API CUresult cuTensorMapReplaceAddress(CUtensorMap* m, void* a) {
  ((TensorMap*)m)->addr = (u64)a;
  return CUDA_SUCCESS;
}
API CUresult cuGetProcAddress_v2(const char* sym, void** f, int, cuuint64_t, CUdriverProcAddressQueryResult* st);

// ---- plain C interface for loaders (ctypes) --------------------------------------------
API void* gpusim_load(const char* ptx) {
  try {
    return load_module(ptx, "text.ptx");
  } catch (std::exception& e) {
    fprintf(stderr, "[gpusim] %s\n", e.what());
    return nullptr;
  }
}
API int gpusim_check(const char* ptx) {  // prints each unsupported instruction, returns their number
  try {
    auto* m = load_module(ptx, "text.ptx");
    auto v = unsupported_instructions(m);
    for (auto& s : v) fprintf(stderr, "[gpusim] %s\n", s.c_str());
    return (int)v.size();
  } catch (std::exception& e) {
    fprintf(stderr, "[gpusim] %s\n", e.what());
    return -1;
  }
}
API void* gpusim_malloc(size_t n) { return (void*)mem_alloc(n, "gpusim_malloc"); }
API void gpusim_free(void* p) { mem_free((u64)p); }
