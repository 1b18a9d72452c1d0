// mbarrier: state transitions, arrivals, transaction counts, waits.
#include "tests/gpusim/handlers.h"

namespace atoll::gpusim {
static u8* mbar_ptr(Cluster& c, u32 addr) {
  u32 rank = addr >> kRankShift, off = addr & ((1u << kRankShift) - 1);
  if (rank >= c.ctas.size()) throw SimError(kIllegalAddress, "mbarrier address " + hex(addr) + " names a CTA outside the cluster");
  Cta& t = *c.ctas[rank];
  if (off < kSmemBase || off + 8 > kSmemBase + t.smem_size) throw SimError(kIllegalAddress, "mbarrier address " + hex(addr) + " outside shared memory");
  if (off & 7) throw SimError(kMisaligned, "mbarrier address " + hex(addr) + " is not a multiple of 8");
  if (t.done) throw SimError(kIllegalAddress, "mbarrier of CTA rank " + std::to_string(rank) + " which has exited");
  return t.smem.data() + off;
}
MBar mbar_load(Cluster& c, u32 addr) {
  u64 v;
  memcpy(&v, mbar_ptr(c, addr), 8);
  if (v == ~0ull) throw SimError(kIllegalInstruction, "mbarrier at " + hex(addr) + " was never initialised");
  MBar b = MBar::load(v);
  if (b.expected == 0) throw SimError(kIllegalInstruction, "mbarrier at " + hex(addr) + " is not initialised (or was invalidated)");
  return b;
}
// Stores the new state after a check of its counts; completes phases. A completed phase publishes what its arrivals released.
static void mbar_store(Cluster& c, u32 addr, MBar b, u32 arrivals, int lane) {
  const std::string name = "mbarrier at " + hex(addr) + " (shared offset " + std::to_string((addr & 0xffffff) - kSmemBase) + ")";
  if (arrivals > b.pending) throw SimError(kIllegalInstruction, name + ": more arrivals than the " + std::to_string(b.expected) + " expected per phase", lane);
  if (b.tx > 0xfffff || b.tx < -0xfffff)
    throw SimError(kIllegalInstruction, name + ": tx-count " + std::to_string(b.tx) + " is out of its range of 2^20 - 1", lane);
  b.pending -= arrivals;
  if (b.pending == 0 && b.tx < 0)
    throw SimError(kIllegalInstruction,
                   name + ": tx-count underflow: every arrival is in, and " + std::to_string(-b.tx) + " bytes more than expect_tx announced have arrived",
                   lane);
  while (b.pending == 0 && b.tx == 0) {
    b.phase ^= 1;
    b.pending = b.expected;
    if (c.race) race_sync_var(c, addr | 1).join(race_sync_var(c, addr));
    if (!b.expected) break;
  }
  const u64 v = b.store();
  memcpy(mbar_ptr(c, addr), &v, 8);
  c.progress++;
}
void mbar_complete(Cluster& c, u32 addr, s64 tx_bytes, u32 arrivals) {
  MBar b = mbar_load(c, addr);
  b.tx -= (s32)tx_bytes;
  mbar_store(c, addr, b, arrivals, -1);
}
bool cpu_wait_done(Warp& w, const Group& g) {
  if (g.wait_phase & 0x100) return true;
  u64 v;
  memcpy(&v, mbar_ptr(*w.cluster, (u32)g.wait_addr), 8);
  return MBar::load(v).phase != (g.wait_phase & 1);
}

AddrOp addr_op(Decoder& d, const AstOp& o, Space sp) {
  Inst t;
  d.addr(o, t, 1, sp);
  return {t.o[1], t.aw, t.imm};
}
void put_addr(InstExt& x, int k, AddrOp a) {
  x.p[k] = (int)a.off;
  x.p[k + 1] = a.aw;
  x.p[k + 2] = (int)a.imm;
}
u64 addr_val(Warp& w, const Inst& i, int k, int l) {
  const int* p = &i.x->p[k];
  return (p[1] == 8 ? w.reg<u64>(p[0])[l] : w.reg<u32>(p[0])[l]) + (s64)p[2];
}
// a shared address from a 32-bit shared or a 64-bit generic value
u32 sh_addr(u64 a, int l) {
  if (a >> 32 == kSharedTag || a >> 32 == 0) return (u32)a;
  throw SimError(kIllegalAddress, "shared address expected, got " + hex(a), l);
}

namespace {
// ---- mbarrier ------------------------------------------------------------------
enum { kMbInit, kMbInval, kMbExpect, kMbComplete, kMbArrive, kMbArriveTx, kMbDrop, kMbDropTx, kMbPending };
void mbar_h(Warp& w, const Inst& i, u32 m) {
  Cluster& c = *w.cluster;
  lanes(m, [&](int l) {
    u32 a = sh_addr(addr_val(w, i, 0, l), l);
    u32 arg = i.o[2] ? w.reg<u32>(i.o[2])[l] : 1;
    if (!(i.flags & kFlagShcluster) && a >> kRankShift != w.cta->rank)
      throw SimError(kIllegalAddress, "mbarrier operation on another CTA's barrier without .shared::cluster", l);
    if (i.aux == kMbInit) {
      if (arg == 0 || arg > 0xfffff) throw SimError(kIllegalInstruction, "mbarrier.init with count " + std::to_string(arg), l);
      u64 v = MBar{arg, arg, 0, 0}.store();
      memcpy(mbar_ptr(c, a), &v, 8);
      if (options().uninit) memset(&w.cta->written[a & 0xffffff], 1, 8);
      if (c.race) race_mbar_init(w, a, l);
      c.progress++;
      return;
    }
    if (i.aux == kMbInval) {
      mbar_load(c, a);
      if (c.race) race_mbar_inval(c, a);
      u64 z = 0;
      memcpy(mbar_ptr(c, a), &z, 8);
      return;
    }
    MBar b = mbar_load(c, a);
    u64 old = b.store();
    u32 arrivals = 0;
    switch (i.aux) {
      case kMbExpect: b.tx += (s32)arg; break;
      case kMbComplete: b.tx -= (s32)arg; break;
      case kMbArrive: arrivals = arg; break;
      case kMbArriveTx:
        b.tx += (s32)arg;
        arrivals = 1;
        break;
      case kMbDrop:
        arrivals = arg;
        b.expected -= arg;
        break;
      case kMbDropTx:
        b.tx += (s32)arg;
        arrivals = 1;
        b.expected -= 1;
        break;
    }
    if (c.race) {
      const bool remote = a >> kRankShift != w.cta->rank;
      race_mbar_use(w, a, remote, i.ast->line, l);
      if (arrivals && i.aux2)
        race_release_relaxed(w, race_sync_var(c, a), !remote);
      else if (arrivals)
        race_release(w, race_sync_var(c, a), w.live & ~m ? 1u << l : kFullMask);
    }
    mbar_store(c, a, b, arrivals, l);
    if (i.target) w.reg<u64>(i.o[0])[l] = old;
  });
}
// test_wait / try_wait: o[0] predicate, o[2] parity or state; aux 1 parity, 2 try
void mbar_wait(Warp& w, const Inst& i, u32 m) {
  u32 r = 0;
  int first = -1;
  u32 fa = 0, fp = 0;
  const Clock* arrived = nullptr;
  lanes(m, [&](int l) {
    u32 a = sh_addr(addr_val(w, i, 0, l), l);
    if (a >> kRankShift != w.cta->rank) throw SimError(kIllegalAddress, "mbarrier wait on another CTA's barrier", l);
    MBar b = mbar_load(*w.cluster, a);
    u32 ph = i.aux & 1 ? w.reg<u32>(i.o[2])[l] & 1 : (u32)(w.reg<u64>(i.o[2])[l] >> 63);
    if (i.aux & 1 && w.reg<u32>(i.o[2])[l] > 1) throw SimError(kIllegalInstruction, "mbarrier parity operand is neither 0 nor 1", l);
    bool done = b.phase != ph;
    r |= (u32)done << l;
    if (first < 0) {
      first = l;
      fa = a;
      fp = ph;
    }
    if (w.cluster->race) race_mbar_use(w, a, false, i.ast->line, l);
    if (w.cluster->race && (l == first || a != fa || !(r & ~(1u << l)))) {
      if (done) {
        const Clock& published = race_sync_var(*w.cluster, a | 1);
        if (i.aux2) {
          w.pending_near.join(published);
          return;
        }
        arrived = &published;
        race_acquire(w, published);
      }
    }
  });
  if (r && arrived) race_lanes_acquire(w, r, *arrived);
  w.st.mbarrier_waits++;
  bool timed_out = w.cur.wait_phase & 0x100;
  if (!r && (i.aux & 2) && !timed_out && m == w.cur.mask) {
    w.cur.wait_addr = fa;
    w.cur.wait_phase = fp;
    park_current(w, St::Mbar);
    return;
  }
  w.cur.wait_phase = 0;
  u32& p = *w.reg<u32>(i.o[0]);
  p = (p & ~m) | (r & m);
  w.cur.pc++;
  if (!r) {
    w.groups.push_back(w.cur);
    w.cur.mask = 0;
    w.stop = true;
  }  // let others run
}
void dec_mbarrier(Decoder& d, Inst& i) {
  i.cls = kClassAsync;
  auto& x = d.ext(i);
  std::string_view op = d.part(1);
  Space sp = Space::Shared;
  if (d.has("shared::cluster") || d.space_of() == Space::Generic) i.flags |= kFlagShcluster;
  if (op == "test_wait" || op == "try_wait") {
    i.flags |= kFlagCtrl;
    i.o[0] = d.pdst(d.op(0));
    put_addr(x, 0, addr_op(d, d.op(1), sp));
    bool par = d.has("parity");
    i.o[2] = d.src(d.op(2), par ? 32 : 64);
    i.aux = par | (op == "try_wait") << 1;
    i.aux2 = d.has("relaxed");
    i.fn = &mbar_wait;
    return;
  }
  i.fn = &mbar_h;
  if (op == "pending_count") {
    i.o[0] = d.dst(d.op(0), 32);
    i.o[1] = d.src(d.op(1), 64);
    i.fn = mk1<u32, u64>([](u64 s) { return MBar::load(s).pending; });
    return;
  }
  if (op == "init" || op == "inval" || op == "expect_tx" || op == "complete_tx") {
    i.aux = op == "init" ? kMbInit : op == "inval" ? kMbInval : op == "expect_tx" ? kMbExpect : kMbComplete;
    put_addr(x, 0, addr_op(d, d.op(0), sp));
    if (d.nops() > 1) i.o[2] = d.src(d.op(1), 32);
    return;
  }
  i.aux2 = d.has("relaxed");
  bool drop = op == "arrive_drop", tx = d.has("expect_tx");
  i.aux = drop ? (tx ? kMbDropTx : kMbDrop) : (tx ? kMbArriveTx : kMbArrive);
  size_t k = 0;
  if (d.op(0).kind != AstOp::Addr) {
    k = 1;
    if (d.op(0).kind != AstOp::Sink) {
      i.target = 1;
      i.o[0] = d.dst(d.op(0), 64);
    }
  }
  put_addr(x, 0, addr_op(d, d.op(k), sp));
  if (d.nops() > k + 1) i.o[2] = d.src(d.op(k + 1), 32);
}

}  // namespace

void register_mbarrier(DecodeTable& t) { t["mbarrier"] = dec_mbarrier; }

}  // namespace atoll::gpusim
