// Clocks of the race checker, its shared-memory cells, fences and the initialisation of mbarriers (race.h says what is checked).
#include "tests/gpusim/machine.h"
#include "tests/gpusim/mbar.h"
#include "tests/gpusim/race_cells.h"

namespace atoll::gpusim {

namespace {
void latest(std::vector<u32>& to, const std::vector<u32>& from) {
  if (to.size() < from.size()) to.resize(from.size());
  for (size_t k = 0; k < from.size(); k++) to[k] = std::max(to[k], from[k]);
}
void latest(std::unordered_map<u64, u32>& to, const std::unordered_map<u64, u32>& from) {
  for (auto& [uid, clock] : from) {
    u32& mine = to[uid];
    mine = std::max(mine, clock);
  }
}
}  // namespace
void Clock::join(const Clock& o) {
  latest(seen, o.seen);
  latest(proxy, o.proxy);
  latest(proxy_global, o.proxy_global);
  latest(inits, o.inits);
  latest(far, o.far);
  latest(far_proxy, o.far_proxy);
  for (auto& [key, clock] : o.lanes) raise_lane(key / 32, key % 32, clock);
  join_ops(o.ops);
}
void Clock::join_ops(const std::vector<u32>& o) { latest(ops, o); }
void Clock::raise_lane(u32 agent, u32 lane, u32 clock) {
  const std::pair<u32, u32> entry{agent * 32 + lane, 0};
  auto it = std::lower_bound(lanes.begin(), lanes.end(), entry);
  if (it == lanes.end() || it->first != entry.first) it = lanes.insert(it, entry);
  it->second = std::max(it->second, clock);
}
u32 Clock::of_lane(u32 agent, u32 lane) const {
  if (lane >= 32) return 0;
  const auto it = std::lower_bound(lanes.begin(), lanes.end(), std::pair<u32, u32>{agent * 32 + lane, 0});
  return it != lanes.end() && it->first == agent * 32 + lane ? it->second : 0;
}
void Clock::raise(u32 agent, u32 clock) {
  if (seen.size() <= agent) seen.resize(agent + 1);
  seen[agent] = std::max(seen[agent], clock);
}

void race_init(Cluster& c) {
  auto r = std::make_shared<Race>();
  r->per_cta = c.ctas[0]->warps.size();
  r->num_agents = r->per_cta * c.ctas.size();
  for (auto& ct : c.ctas) {
    r->cells.emplace_back((kSmemBase + ct->smem_size + 19) / 4);
    for (auto& w : ct->warps) {
      w->agent = ct->rank * r->per_cta + w->id;
      w->clock.raise(w->agent, 1);
    }
  }
  r->readers.resize(1);
  c.race = r;
}
u32 race_agent(Cluster& c, AgentKind kind, u32 key) {
  auto [it, fresh] = c.race->pseudo.try_emplace((u64)kind << 32 | key, c.race->num_agents);
  if (fresh) {
    c.race->num_agents++;
    c.race->pseudo_kind[it->second] = {kind, key};
  }
  return it->second;
}
void race_release(Warp& w, Clock& to, u32 mask) {
  const u32 now = w.clock.of(w.agent);
  if (w.live & ~mask) {  // the other lanes' accesses since they last synchronised with these are not released
    auto synced = [&](u32 from) {
      u32 least = now;
      for (u32 k = mask & w.live; k; k &= k - 1)
        least = std::min(least, std::max(w.full_sync, w.pair_sync.empty() ? 0 : w.pair_sync[from * 32 + __builtin_ctz(k)]));
      return least;
    };
    u32 all = now;
    for (u32 k = w.live & ~mask; k; k &= k - 1) all = std::min(all, synced(__builtin_ctz(k)));
    const u32 before = to.of(w.agent);
    for (u32 k = w.live; k; k &= k - 1) {
      const u32 lane = __builtin_ctz(k), clock = mask >> lane & 1 ? now : synced(lane);
      if (clock > std::max(all, before)) to.raise_lane(w.agent, lane, clock);
    }
    w.clock.seen[w.agent] = all;
    to.join(w.clock);
    w.clock.seen[w.agent] = now;
  } else
    to.join(w.clock);
  w.clock.seen[w.agent]++;
}
void race_acquire(Warp& w, const Clock& from) { w.clock.join(from); }
Clock& race_sync_var(Cluster& c, u32 addr) { return c.race->sync[addr]; }

// fence.proxy.async: everything this warp has seen becomes visible to the async proxy, in the memory that the fence names.
void race_proxy_fence(Warp& w, bool shared, bool global) {
  Clock& c = w.clock;
  if (shared) latest(c.proxy, c.seen);
  if (global) {
    latest(c.proxy_global, c.seen);
    latest(c.far_proxy, c.far);
  }
  c.seen[w.agent]++;
  if (shared) race_mbar_init_fence(w);
}
// What a fence has released, and mbarriers initialised before fence.mbarrier_init.
void race_release_relaxed(Warp& w, Clock& to, bool near) {
  to.join(near ? w.released_near : w.released);
  w.clock.seen[w.agent]++;
}
void race_warp_sync(Warp& w, u32 mask) {
  const u32 now = w.clock.of(w.agent);
  if (!(w.live & ~mask))
    w.full_sync = now;
  else {
    if (w.pair_sync.empty()) w.pair_sync.resize(1024);
    for (u32 a = mask; a; a &= a - 1)
      for (u32 b = mask; b; b &= b - 1) w.pair_sync[__builtin_ctz(a) * 32 + __builtin_ctz(b)] = now;
  }
  w.clock.seen[w.agent]++;
}
// Lanes of `mask` have waited for an mbarrier: they see what any lane of the warp did up to the clock of its arrival.
void race_lanes_acquire(Warp& w, u32 mask, const Clock& from) {
  const bool all = !(w.live & ~mask);
  const u32 clock = from.of(w.agent);
  if (all) w.full_sync = std::max(w.full_sync, clock);
  for (u32 a = 0; a < 32; a++) {
    const u32 seen = std::max(all ? 0 : clock, from.of_lane(w.agent, a));
    if (!seen) continue;
    if (w.pair_sync.empty()) w.pair_sync.resize(1024);
    for (u32 b = mask; b; b &= b - 1) {
      u32& at = w.pair_sync[a * 32 + __builtin_ctz(b)];
      at = std::max(at, seen);
    }
  }
}
bool lanes_synced(const Warp& w, u32 lane, u32 clock, int me) {
  if (w.full_sync >= clock) return true;
  if (lane == 32 || w.pair_sync.empty()) return false;
  return w.pair_sync[lane * 32 + me] >= clock;
}

void race_report(Launch& l, const std::string& text, int line, int other_line) {
  if (!l.reported.insert({line, other_line}).second) return;
  if (++l.num_races <= 20) fprintf(stderr, "[gpusim] RACE %s\n  kernel %s\n", text.c_str(), l.name.c_str());
}
std::string agent_name(const Cluster& c, u32 agent) {
  const Race& r = *c.race;
  auto cta = [&](u32 rank) {
    const Cta& t = *c.ctas[rank];
    return " of block (" + std::to_string(t.ctaid[0]) + "," + std::to_string(t.ctaid[1]) + "," + std::to_string(t.ctaid[2]) + ")";
  };
  if (agent < r.per_cta * c.ctas.size()) return "warp " + std::to_string(agent % r.per_cta) + cta(agent / r.per_cta);
  auto it = r.pseudo_kind.find(agent);
  if (it == r.pseudo_kind.end()) return "an asynchronous operation";
  const u32 key = it->second.second;
  switch (it->second.first) {
    case AgentKind::kCopies: return "a copy counted by the mbarrier at shared offset " + std::to_string((key & 0xffffff) - kSmemBase) + cta(key >> kRankShift);
    case AgentKind::kStoreRead:
    case AgentKind::kStoreWrite: return "a bulk store of warp " + std::to_string(key % r.per_cta) + cta(key / r.per_cta);
    case AgentKind::kCpAsync: return "a cp.async of warp " + std::to_string(key % r.per_cta) + cta(key / r.per_cta);
    default: return "a wgmma of warpgroup " + std::to_string(key % 8) + cta(key / 8);
  }
}
std::string line_name(const Launch& l, int line) {
  std::string s = "PTX line " + std::to_string(line);
  for (auto& i : l.fn->code)
    if (i.ast && i.ast->line == line) return source_of(l.fn, &i);
  return s;
}

namespace {
const char* clash(const Access& a, bool other_writes, bool lanes) {
  if (lanes)
    return a.write ? (other_writes ? "two lanes of a warp write" : "a lane writes what another lane of its warp read (__syncwarp missing)")
                   : "a lane reads what another lane of its warp wrote (__syncwarp missing)";
  return a.write ? (other_writes ? "write after write" : "write after read") : "read after write";
}
void report_shared(Warp& w, u32 addr, const Access& a, const Epoch& e, bool other_writes, bool lanes, const char* what) {
  const u32 me = a.agent == ~0u ? w.agent : a.agent;
  std::string s = std::string("(shared memory, ") + (what ? what : clash(a, other_writes, lanes)) + ") at shared offset " +
                  std::to_string((addr & 0xffffff) - kSmemBase) + ": " + agent_name(*w.cluster, me);
  if (a.lane >= 0 && a.agent == ~0u) s += " lane " + std::to_string(a.lane);
  s += " at " + line_name(*w.L, a.line) + "\n  against " + agent_name(*w.cluster, e.agent);
  if (e.lane < 32 && e.agent < w.cluster->race->per_cta * w.cluster->ctas.size()) s += " lane " + std::to_string(e.lane);
  race_report(*w.L, s + " at " + line_name(*w.L, e.line), a.line, e.line);
}
}  // namespace

void race_shared(Warp& w, u32 addr, u32 n, const Access& a) {
  Race& r = *w.cluster->race;
  const u32 rank = addr >> kRankShift, off = addr & 0xffffff;
  if (rank >= r.cells.size()) return;
  const u32 real = r.per_cta * w.cluster->ctas.size();
  const Clock& clocks = a.clocks ? *a.clocks : w.clock;
  const u32 me = a.agent == ~0u ? w.agent : a.agent, clock = a.agent == ~0u ? w.clock.of(w.agent) : a.clock;
  auto ordered = [&](const Epoch& e, bool& lanes) {
    if (e.agent == w.agent && a.agent == ~0u) {
      lanes = a.lane >= 0 && (int)e.lane != a.lane && !lanes_synced(w, e.lane, e.clock, a.lane);
      return !lanes;
    }
    if (e.agent == w.agent && e.agent < real) return true;  // an asynchronous operation after its issuer's own accesses
    return clocks.of(e.agent) >= e.clock || clocks.of_lane(e.agent, e.lane) >= e.clock;
  };
  for_each_word(off, n, [&](u32 word, u32 mask) {
    Cell& c = r.cells[rank][word];
    if (c.write.op && (c.write.mask & mask) && !(a.strong && c.write.strong)) {
      bool lanes = false;
      if (!ordered(c.write, lanes)) {
        const bool same = a.write && a.same_value && lanes && (int)c.write.line == a.line;
        if (!same) report_shared(w, addr, a, c.write, true, lanes, nullptr);
      } else if (a.async && !a.any_proxy && !c.write.async && clocks.proxy_of(c.write.agent) < c.write.clock)
        report_shared(w, addr, a, c.write, true, false,
                      a.write ? "fence.proxy.async missing between a write and another by the async proxy"
                              : "fence.proxy.async missing between a write and its read by the async proxy");
    }
    const Epoch now = epoch_of(1, me, clock, mask, a);
    if (!a.write) {
      note_reader(r, c, now, w.full_sync);
      return;
    }
    for_each_reader(r, c, [&](const Epoch& e) {
      bool lanes = false;
      if ((e.mask & mask) && !(a.strong && e.strong) && !ordered(e, lanes)) report_shared(w, addr, a, e, false, lanes, nullptr);
    });
    forget_readers(r, c, mask);
    merge_write(c, now);
  });
}

void race_cp_async_done(Warp& w, u32 lane, int upto) {
  Race& r = *w.cluster->race;
  const u32 agent = race_agent(*w.cluster, AgentKind::kCpAsync, w.agent);
  for (auto it = w.cp_copies.begin(); it != w.cp_copies.end();) {
    const CpCopy& copy = it->second;
    if (copy.lane != lane || copy.group >= upto) {
      ++it;
      continue;
    }
    for_each_word(it->first & 0xffffff, copy.bytes, [&](u32 word, u32) {
      Epoch& e = r.cells[it->first >> kRankShift][word].write;
      if (e.agent == agent && e.lane == lane && e.clock == copy.number) e.agent = w.agent, e.clock = w.clock.of(w.agent);
    });
    it = w.cp_copies.erase(it);
  }
}

// ---- the initialisation of mbarriers -----------------------------------------------------------
// PTX ISA, mbarrier.init: undefined where a valid mbarrier object lies; mbarrier.inval must come first.
void race_mbar_init(Warp& w, u32 addr, int lane) {
  if (auto it = w.cluster->race->init.find(addr); it != w.cluster->race->init.end())
    throw SimError(kIllegalInstruction, "mbarrier.init at " + hex(addr) + " (shared offset " + std::to_string((addr & 0xffffff) - kSmemBase) +
                                            "), where " + agent_name(*w.cluster, it->second.agent) + " has initialised an mbarrier that nobody invalidated");
  race_sync_var(*w.cluster, addr) = Clock();
  race_sync_var(*w.cluster, addr | 1) = Clock();
  w.cluster->race->init[addr] = {w.agent, w.clock.of(w.agent), lane, false};
  w.clock.seen[w.agent]++;
}
u32 race_next_copy(Cluster& c, u32 mbar) { return ++c.race->copies[mbar]; }
void race_mbar_inval(Cluster& c, u32 addr) { c.race->init.erase(addr); }
void race_exit(Cluster& c, u32 rank) {
  for (auto& [addr, i] : c.race->init) {
    if (addr >> kRankShift != rank) continue;
    u64 v;
    memcpy(&v, c.ctas[rank]->smem.data() + (addr & 0xffffff), 8);
    const MBar b = MBar::load(v);
    if (b.expected && b.expected <= 0xfffff && b.tx != 0)
      race_report(*c.L,
                  "(mbarrier at shared offset " + std::to_string((addr & 0xffffff) - kSmemBase) + "): block " + cta_name(*c.ctas[rank]) +
                      " exits with a tx-count of " + std::to_string(b.tx) +
                      " bytes: " + (b.tx > 0 ? "they were expected and nobody awaited them, or they never came" : "they came and were never expected"),
                  -3, (int)(addr & 0xffffff));
  }
}
void race_mbar_init_fence(Warp& w) {
  latest(w.released.inits, w.clock.seen);
  w.clock.seen[w.agent]++;
  for (auto& [addr, i] : w.cluster->race->init)
    if (w.clock.of(i.agent) >= i.clock) i.fenced = true;
}
void race_mbar_use(Warp& w, u32 addr, bool async_or_remote, int line, int lane) {
  auto it = w.cluster->race->init.find(addr);
  if (it == w.cluster->race->init.end()) return;
  const std::string bar = "mbarrier at shared offset " + std::to_string((addr & 0xffffff) - kSmemBase);
  if (it->second.agent == w.agent && it->second.lane != lane && !lanes_synced(w, it->second.lane, it->second.clock, lane))
    race_report(*w.L,
                "(" + bar + "): lane " + std::to_string(lane) + " of " + agent_name(*w.cluster, w.agent) + " at " + line_name(*w.L, line) +
                    " uses it, and nothing orders that after its initialisation by lane " + std::to_string(it->second.lane) + " (__syncwarp missing)",
                line, -1);
  else if (it->second.agent != w.agent && w.clock.init_of(it->second.agent) < it->second.clock)
    race_report(*w.L,
                "(" + bar + "): " + agent_name(*w.cluster, w.agent) + " at " + line_name(*w.L, line) +
                    " uses it, and nothing orders that after its initialisation by " + agent_name(*w.cluster, it->second.agent),
                line, -1);
  else if (async_or_remote && w.cluster->ctas.size() > 1 && !it->second.fenced)  // alone, a barrier of the block is enough: libcu++ relies on it
    race_report(*w.L,
                "(" + bar + "): used by the async proxy or another block at " + line_name(*w.L, line) +
                    " without fence.mbarrier_init or fence.proxy.async after its initialisation",
                line, -2);
}

}  // namespace atoll::gpusim
