// Control flow, calls, CTA and cluster barriers, exit, trap, vprintf.
#include "tests/gpusim/handlers.h"
#include "tests/gpusim/memory.h"

namespace atoll::gpusim {
bool builtin_call(Warp& w, const Inst& i, const std::string& name, u32 m);  // builtins.cpp

// Moves the running group to the waiting list in state st and ends the turn.
void park_current(Warp& w, St st) {
  w.cur.st = st;
  w.groups.push_back(w.cur);
  w.cur.mask = 0;
  w.stop = true;
}
// Lanes of cur that did not execute (predicate false) go on at the next instruction as a group of their own.
void split_off(Warp& w, u32 exec_mask) {
  u32 rest = w.cur.mask & ~exec_mask;
  if (!rest) return;
  Group g = w.cur;
  g.mask = rest;
  g.pc++;
  g.st = St::Run;
  w.groups.push_back(g);
  w.cur.mask = exec_mask;
}
// .sync with a member mask: true when every lane of `need` is here.
bool converge(Warp& w, const Inst&, u32 mask, u32 need) {
  need &= w.live;
  if (!(need & ~mask)) return true;
  for (size_t k = 0; k < w.groups.size();) {
    Group& g = w.groups[k];
    if (g.st == St::Converge && g.pc == w.cur.pc && g.fr == w.cur.fr) {
      mask |= g.mask;
      w.cur.mask |= g.mask;
      w.groups.erase(w.groups.begin() + k);
    } else
      k++;
  }
  if (!(need & ~mask)) {
    w.cur.need = mask;
    if (mask != w.cur.mask) split_off(w, mask);
    return true;
  }
  split_off(w, mask);
  w.cur.need = need;
  park_current(w, St::Converge);
  return false;
}

namespace {
u32 u32_at(Warp& w, u32 off, u32 m) { return w.reg<u32>(off)[__builtin_ctz(m)]; }

void bra(Warp& w, const Inst& i, u32 m) {
  u32 rest = w.cur.mask & ~m;
  if (!rest) {
    w.cur.pc = i.target;
    return;
  }
  Group g = w.cur;
  if (i.target > w.cur.pc) {
    g.mask = m;
    g.pc = i.target;
    w.cur.mask = rest;
    w.cur.pc++;
  } else {
    g.mask = rest;
    g.pc = w.cur.pc + 1;
    w.cur.mask = m;
    w.cur.pc = i.target;
  }
  g.st = St::Run;
  w.groups.push_back(g);
}
void brx(Warp& w, const Inst& i, u32 m) {
  split_off(w, m);
  u32 first = __builtin_ctz(m), idx = w.reg<u32>(i.o[1])[first], same = 0;
  for (int l = 0; l < 32; l++)
    if ((m >> l) & 1 && w.reg<u32>(i.o[1])[l] == idx) same |= 1u << l;
  if (idx >= i.x->v[0].size()) throw SimError(kLaunchFailure, "brx.idx: index out of range", first);
  if (same != m) {
    Group g = w.cur;
    g.mask = m & ~same;
    g.st = St::Run;
    w.groups.push_back(g);
    w.cur.mask = same;
  }
  w.cur.pc = i.x->v[0][idx];
}
void dec_bra(Decoder& d, Inst& i) {
  i.cls = kClassCtrl;
  i.flags |= kFlagCtrl;
  if (d.part(0) == "brx") {
    i.o[1] = d.src(d.op(0), 32);
    auto it = d.af.branch_targets.find(d.op(1).name);
    if (it == d.af.branch_targets.end()) d.bad("unknown branch table");
    auto& x = d.ext(i);
    for (auto l : it->second) {
      AstOp o;
      o.name = l;
      x.v[0].push_back(d.label(o));
    }
    i.fn = &brx;
    return;
  }
  i.target = d.label(d.op(0));
  i.fn = &bra;
}

// ---- exit, ret, call ------------------------------------------------------------
void exit_h(Warp& w, const Inst&, u32 m) {
  w.cur.mask &= ~m;
  w.cur.pc++;
  threads_exit(w, m);
  if (!w.cur.mask) w.stop = true;
}
void free_frame(Frame* f) {
  free(f->R);
  delete f;
}
void ret_h(Warp& w, const Inst& i, u32 m) {
  Frame* f = w.cur.fr;
  if (!f->parent) return exit_h(w, i, m);
  split_off(w, m);
  const AstFunc* af = f->fn->ast;
  const Inst* c = f->call_inst;
  for (size_t k = 0; k < af->rets.size() && k < c->x->v[1].size(); k++) {
    u32 from = f->local_base + f->fn->local_off[af->rets[k].name + "@0"], to = f->parent->local_base + c->x->v[1][k];
    lanes(m, [&](int l) { memcpy(&w.local[(size_t)l * w.local_cap + to], &w.local[(size_t)l * w.local_cap + from], af->rets[k].size); });
  }
  f->live &= ~m;
  w.cur.pc = f->ret_pc;
  w.cur.fr = f->parent;
  w.R = w.cur.fr->R;
  if (!f->live) free_frame(f);
}
void ensure_local(Warp& w, u32 need) {
  if (need <= w.local_cap) return;
  u32 cap = std::max(need, w.local_cap * 2);
  if (cap > (16u << 20)) throw SimError(kHardwareStack, "call stack deeper than 16 MiB per thread");
  std::vector<u8> n((size_t)cap * 32);
  for (int l = 0; l < 32; l++) memcpy(&n[(size_t)l * cap], w.local.data() + (size_t)l * w.local_cap, w.local_cap);
  w.local.swap(n);
  w.local_cap = cap;
}
void enter(Warp& w, const Inst& i, Func* f, u32 m) {
  if (!f->ast->has_body) {
    if (!builtin_call(w, i, f->ast->name, m)) throw SimError(kInvalidPtx, "call of the undefined function " + f->ast->name);
    w.cur.pc++;
    return;
  }
  Frame* fr = new Frame;
  Frame* c = w.cur.fr;
  fr->fn = f;
  fr->parent = c;
  fr->ret_pc = w.cur.pc + 1;
  fr->depth = c->depth + 1;
  fr->local_base = align_up(c->local_base + c->fn->local_size + kFrameGap, 16);
  fr->live = m;
  fr->call_inst = &i;
  ensure_local(w, fr->local_base + f->local_size);
  init_frame(w, *fr);
  for (size_t k = 0; k < f->ast->params.size() && k < i.x->v[0].size(); k++) {
    u32 from = c->local_base + i.x->v[0][k], to = fr->local_base + f->local_off[f->ast->params[k].name + "@0"], n = f->ast->params[k].size;
    lanes(m, [&](int l) { memcpy(&w.local[(size_t)l * w.local_cap + to], &w.local[(size_t)l * w.local_cap + from], n); });
  }
  w.cur.fr = fr;
  w.cur.pc = 0;
  w.R = fr->R;
}
void call_h(Warp& w, const Inst& i, u32 m) {
  split_off(w, m);
  Func* f;
  if (i.aux) {  // indirect
    int first = __builtin_ctz(m);
    u64 t = w.reg<u64>(i.o[1])[first];
    u32 same = 0;
    for (int l = 0; l < 32; l++)
      if ((m >> l) & 1 && w.reg<u64>(i.o[1])[l] == t) same |= 1u << l;
    if (same != m) {
      Group g = w.cur;
      g.mask = m & ~same;
      g.st = St::Run;
      w.groups.push_back(g);
      w.cur.mask = same;
      m = same;
    }
    f = t >> 32 == kFuncTag ? func_by_index((u32)t) : nullptr;
    if (!f) throw SimError(kIllegalInstruction, "indirect call of an address that is no function", first);
  } else
    f = (Func*)(uintptr_t)i.imm;
  enter(w, i, f, m);
}
void dec_call(Decoder& d, Inst& i) {
  i.cls = kClassCtrl;
  i.flags |= kFlagCtrl;
  auto& x = d.ext(i);
  auto slot = [&](const AstOp& o) -> u32 {
    for (int s = d.a->scope; s >= 0; s = d.af.scope_parent[s]) {
      auto it = d.f.local_off.find(std::string(o.name) + "@" + std::to_string(s));
      if (it != d.f.local_off.end()) return it->second;
    }
    d.bad("call argument is not a .param variable: " + std::string(o.name));
  };
  for (auto& o : d.a->call_args) x.v[0].push_back(slot(o));
  for (auto& o : d.a->call_ret) x.v[1].push_back(slot(o));
  if (d.is_reg(d.op(0))) {
    i.aux = 1;
    i.o[1] = d.src(d.op(0), 64);
  } else {
    std::string n(d.op(0).name);
    if (!d.lm.mod->by_name.count(n)) d.bad("call of the unknown function " + n);
    Func* f = get_func(&d.lm, n);
    if (!f->ast->has_body && n != "vprintf" && n != "__assertfail" && n != "malloc" && n != "free") d.bad("call of the undefined function " + n);
    i.imm = (s64)(uintptr_t)f;
  }
  i.fn = &call_h;
}
void dec_exit(Decoder& d, Inst& i) {
  i.cls = kClassCtrl;
  i.flags |= kFlagCtrl;
  i.fn = d.part(0) == "ret" ? &ret_h : &exit_h;
}
void dec_trap(Decoder& d, Inst& i) {
  i.cls = kClassCtrl;
  i.flags |= kFlagCtrl;
  if (d.part(0) == "trap")
    i.fn = [](Warp&, const Inst&, u32 m) { throw SimError(kLaunchFailure, "trap instruction", __builtin_ctz(m)); };
  else
    i.fn = [](Warp& w, const Inst&, u32) { w.cur.pc++; };
}

// ---- CTA barriers -----------------------------------------------------------------
enum { kBarSync, kBarArrive, kBarPopc, kBarAnd, kBarOr };
void bar_h(Warp& w, const Inst& i, u32 m) {
  Cta& c = *w.cta;
  u32 id = u32_at(w, i.o[1], m), cnt = i.aux2 & 1 ? u32_at(w, i.o[2], m) : 0;
  for (int l = 0; l < 32; l++)
    if ((m >> l) & 1 && w.reg<u32>(i.o[1])[l] != id) throw SimError(kIllegalInstruction, "lanes of a warp name different barriers", l);
  if (id > 15) throw SimError(kIllegalInstruction, "barrier number " + std::to_string(id) + " > 15");
  if (cnt % 32) throw SimError(kIllegalInstruction, "barrier thread count " + std::to_string(cnt) + " is not a multiple of 32");
  if ((i.aux2 & 2) && !converge(w, i, m, w.live)) return;  // .aligned: the warp arrives as one
  m = w.cur.mask & (i.aux2 & 2 ? kFullMask : m);
  split_off(w, m);
  Barrier& b = c.bar[id];
  if (b.arrived == 0) {
    b.expected = cnt;
    b.popc = 0;
    b.andv = true;
    b.orv = false;
  } else if (b.expected != cnt)
    throw SimError(kIllegalInstruction, "barrier " + std::to_string(id) + " is used with the thread counts " +
                                            (b.expected ? std::to_string(b.expected) : "all") + " and " + (cnt ? std::to_string(cnt) : "all") +
                                            " in one phase");
  b.arrived += cnt && m == w.live ? 32 : __builtin_popcount(m);
  if (w.cluster->race) {
    race_release(w, b.clock);
    b.released.join(w.released), b.pending.join(w.pending);
  }
  if (i.aux >= kBarPopc) {
    u32 p = *w.reg<u32>(i.o[3]);
    if (i.aux2 & 4) p = ~p;
    b.popc += __builtin_popcount(p & m);
    if ((p & m) != m) b.andv = false;
    if (p & m) b.orv = true;
  }
  if (i.aux == kBarArrive) {
    w.cur.pc++;
    w.cluster->progress++;
    barrier_check(c, id);
    return;
  }
  w.cur.bar = id;
  w.cur.bar_op = i.aux;
  w.cur.bar_dst = i.o[0];
  w.st.barrier_waits++;
  park_current(w, St::Bar);
  barrier_check(c, id);
}
void warp_sync(Warp& w, const Inst& i, u32 m) {
  u32 need = u32_at(w, i.o[1], m) & w.live, have = m;
  split_off(w, m);
  for (auto& g : w.groups)
    if (g.st == St::Converge && g.fr->fn->code[g.pc].fn == &warp_sync) have |= g.mask;
  if (need & ~have) {
    w.cur.need = need;
    park_current(w, St::Converge);
    return;
  }
  for (auto& g : w.groups)
    if (g.st == St::Converge && g.fr->fn->code[g.pc].fn == &warp_sync && (g.mask & need)) {
      g.pc++;
      g.st = St::Run;
    }
  if (w.cluster->race) race_warp_sync(w, need);
  w.cur.pc++;
}
// ---- cluster barrier ----------------------------------------------------------------
void cluster_check(Cluster& c) {
  u32 live = c.live_threads();
  if (c.cb_arrived && c.cb_arrived >= live) {
    c.cb_arrived = 0;
    c.cb_gen++;
    c.progress++;
  }
}
void cluster_arrive(Warp& w, const Inst& i, u32 m) {
  if ((i.aux2 & 2) && !converge(w, i, m, w.live)) return;
  if (i.aux2 & 2) m = w.cur.mask;
  auto& ph = w.cluster->cb_phase[&w];
  if (ph.empty()) ph.assign(32, kFullMask);
  lanes(m, [&](int l) {
    if (ph[l] == w.cluster->cb_gen) throw SimError(kIllegalInstruction, "second barrier.cluster.arrive without a wait", l);
    ph[l] = w.cluster->cb_gen;
  });
  w.cluster->cb_arrived += __builtin_popcount(m);
  if (w.cluster->race) {
    if (i.aux)
      race_release_relaxed(w, w.cluster->cb_clock, false);
    else
      race_release(w, w.cluster->cb_clock);
  }
  w.cur.pc++;
  w.cluster->progress++;
  cluster_check(*w.cluster);
}
void cluster_wait(Warp& w, const Inst& i, u32 m) {
  if ((i.aux2 & 2) && !converge(w, i, m, w.live)) return;
  if (i.aux2 & 2) m = w.cur.mask;
  auto& ph = w.cluster->cb_phase[&w];
  if (ph.empty()) ph.assign(32, kFullMask);
  for (int l = 0; l < 32; l++)
    if ((m >> l) & 1) {
      if (ph[l] == kFullMask) throw SimError(kIllegalInstruction, "barrier.cluster.wait without an arrive", l);
      if (ph[l] == w.cluster->cb_gen) {
        split_off(w, m);
        w.cur.wait_addr = ph[l];
        park_current(w, St::Cluster);
        return;
      }
    }
  if (w.cluster->race) {
    race_acquire(w, w.cluster->cb_clock);
    race_warp_sync(w, kFullMask);
  }
  w.cur.pc++;
}
void dec_bar(Decoder& d, Inst& i) {
  i.cls = kClassSync;
  i.flags |= kFlagCtrl;
  if (d.has("warp")) {
    i.o[1] = d.src(d.op(0), 32);
    i.fn = &warp_sync;
    return;
  }
  if (d.has("cluster")) {
    i.aux2 = d.has("aligned") ? 2 : 0;
    i.aux = d.has("relaxed");
    i.fn = d.has("arrive") ? &cluster_arrive : &cluster_wait;
    return;
  }
  bool aligned = d.has("aligned") || d.part(0) == "bar";
  i.aux2 = aligned ? 2 : 0;
  if (d.has("red")) {
    i.aux = d.has("popc") ? kBarPopc : d.has("and") ? kBarAnd : kBarOr;
    size_t last = d.nops() - 1;
    i.o[0] = i.aux == kBarPopc ? d.dst(d.op(0), 32) : d.pdst(d.op(0));
    i.o[1] = d.src(d.op(1), 32);
    if (last == 3) {
      i.o[2] = d.src(d.op(2), 32);
      i.aux2 |= 1;
    }
    bool n;
    i.o[3] = d.psrc(d.op(last), n);
    if (n) i.aux2 |= 4;
  } else {
    i.aux = d.has("arrive") ? kBarArrive : kBarSync;
    i.o[1] = d.src(d.op(0), 32);
    if (d.nops() > 1) {
      i.o[2] = d.src(d.op(1), 32);
      i.aux2 |= 1;
    } else if (i.aux == kBarArrive)
      d.bad("barrier.arrive without a thread count");
  }
  i.fn = &bar_h;
}
void yield_h(Warp& w, const Inst&, u32) {
  w.cur.pc++;
  w.groups.push_back(w.cur);
  w.cur.mask = 0;
  w.stop = true;
}
void dec_yield(Decoder&, Inst& i) {
  i.cls = kClassCtrl;
  i.flags |= kFlagCtrl;
  i.fn = &yield_h;
}
void dec_nop(Decoder&, Inst& i) {
  i.cls = kClassSync;
  i.fn = [](Warp&, const Inst&, u32) {};
}
void dec_setmaxnreg(Decoder& d, Inst& i) {
  i.cls = kClassSync;
  i.flags |= kFlagCtrl;
  int n = d.op(0).imm;
  if (n < 24 || n > 256 || n % 8) d.bad("setmaxnreg: register count must be a multiple of 8 in 24..256");
  i.fn = [](Warp& w, const Inst& i, u32 m) {
    if (!converge(w, i, m, w.live)) return;
    w.cur.pc++;
  };
}
}  // namespace

void barrier_check(Cta& c, int id) {
  Barrier& b = c.bar[id];
  if (!b.arrived) return;
  u32 expected = b.expected ? b.expected : c.live;
  if (b.arrived < expected) return;
  if (b.expected && b.arrived > expected)
    throw SimError(kIllegalInstruction,
                   "barrier " + std::to_string(id) + ": " + std::to_string(b.arrived) + " threads arrived, " + std::to_string(expected) + " expected");
  b.arrived = 0;
  b.gen++;
  c.cluster->progress++;
  for (auto& wp : c.warps) {
    bool any = false;
    for (auto& g : wp->groups)
      if (g.st == St::Bar && g.bar == id) {
        any = true;
        g.st = St::Run;
        g.pc++;
        if (g.bar_op == kBarPopc) {
          u32* d = (u32*)(g.fr->R + g.bar_dst);
          lanes(g.mask, [&](int l) { d[l] = b.popc; });
        } else if (g.bar_op >= kBarAnd) {
          u32& p = *(u32*)(g.fr->R + g.bar_dst);
          bool v = g.bar_op == kBarAnd ? b.andv : b.orv;
          p = (p & ~g.mask) | (v ? g.mask : 0);
        }
      }
    if (any && c.cluster->race) {
      race_acquire(*wp, b.clock);
      race_warp_sync(*wp, kFullMask);
      // Each thread's fence, a barrier, one thread's flag; or the other way round: PyTorch's reductions rely on it, and fences act on memory for all.
      wp->released.join(b.released), wp->pending.join(b.pending);
    }
  }
}

void threads_exit(Warp& w, u32 mask) {
  Cta& c = *w.cta;
  w.live &= ~mask;
  c.live -= __builtin_popcount(mask);
  c.cluster->progress++;
  auto it = c.cluster->cb_phase.find(&w);
  if (it != c.cluster->cb_phase.end())
    lanes(mask, [&](int l) {
      if (it->second[l] == c.cluster->cb_gen && c.cluster->cb_arrived) c.cluster->cb_arrived--;
    });
  if (!c.live) {
    // Bulk stores still in flight when the last thread exits: hardware finishes them, programs rely on it. Said once.
    auto& q = c.cluster->async;
    for (size_t k = 0; k < q.size();)
      if (q[k].kind == 1 && q[k].w->cta == &c) {
        static std::atomic<bool> said{false};
        if (!said.exchange(true))
          fprintf(stderr, "[gpusim] note: %s: a CTA exits with bulk stores in flight (no final cp.async.bulk.wait_group)\n",
                  c.cluster->L->name.substr(0, 80).c_str());
        auto f = q[k].run;
        q.erase(q.begin() + k);
        f();
      } else
        k++;
    if (c.cluster->race) race_exit(*c.cluster, c.rank);
    c.done = true;
  } else
    for (int k = 0; k < 16; k++)
      if (!c.bar[k].expected) barrier_check(c, k);
  cluster_check(*c.cluster);
}

void register_ctl(DecodeTable& t) {
  t["bra"] = t["brx"] = dec_bra;
  t["call"] = dec_call;
  t["ret"] = t["exit"] = dec_exit;
  t["trap"] = t["brkpt"] = t["pmevent"] = dec_trap;
  t["bar"] = t["barrier"] = dec_bar;
  t["nanosleep"] = dec_yield;
  t["griddepcontrol"] = dec_nop;
  t["setmaxnreg"] = dec_setmaxnreg;
}

}  // namespace atoll::gpusim
