// Happens-before checking of shared and global memory. Clocks are kept by warp, plus one pseudo-agent for whatever runs asynchronously:
// the copies counted by one mbarrier, the bulk stores or cp.async of a warp, the wgmma of a warpgroup. An access that no barrier, fence,
// mbarrier phase, event or wait orders after a conflicting one is reported, whatever this run's schedule made of it.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace atoll::gpusim {
struct Warp;
struct Cluster;
struct Inst;
struct Launch;

struct Clock {
  std::vector<uint32_t> seen;                  // by agent of this cluster: its clock as far as this one has seen it
  std::vector<uint32_t> proxy;                 // the part that a proxy fence made visible to the async proxy in shared memory
  std::vector<uint32_t> proxy_global;          // ... and in global memory
  std::vector<uint32_t> inits;                 // the part that was released for the initialisation of mbarriers only
  std::unordered_map<uint64_t, uint32_t> far;  // agents of other clusters, by launch and uid
  std::unordered_map<uint64_t, uint32_t> far_proxy;  // the part of them that is visible to the async proxy in global memory
  std::vector<uint32_t> ops;                   // by stream: operations seen through the flags of other launches and copies
  // Single lanes of warps (agent * 32 + lane, sorted): what a lane that arrived alone has released, beyond what `seen` says of its whole warp.
  std::vector<std::pair<uint32_t, uint32_t>> lanes;
  uint32_t of_lane(uint32_t agent, uint32_t lane) const;
  void raise_lane(uint32_t agent, uint32_t lane, uint32_t clock);
  void join(const Clock& o);
  void join_ops(const std::vector<uint32_t>& o);
  uint32_t of(uint32_t agent) const { return agent < seen.size() ? seen[agent] : 0; }
  uint32_t proxy_of(uint32_t agent) const { return agent < proxy.size() ? proxy[agent] : 0; }
  uint32_t proxy_global_of(uint32_t agent) const { return agent < proxy_global.size() ? proxy_global[agent] : 0; }
  uint32_t init_of(uint32_t agent) const { return std::max(of(agent), agent < inits.size() ? inits[agent] : 0); }
  void raise(uint32_t agent, uint32_t clock);
};

// The last access of a kind to one 4-byte word.
struct Epoch {
  uint32_t op = 0;     // number of the launch or copy; 0: none
  uint32_t agent = 0;  // shared: agent of the cluster; global: uid
  uint32_t clock = 0;
  uint32_t line : 19 = 0, lane : 6 = 0, mask : 4 = 0, strong : 1 = 0, narrow : 1 = 0, async : 1 = 0;  // lane 32: several; strong: atomic, volatile, relaxed and above; narrow: of .cta or .cluster scope
};
struct Cell {
  Epoch write, read[2];
  uint32_t more = 0;  // shared memory: index into the overflow of readers
};

enum class AgentKind : uint32_t { kCopies, kStoreRead, kStoreWrite, kCpAsync, kWgmma };
struct Access {
  bool write = false, strong = false, narrow = false, async = false, any_proxy = false, same_value = false;  // any_proxy: needs no proxy fence
  int lane = -1, line = 0;
  uint32_t agent = ~0u, clock = 0;  // of a pseudo-agent; ~0: the warp itself
  const Clock* clocks = nullptr;    // what has happened before; null: the warp's
};

void race_init(Cluster& c);
uint32_t race_agent(Cluster& c, AgentKind kind, uint32_t key);
void race_shared(Warp& w, uint32_t addr, uint32_t n, const Access& a);
void race_global(Warp& w, uint64_t addr, uint32_t n, const Access& a);
void race_host(Launch& op, uint64_t addr, uint64_t n, bool write);  // copies and fills
void race_release_relaxed(Warp& w, Clock& to, bool near);  // an arrival that is .relaxed: what the last fence released
void race_free(Launch& op, uint64_t addr);  // by a stream: what used the allocation must come before
void race_release(Warp& w, Clock& to, uint32_t mask = ~0u);  // mask: the lanes that arrive; they release what they did, and what was synchronised with them
void race_acquire(Warp& w, const Clock& from);
Clock& race_sync_var(Cluster& c, uint32_t addr);
// is_narrow: of a scope that does not hold threads of other clusters; it orders nothing between them.
void race_strong_global(Warp& w, uint64_t addr, bool write, bool acquire, bool release, bool is_narrow);
void race_cp_async_done(Warp& w, uint32_t lane, int upto);  // a lane has waited for its groups before `upto`: they are its own writes now
void race_forget_flags();            // the host has waited for everything
void race_keep_acquired(Warp& w);    // a warp ends: what follows its launch has seen what it has
void race_fence(Warp& w, bool wider_than_cta);
void race_proxy_fence(Warp& w, bool shared, bool global);
void race_lanes_acquire(Warp& w, uint32_t mask, const Clock& from);
void race_warp_sync(Warp& w, uint32_t mask);
uint32_t race_next_copy(Cluster& c, uint32_t mbar);  // numbers the copies that an mbarrier counts
void race_mbar_init(Warp& w, uint32_t addr, int lane);
void race_mbar_inval(Cluster& c, uint32_t addr);
void race_mbar_init_fence(Warp& w);
void race_exit(Cluster& c, uint32_t rank);  // a block ends: mbarriers with bytes outstanding are reported
void race_mbar_use(Warp& w, uint32_t addr, bool async_or_remote, int line, int lane);
void race_report(Launch& l, const std::string& text, int line, int other_line);

}  // namespace atoll::gpusim
