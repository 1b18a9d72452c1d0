// Allocations of the simulated global memory, their shadows, and the words that describe an address in a report.
#include "tests/gpusim/memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <map>

namespace atoll::gpusim {
namespace {
constexpr u64 kGuard = 4096;  // gap behind every allocation
struct Heap {
  std::recursive_mutex mu;
  std::map<u64, Alloc> live, freed;  // by base
  u64 next = 0, bytes = 0;
  std::atomic<u64> generation{0};
};
Heap& heap() {
  static Heap* h = new Heap;  // outlives static destructors of the program
  return *h;
}
bool host_visible(const std::string& what) { return what.find("Host") != std::string::npos || what.find("Managed") != std::string::npos; }
bool of_the_program(const std::string& what) { return what.compare(0, 4, "cuda") == 0 || what.compare(0, 2, "cu") == 0; }
std::string describe(const Alloc& a) {
  return "allocation #" + std::to_string(a.id) + " (" + a.what + ", base " + hex(a.base) + ", " + std::to_string(a.size) + " bytes" +
         (a.where.empty() ? "" : ", from " + a.where) + ")";
}
}  // namespace

u64 mem_alloc(u64 size, const std::string& what, u64 align, const std::string& where) {
  Heap& h = heap();
  std::lock_guard<std::recursive_mutex> lk(h.mu);
  if (align < 512) align = 512;
  const u64 raw = size + align + 2 * kGuard;
  void* p = mmap(nullptr, raw, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return 0;
  const u64 base = ((u64)p + kGuard + align - 1) / align * align;
  Alloc a{base, size, what, h.next++, where, nullptr};
  const bool device = of_the_program(what) && !host_visible(what), variable = what.compare(0, 9, "variable ") == 0;
  if (options().race || options().uninit)
    a.shadow = std::make_shared<Shadow>(
        Shadow{base, size, options().race && (device || variable), options().uninit && device, Pages<Cell>(size / 4 + 2), Pages<u8>(size + 4)});
  if (options().poison_global && of_the_program(what) && size <= (256ull << 20)) memset((void*)base, 0xff, size);  // NaN, and never a valid pointer
  h.live[base] = a;
  h.bytes += size;
  return base;
}
void mem_register(u64 base, u64 size, const std::string& what) {
  Heap& h = heap();
  std::lock_guard<std::recursive_mutex> lk(h.mu);
  h.live[base] = Alloc{base, size, what, h.next++, "", nullptr};
}
bool mem_unregister(u64 base) {
  Heap& h = heap();
  std::lock_guard<std::recursive_mutex> lk(h.mu);
  return h.live.erase(base) > 0;
}
bool mem_free(u64 p) {
  Heap& h = heap();
  std::lock_guard<std::recursive_mutex> lk(h.mu);
  auto it = h.live.find(p);
  if (it == h.live.end()) return false;
  Alloc a = it->second;
  h.live.erase(it);
  h.bytes -= a.size;
  h.generation++;
  a.shadow = nullptr;
  // Pages are given back, but the address range stays reserved: a use after free is caught.
  const u64 lo = (a.base + 4095) & ~4095ull, hi = (a.base + a.size) & ~4095ull;
  if (hi > lo) madvise((void*)lo, hi - lo, MADV_DONTNEED);
  h.freed[a.base] = a;
  return true;
}
bool mem_find(u64 a, Alloc& out) {
  Heap& h = heap();
  std::lock_guard<std::recursive_mutex> lk(h.mu);
  auto it = h.live.upper_bound(a);
  if (it == h.live.begin()) return false;
  --it;
  if (a >= it->second.base + std::max<u64>(it->second.size, 1)) return false;
  out = it->second;
  return true;
}
u64 mem_in_use() { return heap().bytes; }
u64 mem_generation() { return heap().generation; }

int mem_report_leaks() {
  int n = 0;
  for (auto& [base, a] : heap().live)
    if (of_the_program(a.what) && a.what != "cudaHostRegister") {
      if (++n <= 50) fprintf(stderr, "[gpusim] LEAK %s was never freed\n", describe(a).c_str());
    }
  return n;
}

std::string mem_name(u64 a) {
  Alloc al;
  return mem_find(a, al) ? "allocation #" + std::to_string(al.id) + " (" + al.what + ", " + std::to_string(al.size) + " bytes) + " + std::to_string(a - al.base)
                         : "no allocation";
}
bool mem_was_freed(u64 a) {
  Heap& h = heap();
  std::lock_guard<std::recursive_mutex> lk(h.mu);
  auto f = h.freed.upper_bound(a);
  return f != h.freed.begin() && a < std::prev(f)->second.base + std::prev(f)->second.size;
}
std::string mem_describe(u64 a, u64) {
  Heap& h = heap();
  std::lock_guard<std::recursive_mutex> lk(h.mu);
  std::string s;
  auto it = h.live.upper_bound(a);
  if (it != h.live.begin()) {
    const Alloc& b = std::prev(it)->second;
    const s64 past = (s64)(a - (b.base + b.size));
    if (past < 0)
      s = "it starts " + std::to_string(-past) + " bytes before the end of " + describe(b) + " and crosses it";
    else
      s = "nearest below: " + std::to_string(past) + " bytes past the end of " + describe(b);
  }
  if (it != h.live.end())
    s += (s.empty() ? "" : "; ") + std::string("nearest above: ") + std::to_string(it->second.base - a) + " bytes before " + describe(it->second);
  if (mem_was_freed(a)) s += "; inside FREED " + describe(std::prev(h.freed.upper_bound(a))->second) + ": use after free";
  return s.empty() ? "no allocation exists" : s;
}

Shadow* mem_shadow_of(u64 a) {
  Alloc al;
  return mem_find(a, al) ? al.shadow.get() : nullptr;
}
Shadow* mem_shadow(Warp& w, u64 a, u32 n) {
  if (a < w.shadow_lo || a + n > w.shadow_hi) {
    Alloc al;
    if (!mem_find(a, al)) return nullptr;
    w.shadow_lo = al.base, w.shadow_hi = al.base + al.size, w.shadow = al.shadow.get();
  }
  return w.shadow;
}
void mem_mark_written(u64 a, u64 n) {
  Shadow* s = mem_shadow_of(a);
  if (s && s->uninit) memset(&s->written[a - s->base], 1, std::min(n, s->base + s->size - a));
}
void copy_written(Cta& c, u32 offset, u64 from, u64 n) {
  Shadow* s = mem_shadow_of(from);
  if (s && s->uninit)
    memcpy(&c.written[offset], &s->written[from - s->base], n);
  else
    memset(&c.written[offset], 1, n);
}
void check_written(Warp& w, u64 a, u32 n, int lane) {
  Shadow* s = mem_shadow(w, a, n);
  if (!s || !s->uninit) return;
  const u8* p = &s->written[a - s->base];
  for (u32 k = 0; k < n; k++)
    if (!p[k]) throw SimError(kIllegalAddress, "read of global memory that nobody has written: address " + hex(a + k) + ", " + mem_name(a + k), lane);
}

}  // namespace atoll::gpusim
