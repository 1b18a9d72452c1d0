// The CUDA runtime API: registration of fat binaries, launches, errors' state.
#include "tests/gpusim/runtime.h"

namespace {
struct Config {
  dim3 g, b;
  size_t s;
  cudaStream_t st;
};
struct State {
  std::atomic<int> sticky{0};
  std::map<const void*, KernelEntry*> kernels;  // by host stub and by itself
  std::map<const void*, Symbol> symbols;
  std::vector<FatModule*> modules;
};
State& state() {
  static auto* s = new State;
  return *s;
}
int& last_error() {
  thread_local int e = 0;
  return e;
}
std::vector<Config>& configs() {
  thread_local std::vector<Config> c;
  return c;
}
}  // namespace

namespace atoll::gpusim {
int sticky_error() { return state().sticky; }
void set_error(int e, bool sticky) {
  if (sticky) state().sticky = e;
  last_error() = e;
}
constexpr int kCooperativeTooLarge = 720;
cudaError_t ret(int e) {
  if (e >= 700 && e != kCooperativeTooLarge) state().sticky = e;
  if (state().sticky && !e) e = state().sticky;
  if (e) last_error() = e;
  return (cudaError_t)e;
}
cudaError_t synced() { return ret(state().sticky); }
int take_last_error(bool clear) {
  const int e = state().sticky ? (int)state().sticky : last_error();
  if (clear) last_error() = 0;
  return e;
}
const Symbol* symbol_of(const void* host) {
  auto it = state().symbols.find(host);
  return it == state().symbols.end() ? nullptr : &it->second;
}
int queue_of(cudaStream_t s) {
  if (s == nullptr || s == cudaStreamLegacy) return StreamEngine::kLegacy;
  if (s == cudaStreamPerThread) {
    static const int per_thread = streams().create(true);
    return per_thread;
  }
  return ((Stream*)s)->queue;
}
KernelEntry* kernel_of(const void* f) {
  Guard lk(api_mutex());
  auto it = state().kernels.find(f);
  return it == state().kernels.end() ? nullptr : it->second;
}
KernelEntry* ready(const void* f, int& e) {
  KernelEntry* k = kernel_of(f);
  if (!k) {
    e = 98;
    return nullptr;
  }  // cudaErrorInvalidDeviceFunction
  if (!k->mod) {
    Guard lk(api_mutex());
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
namespace {
cudaError_t do_launch(const void* f, dim3 g, dim3 b, dim3 c, void** args, size_t smem, bool coop, cudaStream_t stream) {
  Guard lk(api_mutex());
  if (sticky_error()) return synced();
  if (!is_stream(stream)) return refuse_stream("launch");
  int e = 0;
  KernelEntry* k = ready(f, e);
  if (!k) return ret(e);
  if (g.y > 65535 || g.z > 65535 || b.z > 64) return refuse("launch", "a grid has at most 65535 blocks in y and in z, a block at most 64 threads in z", cudaErrorInvalidConfiguration);
  const u64 threads = (u64)b.x * b.y * b.z, blocks = (u64)g.x * g.y * g.z;
  if (coop && threads > 0 && threads <= 1024 && blocks > (u64)sm_count() * (2048 / threads))
    return refuse("launch", "a cooperative grid of " + std::to_string(blocks) + " blocks of " + std::to_string(threads) + " threads is not resident at once", kCooperativeTooLarge);
  LaunchDim d{{g.x, g.y, g.z}, {b.x, b.y, b.z}, {c.x, c.y, c.z}, (u32)smem, coop};
  return ret(launch(*k, d, args, queue_of(stream)));
}
}  // namespace
}  // namespace atoll::gpusim

extern "C" {
// ---- registration -------------------------------------------------------------
API void** __cudaRegisterFatBinary(void* fc) {
  struct W {
    int magic, version;
    const void* data;
    void* f;
  }* w = (W*)fc;
  auto* m = new FatModule;
  Guard lk(api_mutex());
  m->name = "module" + std::to_string(state().modules.size()) + ".ptx";
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
  state().modules.push_back(m);
  if (options().eager) loaded_of(*m);
  return (void**)m;
}
API void __cudaRegisterFatBinaryEnd(void**) {}
API void __cudaUnregisterFatBinary(void**) {}
API char __cudaInitModule(void**) { return 1; }
API void __cudaRegisterFunction(void** h, const char* host, char*, const char* dev, int, uint3*, uint3*, dim3*, dim3*, int*) {
  Guard lk(api_mutex());
  auto* k = new KernelEntry;
  k->name = dev;
  k->host = h;
  state().kernels[host] = k;
  state().kernels[k] = k;
}
API void __cudaRegisterVar(void** h, char* host, char*, const char* dev, int, size_t, int, int) {
  Guard lk(api_mutex());
  state().symbols[host] = {(FatModule*)h, dev};
}
API void __cudaRegisterManagedVar(void** h, void** host_ptr, char*, const char* dev, int, size_t, int, int) {
  Guard lk(api_mutex());
  FatModule* f = (FatModule*)h;
  if (loaded_of(*f)) {
    auto it = f->mod->sym_addr.find(dev);
    if (it != f->mod->sym_addr.end()) {
      *host_ptr = (void*)it->second;
      state().symbols[*host_ptr] = {f, dev};
    }
  }
}
API void __cudaRegisterHostVar(void**, const char*, char*, size_t) {}
API unsigned __cudaPushCallConfiguration(dim3 g, dim3 b, size_t s, struct CUstream_st* st) {
  configs().push_back({g, b, s, st});
  return 0;
}
API cudaError_t __cudaPopCallConfiguration(dim3* g, dim3* b, size_t* s, void* st) {
  if (configs().empty()) return cudaErrorInvalidConfiguration;
  Config c = configs().back();
  configs().pop_back();
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
API cudaError_t __cudaLaunchKernel(cudaKernel_t k, dim3 g, dim3 b, const void** a, size_t s, cudaStream_t st) {
  return do_launch(k, g, b, dim3(1, 1, 1), (void**)a, s, false, st);
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
API cudaError_t cudaLaunchKernel(const void* f, dim3 g, dim3 b, void** a, size_t s, cudaStream_t st) {
  return do_launch(f, g, b, dim3(1, 1, 1), a, s, false, st);
}
API cudaError_t cudaLaunchCooperativeKernel(const void* f, dim3 g, dim3 b, void** a, size_t s, cudaStream_t st) {
  return do_launch(f, g, b, dim3(1, 1, 1), a, s, true, st);
}
API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* f, void** a) {
  dim3 cl(1, 1, 1);
  bool coop = false;
  for (unsigned k = 0; k < c->numAttrs; k++) {
    if (c->attrs[k].id == cudaLaunchAttributeClusterDimension)
      cl = dim3(c->attrs[k].val.clusterDim.x, c->attrs[k].val.clusterDim.y, c->attrs[k].val.clusterDim.z);
    if (c->attrs[k].id == cudaLaunchAttributeCooperative) coop = c->attrs[k].val.cooperative;
  }
  return do_launch(f, c->gridDim, c->blockDim, cl, a, c->dynamicSmemBytes, coop, c->stream);
}
static cudaError_t enqueue_host(cudaStream_t s, std::function<void()> f) {
  Guard lk(api_mutex());
  if (!is_stream(s)) return refuse_stream("cudaLaunchHostFunc");
  auto op = std::make_shared<Launch>();
  op->name = "a host function";
  streams().enqueue(queue_of(s), op, [f](Launch&) {
    f();
    return 0;
  });
  return ret(0);
}
API cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t fn, void* u) {
  return enqueue_host(s, [=] { fn(u); });
}
API cudaError_t cudaStreamAddCallback(cudaStream_t s, cudaStreamCallback_t cb, void* u, unsigned) {
  return enqueue_host(s, [=] { cb(s, cudaSuccess, u); });
}
}
