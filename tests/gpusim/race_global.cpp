// The race checker on global memory: blocks of a launch against each other, fences and flags between blocks, launches and copies of different streams.
#include "tests/gpusim/memory.h"
#include "tests/gpusim/race_cells.h"
#include "tests/gpusim/stream_engine.h"

namespace atoll::gpusim {
namespace {
constexpr u32 kAgentBits = 10, kHostAgent = ~0u;  // host: copies and fills
struct Flags {                                     // of all launches and copies since the host last waited for everything
  std::unordered_map<u64, FlagClock> at;           // by global address
  std::unordered_map<u32, Clock> acquired;         // by launch: what its warps had seen of others when they ended
};
Flags& flags() {
  static auto* f = new Flags;
  return *f;
}
u64 far_key(u32 op, u64 uid) { return (u64)op << 32 | uid; }
bool covers(const Clock& c, const Epoch& e) {
  if (op_seen(c.ops, e.op)) return true;
  auto it = c.far.find(far_key(e.op, e.agent));
  return it != c.far.end() && it->second >= e.clock;
}
// Does another operation's access come before one of `l`: by streams and events, by flags, or by the flags of a launch that came before?
bool op_ordered(const Launch& l, const Clock* c, const Epoch& e) {
  if (op_seen(l.before, e.op) || (c && covers(*c, e))) return true;
  for (auto& [op, clock] : flags().acquired)
    if ((op_seen(l.before, op) || (c && op_seen(c->ops, op))) && covers(clock, e)) return true;
  return false;
}
bool comes_after(const Launch& l, const Clock* c, u32 op) {  // the whole of another operation
  Epoch e;
  e.op = op, e.agent = kHostAgent, e.clock = 1;
  return op_ordered(l, c, e);
}
bool allocated_before(const Launch& l, const Clock* c, const Shadow& s) { return !s.born || comes_after(l, c, s.born); }
void note_user(Shadow& s, u32 op) {
  if (s.last_user != op) s.users.insert(s.last_user = op);
}
u64 uid_of(const Cluster& c, u32 agent) { return (u64)c.id << kAgentBits | agent; }

// What this cluster knows, in terms that another cluster or launch understands.
using Far = std::unordered_map<u64, u32>;
void export_agents(const Cluster& c, const std::vector<u32>& seen, const Far& far, Far& to) {
  for (u32 k = 0; k < seen.size(); k++)
    if (seen[k]) {
      u32& v = to[far_key(c.L->op, uid_of(c, k))];
      v = std::max(v, seen[k]);
    }
  for (auto& [key, clock] : far) {
    u32& v = to[key];
    v = std::max(v, clock);
  }
}
void export_clock(const Cluster& c, const Clock& from, Clock& to) {
  if (from.seen.empty()) return;
  export_agents(c, from.seen, from.far, to.far);
  export_agents(c, from.proxy_global, from.far_proxy, to.far_proxy);
  to.join_ops(from.ops);
  to.join_ops(c.L->before);
}
void import_clock(Warp& w, const Clock& from) {
  auto import_agents = [&](const Far& far, std::vector<u32>& seen, Far& to) {
    for (auto& [key, clock] : far) {
      if (key >> kAgentBits != far_key(w.L->op, uid_of(*w.cluster, 0)) >> kAgentBits) {
        u32& v = to[key];
        v = std::max(v, clock);
        continue;
      }
      const u32 agent = key & ((1u << kAgentBits) - 1);
      if (seen.size() <= agent) seen.resize(agent + 1);
      seen[agent] = std::max(seen[agent], clock);
    }
  };
  import_agents(from.far, w.clock.seen, w.clock.far);
  import_agents(from.far_proxy, w.clock.proxy_global, w.clock.far_proxy);
  w.clock.join_ops(from.ops);
}
// Another launch than before uses a flag: of launches that come before this one by streams or events, and so have ended, the whole is kept instead of
// single warps (whoever acquires the flag later is taken to have seen them to their end), so that flags do not grow with the number of launches.
void enter_flag(FlagClock& f, const Launch& l) {
  f.op = l.op;
  for (auto it = f.wide.far.begin(); it != f.wide.far.end();) {
    const u32 op = (u32)(it->first >> 32);
    if (!op_seen(l.before, op)) {
      ++it;
      continue;
    }
    if (!op_seen(f.wide.ops, op)) f.wide.join_ops(op_order(op));
    f.wide.far_proxy.erase(it->first);
    it = f.wide.far.erase(it);
  }
  for (auto it = f.near.begin(); it != f.near.end();) it = op_seen(l.before, (u32)(it->first >> 32)) ? f.near.erase(it) : std::next(it);
}
std::string far_name(const Launch& l, u32 uid) {
  const u32 cluster = uid >> kAgentBits, agent = uid & ((1u << kAgentBits) - 1);
  const u32 ctas = l.cl[0] * l.cl[1] * l.cl[2], per_cta = (l.block[0] * l.block[1] * l.block[2] + 31) / 32;
  const std::string who = agent < per_cta * ctas ? "warp " + std::to_string(agent % per_cta) : std::string("an asynchronous operation");
  return who + " of block number " + std::to_string(cluster * ctas + (agent < per_cta * ctas ? agent / per_cta : 0));
}
void report_global(Warp& w, u64 addr, const Access& a, const Epoch& e, bool other_writes, bool lanes, const char* fence = nullptr) {
  const char* kind = fence ? fence : a.write ? (other_writes ? "write after write" : "write after read") : "read after write";
  std::string s = std::string("(global memory, ") + kind + ") at address " + hex(addr) + ", " + mem_name(addr) + ": " + agent_name(*w.cluster, w.agent);
  if (a.lane >= 0) s += " lane " + std::to_string(a.lane);
  s += " at " + line_name(*w.L, a.line) + "\n  against ";
  if (e.op != w.L->op)
    s += op_name(e.op) + ", which no stream order, event or synchronisation puts before this launch";
  else if (lanes)
    s += "lane " + std::to_string(e.lane) + " of the same warp at " + line_name(*w.L, e.line) + " (__syncwarp missing)";
  else
    s += far_name(*w.L, e.agent) + " at " + line_name(*w.L, e.line) + (fence ? "" : " (no fence and flag, barrier or wait between them)");
  race_report(*w.L, s, a.line, e.op == w.L->op ? (int)e.line : -(int)e.op - 10);
}
}  // namespace

void race_global(Warp& w, u64 addr, u32 n, const Access& a) {
  Shadow* sh = mem_shadow(w, addr, n);
  if (!sh || !sh->race) return;
  const Launch& l = *w.L;
  note_user(*sh, l.op);
  const Clock& clocks = a.clocks ? *a.clocks : w.clock;
  const u32 local = a.agent == ~0u ? w.agent : a.agent, clock = a.agent == ~0u ? w.clock.of(w.agent) : a.clock;
  const u32 me = (u32)uid_of(*w.cluster, local);
  if (!allocated_before(l, &clocks, *sh))
    race_report(*w.L,
                "(global memory, use before its allocation) at address " + hex(addr) + ", " + mem_name(addr) + ": " + agent_name(*w.cluster, w.agent) + " at " +
                    line_name(l, a.line) + "\n  against " + op_name(sh->born) + ", which no stream order, event or synchronisation puts before this launch",
                -4, (int)sh->born);
  auto ordered = [&](const Epoch& e, bool& lanes) {
    if (e.op != l.op) return op_ordered(l, &clocks, e);
    if (e.agent >> kAgentBits != w.cluster->id) {
      auto it = clocks.far.find(far_key(e.op, e.agent));
      return it != clocks.far.end() && it->second >= e.clock;
    }
    const u32 agent = e.agent & ((1u << kAgentBits) - 1);
    if (agent == w.agent) {
      lanes = a.agent == ~0u && a.lane >= 0 && (int)e.lane != a.lane && !lanes_synced(w, e.lane, e.clock, a.lane);
      return !lanes;
    }
    return clocks.of(agent) >= e.clock || clocks.of_lane(agent, e.lane) >= e.clock;
  };
  // Strong accesses are no race where the scope of each holds the other: .cta and .cluster are taken as the cluster.
  auto in_scope = [&](const Epoch& e) { return !(a.narrow || e.narrow) || (e.op == l.op && e.agent >> kAgentBits == w.cluster->id); };
  // The end of a launch is a proxy fence, and so is that of a copy.
  auto visible_to_async = [&](const Epoch& e) {
    if (e.op != l.op && (e.agent == kHostAgent || op_ordered(l, nullptr, e) || op_seen(clocks.ops, e.op))) return true;
    if (e.op == l.op && e.agent >> kAgentBits == w.cluster->id) return clocks.proxy_global_of(e.agent & ((1u << kAgentBits) - 1)) >= e.clock;
    auto it = clocks.far_proxy.find(far_key(e.op, e.agent));
    return it != clocks.far_proxy.end() && it->second >= e.clock;
  };
  for_each_word(addr - sh->base, n, [&](u64 word, u32 mask) {
    Cell& c = sh->cells[word];
    // A copy's words may be polled (strong reads), but an atomic beside a copy is a race.
    const bool both_strong = a.strong && c.write.strong && !(a.write && c.write.agent == kHostAgent) && in_scope(c.write);
    if (c.write.op && (c.write.mask & mask)) {
      bool lanes = false;
      if (!both_strong && !ordered(c.write, lanes)) {
        if (!(a.write && a.same_value && lanes && (int)c.write.line == a.line)) report_global(w, addr, a, c.write, true, lanes);
      } else if (a.async && !both_strong && !c.write.async && !visible_to_async(c.write))
        report_global(w, addr, a, c.write, true, false,
                      a.write ? "fence.proxy.async missing between a write and another by the async proxy"
                              : "fence.proxy.async missing between a write and its read by the async proxy");
    }
    const Epoch now = epoch_of(l.op, me, clock, mask, a);
    if (!a.write) {
      if (!absorbs(c.read[0], now, w.full_sync)) {
        c.read[1] = c.read[0];
        c.read[0] = now;
      }
      return;
    }
    for (const Epoch& e : c.read) {
      bool lanes = false;
      if (e.op && (e.mask & mask) && !(a.strong && e.strong && in_scope(e)) && !ordered(e, lanes)) report_global(w, addr, a, e, false, lanes);
    }
    if (mask == 15) c.read[0] = c.read[1] = Epoch();
    merge_write(c, now);
  });
}

// A copy or fill of the stream engine: a launch without threads.
void race_host(Launch& op, u64 addr, u64 n, bool write) {
  Shadow* sh = mem_shadow_of(addr);
  if (!sh || !sh->race) return;
  note_user(*sh, op.op);
  n = std::min(n, sh->base + sh->size - addr);
  Access a;
  a.write = a.strong = write;
  bool said = !allocated_before(op, nullptr, *sh);
  if (said) {
    ++op.num_races;
    fprintf(stderr, "[gpusim] RACE (global memory): %s %s address %s, %s, and no stream order, event or synchronisation puts %s before it\n", op.name.c_str(),
            write ? "writes" : "reads", hex(addr).c_str(), mem_name(addr).c_str(), op_name(sh->born).c_str());
  }
  for_each_word(addr - sh->base, n, [&](u64 word, u32 mask) {
    Cell& c = sh->cells[word];
    auto check = [&](const Epoch& e) {
      if (said || !e.op || e.op == op.op || !(e.mask & mask) || op_ordered(op, nullptr, e)) return;
      said = true;
      ++op.num_races;
      fprintf(stderr, "[gpusim] RACE (global memory): %s %s address %s, %s, which %s used, and no stream order, event or synchronisation is between them\n",
              op.name.c_str(), write ? "writes" : "reads", hex(sh->base + word * 4).c_str(), mem_name(addr).c_str(), op_name(e.op).c_str());
    };
    check(c.write);
    const Epoch now = epoch_of(op.op, kHostAgent, 1, mask, a);
    if (!write) {
      if (!absorbs(c.read[0], now, ~0u)) {
        c.read[1] = c.read[0];
        c.read[0] = now;
      }
      return;
    }
    for (const Epoch& e : c.read)
      if (!e.strong) check(e);  // a kernel may poll for it
    if (mask == 15) c.read[0] = c.read[1] = Epoch();
    merge_write(c, now);
  });
}

void race_free(Launch& op, u64 addr) {
  const Shadow* sh = mem_shadow_of(addr);
  if (!sh || !sh->race) return;
  for (u32 user : sh->users) {
    if (comes_after(op, nullptr, user)) continue;
    ++op.num_races;
    fprintf(stderr, "[gpusim] RACE (global memory): %s frees %s, which %s used, and no stream order, event or synchronisation is between them\n", op.name.c_str(),
            mem_name(addr).c_str(), op_name(user).c_str());
    return;
  }
}

// ---- flags and fences between blocks ------------------------------------------------------------
void race_forget_flags() {
  flags().at.clear();
  flags().acquired.clear();
}
void race_keep_acquired(Warp& w) {
  Clock others;
  for (auto& [key, clock] : w.clock.far)
    if (key >> 32 != w.L->op) others.far[key] = clock;
  others.join_ops(w.clock.ops);
  if (!others.far.empty() || !others.ops.empty()) flags().acquired[w.L->op].join(others);
}
void race_strong_global(Warp& w, u64 addr, bool write, bool acquire, bool release, bool is_narrow) {
  FlagClock& f = flags().at[addr];
  if (f.op != w.L->op) enter_flag(f, *w.L);
  if (Shadow* sh = mem_shadow(w, addr, 4); sh && sh->race) {  // what a copy wrote releases what came before the copy
    const Epoch& e = sh->cells[(addr - sh->base) >> 2].write;
    if (e.op && e.agent == kHostAgent && !op_seen(f.wide.ops, e.op)) f.wide.join_ops(op_order(e.op));
  }
  Clock& near = f.near[far_key(w.L->op, w.cluster->id)];
  if (acquire) {
    if (!is_narrow) import_clock(w, f.wide);
    w.clock.join(near);
  } else {
    if (!is_narrow) {
      for (auto [from, to] : {std::pair{&f.wide.far, &w.pending.far}, {&f.wide.far_proxy, &w.pending.far_proxy}})
        for (auto& [uid, clock] : *from) {
          u32& v = (*to)[uid];
          v = std::max(v, clock);
        }
      w.pending.join_ops(f.wide.ops);
    }
    w.pending_near.join(near);
  }
  if (!write) return;
  if (release) {
    if (!is_narrow) export_clock(*w.cluster, w.clock, f.wide);
    near.join(w.clock);
    w.clock.seen[w.agent]++;
  } else {
    if (!is_narrow) export_clock(*w.cluster, w.released, f.wide);
    near.join(w.released_near);
  }
}
void race_fence(Warp& w, bool wider_than_cta) {
  w.clock.join(w.pending_near);
  if (wider_than_cta) {
    import_clock(w, w.pending);
    w.pending = Clock();
    w.released.join(w.clock);
  }
  w.pending_near = Clock();
  w.released_near = w.clock;
  w.clock.seen[w.agent]++;
  if (wider_than_cta) race_mbar_init_fence(w);
}

}  // namespace atoll::gpusim
