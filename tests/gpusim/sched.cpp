// Scheduler: turns of warps, divergence, deadlock detection, error reports, kernel launches.
#include <chrono>
#include <thread>
#include "tests/gpusim/decode.h"
#include "tests/gpusim/mbar.h"

namespace atoll::gpusim {

const char* const kClsName[kClassCount] = {"integer/logic", "float",   "convert", "ld/st global", "ld/st shared", "ld/st other",
                                           "atomic",        "control", "sync",    "warp",         "async copy",   "tensor"};

Options& options() {
  static Options o = [] {
    Options x;
    auto num = [](const char* n, u64 d) {
      const char* s = getenv(n);
      return s && *s ? strtoull(s, nullptr, 0) : d;
    };
    x.threads = num("GPUSIM_THREADS", 1);
    x.verbose = num("GPUSIM_VERBOSE", 0);
    x.resident = num("GPUSIM_RESIDENT", 1);
    x.stats = num("GPUSIM_STATS", 0);
    x.race = num("GPUSIM_RACE", 0);
    x.uninit = num("GPUSIM_UNINIT", 0);
    x.lazy = num("GPUSIM_LAZY_ASYNC", 0);
    x.eager = num("GPUSIM_EAGER", 0);
    x.poison = num("GPUSIM_POISON", 1);
    x.profile = num("GPUSIM_PROFILE", 0);
    x.seed = num("GPUSIM_SEED", 0);
    x.quantum = num("GPUSIM_QUANTUM", 2000);
    x.max_inst = num("GPUSIM_MAX_INST", 0);
    const char* acc = getenv("GPUSIM_ACC");  // f32, hopper8 (FP8 wgmma only), hopper (all tensor-core types)
    x.tc_acc = !acc ? 1 : std::string(acc) == "f32" ? 0 : std::string(acc) == "hopper" ? 2 : 1;
    if (x.race) x.threads = 1;
    return x;
  }();
  return o;
}

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
  const bool stats = options().stats;
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

std::string inst_text(const Inst* in) {
  if (!in || !in->ast || in->ast->op.empty()) return "ret";
  const char* s = in->ast->op.data();
  const char* e = s;
  while (*e && *e != ';' && e - s < 160) e++;
  std::string t(s, e - s);
  for (auto& ch : t)
    if (ch == '\n' || ch == '\t') ch = ' ';
  std::string pre = in->ast->pred.empty() ? "" : std::string("@") + (in->ast->pred_neg ? "!" : "") + std::string(in->ast->pred) + " ";
  return pre + t;
}
std::string source_of(const Func* f, const Inst* in) {
  std::string s = "PTX line " + std::to_string(in->ast ? in->ast->line : 0);
  if (in->ast && in->ast->loc_line) {
    auto it = f->mod->files.find(in->ast->loc_file);
    s += ", " + (it == f->mod->files.end() ? "file " + std::to_string(in->ast->loc_file) : it->second) + ":" + std::to_string(in->ast->loc_line);
  }
  return s;
}
std::string cta_name(const Cta& c) {
  std::string s = "(" + std::to_string(c.ctaid[0]) + "," + std::to_string(c.ctaid[1]) + "," + std::to_string(c.ctaid[2]) + ")";
  if (c.cluster->ctas.size() > 1) s += " rank " + std::to_string(c.rank);
  return s;
}
}  // namespace

std::string where(Warp& w, const Inst* in) {
  return "  kernel " + w.L->name + "\n  at     " + source_of(w.cur.fr ? w.cur.fr->fn : w.L->fn, in) + ": " + inst_text(in) + "\n  block  " + cta_name(*w.cta) +
         ", warp " + std::to_string(w.id);
}

static std::string deadlock_report(Cluster& c, const std::string& title) {
  std::string s = title + "\n  kernel " + c.L->name + "\n";
  int shown = 0;
  for (auto& ct : c.ctas) {
    if (ct->done) {
      s += "  block " + cta_name(*ct) + ": finished\n";
      continue;
    }
    for (auto& wp : ct->warps) {
      if (!wp->live) continue;
      for (auto& g : wp->groups) {
        if (shown++ > 64) {
          s += "  ...\n";
          return s;
        }
        char b[256];
        const Inst& in = g.fr->fn->code[g.pc];
        snprintf(b, sizeof b, "  block %s warp %d lanes 0x%08x: ", cta_name(*ct).c_str(), wp->id, g.mask);
        s += b;
        switch (g.st) {
          case St::Bar: {
            Barrier& br = ct->bar[g.bar];
            s += "waits on barrier " + std::to_string(g.bar) + " (" + std::to_string(br.arrived) + " of " +
                 std::to_string(br.expected ? br.expected : ct->live) + " threads arrived)";
            break;
          }
          case St::Mbar: {
            Cta* o = c.ctas[(u32)g.wait_addr >> kRankShift].get();
            u64 v;
            memcpy(&v, o->smem.data() + ((u32)g.wait_addr & 0xffffff), 8);
            MBar mb = MBar::load(v);
            snprintf(b, sizeof b,
                     "waits on mbarrier at shared offset %u for the phase of parity %u (current phase %u: %u of %u arrivals pending, tx-count %d bytes)",
                     ((u32)g.wait_addr & 0xffffff) - kSmemBase, g.wait_phase, mb.phase, mb.pending, mb.expected, mb.tx);
            s += b;
            break;
          }
          case St::Cluster:
            s += "waits in barrier.cluster (" + std::to_string(c.cb_arrived) + " of " + std::to_string(c.live_threads()) + " threads arrived)";
            break;
          case St::Converge:
            snprintf(b, sizeof b, "waits for lanes 0x%08x of its warp", g.need & wp->live & ~g.mask);
            s += b;
            break;
          case St::Wgmma: s += "waits in wgmma.wait_group for the other warps of its warpgroup"; break;
          case St::Run: s += "runs (spins)"; break;
        }
        s += "\n      at " + source_of(g.fr->fn, &in) + ": " + inst_text(&in) + "\n";
      }
    }
  }
  return s;
}

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

// ---- launches ------------------------------------------------------------------------
namespace {
std::unique_ptr<Cluster> make_cluster(Launch& L, u32 id) {
  auto cp = std::make_unique<Cluster>();
  Cluster& c = *cp;
  c.L = &L;
  c.id = id;
  c.rng.seed(options().seed * 7919 + id + 1);
  u32 ncx = L.grid[0] / L.cl[0], ncy = L.grid[1] / L.cl[1];
  u32 bx = id % ncx, by = id / ncx % ncy, bz = id / ncx / ncy;
  u32 n = L.cl[0] * L.cl[1] * L.cl[2], threads = L.block[0] * L.block[1] * L.block[2];
  for (u32 r = 0; r < n; r++) {
    auto ct = std::make_unique<Cta>();
    ct->cluster = &c;
    ct->rank = r;
    ct->nthreads = ct->live = threads;
    ct->ctaid[0] = bx * L.cl[0] + r % L.cl[0];
    ct->ctaid[1] = by * L.cl[1] + r / L.cl[0] % L.cl[1];
    ct->ctaid[2] = bz * L.cl[2] + r / L.cl[0] / L.cl[1];
    ct->smem_size = L.fn->static_smem + L.dyn_smem;
    ct->smem.assign(kSmemBase + ct->smem_size + 16, options().poison ? 0xff : 0);
    if (options().uninit) ct->written.assign(kSmemBase + ct->smem_size + 16, 0);
    for (u32 k = 0; k < (threads + 31) / 32; k++) {
      auto w = std::make_unique<Warp>();
      w->cta = ct.get();
      w->cluster = &c;
      w->L = &L;
      w->id = k;
      u32 left = threads - k * 32;
      w->live = left >= 32 ? kFullMask : (1u << left) - 1;
      w->local_cap = std::max<u32>(L.fn->local_size, 256);
      w->local.assign((size_t)w->local_cap * 32, 0xA5);
      Frame* f = new Frame;
      f->fn = L.fn;
      f->live = w->live;
      init_frame(*w, *f);
      Group g;
      g.mask = w->live;
      g.fr = f;
      w->groups.push_back(g);
      ct->warps.push_back(std::move(w));
    }
    c.ctas.push_back(std::move(ct));
  }
  if (options().race) race_init(c);
  return cp;
}
void free_frames(Cluster& c) {
  std::set<Frame*> fs;
  for (auto& ct : c.ctas)
    for (auto& w : ct->warps) {
      for (auto& g : w->groups)
        for (Frame* f = g.fr; f; f = f->parent) fs.insert(f);
      for (Frame* f = w->cur.fr; f; f = f->parent) fs.insert(f);
    }
  for (Frame* f : fs) {
    free(f->R);
    delete f;
  }
}
struct Resident {
  std::unique_ptr<Cluster> c;
  u64 last_progress = 0, inst_at = 0;
  int stuck = 0;
};
u64 insts_of(Cluster& c) {
  u64 n = 0;
  for (auto& ct : c.ctas)
    for (auto& w : ct->warps) n += w->st.warp_inst;
  return n;
}

void worker(Launch& L, std::atomic<u32>& next, u32 total, std::atomic<bool>& abort, int& code, std::string& report) {
  std::deque<Resident> res;
  u32 limit = L.cooperative ? total : std::max(1, options().resident);
  auto fail = [&](int c, const std::string& r) {
    std::lock_guard<std::mutex> lk(L.mu);
    if (!abort) {
      abort = true;
      code = c;
      report = r;
    }
  };
  auto retire = [&](Resident& r) {
    Stats s;
    for (auto& ct : r.c->ctas)
      for (auto& w : ct->warps) s.add(w->st);
    {
      std::lock_guard<std::mutex> lk(L.mu);
      L.st.add(s);
    }
    free_frames(*r.c);
  };
  while (!abort) {
    while (res.size() < limit) {
      u32 id = next++;
      if (id >= total) break;
      Resident r;
      r.c = make_cluster(L, id);
      res.push_back(std::move(r));
    }
    if (res.empty()) break;
    bool any_ran = false;
    for (size_t k = 0; k < res.size() && !abort;) {
      Resident& r = res[k];
      Cluster& c = *r.c;
      Warp* cur = nullptr;
      bool ran = false;
      try {
        ran = c.run_pass();
        if (!ran && !c.async.empty()) {
          c.tick += 16;
          c.run_async(false);
          ran = true;
        }
      } catch (SimError& e) {
        for (auto& ct : c.ctas)
          for (auto& w : ct->warps)
            if (w->running) cur = w.get();
        std::string s = std::string(e.what()) + "\n";
        if (cur) {
          const Inst* in = &cur->cur.fr->fn->code[cur->cur.pc];
          s += where(*cur, in);
          if (e.lane >= 0)
            s += ", lane " + std::to_string(e.lane) + " = thread (" + std::to_string(special_value(*cur, e.lane, kSrTidx)) + "," +
                 std::to_string(special_value(*cur, e.lane, kSrTidy)) + "," + std::to_string(special_value(*cur, e.lane, kSrTidz)) + ")";
          int depth = 0;
          for (Frame* f = cur->cur.fr; f && f->parent && depth < 8; f = f->parent, depth++) s += "\n  called from " + source_of(f->parent->fn, f->call_inst);
        } else
          s += "  kernel " + L.name;
        fail(e.code, s);
        break;
      }
      any_ran |= ran;
      if (c.finished()) {
        try {
          if (!c.async.empty()) c.run_async(true);
        } catch (SimError& e) { fail(e.code, std::string(e.what()) + "\n  kernel " + L.name); }
        retire(r);
        res.erase(res.begin() + k);
        continue;
      }
      u64 inst = insts_of(c);
      if (c.progress != r.last_progress) {
        r.last_progress = c.progress;
        r.inst_at = inst;
        r.stuck = 0;
      }
      if (!ran) {
        // every warp waits: let the timed waits time out a few times, then report
        if (r.stuck < 3 && res.size() == 1) {
          r.stuck++;
          bool woke = false;
          for (auto& ct : c.ctas)
            for (auto& w : ct->warps)
              for (auto& g : w->groups)
                if (g.st == St::Mbar) {
                  g.wait_phase |= 0x100;
                  woke = true;
                }
          if (!woke) r.stuck = 3;
        } else if (res.size() == 1 || r.stuck > 1000)
          fail(kLaunchTimeout, deadlock_report(c, "deadlock: every warp waits"));
        else
          r.stuck++;
      } else if (inst - r.inst_at > 3000000 && limit < total && next < total) {
        limit++;
        r.inst_at = inst;
      } else if (inst - r.inst_at > 400000000)
        fail(kLaunchTimeout, deadlock_report(c, "livelock: 400 million warp instructions without a store, arrival or exit"));
      if (options().max_inst && inst > options().max_inst) fail(kLaunchTimeout, deadlock_report(c, "instruction limit GPUSIM_MAX_INST reached"));
      k++;
    }
    (void)any_ran;
  }
  for (auto& r : res) retire(r);
}
}  // namespace

int run_launch(Launch& L, std::string& report) {
  auto t0 = std::chrono::steady_clock::now();
  u32 total = L.grid[0] / L.cl[0] * (L.grid[1] / L.cl[1]) * (L.grid[2] / L.cl[2]);
  std::atomic<u32> next{0};
  std::atomic<bool> abort{false};
  int code = 0;
  if (options().profile) L.exec_count.assign(L.fn->code.size(), 0);
  int nt = std::min<u32>(std::max(1, options().threads), total);
  if (nt == 1)
    worker(L, next, total, abort, code, report);
  else {
    std::vector<std::thread> th;
    for (int k = 0; k < nt; k++) th.emplace_back([&] { worker(L, next, total, abort, code, report); });
    for (auto& t : th) t.join();
  }
  double sec = std::chrono::duration<double>(std::chrono::steady_clock::now() - t0).count();
  if (options().stats) {
    const Stats& s = L.st;
    fprintf(stderr, "[gpusim] %s  grid (%u,%u,%u) block (%u,%u,%u) cluster (%u,%u,%u) smem %u+%u\n", L.name.c_str(), L.grid[0], L.grid[1], L.grid[2],
            L.block[0], L.block[1], L.block[2], L.cl[0], L.cl[1], L.cl[2], L.fn->static_smem, L.dyn_smem);
    fprintf(stderr, "[gpusim]   %.3f s, %llu warp instructions, %llu thread instructions (%.1f M/s), lanes active %.1f\n", sec, (unsigned long long)s.warp_inst,
            (unsigned long long)s.thread_inst, s.thread_inst / sec / 1e6, s.warp_inst ? (double)s.thread_inst / s.warp_inst : 0.0);
    fprintf(stderr, "[gpusim]   by class:");
    for (int k = 0; k < kClassCount; k++)
      if (s.cls[k]) fprintf(stderr, " %s %llu;", kClsName[k], (unsigned long long)s.cls[k]);
    fprintf(stderr,
            "\n[gpusim]   global ld %llu B st %llu B sectors %llu; TMA/bulk %llu B; shared ld %llu B st %llu B; bank accesses %llu conflicts %llu; tensor MACs "
            "%llu (%.2f G/s)\n",
            (unsigned long long)s.g_bytes_ld, (unsigned long long)s.g_bytes_st, (unsigned long long)s.g_sectors, (unsigned long long)s.tma_bytes,
            (unsigned long long)s.s_bytes_ld, (unsigned long long)s.s_bytes_st, (unsigned long long)s.bank_access, (unsigned long long)s.bank_conflict,
            (unsigned long long)s.macs, s.macs / sec / 1e9);
  }
  if (options().profile) {
    std::vector<std::pair<u64, size_t>> v;
    for (size_t k = 0; k < L.exec_count.size(); k++)
      if (L.exec_count[k]) v.push_back({L.exec_count[k], k});
    std::sort(v.rbegin(), v.rend());
    for (size_t k = 0; k < v.size() && k < 25; k++)
      fprintf(stderr, "[gpusim]   %10llu  %s: %s\n", (unsigned long long)v[k].first, source_of(L.fn, &L.fn->code[v[k].second]).c_str(),
              inst_text(&L.fn->code[v[k].second]).c_str());
  }
  return code;
}

}  // namespace atoll::gpusim
