// cp.async, ldmatrix, stmatrix, fences, mapa and other address instructions.
#include "tests/gpusim/handlers.h"
#include "tests/gpusim/memory.h"

namespace atoll::gpusim {
namespace {
// ---- cp.async (16-byte and smaller copies by threads) -----------------------------
void cp_async(Warp& w, const Inst& i, u32 m) {
  u64 da[32], sa[32];
  Inst tmp = i;
  addresses(w, i, 1, da);
  tmp.imm = i.x->p[0];
  tmp.aw = i.x->p[1];
  addresses(w, tmp, 2, sa);
  u32 sz = i.aux;
  if (options().count) {
    tmp.space = Space::Global;
    stat_mem(w, tmp, sa, m, sz, false);
    tmp.space = Space::Shared;
    stat_mem(w, tmp, da, m, sz, true);
  }
  Access acc;
  acc.write = true, acc.line = i.ast->line;
  if (w.cluster->race) acc.agent = race_agent(*w.cluster, AgentKind::kCpAsync, w.agent), acc.clock = ++w.cp_ops;
  lanes(m, [&](int l) {
    u32 n = i.aux2 == 1 ? std::min(sz, w.reg<u32>(i.o[3])[l]) : sz;
    if (i.aux2 == 2) {
      u32 p = *w.reg<u32>(i.o[3]);
      if (i.target) p = ~p;
      if ((p >> l) & 1) n = 0;
    }
    if ((da[l] & (sz - 1)) || (n && (sa[l] & (sz - 1)))) misaligned(da[l] & (sz - 1) ? da[l] : sa[l], sz, l);
    u8* d = w.resolve(i.space, da[l], sz, l, false);
    const u8* s = n ? w.global_at(sa[l], n, l) : nullptr;
    if (n && options().uninit) copy_written(*w.cta, (u32)da[l] & 0xffffff, sa[l], n);
    if (n < sz && options().uninit) memset(&w.cta->written[((u32)da[l] & 0xffffff) + n], 1, sz - n);
    if (w.cluster->race) {
      acc.lane = l;
      race_shared(w, (u32)da[l], sz, acc);
      w.cp_copies[(u32)da[l]] = {sz, (u32)l, acc.clock, w.cp_open[l]};
      Access from;
      from.line = acc.line, from.lane = l;
      if (n) race_global(w, sa[l], n, from);
    }
    auto run = [d, s, n, sz] {
      if (n) memcpy(d, s, n);
      if (n < sz) memset(d + n, 0, sz - n);
    };
    if (options().lazy)
      w.cluster->async.push_back({run, nullptr, &w, l, 2, w.cp_open[l], w.cluster->tick + w.cluster->rng() % 64});
    else
      run();
  });
}
}  // namespace

void drain_async(Warp& w, int lane, int kind, int upto) {  // completes this thread's groups < upto
  auto& q = w.cluster->async;
  for (size_t k = 0; k < q.size();)
    if (q[k].w == &w && q[k].lane == lane && q[k].kind == kind && q[k].group < upto) {
      auto f = q[k].run;
      q.erase(q.begin() + k);
      f();
    } else
      k++;
}

void dec_cp_async(Decoder& d, Inst& i) {
  if (d.part(2) == "bulk" || (d.part(0) == "cp" && d.part(1) == "reduce")) { return dec_bulk(d, i); }
  i.cls = kClassAsync;
  if (d.has("commit_group")) {
    i.fn = [](Warp& w, const Inst&, u32 m) {
      lanes(m, [&](int l) { w.cp_open[l]++; });
    };
    return;
  }
  if (d.has("wait_group") || d.has("wait_all")) {
    i.aux = d.has("wait_all") ? 0 : d.op(0).imm;
    i.aux2 = d.has("wait_all");
    i.fn = [](Warp& w, const Inst& i, u32 m) {
      lanes(m, [&](int l) {
        const int upto = i.aux2 ? INT32_MAX : w.cp_open[l] - (int)i.aux;
        if (options().lazy) drain_async(w, l, 2, upto);
        if (w.cluster->race) race_cp_async_done(w, l, upto);
      });
    };
    return;
  }
  if (d.has("mbarrier")) {  // cp.async.mbarrier.arrive{.noinc}.shared.b64 [addr]
    Space sp = d.space_of();
    d.addr(d.op(0), i, 1, sp);
    i.aux = d.has("noinc");
    i.fn = [](Warp& w, const Inst& i, u32 m) {
      u64 a[32];
      addresses(w, i, 1, a);
      lanes(m, [&](int l) {
        if (options().lazy) drain_async(w, l, 2, INT32_MAX);
        if (w.cluster->race) {
          Clock& v = race_sync_var(*w.cluster, (u32)a[l]);
          race_release(w, v);
          const u32 agent = race_agent(*w.cluster, AgentKind::kCpAsync, w.agent);
          if (w.live & ~m)
            v.raise_lane(agent, l, w.cp_ops);
          else
            v.raise(agent, w.cp_ops);
        }
        if (i.aux) mbar_complete(*w.cluster, (u32)a[l], 0, 1);
      });
    };
    return;
  }
  Space sp = Space::Shared, gs = Space::Global;
  d.addr(d.op(1), i, 2, gs);
  auto& x = d.ext(i);
  x.p[0] = (int)i.imm;
  x.p[1] = i.aw;
  d.addr(d.op(0), i, 1, sp);
  i.space = Space::Shared;
  i.aux = d.op(2).imm;
  i.fn = &cp_async;
  if (d.nops() > 3) {
    const AstOp& o = d.op(3);
    AstReg r;
    if (o.kind == AstOp::Ident && d.lookup_reg(o.name, d.a->scope, r) && r.is_pred) {
      bool n;
      i.o[3] = d.psrc(o, n);
      i.target = n;
      i.aux2 = 2;
    } else if (!(d.has("L2::cache_hint") && d.nops() == 4)) {
      i.o[3] = d.src(o, 32);
      i.aux2 = 1;
    }
  }
}

namespace {
// ---- ldmatrix / stmatrix -------------------------------------------------------------
void ldmatrix_h(Warp& w, const Inst& i) {
  u64 a[32];
  addresses(w, i, 1, a);
  u16 mat[4][8][8];
  for (u32 j = 0; j < i.n; j++)
    for (int r = 0; r < 8; r++) {
      int l = j * 8 + r;
      if (a[l] & 15) misaligned(a[l], 16, l);
      u8* p = w.resolve(i.space, a[l], 16, l, false);
      if (options().race || options().uninit) check_access(w, i, a[l], 16, p, false, l, false);
      memcpy(mat[j][r], p, 16);
    }
  if (options().count) {
    for (u32 j = 0; j < i.n; j++) stat_mem(w, i, a, 0xffu << (8 * j), 16, false);
  }
  for (u32 j = 0; j < i.n; j++) {
    u32* d = w.reg<u32>(i.x->v[0][j]);
    for (int l = 0; l < 32; l++) {
      int r = l / 4, c = (l % 4) * 2;
      d[l] = i.aux ? (u32)mat[j][c][r] | (u32)mat[j][c + 1][r] << 16 : (u32)mat[j][r][c] | (u32)mat[j][r][c + 1] << 16;
    }
  }
}
void stmatrix_h(Warp& w, const Inst& i) {
  u64 a[32];
  addresses(w, i, 1, a);
  u16 mat[4][8][8];
  for (u32 j = 0; j < i.n; j++) {
    u32* s = w.reg<u32>(i.x->v[0][j]);
    for (int l = 0; l < 32; l++) {
      int r = l / 4, c = (l % 4) * 2;
      if (i.aux) {
        mat[j][c][r] = s[l];
        mat[j][c + 1][r] = s[l] >> 16;
      } else {
        mat[j][r][c] = s[l];
        mat[j][r][c + 1] = s[l] >> 16;
      }
    }
  }
  if (options().count) {
    for (u32 j = 0; j < i.n; j++) stat_mem(w, i, a, 0xffu << (8 * j), 16, true);
  }
  for (u32 j = 0; j < i.n; j++)
    for (int r = 0; r < 8; r++) {
      int l = j * 8 + r;
      if (a[l] & 15) misaligned(a[l], 16, l);
      u8* p = w.resolve(i.space, a[l], 16, l, false);
      if (options().race || options().uninit) check_access(w, i, a[l], 16, p, true, l, false);
      memcpy(p, mat[j][r], 16);
    }
}
void matrix_ctl(Warp& w, const Inst& i, u32 m) {
  if (!converge(w, i, m, w.live)) return;
  if (i.aux2)
    stmatrix_h(w, i);
  else
    ldmatrix_h(w, i);
  w.cur.pc++;
}
void dec_matrix(Decoder& d, Inst& i) {
  bool st = d.part(0) == "stmatrix";
  if (!d.has("m8n8") || !d.has("b16")) d.bad("unsupported form");
  Space sp = d.space_of();
  d.addr(d.op(st ? 0 : 1), i, 1, sp);
  i.space = sp;
  i.n = d.has("x4") ? 4 : d.has("x2") ? 2 : 1;
  auto& x = d.ext(i);
  const AstOp& v = d.op(st ? 1 : 0);
  if (v.kind == AstOp::Vec)
    for (auto& s : v.sub) x.v[0].push_back(st ? d.src(s, 32) : d.dst(s, 32));
  else
    x.v[0].push_back(st ? d.src(v, 32) : d.dst(v, 32));
  i.aux = d.has("trans");
  i.aux2 = st;
  i.cls = kClassLdstS;
  i.flags |= kFlagCtrl;
  i.fn = &matrix_ctl;
}

void nop(Warp&, const Inst&, u32) {}
void dec_fence(Decoder& d, Inst& i) {
  i.cls = kClassSync;
  i.fn = &nop;
  if (d.has("proxy")) {
    if (d.has("async")) {
      i.aux = d.has("global") ? 2 : d.has("shared::cta") || d.has("shared::cluster") ? 1 : 3;  // the memory it is for: 1 shared, 2 global
      i.fn = [](Warp& w, const Inst& i, u32) {
        if (w.cluster->race) race_proxy_fence(w, i.aux & 1, i.aux & 2);
        if (!(i.aux & 1)) return;
        for (auto& c : w.cluster->ctas)  // whose writes they are is the race checker's business
          if (!c->async_smem.empty()) c->async_smem = c->smem;
      };
    }
  } else if (d.has("mbarrier_init"))
    i.fn = [](Warp& w, const Inst&, u32) {
      if (w.cluster->race) race_mbar_init_fence(w);
    };
  else {
    i.aux = !d.has("cta");
    i.fn = [](Warp& w, const Inst& i, u32) {
      if (w.cluster->race) race_fence(w, i.aux);
    };
  }
}
void dec_hint(Decoder&, Inst& i) {
  i.fn = &nop;
  i.cls = kClassLdstO;
}
void dec_policy(Decoder& d, Inst& i) {
  i.o[0] = d.dst(d.op(0), 64);
  i.fn = mk1<u64, u64>([](u64) { return 0ull; });
  i.o[1] = i.o[0];
}
void dec_mapa(Decoder& d, Inst& i) {
  Ty t = d.last_ty();
  int b = ty_bits(t);
  i.o[0] = d.dst(d.op(0), b);
  i.o[1] = d.src(d.op(1), b);
  i.o[2] = d.src(d.op(2), 32);
  i.rw = b / 8;
  i.fn = [](Warp& w, const Inst& i, u32 m) {
    lanes(m, [&](int l) {
      u64 a = i.rw == 8 ? w.reg<u64>(i.o[1])[l] : w.reg<u32>(i.o[1])[l];
      u32 r = w.reg<u32>(i.o[2])[l];
      if (r >= w.cluster->ctas.size()) throw SimError(kIllegalAddress, "mapa: CTA rank " + std::to_string(r) + " outside the cluster", l);
      a = (a & ~(0xffull << kRankShift)) | (u64)r << kRankShift;
      if (i.rw == 8)
        w.reg<u64>(i.o[0])[l] = a;
      else
        w.reg<u32>(i.o[0])[l] = (u32)a;
    });
  };
}
void dec_get_cta_rank(Decoder& d, Inst& i) {
  int b = ty_bits(d.last_ty());
  i.o[0] = d.dst(d.op(0), 32);
  i.o[1] = d.src(d.op(1), b);
  i.rw = b / 8;
  i.fn = [](Warp& w, const Inst& i, u32 m) {
    lanes(m, [&](int l) { w.reg<u32>(i.o[0])[l] = (i.rw == 8 ? (u32)w.reg<u64>(i.o[1])[l] : w.reg<u32>(i.o[1])[l]) >> kRankShift; });
  };
}
}  // namespace

void register_copy(DecodeTable& t) {
  t["cp"] = dec_cp_async;
  t["ldmatrix"] = t["stmatrix"] = dec_matrix;
  t["membar"] = t["fence"] = dec_fence;
  for (auto n : {"prefetch", "prefetchu", "applypriority", "discard"}) t[n] = dec_hint;
  t["createpolicy"] = dec_policy;
  t["mapa"] = dec_mapa;
  t["getctarank"] = dec_get_cta_rank;
}

}  // namespace atoll::gpusim
