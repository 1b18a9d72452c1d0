// One launch: clusters are made, run in turns by host threads, retired; statistics.
#include <algorithm>
#include <chrono>
#include <thread>

#include "tests/gpusim/handlers.h"

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

void worker(Launch& L, const std::vector<u32>& order, std::atomic<u32>& next, u32 total, std::atomic<bool>& abort, int& code, std::string& report) {
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
      r.c = make_cluster(L, order[id]);
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
          c.run_late();
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
      } else if (inst - r.inst_at > (options().race ? 12000000 : 400000000))
        fail(kLaunchTimeout, deadlock_report(c, "livelock: many million warp instructions without a store, arrival or exit"));
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
  std::vector<u32> order(total);  // of clusters: any is legal
  for (u32 k = 0; k < total; k++) order[k] = k;
  if (options().seed) {
    std::mt19937_64 rng(options().seed * 31 + L.op);
    std::shuffle(order.begin(), order.end(), rng);
  }
  std::atomic<bool> abort{false};
  int code = 0;
  if (options().profile) L.exec_count.assign(L.fn->code.size(), 0);
  int nt = std::min<u32>(std::max(1, options().threads), total);
  if (nt == 1)
    worker(L, order, next, total, abort, code, report);
  else {
    std::vector<std::thread> th;
    for (int k = 0; k < nt; k++) th.emplace_back([&] { worker(L, order, next, total, abort, code, report); });
    for (auto& t : th) t.join();
  }
  double sec = std::chrono::duration<double>(std::chrono::steady_clock::now() - t0).count();
  if (options().stats) print_counters(L, sec);
  if (!options().counters.empty()) append_counters(L, sec);
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
