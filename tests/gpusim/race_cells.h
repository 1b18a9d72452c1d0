// Cells of the race checker: the last write and the last readers of each 4-byte word, in pages that cost nothing until touched.
#pragma once
#include <sys/mman.h>

#include "tests/gpusim/machine.h"

namespace atoll::gpusim {

template <class T>
class Pages {  // zero until written
 public:
  explicit Pages(size_t n) : bytes_(n * sizeof(T)) {
    void* p = mmap(nullptr, bytes_ + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw SimError(kLaunchFailure, "no address space for the race checker's cells");
    p_ = static_cast<T*>(p);
  }
  Pages(Pages&& o) noexcept : p_(std::exchange(o.p_, nullptr)), bytes_(o.bytes_) {}
  Pages& operator=(Pages&&) = delete;
  ~Pages() { release(); }
  void release() noexcept {
    if (p_) munmap(std::exchange(p_, nullptr), bytes_ + 1);
  }
  T& operator[](size_t k) { return p_[k]; }
  T* data() { return p_; }

 private:
  T* p_ = nullptr;
  size_t bytes_ = 0;
};

struct Race {
  u32 per_cta = 0, num_agents = 0;
  std::vector<Pages<Cell>> cells;           // by CTA rank
  std::vector<std::vector<Epoch>> readers;  // overflow of Cell::read; index 0 unused
  std::unordered_map<u64, u32> pseudo;      // (kind, key) -> agent
  std::unordered_map<u32, std::pair<AgentKind, u32>> pseudo_kind;
  std::unordered_map<u32, Clock> sync;  // by shared address
  std::unordered_map<u32, u32> copies;  // copies issued on an mbarrier
  struct Init {
    u32 agent, clock;
    int lane;
    bool fenced;
  };
  std::unordered_map<u32, Init> init;  // mbarriers
};

bool lanes_synced(const Warp& w, u32 lane, u32 clock, int me);  // a lane's access at that clock is ordered before lane me now
std::string agent_name(const Cluster& c, u32 agent);
std::string line_name(const Launch& l, int line);

template <class F>
void for_each_word(u64 off, u64 n, F f) {
  for (u64 at = off, end = off + n; at < end;) {
    const u32 in = at & 3, len = (u32)std::min<u64>(4 - in, end - at);
    f(at >> 2, ((1u << len) - 1) << in);
    at += len;
  }
}
inline Epoch epoch_of(u32 op, u32 agent, u32 clock, u32 mask, const Access& a) {
  Epoch e;
  e.op = op, e.agent = agent, e.clock = clock, e.line = std::min((u32)a.line, (1u << 19) - 1), e.lane = a.lane < 0 ? 32u : (u32)a.lane, e.mask = mask, e.strong = a.strong, e.narrow = a.narrow,
  e.async = a.async;
  return e;
}
// The same agent's newer access replaces the older one. synced: accesses of other lanes of its warp up to that clock are ordered before it.
inline bool absorbs(Epoch& e, const Epoch& now, u32 synced) {
  if (!e.op) {
    e = now;
    return true;
  }
  if (e.op != now.op || e.agent != now.agent || e.async != now.async) return false;
  const u32 mask = e.mask | now.mask;
  const bool several = e.lane != now.lane && e.clock > synced;
  const bool strong = e.strong && now.strong, narrow = e.narrow || now.narrow;
  e = now;
  e.mask = mask;
  e.strong = strong, e.narrow = narrow;
  if (several) e.lane = 32;
  return true;
}
inline void note_reader(Race& r, Cell& c, const Epoch& now, u32 synced) {
  for (Epoch& e : c.read)
    if (absorbs(e, now, synced)) return;
  if (!c.more) {
    c.more = (u32)r.readers.size();
    r.readers.emplace_back();
  }
  for (Epoch& e : r.readers[c.more])
    if (absorbs(e, now, synced)) return;
  r.readers[c.more].push_back(now);
}
template <class F>
void for_each_reader(Race& r, const Cell& c, F f) {
  for (const Epoch& e : c.read)
    if (e.op) f(e);
  if (c.more)
    for (const Epoch& e : r.readers[c.more]) f(e);
}
inline void forget_readers(Race& r, Cell& c, u32 mask) {
  if (mask != 15) return;  // readers of the other bytes stay
  c.read[0] = c.read[1] = Epoch();
  if (c.more) r.readers[c.more].clear();
}
inline void merge_write(Cell& c, const Epoch& now) {
  const bool join = c.write.op == now.op && c.write.agent == now.agent && c.write.clock == now.clock && c.write.op;
  const u32 mask = join ? c.write.mask | now.mask : now.mask;
  c.write = now;
  c.write.mask = mask;
}

}  // namespace atoll::gpusim
