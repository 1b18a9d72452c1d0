// Scheduler: special registers, frames, turns of warps, divergence, one pass over the warps of a cluster.
#include "tests/gpusim/decode.h"
#include "tests/gpusim/mbar.h"

namespace atoll::gpusim {

u32 special_value(const Warp& w, int lane, int id) {
  const Launch& L = *w.L;
  const Cta& c = *w.cta;
  u32 t = w.id * 32 + lane;
  switch (id) {
    case kSrTidx: return t % L.block[0];
    case kSrTidy: return t / L.block[0] % L.block[1];
    case kSrTidz: return t / L.block[0] / L.block[1];
    case kSrNtidx: return L.block[0];
    case kSrNtidy: return L.block[1];
    case kSrNtidz: return L.block[2];
    case kSrCtax: return c.ctaid[0];
    case kSrCtay: return c.ctaid[1];
    case kSrCtaz: return c.ctaid[2];
    case kSrNctax: return L.grid[0];
    case kSrNctay: return L.grid[1];
    case kSrNctaz: return L.grid[2];
    case kSrLane: return lane;
    case kSrWarp: return w.id;
    case kSrNwarp: return c.warps.size();
    case kSrSm: return (c.ctaid[0] + c.ctaid[1] * L.grid[0] + c.ctaid[2] * L.grid[0] * L.grid[1]) % 132;
    case kSrNsm: return 132;
    case kSrClx: return c.ctaid[0] / L.cl[0];
    case kSrCly: return c.ctaid[1] / L.cl[1];
    case kSrClz: return c.ctaid[2] / L.cl[2];
    case kSrNclx: return L.grid[0] / L.cl[0];
    case kSrNcly: return L.grid[1] / L.cl[1];
    case kSrNclz: return L.grid[2] / L.cl[2];
    case kSrCctax: return c.ctaid[0] % L.cl[0];
    case kSrCctay: return c.ctaid[1] % L.cl[1];
    case kSrCctaz: return c.ctaid[2] % L.cl[2];
    case kSrCnctax: return L.cl[0];
    case kSrCnctay: return L.cl[1];
    case kSrCnctaz: return L.cl[2];
    case kSrCrank: return c.rank;
    case kSrCnrank: return L.cl[0] * L.cl[1] * L.cl[2];
    case kSrExplicit: return L.cl[0] * L.cl[1] * L.cl[2] > 1;
    case kSrLmeq: return 1u << lane;
    case kSrLmlt: return (1u << lane) - 1;
    case kSrLmle: return (2u << lane) - 1;
    case kSrLmgt: return ~((2u << lane) - 1);
    case kSrLmge: return ~((1u << lane) - 1);
    case kSrDynsmem: return L.dyn_smem;
    case kSrTotsmem: return c.smem_size;
    case kSrEnv1: return (u32)(L.grid_ws >> 32);
    case kSrEnv2: return (u32)L.grid_ws;
    default: return 0;
  }
}

void init_frame(Warp& w, Frame& f) {
  Func& fn = *f.fn;
  if (!f.R) f.R = (char*)aligned_alloc(64, (fn.const_bytes + 127) / 64 * 64);
  if (options().registers) f.regs.assign(fn.ast->nregs, RegState());
  memset(f.R, 0xA5, fn.reg_bytes);  // registers start with garbage
  memcpy(f.R + fn.reg_bytes, fn.const_image.data(), fn.const_image.size());
  for (auto& s : fn.specials) {
    u32 off = s.off & ~63u;
    for (int l = 0; l < 32; l++) {
      u32 v = special_value(w, l, s.id);
      if (s.off & 1)
        ((u64*)(f.R + off))[l] = v;
      else if (s.off & 2)
        ((u16*)(f.R + off))[l] = v;
      else
        ((u32*)(f.R + off))[l] = v;
    }
  }
  auto add_to = [&](u32 off, int bits, u32 v) {
    for (int l = 0; l < 32; l++)
      if (bits == 64)
        ((u64*)(f.R + off))[l] += v;
      else
        ((u32*)(f.R + off))[l] += v;
  };
  if (w.cta->rank)
    for (auto& r : fn.shared_relocs) add_to(r.first, r.second, w.cta->rank << kRankShift);
  if (f.local_base)
    for (auto& r : fn.local_relocs) add_to(r.first, r.second, f.local_base);
}

// ---- one turn of a warp ------------------------------------------------------------
namespace {
bool ready(Warp& w, Group& g) {
  switch (g.st) {
    case St::Run: return true;
    case St::Converge: {
      u32 need = g.need & w.live, have = g.mask;
      for (auto& o : w.groups)
        if (&o != &g && o.st == St::Converge && o.pc == g.pc && o.fr == g.fr) have |= o.mask;
      return !(need & ~have);
    }
    case St::Mbar: return cpu_wait_done(w, g);
    case St::Cluster: return w.cluster->cb_gen != g.wait_addr;
    case St::Wgmma: return wgmma_ready(w, (int)g.wait_addr);
    default: return false;
  }
}
// Chooses the group to run: deepest call, then lowest pc; after an exhausted turn the one that waited longest.
int pick_group(Warp& w, bool rotate) {
  int best = -1;
  for (size_t k = 0; k < w.groups.size(); k++) {
    Group& g = w.groups[k];
    if (!ready(w, g)) continue;
    if (best < 0) {
      best = k;
      continue;
    }
    Group& b = w.groups[best];
    if (rotate) {
      if (g.last_run < b.last_run) best = k;
    } else if (g.fr->depth != b.fr->depth ? g.fr->depth > b.fr->depth : g.pc < b.pc)
      best = k;
  }
  return best;
}
inline void merge_groups(Warp& w, bool allow_switch) {
  Group& c = w.cur;
  for (size_t k = 0; k < w.groups.size();) {
    Group& g = w.groups[k];
    if (g.st == St::Run && g.fr == c.fr && g.pc == c.pc) {
      c.mask |= g.mask;
      g = w.groups.back();
      w.groups.pop_back();
    } else
      k++;
  }
  if (!allow_switch) return;
  for (auto& g : w.groups)
    if (g.st == St::Run && (g.fr == c.fr ? g.pc < c.pc : g.fr->depth > c.fr->depth)) {
      std::swap(g, c);
      w.R = c.fr->R;
    }
}

// returns true when the turn was cut by the quantum
bool run_turn(Warp& w, int gi, u64 quantum, bool allow_switch, std::vector<u64>* prof) {
  w.cur = w.groups[gi];
  w.groups.erase(w.groups.begin() + gi);
  w.cur.st = St::Run;
  w.cur.last_run = ++w.turn;
  w.R = w.cur.fr->R;
  w.stop = false;
  w.running = true;
  const bool stats = options().count, registers = options().registers;
  u64 n = 0, threads = 0;
  merge_groups(w, false);
  while (n < quantum) {
    const Inst& in = w.cur.fr->fn->code[w.cur.pc];
    u32 m = w.cur.mask;
    if (in.pred_kind) {
      u32 p = *w.reg<u32>(in.pred);
      m &= in.pred_kind == 1 ? p : ~p;
    }
    n++;
    threads += __builtin_popcount(m);
    if (stats) {
      w.st.cls[in.cls] += __builtin_popcount(m);
      if (prof && w.cur.fr->depth == 0) (*prof)[w.cur.pc]++;
    }
    if (registers && m) check_regs(w, in, m);  // before the call: a return frees the frame
    if (__builtin_expect(in.flags & kFlagCtrl, 0)) {
      if (m) {
        in.fn(w, in, m);
        if (w.stop) break;
      } else
        w.cur.pc++;
      if (!w.groups.empty()) merge_groups(w, allow_switch);
    } else {
      if (m) in.fn(w, in, m);
      w.cur.pc++;
      if (!w.groups.empty()) merge_groups(w, false);
    }
  }
  w.st.warp_inst += n;
  w.st.thread_inst += threads;
  w.running = false;
  if (!w.stop) w.groups.push_back(w.cur);
  return !w.stop;
}

}  // namespace
u32 Cluster::live_threads() {
  u32 n = 0;
  for (auto& c : ctas) n += c->live;
  return n;
}
bool Cluster::finished() {
  for (auto& c : ctas)
    if (!c->done) return false;
  return true;
}
Cluster::~Cluster() {}

void Cluster::run_async(bool all) {
  for (size_t k = 0; k < async.size();) {
    if (all || async[k].due <= tick) {
      auto f = async[k].run;
      async.erase(async.begin() + k);
      f();
      progress++;
    } else
      k++;
  }
}

void Cluster::run_late() {
  const size_t k = options().seed ? rng() % async.size() : 0;
  auto f = async[k].run;
  async.erase(async.begin() + k);
  f();
  progress++;
}
bool Cluster::run_pass() {
  tick++;
  if (!async.empty()) run_async(false);
  bool any = false;
  const Options& o = options();
  std::vector<Warp*> order;
  for (auto& c : ctas)
    if (!c->done)
      for (auto& w : c->warps)
        if (w->live) order.push_back(w.get());
  if (o.seed) std::shuffle(order.begin(), order.end(), rng);
  for (Warp* w : order) {
    if (!w->live) continue;
    bool rotate = w->turn && w->wg_seen;  // last turn was cut
    int g = pick_group(*w, rotate);
    if (g < 0) continue;
    any = true;
    u64 q = o.quantum;
    if (o.seed) {
      q = 1 + rng() % (rng() % 4 ? 40 : 2000);
      if (rng() % 8 == 0) continue;
    }
    bool cut = run_turn(*w, g, q, !rotate, o.profile ? &L->exec_count : nullptr);
    w->wg_seen = cut && w->groups.size() > 1;
  }
  return any;
}

}  // namespace atoll::gpusim
