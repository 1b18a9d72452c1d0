// mbarrier, bulk copies (TMA), st.async, tensormap.
#include "tests/gpusim/decode.h"
#include "tests/gpusim/halfs.h"
#include "tests/gpusim/mbar.h"
#include "tests/gpusim/tma.h"

namespace atoll::gpusim {
u64 atomic_at(u8* p, int op, Ty t, u64 b, u64 c, int bytes);
void drain_bulk(Warp& w, int lane, int upto);
void park_current(Warp& w, St st);
void split_off(Warp& w, u32 exec_mask);

static std::string hex(u64 v) {
  char b[32];
  snprintf(b, sizeof b, "0x%llx", (unsigned long long)v);
  return b;
}

static u8* mbar_ptr(Cluster& c, u32 addr) {
  u32 rank = addr >> kRankShift, off = addr & ((1u << kRankShift) - 1);
  if (rank >= c.ctas.size()) throw SimError(kIllegalAddress, "mbarrier address " + hex(addr) + " names a CTA outside the cluster");
  Cta& t = *c.ctas[rank];
  if (off < kSmemBase || off + 8 > kSmemBase + t.smem_size) throw SimError(kIllegalAddress, "mbarrier address " + hex(addr) + " outside shared memory");
  if (off & 7) throw SimError(kMisaligned, "mbarrier address " + hex(addr) + " is not a multiple of 8");
  if (t.done) throw SimError(kIllegalAddress, "mbarrier of CTA rank " + std::to_string(rank) + " which has exited");
  return t.smem.data() + off;
}
static MBar mbar_load(Cluster& c, u32 addr) {
  u64 v;
  memcpy(&v, mbar_ptr(c, addr), 8);
  if (v == ~0ull) throw SimError(kIllegalInstruction, "mbarrier at " + hex(addr) + " was never initialised");
  MBar b = MBar::load(v);
  if (b.expected == 0) throw SimError(kIllegalInstruction, "mbarrier at " + hex(addr) + " is not initialised (or was invalidated)");
  return b;
}
static void mbar_store(Cluster& c, u32 addr, MBar b) {
  while (b.pending == 0 && b.tx == 0) {
    b.phase ^= 1;
    b.pending = b.expected;
    if (!b.expected) break;
  }
  u64 v = b.store();
  memcpy(mbar_ptr(c, addr), &v, 8);
  c.progress++;
}
void mbar_complete(Cluster& c, u32 addr, s64 tx_bytes, u32 arrivals) {
  MBar b = mbar_load(c, addr);
  b.tx -= (s32)tx_bytes;
  if (arrivals > b.pending)
    throw SimError(kIllegalInstruction, "mbarrier at " + hex(addr) + ": more arrivals than expected (" + std::to_string(b.expected) + " per phase)");
  if (b.tx < -(1 << 20) || b.tx > (1 << 20)) throw SimError(kIllegalInstruction, "mbarrier at " + hex(addr) + ": tx-count out of range");
  b.pending -= arrivals;
  mbar_store(c, addr, b);
}
bool cpu_wait_done(Warp& w, const Group& g) {
  if (g.wait_phase & 0x100) return true;
  u64 v;
  memcpy(&v, mbar_ptr(*w.cluster, (u32)g.wait_addr), 8);
  return MBar::load(v).phase != (g.wait_phase & 1);
}

namespace {
struct AddrOp {
  u32 off;
  u8 aw;
  s64 imm;
};
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
u32 sh_addr(Warp& w, u64 a, int l) {
  if (a >> 32 == kSharedTag || a >> 32 == 0) return (u32)a;
  throw SimError(kIllegalAddress, "shared address expected, got " + hex(a), l);
}

// ---- mbarrier ------------------------------------------------------------------
enum { kMbInit, kMbInval, kMbExpect, kMbComplete, kMbArrive, kMbArriveTx, kMbDrop, kMbDropTx, kMbPending };
void mbar_h(Warp& w, const Inst& i, u32 m) {
  Cluster& c = *w.cluster;
  lanes(m, [&](int l) {
    u32 a = sh_addr(w, addr_val(w, i, 0, l), l);
    u32 arg = i.o[2] ? w.reg<u32>(i.o[2])[l] : 1;
    if (!(i.flags & kFlagShcluster) && a >> kRankShift != w.cta->rank)
      throw SimError(kIllegalAddress, "mbarrier operation on another CTA's barrier without .shared::cluster", l);
    if (i.aux == kMbInit) {
      if (arg == 0 || arg > 0xfffff) throw SimError(kIllegalInstruction, "mbarrier.init with count " + std::to_string(arg), l);
      u64 v = MBar{arg, arg, 0, 0}.store();
      memcpy(mbar_ptr(c, a), &v, 8);
      if (options().uninit) memset(&w.cta->written[a & 0xffffff], 1, 8);
      if (c.race) race_sync_var(c, a).clear();
      c.progress++;
      return;
    }
    if (i.aux == kMbInval) {
      mbar_load(c, a);
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
    if (b.tx < -(1 << 20) || b.tx > (1 << 20)) throw SimError(kIllegalInstruction, "mbarrier at " + hex(a) + ": tx-count out of range", l);
    if (arrivals > b.pending)
      throw SimError(kIllegalInstruction, "mbarrier at " + hex(a) + ": more arrivals than the " + std::to_string(b.expected) + " expected per phase", l);
    b.pending -= arrivals;
    if (c.race && arrivals) race_release(w, race_sync_var(c, a));
    mbar_store(c, a, b);
    if (i.target) w.reg<u64>(i.o[0])[l] = old;
  });
}
// test_wait / try_wait: o[0] predicate, o[2] parity or state; aux 1 parity, 2 try
void mbar_wait(Warp& w, const Inst& i, u32 m) {
  u32 r = 0;
  int first = -1;
  u32 fa = 0, fp = 0;
  lanes(m, [&](int l) {
    u32 a = sh_addr(w, addr_val(w, i, 0, l), l);
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
    if (done && w.cluster->race) { race_acquire(w, race_sync_var(*w.cluster, a)); }
  });
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

// ---- TMA --------------------------------------------------------------------------
inline u32 swz(u32 a, int mode) {
  switch (mode) {
    case 1: return a ^ ((a >> 3) & 0x10);
    case 2: return a ^ ((a >> 3) & 0x30);
    case 3: return a ^ ((a >> 3) & 0x70);
    default: return a;
  }
}
enum { kRedNone = -1 };
int red_of(Decoder& d) {
  const char* n[] = {"add", "min", "max", "and", "or", "xor", "", "", "inc", "dec"};
  for (int k = 0; k < 10; k++)
    if (*n[k] && d.has(n[k])) return k;
  return kRedNone;
}
Ty tmap_ty(int dtype) {
  static const Ty t[] = {Ty::B8, Ty::U16, Ty::U32, Ty::S32, Ty::U64, Ty::S64, Ty::F16, Ty::F32, Ty::F64, Ty::BF16, Ty::F32, Ty::F32, Ty::F32};
  return dtype < 13 ? t[dtype] : Ty::B8;
}
// Visits the box in runs of at most 16 bytes (one swizzle chunk): f(global_addr or 0 when outside, smem_offset, bytes)
template <class F>
void box_loop(const TensorMap& t, const s32* coord, bool whole, F f) {
  u32 es = t.elem;
  u32 n[5];
  for (int k = 0; k < 5; k++) n[k] = k < t.rank ? (t.box[k] + t.estride[k] - 1) / t.estride[k] : 1;
  u32 so = 0, per = 16 / es;
  for (u32 i4 = 0; i4 < n[4]; i4++)
    for (u32 i3 = 0; i3 < n[3]; i3++)
      for (u32 i2 = 0; i2 < n[2]; i2++)
        for (u32 i1 = 0; i1 < n[1]; i1++) {
          s64 off = 0;
          bool in = true;
          const u32 idx[5] = {0, i1, i2, i3, i4};
          for (int k = 1; k < t.rank; k++) {
            s64 c = (s64)coord[k] + (s64)idx[k] * t.estride[k];
            if (c < 0 || c > (s64)t.dim[k]) in = false;
            off += c * (s64)t.stride[k - 1];
          }
          for (u32 i0 = 0; i0 < n[0];) {
            s64 c = (s64)coord[0] + (s64)i0 * t.estride[0];
            if (whole && t.estride[0] == 1 && i0 + per <= n[0] && (!in || (c >= 0 && c + per - 1 <= (s64)t.dim[0]))) {
              f(in ? t.addr + off + c * es : 0, so, 16u);
              so += 16;
              i0 += per;
              continue;
            }
            bool ok = in && c >= 0 && c <= (s64)t.dim[0];
            f(ok ? t.addr + off + c * es : 0, so, es);
            so += es;
            i0++;
          }
        }
}
struct Bulk {  // everything needed to run later
  Warp* w;
  int lane;
  TensorMap t;
  s32 coord[5];
  u32 smem, mbar;
  u16 cta_mask;
  u64 gaddr;
  u32 size;
  int red;
  Ty ty;
  bool tensor, load, dsmem;
  int line;
};
const TensorMap& tmap_at(Warp& w, u64 a, int l) {
  if (a & 63) throw SimError(kMisaligned, "tensor map address " + hex(a) + " is not a multiple of 64", l);
  u8* p;
  if (a >> 32 == kSharedTag)
    p = w.shared_at((u32)a, 128, l, true);
  else
    p = w.global_at(a, 128, l);
  const TensorMap& t = *(const TensorMap*)p;
  if (t.magic != kTmapMagic) throw SimError(kIllegalInstruction, "no valid tensor map at address " + hex(a), l);
  return t;
}
void check_smem(Warp& w, u32 addr, u32 bytes, u32 align, int l, const char* what) {
  if (addr & (align - 1))
    throw SimError(kMisaligned, std::string(what) + ": shared address " + hex(addr) + " is not a multiple of " + std::to_string(align), l);
  w.shared_at(addr, bytes, l, true);
}
u32 box_bytes(const TensorMap& t) {
  u32 b = t.elem;
  for (int k = 0; k < t.rank; k++) b *= (t.box[k] + t.estride[k] - 1) / t.estride[k];
  return b;
}

void bulk_run(const Bulk& b) {
  Cluster& c = *b.w->cluster;
  Warp& w = *b.w;
  if (b.load) {
    for (u32 r = 0; r < 16; r++) {
      if (!((b.cta_mask >> r) & 1)) continue;
      u32 dst = (b.smem & 0xffffff) | r << kRankShift, mb = (b.mbar & 0xffffff) | r << kRankShift;
      if (r >= c.ctas.size()) throw SimError(kIllegalAddress, "multicast mask names CTA rank " + std::to_string(r) + " outside the cluster", b.lane);
      Cta& ct = *c.ctas[r];
      if (ct.done)
        throw SimError(kIllegalAddress,
                       "the bulk copy issued at PTX line " + std::to_string(b.line) + " arrives after CTA rank " + std::to_string(r) +
                           " has exited (its completion was never awaited)",
                       b.lane);
      if (b.tensor) {
        u32 bytes = box_bytes(b.t);
        check_smem(w, dst, bytes, 16, b.lane, "tensor copy");
        u8* base = ct.smem.data();
        u32 off0 = dst & 0xffffff;
        u8 fill_byte[16] = {};
        if (b.t.oob)
          for (int k = 0; k < 16; k += b.t.elem) {
            u64 nan = b.t.elem == 2 ? 0x7fff : 0x7fffffff;
            memcpy(fill_byte + k, &nan, b.t.elem);
          }
        Alloc al{0, 0, "", false, 0};
        box_loop(b.t, b.coord, true, [&](u64 g, u32 so, u32 n) {
          u8* d = base + swz(off0 + so, b.t.swizzle);
          if (!g) {
            memcpy(d, fill_byte, n);
            return;
          }
          if (g < al.base || g + n > al.base + al.size) {
            w.global_at(g, n, b.lane);
            mem_find(g, al);
          }
          memcpy(d, (void*)g, n);
        });
        if (options().uninit) memset(&ct.written[off0], 1, bytes);
        mbar_complete(c, mb, bytes, 0);
      } else {
        u8* d = w.shared_at(dst, b.size, b.lane, true);
        const u8* s = b.dsmem ? w.shared_at((u32)b.gaddr, b.size, b.lane, true) : w.global_at(b.gaddr, b.size, b.lane);
        if (b.red == kRedNone)
          memcpy(d, s, b.size);
        else {
          u32 es = ty_bits(b.ty) / 8;
          for (u32 k = 0; k < b.size; k += es) {
            u64 v = 0;
            memcpy(&v, s + k, es);
            atomic_at(d + k, b.red, b.ty, v, 0, es);
          }
        }
        if (options().uninit) memset(&ct.written[dst & 0xffffff], 1, b.size);
        mbar_complete(c, mb, b.size, 0);
      }
      if (c.race) race_async_done(c, mb);
    }
    return;
  }
  if (w.cta->done)
    throw SimError(
        kIllegalAddress,
        "the bulk store issued at PTX line " + std::to_string(b.line) + " reads shared memory after its CTA has exited (no cp.async.bulk.wait_group)", b.lane);
  if (b.tensor) {
    u8* base = w.cta->smem.data();
    u32 off0 = b.smem & 0xffffff;
    Alloc al{0, 0, "", false, 0};
    box_loop(b.t, b.coord, b.red == kRedNone, [&](u64 g, u32 so, u32 n) {
      if (!g) return;
      const u8* s = base + swz(off0 + so, b.t.swizzle);
      if (g < al.base || g + n > al.base + al.size) {
        w.global_at(g, n, b.lane);
        mem_find(g, al);
      }
      if (b.red == kRedNone)
        memcpy((void*)g, s, n);
      else {
        u64 v = 0;
        memcpy(&v, s, n);
        atomic_at((u8*)g, b.red, b.ty, v, 0, n);
      }
    });
  } else {
    const u8* s = w.shared_at(b.smem, b.size, b.lane, false);
    u8* d = w.global_at(b.gaddr, b.size, b.lane);
    if (b.red == kRedNone)
      memcpy(d, s, b.size);
    else {
      u32 es = ty_bits(b.ty) / 8;
      for (u32 k = 0; k < b.size; k += es) {
        u64 v = 0;
        memcpy(&v, s + k, es);
        atomic_at(d + k, b.red, b.ty, v, 0, es);
      }
    }
  }
  c.progress++;
}
// x->p: 0 smem, 3 tensor map or global address, 6 mbar (address operands); 9 coordinate count; v[0] coordinates
// aux: 1 tensor, 2 load, 4 dsmem; aux2: reduction + 1; o[2] size; o[3] cta mask (o[4] != 0: multicast)
void bulk_h(Warp& w, const Inst& i, u32 m) {
  lanes(m, [&](int l) {
    Bulk b{};
    b.w = &w;
    b.lane = l;
    b.tensor = i.aux & 1;
    b.load = i.aux & 2;
    b.dsmem = i.aux & 4;
    b.red = (int)i.aux2 - 1;
    b.line = i.ast->line;
    b.smem = sh_addr(w, addr_val(w, i, 0, l), l);
    u64 other = addr_val(w, i, 3, l);
    if (b.load) b.mbar = sh_addr(w, addr_val(w, i, 6, l), l);
    u32 bytes;
    if (b.tensor) {
      b.t = tmap_at(w, other, l);
      if (b.t.rank != i.n)
        throw SimError(kIllegalInstruction, "tensor copy of rank " + std::to_string(i.n) + " with a tensor map of rank " + std::to_string(b.t.rank), l);
      for (int k = 0; k < i.n; k++) b.coord[k] = w.reg<s32>(i.x->v[0][k])[l];
      bytes = box_bytes(b.t);
      b.ty = tmap_ty(b.t.dtype);
      check_smem(w, b.smem, bytes, b.t.swizzle ? 128 : 128, l, "tensor copy");
    } else {
      bytes = b.size = w.reg<u32>(i.o[2])[l];
      b.gaddr = other;
      b.ty = (Ty)i.rw;
      if (b.dsmem) b.gaddr = sh_addr(w, other, l);
      if (bytes & 15) throw SimError(kMisaligned, "bulk copy of " + std::to_string(bytes) + " bytes (not a multiple of 16)", l);
      if ((b.smem | b.gaddr) & 15) throw SimError(kMisaligned, "bulk copy address not a multiple of 16: shared " + hex(b.smem) + ", other " + hex(b.gaddr), l);
      if (bytes == 0) return;
      check_smem(w, b.smem, bytes, 16, l, "bulk copy");
      if (!b.dsmem) w.global_at(b.gaddr, bytes, l);
    }
    b.cta_mask = i.o[4] ? (i.rw == 0xff ? 0 : w.reg<u16>(i.o[3])[l]) : (u16)(1u << (b.smem >> kRankShift));
    if (b.load) {
      mbar_load(*w.cluster, b.mbar);
      if (!i.o[4] && b.mbar >> kRankShift != b.smem >> kRankShift && !b.dsmem)
        throw SimError(kIllegalAddress, "bulk copy: destination and mbarrier are in different CTAs", l);
    }
    w.st.tma_bytes += bytes;
    if (w.cluster->race) {
      for (u32 r = 0; r < 16; r++)
        if ((b.cta_mask >> r) & 1 || !b.load) {
          race_async(w, b.load ? ((b.smem & 0xffffff) | r << kRankShift) : b.smem, bytes, b.load, i.ast->line);
          if (!b.load) break;
        }
    }
    if (options().lazy) {
      Cluster& c = *w.cluster;
      c.async.push_back({[b] { bulk_run(b); }, &w, l, b.load ? 0 : 1, b.load ? 0 : w.bulk_open[l], c.tick + 1 + c.rng() % 48, "bulk"});
    } else
      bulk_run(b);
  });
}
}  // namespace

void dec_bulk(Decoder& d, Inst& i) {
  i.cls = kClassAsync;
  if (d.has("prefetch")) {
    i.fn = [](Warp&, const Inst&, u32) {};
    return;
  }
  if (d.has("commit_group")) {
    i.fn = [](Warp& w, const Inst&, u32 m) { lanes(m, [&](int l) { w.bulk_open[l]++; }); };
    return;
  }
  if (d.has("wait_group")) {
    i.aux = d.op(0).imm;
    i.fn = [](Warp& w, const Inst& i, u32 m) {
      if (options().lazy) lanes(m, [&](int l) { drain_bulk(w, l, w.bulk_open[l] - (int)i.aux); });
      if (w.cluster->race) race_async_wait(w);
    };
    return;
  }
  auto& x = d.ext(i);
  bool tensor = d.has("tensor"), red = d.has("reduce");
  // destination space first, source second in the opcode
  std::vector<std::string_view> sp;
  for (auto p : d.a->parts)
    if (p == "global" || p == "shared::cluster" || p == "shared::cta") sp.push_back(p);
  if (sp.size() < 2) d.bad("unsupported form");
  for (auto p : {"im2col", "im2col_no_offs", "tile::gather4", "tile::scatter4", "im2col::w"})
    if (d.has(p)) d.bad("unsupported form");
  bool load = sp[0] != "global", dsmem = load && sp[1] != "global";
  i.aux = tensor | load << 1 | dsmem << 2;
  i.aux2 = red ? red_of(d) + 1 : 0;
  if (red && i.aux2 == 0) d.bad("unsupported reduction");
  i.flags |= kFlagShcluster;
  const AstOp &dst = d.op(0), &src = d.op(1);
  const AstOp &sm = load ? dst : src, &gl = load ? src : dst;
  put_addr(x, 0, addr_op(d, sm, Space::Shared));
  AstOp base = gl;
  base.sub.clear();
  put_addr(x, 3, addr_op(d, base, Space::Generic));
  size_t k = 2;
  if (tensor) {
    if (gl.sub.size() != 1 || gl.sub[0].kind != AstOp::Vec) d.bad("tensor coordinates expected");
    i.n = gl.sub[0].sub.size();
    for (auto& s : gl.sub[0].sub) x.v[0].push_back(d.src(s, 32));
  } else {
    i.o[2] = d.src(d.op(k++), 32);
    if (red) i.rw = (u8)d.last_ty();
  }
  if (load) put_addr(x, 6, addr_op(d, d.op(k++), Space::Shared));
  if (d.has("multicast::cluster")) {
    i.o[4] = 1;
    i.o[3] = d.src(d.op(k++), 16);
  }
  i.fn = &bulk_h;
}

// st.async{.weak}.shared::cluster.mbarrier::complete_tx::bytes{.v}.type [a], b, [mbar];  red.async likewise
void dec_st_async(Decoder& d, Inst& i) {
  i.cls = kClassAsync;
  auto& x = d.ext(i);
  bool red = d.part(0) == "red";
  Ty t = d.last_ty();
  int bits = ty_bits(t);
  put_addr(x, 0, addr_op(d, d.op(0), Space::Shared));
  put_addr(x, 6, addr_op(d, d.op(2), Space::Shared));
  if (d.op(1).kind == AstOp::Vec)
    for (auto& s : d.op(1).sub) x.v[0].push_back(d.src(s, bits, ty_float(t)));
  else
    x.v[0].push_back(d.src(d.op(1), bits, ty_float(t)));
  i.w = bits / 8;
  i.aux2 = red ? red_of(d) + 1 : 0;
  i.aux = (u32)t;
  i.fn = [](Warp& w, const Inst& i, u32 m) {
    lanes(m, [&](int l) {
      u32 a = sh_addr(w, addr_val(w, i, 0, l), l), mb = sh_addr(w, addr_val(w, i, 6, l), l), n = i.x->v[0].size() * i.w;
      u8* p = w.shared_at(a, n, l, true);
      for (size_t k = 0; k < i.x->v[0].size(); k++) {
        if (!i.aux2)
          memcpy(p + k * i.w, w.R + i.x->v[0][k] + l * i.w, i.w);
        else {
          u64 v = 0;
          memcpy(&v, w.R + i.x->v[0][k] + l * i.w, i.w);
          atomic_at(p + k * i.w, i.aux2 - 1, (Ty)i.aux, v, 0, i.w);
        }
      }
      mbar_complete(*w.cluster, mb, n, 0);
    });
  };
}

// tensormap.replace.tile.field.space.b1024.type [addr], {ord,} value;  tensormap.cp_fenceproxy [dst], [src], 128
static void dec_tensormap(Decoder& d, Inst& i) {
  i.cls = kClassAsync;
  auto& x = d.ext(i);
  if (d.has("cp_fenceproxy")) {
    put_addr(x, 0, addr_op(d, d.op(0), Space::Global));
    put_addr(x, 3, addr_op(d, d.op(1), Space::Shared));
    i.flags |= kFlagCtrl;
    i.fn = [](Warp& w, const Inst& i, u32 m) {
      if (!converge(w, i, m, w.live)) return;
      int l = __builtin_ctz(m);
      memcpy(w.global_at(addr_val(w, i, 0, l), 128, l), w.shared_at(sh_addr(w, addr_val(w, i, 3, l), l), 128, l, false), 128);
      w.cur.pc++;
    };
    return;
  }
  if (d.part(1) != "replace") d.bad("unsupported form");
  Space sp = d.space_of();
  put_addr(x, 0, addr_op(d, d.op(0), sp));
  i.space = sp;
  Ty t = d.last_ty();
  const char* f[] = {"global_address", "rank",     "box_dim",           "global_dim",   "global_stride",
                     "element_stride", "elemtype", "interleave_layout", "swizzle_mode", "fill_mode"};
  i.aux = 99;
  for (u32 k = 0; k < 10; k++)
    if (d.has(f[k])) i.aux = k;
  if (i.aux == 99) d.bad("unsupported field");
  size_t k = 1;
  if (i.aux >= 2 && i.aux <= 5) i.aux2 = d.op(k++).imm;
  i.rw = ty_bits(t) / 8;
  if (i.rw == 0) i.rw = 4;
  i.o[2] = d.src(d.op(k), i.rw * 8);
  i.fn = [](Warp& w, const Inst& i, u32 m) {
    lanes(m, [&](int l) {
      TensorMap& t = *(TensorMap*)w.resolve(i.space, addr_val(w, i, 0, l), 128, l, false);
      u64 v = i.rw == 8 ? w.reg<u64>(i.o[2])[l] : w.reg<u32>(i.o[2])[l];
      u32 o = i.aux2;
      t.magic = kTmapMagic;  // programs build maps from 128 zero bytes
      switch (i.aux) {
        case 0: t.addr = v; break;
        case 1: t.rank = v + 1; break;
        case 2: t.box[o] = v; break;
        case 3: t.dim[o] = v - 1; break;
        case 4: t.stride[o] = v; break;
        case 5: t.estride[o] = v; break;
        case 6: {  // PTX numbers its element types otherwise than the driver's CUtensorMapDataType
          static const u8 map[13] = {0, 1, 2, 3, 4, 5, 6, 7, 10, 8, 9, 11, 12};
          t.dtype = v < 13 ? map[v] : 0;
          t.elem = elem_bytes(t.dtype);
          break;
        }
        case 7: t.interleave = v; break;
        case 8: t.swizzle = v; break;
        case 9: t.oob = v; break;
      }
    });
  };
}

int elem_bytes(int dt) {
  static const int e[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
  return dt >= 0 && dt < 13 ? e[dt] : 0;
}
std::string encode_tiled(TensorMap& t, int dtype, u32 rank, u64 addr, const u64* dims, const u64* strides, const u32* box, const u32* estr, int interleave,
                         int swizzle, int l2, int oob) {
  memset((void*)&t, 0, sizeof t);
  int es = elem_bytes(dtype);
  if (!es) return "unknown or unsupported data type " + std::to_string(dtype);
  if (rank < 1 || rank > 5) return "rank must be 1..5";
  if (addr & 15) return "globalAddress must be a multiple of 16";
  if (interleave) return "interleaved layouts are not simulated";
  if (swizzle < 0 || swizzle > 3) return "swizzle mode is not simulated";
  t.addr = addr;
  t.rank = rank;
  t.dtype = dtype;
  t.interleave = interleave;
  t.swizzle = swizzle;
  t.oob = oob;
  t.elem = es;
  t.magic = kTmapMagic;
  for (u32 k = 0; k < rank; k++) {
    if (dims[k] == 0 || dims[k] > (1ull << 32)) return "globalDim[" + std::to_string(k) + "] must be 1..2^32";
    if (box[k] == 0 || box[k] > 256) return "boxDim[" + std::to_string(k) + "] must be 1..256";
    if (estr[k] == 0 || estr[k] > 8) return "elementStrides[" + std::to_string(k) + "] must be 1..8";
    t.dim[k] = (u32)(dims[k] - 1);
    t.box[k] = box[k];
    t.estride[k] = estr[k];
    if (k) {
      u64 s = strides[k - 1];
      if (s & 15 || s >= (1ull << 40)) return "globalStrides[" + std::to_string(k - 1) + "] must be a multiple of 16 below 2^40";
      t.stride[k - 1] = s;
    }
  }
  u32 inner = box[0] * es;
  if (inner & 15) return "inner box extent must be a multiple of 16 bytes";
  static const u32 lim[] = {0, 32, 64, 128};
  if (swizzle && inner > lim[swizzle]) return "inner box extent " + std::to_string(inner) + " exceeds the swizzle span " + std::to_string(lim[swizzle]);
  return "";
}

void register_async(DecodeTable& t) {
  t["mbarrier"] = dec_mbarrier;
  t["tensormap"] = dec_tensormap;
}

}  // namespace atoll::gpusim
