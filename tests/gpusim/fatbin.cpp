// Finds PTX text in a fat binary (uncompressed, LZ4 or zstd) and runs launches.
#include <cxxabi.h>
#include <dlfcn.h>
#include "tests/gpusim/api.h"
#include "tests/gpusim/memory.h"
#include "tests/gpusim/stream_engine.h"

namespace atoll::gpusim {
namespace {
std::string lz4(const u8* s, size_t n, size_t out_size) {
  std::string o;
  o.reserve(out_size);
  const u8* e = s + n;
  while (s < e) {
    u32 tok = *s++;
    size_t lit = tok >> 4;
    if (lit == 15) {
      u8 b;
      do {
        b = *s++;
        lit += b;
      } while (b == 255 && s < e);
    }
    if (s + lit > e) lit = e - s;
    o.append((const char*)s, lit);
    s += lit;
    if (s + 2 > e) break;
    size_t off = s[0] | s[1] << 8, len = tok & 15;
    s += 2;
    if (len == 15) {
      u8 b;
      do {
        b = *s++;
        len += b;
      } while (b == 255 && s < e);
    }
    len += 4;
    if (off == 0 || off > o.size()) break;
    size_t at = o.size() - off;
    for (size_t k = 0; k < len; k++) o += o[at + k];
  }
  return o;
}
std::string zstd(const u8* s, size_t n, size_t out_size, std::string& why) {
  static void* lib = dlopen("libzstd.so.1", RTLD_NOW);
  using Fn = size_t (*)(void*, size_t, const void*, size_t);
  Fn f = lib ? (Fn)dlsym(lib, "ZSTD_decompress") : nullptr;
  if (!f) {
    why = "the fat binary is zstd-compressed and libzstd.so.1 is missing; compile with --compress-mode=none";
    return "";
  }
  std::string o(out_size, 0);
  size_t r = f(o.data(), out_size, s, n);
  if (r > out_size) {
    why = "zstd decompression failed";
    return "";
  }
  o.resize(r);
  return o;
}
}  // namespace

std::vector<std::string> fatbin_ptx(const void* data, std::string& why, size_t) {
  std::vector<std::string> out;
  const u8* p = (const u8*)data;
  u32 magic;
  memcpy(&magic, p, 4);
  if (magic != 0xBA55ED50) {
    why = "not a fat binary";
    return out;
  }
  u16 hs;
  u64 size;
  memcpy(&hs, p + 6, 2);
  memcpy(&size, p + 8, 8);
  const u8 *q = p + hs, *end = q + size;
  bool sass = false;
  while (q + 64 <= end) {
    u16 kind;
    u32 hdr;
    u64 pay;
    u64 flags;
    u32 comp;
    u64 raw = 0;
    memcpy(&kind, q, 2);
    memcpy(&hdr, q + 4, 4);
    memcpy(&pay, q + 8, 8);
    memcpy(&comp, q + 16, 4);
    memcpy(&flags, q + 40, 8);
    if (hdr >= 64) memcpy(&raw, q + 56, 8);
    const u8* body = q + hdr;
    if (kind == 1) {
      std::string t;
      if (flags & 0x8000)
        t = zstd(body, comp ? comp : pay, raw, why);
      else if (flags & 0x2000)
        t = lz4(body, comp ? comp : pay, raw);
      else
        t.assign((const char*)body, strnlen((const char*)body, pay));
      size_t z = t.find('\0');
      if (z != std::string::npos) t.resize(z);
      if (!t.empty()) out.push_back(std::move(t));
    } else
      sass = true;
    q += hdr + pay;
  }
  if (out.empty() && why.empty())
    why = sass ? "the fat binary holds machine code only; compile with -gencode arch=compute_90a,code=compute_90a" : "the fat binary holds no PTX";
  return out;
}

LoadedModule* loaded_of(FatModule& f) {
  if (!f.mod && f.why.empty()) {
    try {
      f.mod = load_module(std::move(f.ptx), f.name);
    } catch (std::exception& e) {
      f.why = e.what();
      fprintf(stderr, "[gpusim] module rejected: %s\n", e.what());
    }
  }
  return f.mod;
}

std::string demangle(const std::string& s) {
  int st;
  char* d = abi::__cxa_demangle(s.c_str(), nullptr, nullptr, &st);
  std::string r = st == 0 && d ? d : s;
  free(d);
  if (r.size() > 240) r = r.substr(0, 236) + " ...";
  return r;
}
int sm_count() {
  static int n = [] {
    const char* s = getenv("GPUSIM_SMS");
    return s ? atoi(s) : 132;
  }();
  return n;
}

int prepare(KernelEntry& k) {
  if (k.fn) return 0;
  if (!k.mod) return kInvalidPtx;
  try {
    k.fn = get_func(k.mod, k.name);
  } catch (std::exception& e) {
    fprintf(stderr, "[gpusim] kernel %s cannot run: %s\n", demangle(k.name).c_str(), e.what());
    return kInvalidPtx;
  }
  return 0;
}

int launch(KernelEntry& k, const LaunchDim& d, void** args, int stream) {
  std::lock_guard<std::recursive_mutex> lk(streams().mutex());
  if (int e = prepare(k)) return e;
  const AstFunc& af = *k.fn->ast;
  auto reject = [&](const std::string& why) {
    fprintf(stderr, "[gpusim] launch of %s refused: %s\n", demangle(k.name).c_str(), why.c_str());
    return (int)kInvalidValue;
  };
  u64 threads = (u64)d.block[0] * d.block[1] * d.block[2], limit = 1024;
  if (threads == 0 || (u64)d.grid[0] * d.grid[1] * d.grid[2] == 0) {
    reject("empty grid or block");
    return 9;
  }
  if (af.maxntid[0]) limit = (u64)af.maxntid[0] * af.maxntid[1] * af.maxntid[2];
  if (threads > limit) {
    reject(std::to_string(threads) + " threads per block, limit " + std::to_string(limit));
    return 9;
  }
  if (af.reqntid[0])
    for (int q = 0; q < 3; q++)
      if (d.block[q] != (u32)af.reqntid[q]) return reject("block size differs from .reqntid");
  auto launch = std::make_shared<Launch>();
  Launch& L = *launch;
  for (int q = 0; q < 3; q++) {
    L.grid[q] = d.grid[q];
    L.block[q] = d.block[q];
    L.cl[q] = d.cluster[q] ? d.cluster[q] : 1;
  }
  if (af.req_cluster[0]) {
    for (int q = 0; q < 3; q++) {
      if (d.cluster[q] > 1 && d.cluster[q] != (u32)af.req_cluster[q]) return reject("cluster size differs from the kernel's __cluster_dims__");
      L.cl[q] = af.req_cluster[q];
    }
  }
  u32 cs = L.cl[0] * L.cl[1] * L.cl[2];
  if (cs > 16 || (cs > 8 && !k.non_portable_cluster)) return reject("cluster of " + std::to_string(cs) + " blocks");
  for (int q = 0; q < 3; q++)
    if (L.grid[q] % L.cl[q]) return reject("the grid is not a multiple of the cluster");
  if (d.smem > 48 * 1024u && !k.max_dyn_set)
    return reject(std::to_string(d.smem) + " bytes of dynamic shared memory without cudaFuncAttributeMaxDynamicSharedMemorySize");
  if (k.max_dyn_set && d.smem > (u32)k.max_dyn_smem && d.smem > 48 * 1024u)
    return reject("more dynamic shared memory than cudaFuncAttributeMaxDynamicSharedMemorySize allows");
  if (d.smem + k.fn->static_smem > kSmemMax)
    return reject(std::to_string(d.smem + k.fn->static_smem) + " bytes of shared memory, limit " + std::to_string(kSmemMax));
  L.fn = k.fn;
  L.dyn_smem = d.smem;
  L.cooperative = d.coop;
  L.name = demangle(k.name);
  L.params.resize(std::max<u32>(k.fn->param_bytes, 1));
  for (size_t q = 0; q < af.params.size(); q++) memcpy(&L.params[k.fn->param_off[q]], args[q], af.params[q].size);
  streams().enqueue(stream, launch, nullptr);
  return 0;
}
}  // namespace atoll::gpusim
