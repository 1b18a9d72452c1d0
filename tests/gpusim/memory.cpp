// The simulated global memory: device pointers are host pointers inside registered allocations.
#include <sys/mman.h>
#include <cstdlib>
#include <map>
#include "tests/gpusim/machine.h"

namespace atoll::gpusim {
namespace {
std::mutex g_mu;
std::map<u64, Alloc> g_live;   // by base
std::map<u64, Alloc> g_freed;  // recently freed, for messages
u64 g_next = 0, g_bytes = 0;
constexpr u64 kGuard = 4096;  // gap behind every allocation
}  // namespace

u64 mem_alloc(u64 size, const std::string& what, u64 align, bool) {
  std::lock_guard<std::mutex> lk(g_mu);
  if (align < 512) align = 512;
  u64 raw = size + align + 2 * kGuard;
  void* p = mmap(nullptr, raw, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return 0;
  u64 base = ((u64)p + kGuard + align - 1) / align * align;
  Alloc a{base, size, what, false, g_next++};
  g_live[base] = a;
  g_bytes += size;
  return base;
}

void mem_register(u64 base, u64 size, const std::string& what) {
  std::lock_guard<std::mutex> lk(g_mu);
  g_live[base] = Alloc{base, size, what, false, g_next++};
}

bool mem_free(u64 p) {
  std::lock_guard<std::mutex> lk(g_mu);
  auto it = g_live.find(p);
  if (it == g_live.end()) return false;
  Alloc a = it->second;
  g_live.erase(it);
  g_bytes -= a.size;
  // pages are given back but the address range stays reserved: use after free is caught
  u64 lo = (a.base + 4095) & ~4095ull, hi = (a.base + a.size) & ~4095ull;
  if (hi > lo) madvise((void*)lo, hi - lo, MADV_DONTNEED);
  g_freed[a.base] = a;
  return true;
}

bool mem_find(u64 a, Alloc& out) {
  std::lock_guard<std::mutex> lk(g_mu);
  auto it = g_live.upper_bound(a);
  if (it == g_live.begin()) return false;
  --it;
  if (a >= it->second.base + std::max<u64>(it->second.size, 1)) return false;
  out = it->second;
  return true;
}

u64 mem_in_use() { return g_bytes; }
std::vector<Alloc> mem_live() {
  std::vector<Alloc> v;
  for (auto& p : g_live) v.push_back(p.second);
  return v;
}

std::string mem_describe(u64 a, u64 n) {
  std::lock_guard<std::mutex> lk(g_mu);
  char buf[512];
  auto it = g_live.upper_bound(a);
  std::string s;
  if (it != g_live.begin()) {
    auto p = std::prev(it);
    const Alloc& b = p->second;
    s64 past = (s64)(a - (b.base + b.size));
    if (past < 0)
      snprintf(buf, sizeof buf, "it starts %llu bytes before the end of allocation #%llu (%s, base 0x%llx, %llu bytes) and crosses it",
               (unsigned long long)-past, (unsigned long long)b.id, b.what.c_str(), (unsigned long long)b.base, (unsigned long long)b.size);
    else
      snprintf(buf, sizeof buf, "nearest below: %lld bytes past the end of allocation #%llu (%s, base 0x%llx, %llu bytes)", (long long)past,
               (unsigned long long)b.id, b.what.c_str(), (unsigned long long)b.base, (unsigned long long)b.size);
    s = buf;
  }
  if (it != g_live.end()) {
    snprintf(buf, sizeof buf, "%snearest above: %llu bytes before allocation #%llu (%s, %llu bytes)", s.empty() ? "" : "; ",
             (unsigned long long)(it->second.base - a), (unsigned long long)it->second.id, it->second.what.c_str(), (unsigned long long)it->second.size);
    s += buf;
  }
  auto f = g_freed.upper_bound(a);
  if (f != g_freed.begin()) {
    --f;
    if (a < f->second.base + f->second.size) {
      snprintf(buf, sizeof buf, "; inside FREED allocation #%llu (%s, %llu bytes): use after free", (unsigned long long)f->second.id, f->second.what.c_str(),
               (unsigned long long)f->second.size);
      s += buf;
    }
  }
  (void)n;
  return s.empty() ? "no allocation exists" : s;
}

}  // namespace atoll::gpusim
