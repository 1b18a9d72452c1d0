// One launch: clusters are made, run in turns by host threads, retired; statistics (execution.h).
#include <algorithm>
#include <thread>

#include "tests/gpusim/execution.h"
#include "tests/gpusim/handlers.h"
#include "tests/gpusim/memory.h"

namespace atoll::gpusim {
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
    if (options().lazy) ct->async_smem = ct->smem;
    if (options().uninit) ct->written.assign(kSmemBase + ct->smem_size + 16, 0);
    for (u32 k = 0; k < (threads + 31) / 32; k++) {
      auto w = std::make_unique<Warp>();
      w->cta = ct.get();
      w->cluster = &c;
      w->L = &L;
      w->id = k;
      u32 left = threads - k * 32;
      w->live = left >= 32 ? kFullMask : (1u << left) - 1;
      w->local_cap = std::max<u32>(align_up(L.fn->local_size, 16), 256);
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
  u64 last_progress = 0, inst_at = 0;  // its own progress, and its instructions then
  u64 world = 0, world_inst_at = 0;    // the same for all launches together
  int stuck = 0;
};
u64 insts_of(Cluster& c) {
  u64 n = 0;
  for (auto& ct : c.ctas)
    for (auto& w : ct->warps) n += w->st.warp_inst;
  return n;
}

struct Shared {  // by the host threads of a launch
  Launch& L;
  u64& world;
  std::vector<u32> order;  // of clusters: any is legal
  u32 total = 0;
  std::atomic<u32> next{0};
  std::atomic<bool> abort{false};
  int code = 0;
  std::string report;
  void fail(int c, const std::string& r) {
    std::lock_guard<std::mutex> lk(L.mu);
    if (abort) return;
    abort = true;
    code = c;
    report = r;
  }
};
std::string error_report(const Launch& L, Cluster& c, const SimError& e) {
  Warp* cur = nullptr;
  for (auto& ct : c.ctas)
    for (auto& w : ct->warps)
      if (w->running) cur = w.get();
  std::string s = std::string(e.what()) + "\n";
  if (!cur) return s + "  kernel " + L.name;
  s += where(*cur, &cur->cur.fr->fn->code[cur->cur.pc]);
  if (e.lane >= 0)
    s += ", lane " + std::to_string(e.lane) + " = thread (" + std::to_string(special_value(*cur, e.lane, kSrTidx)) + "," +
         std::to_string(special_value(*cur, e.lane, kSrTidy)) + "," + std::to_string(special_value(*cur, e.lane, kSrTidz)) + ")";
  int depth = 0;
  for (Frame* f = cur->cur.fr; f && f->parent && depth < 8; f = f->parent, depth++) s += "\n  called from " + source_of(f->parent->fn, f->call_inst);
  return s;
}

class Worker {  // one host thread's clusters
 public:
  explicit Worker(Shared& s) : s_(s), limit_(s.L.cooperative ? s.total : std::max(1, options().resident)) {}
  bool step() {  // a pass over each resident cluster
    if (s_.abort) return false;
    while (res_.size() < limit_) {
      const u32 id = s_.next++;
      if (id >= s_.total) break;
      Resident r;
      r.c = make_cluster(s_.L, s_.order[id]);
      res_.push_back(std::move(r));
    }
    if (res_.empty()) return false;
    if (const u64 g = mem_generation(); g != generation_) forget_addresses(g);
    for (size_t k = 0; k < res_.size() && !s_.abort;)
      if (!pass(k)) k++;
    return !s_.abort;
  }
  void retire_all() {
    for (auto& r : res_) retire(r);
    res_.clear();
  }
  std::string waits() const {
    std::string s;
    for (auto& r : res_) s += deadlock_report(*r.c, "in flight beside it:");
    return s;
  }

 private:
  void forget_addresses(u64 generation) {  // an allocation was freed: warps must look theirs up again
    generation_ = generation;
    for (auto& r : res_)
      for (auto& ct : r.c->ctas)
        for (auto& w : ct->warps) w->g_lo = w->shadow_lo = 1, w->g_hi = w->shadow_hi = 0, w->shadow = nullptr;
  }
  void retire(Resident& r) {
    Stats s;
    for (auto& ct : r.c->ctas)
      for (auto& w : ct->warps) {
        s.add(w->st);
        if (options().race) race_keep_acquired(*w);
      }
    {
      std::lock_guard<std::mutex> lk(s_.L.mu);
      s_.L.st.add(s);
    }
    free_frames(*r.c);
  }
  bool pass(size_t k) {  // true: the cluster has retired
    Resident& r = res_[k];
    Cluster& c = *r.c;
    bool ran = false;
    try {
      ran = c.run_pass();
      if (!ran && !c.async.empty()) {
        c.run_late();
        ran = true;
      }
    } catch (SimError& e) {
      s_.fail(e.code, error_report(s_.L, c, e));
      return false;
    }
    if (c.finished()) {
      try {
        if (!c.async.empty()) c.run_async(true);
      } catch (SimError& e) { s_.fail(e.code, std::string(e.what()) + "\n  kernel " + s_.L.name); }
      retire(r);
      res_.erase(res_.begin() + k);
      return true;
    }
    watch(r, ran);
    return false;
  }
  // Ends the launch when nothing can go on, or nothing has come of very many instructions.
  void watch(Resident& r, bool ran) {
    Cluster& c = *r.c;
    const u64 inst = insts_of(c);
    if (c.progress != r.last_progress) {
      r.last_progress = c.progress;
      r.inst_at = inst;
      r.stuck = 0;
      if (!threaded()) s_.world++;
    }
    if (r.world != s_.world || r.inst_at == inst) r.world = s_.world, r.world_inst_at = inst;
    if (!ran) {
      // every warp waits: let the timed waits time out a few times, then report
      if (r.stuck < 3 && res_.size() == 1) {
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
      } else if (res_.size() == 1 || r.stuck > 1000)
        s_.fail(kLaunchTimeout, deadlock_report(c, "deadlock: every warp waits"));
      else
        r.stuck++;
    } else if (inst - r.inst_at > 3000000 && limit_ < s_.total && s_.next < s_.total) {
      limit_++;
      r.inst_at = r.world_inst_at = inst;
    } else if (inst - r.world_inst_at > (options().race ? 12000000 : 400000000))
      s_.fail(kLaunchTimeout, deadlock_report(c, "livelock: many million warp instructions without a store, arrival or exit"));
    if (options().max_inst && inst > options().max_inst) s_.fail(kLaunchTimeout, deadlock_report(c, "instruction limit GPUSIM_MAX_INST reached"));
  }
  static bool threaded() { return options().threads > 1; }  // world is not locked; such launches run one at a time
  Shared& s_;
  std::deque<Resident> res_;
  u32 limit_;
  u64 generation_ = mem_generation();
};
void print_profile(const Launch& L) {
  std::vector<std::pair<u64, size_t>> v;
  for (size_t k = 0; k < L.exec_count.size(); k++)
    if (L.exec_count[k]) v.push_back({L.exec_count[k], k});
  std::sort(v.rbegin(), v.rend());
  for (size_t k = 0; k < v.size() && k < 25; k++)
    fprintf(stderr, "[gpusim]   %10llu  %s: %s\n", (unsigned long long)v[k].first, source_of(L.fn, &L.fn->code[v[k].second]).c_str(),
            inst_text(&L.fn->code[v[k].second]).c_str());
}
}  // namespace

struct Execution::State {
  State(Launch& L, u64& world) : shared{L, world}, worker((count(shared), shared)) {}
  static void count(Shared& s) { s.total = s.L.grid[0] / s.L.cl[0] * (s.L.grid[1] / s.L.cl[1]) * (s.L.grid[2] / s.L.cl[2]); }
  Shared shared;
  Worker worker;
};
Execution::Execution(Launch& L, u64& world) : s_(std::make_unique<State>(L, world)) {
  Shared& s = s_->shared;
  s.order.resize(s.total);
  for (u32 k = 0; k < s.total; k++) s.order[k] = k;
  if (options().seed) {
    std::mt19937_64 rng(options().seed * 31 + L.op);
    std::shuffle(s.order.begin(), s.order.end(), rng);
  }
  if (options().profile) L.exec_count.assign(L.fn->code.size(), 0);
  if (L.cooperative) {  // of grid.sync
    L.grid_ws = mem_alloc(64, "cooperative grid workspace");
    memset((void*)L.grid_ws, 0, 64);
    *(u32*)L.grid_ws = 8;
  }
  if (options().verbose)
    fprintf(stderr, "[gpusim] launch %s grid (%u,%u,%u) block (%u,%u,%u) smem %u\n", L.name.c_str(), L.grid[0], L.grid[1], L.grid[2], L.block[0], L.block[1],
            L.block[2], L.dyn_smem);
}
Execution::~Execution() { abandon(); }
bool Execution::step() {
  Shared& s = s_->shared;
  Func& f = *s.L.fn;
  if (f.params_of != s.L.op) {  // a kernel has one parameter buffer for all its launches
    memcpy((u8*)f.param_addr, s.L.params.data(), f.param_bytes);
    f.params_of = s.L.op;
  }
  const int threads = std::min<u32>(options().threads, s.total);
  if (threads <= 1) return s_->worker.step();
  std::vector<std::thread> pool;
  for (int k = 0; k < threads; k++)
    pool.emplace_back([&] {
      Worker w(s);
      while (w.step()) {}
      w.retire_all();
    });
  for (auto& t : pool) t.join();
  return false;
}
void Execution::abandon() {
  s_->worker.retire_all();
  Launch& L = s_->shared.L;
  if (L.grid_ws) mem_free(std::exchange(L.grid_ws, 0));
}
std::string Execution::waits() const { return s_->worker.waits(); }
int Execution::finish(std::string& report) {
  abandon();
  const Launch& L = s_->shared.L;
  if (options().stats) print_counters(L, seconds);
  if (!options().counters.empty()) append_counters(L, seconds);
  if (options().profile) print_profile(L);
  report = s_->shared.report;
  return s_->shared.code;
}

}  // namespace atoll::gpusim
