// Shared-memory race detector: vector clocks per warp (FastTrack at warp granularity), one shadow cell per byte.
#include "tests/gpusim/machine.h"

namespace atoll::gpusim {
struct Shadow {
  s16 w = -1;
  u32 w_clk = 0;
  int w_line = 0;
  bool atomic = false;
};
struct Race {
  u32 agents = 0, per_cta = 0;  // the last agent stands for the asynchronous proxy
  struct CtaShadow {
    std::vector<Shadow> cell;
    std::vector<u32> rd;
    std::vector<int> rd_line;
  };
  std::vector<CtaShadow> cta;
  std::unordered_map<u32, std::vector<u32>> sync;
  std::set<std::pair<int, int>> reported;
  u32 async_clk = 0;
};
static u32 self(const Warp& w) { return w.cta->rank * w.cluster->race->per_cta + w.id; }

void race_init(Cluster& c) {
  auto r = std::make_shared<Race>();
  r->per_cta = c.ctas[0]->warps.size();
  r->agents = r->per_cta * c.ctas.size() + 1;
  r->cta.resize(c.ctas.size());
  c.race = r;
  for (size_t k = 0; k < c.ctas.size(); k++) {
    size_t cells = kSmemBase + c.ctas[k]->smem_size + 16;
    r->cta[k].cell.resize(cells);
    r->cta[k].rd.assign(cells * r->agents, 0);
    r->cta[k].rd_line.assign(cells, 0);
    // [0, agents): ordinary clocks; [agents, 2 agents): what a proxy fence has made visible to the async proxy
    for (auto& w : c.ctas[k]->warps) {
      w->vc.assign(2 * r->agents, 0);
      w->vc[self(*w)] = 1;
    }
  }
}
static void join(std::vector<u32>& a, const std::vector<u32>& b) {
  if (a.size() < b.size()) a.resize(b.size());
  for (size_t k = 0; k < b.size(); k++) a[k] = std::max(a[k], b[k]);
}
void race_release(Warp& w, std::vector<u32>& vc) {
  join(vc, w.vc);
  w.vc[self(w)]++;
}
void race_acquire(Warp& w, const std::vector<u32>& vc) {
  u32 s = self(w), own = w.vc[s];
  join(w.vc, vc);
  w.vc[s] = std::max(own, w.vc[s]);
}
std::vector<u32>& race_sync_var(Cluster& c, u32 addr) { return c.race->sync[addr]; }
void race_async_done(Cluster& c, u32 mbar) {
  auto& v = c.race->sync[mbar];
  v.resize(2 * c.race->agents);
  u32& a = v[c.race->agents - 1];
  a = std::max(a, c.race->async_clk);
}
void race_async_wait(Warp& w) { w.vc[w.cluster->race->agents - 1] = w.cluster->race->async_clk; }
// Sets the warp's own clock, returns the old one (operations that run later than they were issued).
u32 race_swap_clock(Warp& w, u32 clk) {
  u32& c = w.vc[self(w)];
  u32 o = c;
  c = clk;
  return o;
}
u32 race_clock(Warp& w) { return w.vc[self(w)]; }
// fence.proxy.async: everything this warp has seen becomes visible to the async proxy
void race_proxy_fence(Warp& w) {
  u32 n = w.cluster->race->agents;
  for (u32 k = 0; k < n; k++) w.vc[n + k] = std::max(w.vc[n + k], w.vc[k]);
  w.vc[self(w)]++;
}

static void report(Warp& w, const char* kind, u32 addr, int line, int other, int other_line) {
  Race& r = *w.cluster->race;
  if (!r.reported.insert({line, other_line}).second || r.reported.size() > 20) return;
  std::string o = other < 0 ? "several warps"
                  : other == (int)r.agents - 1
                      ? "the async proxy (TMA)"
                      : "warp " + std::to_string(other % r.per_cta) + (w.cluster->ctas.size() > 1 ? " of CTA rank " + std::to_string(other / r.per_cta) : "");
  fprintf(stderr, "[gpusim] RACE (%s) in %s: shared offset %u: warp %d at PTX line %d against %s at PTX line %d, block (%u,%u,%u)\n", kind,
          w.L->name.substr(0, 60).c_str(), (addr & 0xffffff) - kSmemBase, w.id, line, o.c_str(), other_line, w.cta->ctaid[0], w.cta->ctaid[1], w.cta->ctaid[2]);
}
static int line_of(const Inst& in) { return in.ast ? in.ast->line : 0; }

static void access(Warp& w, std::vector<u32>& vc, u32 me, u32 clk, u32 addr, u32 n, bool write, bool atomic, int line) {
  Race& r = *w.cluster->race;
  auto& sh = r.cta[addr >> kRankShift];
  u32 off = addr & 0xffffff;
  for (u32 c = off; c < off + n; c++) {
    Shadow& s = sh.cell[c];
    u32* rd = &sh.rd[(size_t)c * r.agents];
    if (s.w >= 0 && s.w != (int)me && s.w_clk > vc[s.w] && !(atomic && s.atomic))
      report(w, write ? "write after write" : "read after write", addr, line, s.w, s.w_line);
    if (write) {
      if (!atomic)
        for (u32 a = 0; a < r.agents; a++)
          if (a != me && rd[a] > vc[a]) {
            report(w, "write after read", addr, line, a, sh.rd_line[c]);
            break;
          }
      s.w = me;
      s.w_clk = clk;
      s.w_line = line;
      s.atomic = atomic;
    } else {
      rd[me] = clk;
      sh.rd_line[c] = line;
    }
  }
}
void race_read(Warp& w, u32 addr, u32 n, const Inst& in, int) {
  if (in.flags & kFlagVolatile) {
    auto& v = race_sync_var(*w.cluster, addr);
    if (!v.empty()) race_acquire(w, v);
    return;
  }
  access(w, w.vc, self(w), w.vc[self(w)], addr, n, false, false, line_of(in));
}
void race_write(Warp& w, u32 addr, u32 n, const Inst& in, int, bool atomic) {
  if (atomic || (in.flags & kFlagVolatile)) {
    auto& v = race_sync_var(*w.cluster, addr);
    if (!v.empty()) race_acquire(w, v);
    race_release(w, v);
    if (!atomic) return;
  }
  access(w, w.vc, self(w), w.vc[self(w)], addr, n, true, atomic, line_of(in));
}
// A read by the async proxy (bulk store, wgmma): the last generic write must have passed a fence.proxy.async.
void race_proxy_read(Warp& w, u32 addr, u32 n, int line) {
  Race& r = *w.cluster->race;
  auto& sh = r.cta[addr >> kRankShift];
  u32 off = addr & 0xffffff;
  for (u32 c = off; c < off + n; c++) {
    Shadow& s = sh.cell[c];
    if (s.w < 0 || s.w == (int)r.agents - 1) continue;
    if (s.w_clk > w.vc[r.agents + s.w]) {
      report(w, s.w_clk > w.vc[s.w] && s.w != (int)self(w) ? "async read after write" : "fence.proxy.async missing between the write and the async read", addr,
             line, s.w, s.w_line);
      return;
    }
  }
}
// A bulk copy: its accesses happen after the issue (vc of the issuing warp) and before its completion is observed.
void race_async(Warp& w, u32 addr, u32 n, bool write, int line) {
  Race& r = *w.cluster->race;
  if ((addr >> kRankShift) >= r.cta.size()) return;
  std::vector<u32> vc = w.vc;
  if (!write) race_proxy_read(w, addr, n, line);
  vc[r.agents - 1] = r.async_clk;  // async operations are not checked against each other
  access(w, vc, r.agents - 1, ++r.async_clk, addr, n, write, false, line);
}
}  // namespace atoll::gpusim
