// Bulk copies (TMA): 1D and tensor loads, stores, reductions, multicast; st.async and red.async.
#include "tests/gpusim/handlers.h"
#include "tests/gpusim/memory.h"
#include "tests/gpusim/tma.h"

namespace atoll::gpusim {
namespace {
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
  u32 number;                             // of the warp's bulk stores (race checker)
  u32 copies[16];                         // by CTA rank: number of the copy among those of its mbarrier
  std::shared_ptr<std::vector<u8>> held;  // a store's source, once read
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

std::string source_of_line(const Bulk& b) {
  for (const Inst& i : b.w->L->fn->code)
    if (i.ast && i.ast->line == b.line) return source_of(b.w->L->fn, &i);
  return "PTX line " + std::to_string(b.line);
}
// When a copy may complete: soon, later, or only when nothing else can run.
u64 late(Cluster& c) {
  const u64 kind = c.rng() % 4;
  return c.tick + 1 + (kind == 0 ? c.rng() % 8 : kind == 1 ? c.rng() % 64 : kind == 2 ? c.rng() % 512 : 4096);
}
void reduce_into(u8* d, const u8* s, u32 size, int red, Ty ty) {
  const u32 es = ty_bits(ty) / 8;
  for (u32 k = 0; k < size; k += es) {
    u64 v = 0;
    memcpy(&v, s + k, std::min(es, 8u));
    atomic_at(d + k, red, ty, v, 0, es);
  }
}
void fill_out_of_bounds(const TensorMap& t, u8* chunk) {
  memset(chunk, 0, 16);
  if (!t.oob) return;
  const u64 nan = t.elem == 2 ? 0x7fff : 0x7fffffff;
  for (int k = 0; k < 16; k += t.elem) memcpy(chunk + k, &nan, t.elem);
}
void load_box(const Bulk& b, Cta& ct, u32 dst) {
  Warp& w = *b.w;
  const u32 bytes = box_bytes(b.t), off0 = dst & 0xffffff;
  check_smem(w, dst, bytes, 16, b.lane, "tensor copy");
  u8* base = ct.smem.data();
  u8 outside[16];
  fill_out_of_bounds(b.t, outside);
  const bool uninit = options().uninit;
  box_loop(b.t, b.coord, true, [&](u64 g, u32 so, u32 n) {
    const u32 off = swz(off0 + so, b.t.swizzle);
    if (!g) {
      memcpy(base + off, outside, n);
      ct.async_wrote(off, n);
      if (uninit) memset(&ct.written[off], 1, n);
      return;
    }
    memcpy(base + off, w.global_at(g, n, b.lane), n);
    ct.async_wrote(off, n);
    if (!uninit) return;
    const Shadow* s = mem_shadow(w, g, n);
    if (s && s->uninit)
      memcpy(&ct.written[off], const_cast<Shadow*>(s)->written.data() + (g - s->base), n);
    else
      memset(&ct.written[off], 1, n);
  });
}
void run_load(const Bulk& b) {
  Cluster& c = *b.w->cluster;
  Warp& w = *b.w;
  for (u32 r = 0; r < 16; r++) {
    if (!((b.cta_mask >> r) & 1)) continue;
    const u32 dst = (b.smem & 0xffffff) | r << kRankShift, mb = (b.mbar & 0xffffff) | r << kRankShift;
    if (r >= c.ctas.size()) throw SimError(kIllegalAddress, "multicast mask names CTA rank " + std::to_string(r) + " outside the cluster", b.lane);
    Cta& ct = *c.ctas[r];
    if (ct.done)
      throw SimError(
          kIllegalAddress,
          "the bulk copy issued at " + source_of_line(b) + " arrives after CTA rank " + std::to_string(r) + " has exited (its completion was never awaited)",
          b.lane);
    u32 bytes = b.size;
    if (b.tensor) {
      bytes = box_bytes(b.t);
      load_box(b, ct, dst);
    } else {
      u8* d = w.shared_at(dst, b.size, b.lane, true);
      const u8* s = nullptr;
      if (b.dsmem) {
        w.shared_at((u32)b.gaddr, b.size, b.lane, true);  // bounds
        s = c.ctas[b.gaddr >> kRankShift]->async_view() + (b.gaddr & 0xffffff);
      } else
        s = w.global_at(b.gaddr, b.size, b.lane);
      if (b.red == kRedNone)
        memcpy(d, s, b.size);
      else
        reduce_into(d, s, b.size, b.red, b.ty);
      ct.async_wrote(dst & 0xffffff, b.size);
      if (options().uninit) {
        if (b.dsmem)
          memset(&ct.written[dst & 0xffffff], 1, b.size);
        else
          copy_written(ct, dst & 0xffffff, b.gaddr, b.size);
      }
    }
    if (c.race) {
      race_mbar_use(w, mb, true, b.line, b.lane);
      race_sync_var(c, mb).raise(race_agent(c, AgentKind::kCopies, mb), b.copies[r]);
    }
    try {
      mbar_complete(c, mb, bytes, 0);
    } catch (const SimError& e) { throw SimError(e.code, std::string(e.what()) + "\n  by     the copy issued at " + source_of_line(b), e.lane); }
  }
}
// A store reads its shared memory (wait_group.read waits for no more), then writes.
void read_source(Bulk& b) {
  if (b.held) return;
  Cta& ct = *b.w->cta;
  if (ct.done)
    throw SimError(kIllegalAddress,
                   "the bulk store issued at " + source_of_line(b) + " reads shared memory after its CTA has exited (no cp.async.bulk.wait_group)", b.lane);
  const u32 bytes = b.tensor ? box_bytes(b.t) : b.size, off = b.smem & 0xffffff, first = off & ~1023u;  // a swizzle moves chunks within 1024 bytes
  const u32 last = std::min<u32>((off + bytes + 1023) & ~1023u, ct.smem.size());
  b.held = std::make_shared<std::vector<u8>>(ct.async_view() + first, ct.async_view() + last);
}
void run_store(Bulk& b) {
  Warp& w = *b.w;
  read_source(b);
  const u32 off0 = b.smem & 0xffffff, first = off0 & ~1023u;
  const u8* held = b.held->data();
  const bool uninit = options().uninit;
  auto to_global = [&](u64 g, const u8* s, u32 n) {
    u8* d = w.global_at(g, n, b.lane);
    if (b.red == kRedNone)
      memcpy(d, s, n);
    else
      reduce_into(d, s, n, b.red, b.ty);
    if (!uninit) return;
    Shadow* sh = mem_shadow(w, g, n);
    if (sh && sh->uninit) memset(&sh->written[g - sh->base], 1, n);
  };
  if (b.tensor)
    box_loop(b.t, b.coord, b.red == kRedNone, [&](u64 g, u32 so, u32 n) {
      if (g) to_global(g, held + swz(off0 + so, b.t.swizzle) - first, n);
    });
  else
    to_global(b.gaddr, held + (off0 - first), b.size);
  w.cluster->progress++;
}
// What the race checker is told at issue: accesses happen after it and before their completion is observed.
void note_bulk(Warp& w, Bulk& b, u32 bytes) {
  Cluster& c = *w.cluster;
  if (!c.race) return;
  Access global;
  global.line = b.line, global.async = true;
  if (b.load) {
    global.agent = w.agent, global.clock = w.clock.of(w.agent);
    for (u32 r = 0; r < c.ctas.size(); r++) {
      if (!((b.cta_mask >> r) & 1)) continue;
      const u32 mb = (b.mbar & 0xffffff) | r << kRankShift;
      Access to;
      to.write = to.async = true, to.line = b.line;
      to.agent = race_agent(c, AgentKind::kCopies, mb), to.clock = b.copies[r] = race_next_copy(c, mb);
      if (!(b.cta_mask & (b.cta_mask - 1))) global.agent = to.agent, global.clock = to.clock;  // its source is read until the mbarrier says so
      race_shared(w, (b.smem & 0xffffff) | r << kRankShift, bytes, to);
      if (b.dsmem) {
        to.write = false;
        race_shared(w, (u32)b.gaddr, bytes, to);
      }
    }
    if (b.dsmem) return;
  } else {
    b.number = ++w.bulk_ops;
    Access from;
    from.async = true, from.line = b.line, from.agent = race_agent(c, AgentKind::kStoreRead, w.agent), from.clock = b.number;
    if (options().uninit && !b.tensor)
      for (u32 k = 0; k < bytes; k++)
        if (!w.cta->written[(b.smem & 0xffffff) + k])
          throw SimError(kIllegalAddress,
                         "bulk store of shared memory that nobody has written: shared offset " + std::to_string((b.smem & 0xffffff) + k - kSmemBase), b.lane);
    race_shared(w, b.smem, bytes, from);
    global.write = true, global.strong = b.red != kRedNone;
    global.agent = race_agent(c, AgentKind::kStoreWrite, w.agent), global.clock = b.number;
  }
  if (b.tensor)
    box_loop(b.t, b.coord, true, [&](u64 g, u32, u32 n) {
      if (g) race_global(w, g, n, global);
    });
  else
    race_global(w, b.gaddr, bytes, global);
}
// x->p: 0 smem, 3 tensor map or global address, 6 mbar (address operands); 9 coordinate count; v[0] coordinates
// aux: 1 tensor, 2 load, 4 dsmem; aux2: reduction + 1; o[2] size; o[3] cta mask (o[4] != 0: multicast)
void bulk_h(Warp& w, const Inst& i, u32 m) {
  Bulk previous{};
  lanes(m, [&](int l) {
    Bulk b{};
    b.w = &w;
    b.lane = l;
    b.tensor = i.aux & 1;
    b.load = i.aux & 2;
    b.dsmem = i.aux & 4;
    b.red = (int)i.aux2 - 1;
    b.line = i.ast->line;
    b.smem = sh_addr(addr_val(w, i, 0, l), l);
    u64 other = addr_val(w, i, 3, l);
    if (b.load) b.mbar = sh_addr(addr_val(w, i, 6, l), l);
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
      if (b.dsmem) b.gaddr = sh_addr(other, l);
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
    const bool again = previous.w && !b.load && b.red == kRedNone && b.smem == previous.smem && b.gaddr == previous.gaddr &&
                       !memcmp(b.coord, previous.coord, sizeof b.coord) && !memcmp((const void*)&b.t, (const void*)&previous.t, sizeof b.t);
    if (again)  // CUTLASS lets all lanes of a warp issue one and the same store: the hardware does it once
      b.number = previous.number;
    else
      note_bulk(w, b, bytes);
    previous = b;
    if (!options().lazy) {
      if (b.load)
        run_load(b);
      else
        run_store(b);
      return;
    }
    Cluster& c = *w.cluster;
    if (b.load) {
      c.async.push_back({[b] { run_load(b); }, nullptr, &w, l, 0, 0, late(c)});
      return;
    }
    auto store = std::make_shared<Bulk>(b);
    c.async.push_back({[store] { run_store(*store); }, [store] { read_source(*store); }, &w, l, 1, w.bulk_open[l], late(c)});
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
    i.fn = [](Warp& w, const Inst&, u32 m) {
      lanes(m, [&](int l) {
        w.bulk_group_ops[l].push_back(w.bulk_ops);
        w.bulk_open[l]++;
      });
    };
    return;
  }
  if (d.has("wait_group")) {
    i.aux = d.op(0).imm;
    i.aux2 = d.has("read");
    i.fn = [](Warp& w, const Inst& i, u32 m) {
      lanes(m, [&](int l) {
        const int upto = w.bulk_open[l] - (int)i.aux;
        if (upto <= 0) return;
        if (options().lazy) {
          if (i.aux2)
            for (auto& o : w.cluster->async) {
              if (o.w == &w && o.lane == l && o.kind == 1 && o.group < upto) o.read();
            }
          else
            drain_async(w, l, 1, upto);
        }
        if (!w.cluster->race) return;
        const u32 number = w.bulk_group_ops[l][upto - 1];
        w.clock.raise(race_agent(*w.cluster, AgentKind::kStoreRead, w.agent), number);
        if (!i.aux2) w.clock.raise(race_agent(*w.cluster, AgentKind::kStoreWrite, w.agent), number);
      });
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
      u32 a = sh_addr(addr_val(w, i, 0, l), l), mb = sh_addr(addr_val(w, i, 6, l), l), n = i.x->v[0].size() * i.w;
      u8* p = w.shared_at(a, n, l, true);
      if (options().uninit) memset(&w.cluster->ctas[a >> kRankShift]->written[a & 0xffffff], 1, n);
      if (w.cluster->race) {
        Access to;
        to.write = to.async = to.any_proxy = true, to.line = i.ast->line;
        to.agent = race_agent(*w.cluster, AgentKind::kCopies, mb), to.clock = race_next_copy(*w.cluster, mb);
        race_shared(w, a, n, to);
        race_mbar_use(w, mb, true, i.ast->line, l);
        race_sync_var(*w.cluster, mb).raise(to.agent, to.clock);
      }
      for (size_t k = 0; k < i.x->v[0].size(); k++) {
        if (!i.aux2)
          memcpy(p + k * i.w, w.R + i.x->v[0][k] + l * i.w, i.w);
        else {
          u64 v = 0;
          memcpy(&v, w.R + i.x->v[0][k] + l * i.w, i.w);
          atomic_at(p + k * i.w, i.aux2 - 1, (Ty)i.aux, v, 0, i.w);
        }
      }
      w.cluster->ctas[a >> kRankShift]->async_wrote(a & 0xffffff, n);
      mbar_complete(*w.cluster, mb, n, 0);
    });
  };
}
}  // namespace atoll::gpusim
