// Loads, stores, atomics, cp.async, ldmatrix/stmatrix, address mapping.
#include "tests/gpusim/decode.h"
#include "tests/gpusim/halfs.h"

namespace atoll::gpusim {
void dec_st_async(Decoder&, Inst&);
void dec_bulk(Decoder&, Inst&);

static std::string hex(u64 v) {
  char b[32];
  snprintf(b, sizeof b, "0x%llx", (unsigned long long)v);
  return b;
}

u8* Warp::global_slow(u64 a, u32 n, int lane) {
  Alloc al;
  if (mem_find(a, al) && a + n <= al.base + al.size) {
    g_lo = al.base;
    g_hi = al.base + al.size;
    return (u8*)a;
  }
  if (a >> 32 >= kSharedTag && a >> 32 <= kFuncTag)
    throw SimError(kIllegalAddress, "global access with the generic address of shared or local memory " + hex(a), lane);
  throw SimError(kIllegalAddress, "global memory access out of bounds: address " + hex(a) + ", " + std::to_string(n) + " bytes; " + mem_describe(a, n), lane);
}
u8* Warp::shared_at(u32 a, u32 n, int lane, bool cluster_space) {
  u32 rank = a >> kRankShift, off = a & ((1u << kRankShift) - 1);
  Cta* c = cta;
  if (rank != cta->rank) {
    if (rank >= cluster->ctas.size())
      throw SimError(kIllegalAddress, "shared address " + hex(a) + " names CTA rank " + std::to_string(rank) + " outside the cluster", lane);
    if (!cluster_space)
      throw SimError(kIllegalAddress,
                     "shared::cta access to address " + hex(a) + " of CTA rank " + std::to_string(rank) + " (own rank " + std::to_string(cta->rank) +
                         "); use shared::cluster",
                     lane);
    c = cluster->ctas[rank].get();
    if (c->done) throw SimError(kIllegalAddress, "distributed shared memory access to CTA rank " + std::to_string(rank) + " which has exited", lane);
  }
  if (off < kSmemBase || off + n > kSmemBase + c->smem_size)
    throw SimError(kIllegalAddress,
                   "shared memory access out of bounds: address " + hex(a) + " (offset " + std::to_string((s64)off - kSmemBase) + "), " + std::to_string(n) +
                       " bytes; the CTA has " + std::to_string(c->smem_size) + " bytes",
                   lane);
  return c->smem.data() + off;
}
u8* Warp::local_at(u64 off, u32 n, int lane) {
  if (off + n > local_cap)
    throw SimError(
        kIllegalAddress,
        "local memory access out of bounds: offset " + std::to_string(off) + ", " + std::to_string(n) + " bytes; the stack has " + std::to_string(local_cap),
        lane);
  return local.data() + (size_t)lane * local_cap + off;
}
u8* Warp::resolve(Space sp, u64 a, u32 n, int lane, bool cluster_space) {
  switch (sp) {
    case Space::Global:
    case Space::Const: return global_at(a, n, lane);
    case Space::Shared:
      if (a >> 32) throw SimError(kIllegalAddress, "64-bit address " + hex(a) + " used in the shared space without cvta.to.shared", lane);
      return shared_at((u32)a, n, lane, cluster_space);
    case Space::Local: return local_at(a & 0xffffffff, n, lane);
    default:
      if (a >> 32 == kSharedTag) return shared_at((u32)a, n, lane, true);
      if (a >> 32 == kLocalTag) return local_at((u32)a, n, lane);
      return global_at(a, n, lane);
  }
}

namespace {

inline bool is_shared(const Inst& i, u64 a) { return i.space == Space::Shared || (i.space == Space::Generic && a >> 32 == kSharedTag); }

void stat_mem(Warp& w, const Inst& i, const u64* addr, u32 m, u32 sz, bool store) {
  bool sh = false;
  int first = __builtin_ctz(m);
  sh = is_shared(i, addr[first]);
  u64 bytes = (u64)__builtin_popcount(m) * sz;
  if (i.space == Space::Local || i.space == Space::Const) return;
  if (sh) {
    (store ? w.st.s_bytes_st : w.st.s_bytes_ld) += bytes;
    int per = sz <= 4 ? 32 : sz == 8 ? 16 : 8;  // lanes per phase
    for (int p = 0; p < 32; p += per) {
      u64 words[32][8];
      int cnt[32] = {};
      int worst = 0;
      for (int l = p; l < p + per; l++)
        if ((m >> l) & 1)
          for (u32 b = 0; b < std::max(4u, sz); b += 4) {
            u64 wd = (addr[l] + b) >> 2;
            int bk = wd & 31;
            bool dup = false;
            for (int k = 0; k < std::min(cnt[bk], 8); k++)
              if (words[bk][k] == wd) dup = true;
            if (!dup) {
              if (cnt[bk] < 8) words[bk][cnt[bk]] = wd;
              cnt[bk]++;
              worst = std::max(worst, cnt[bk]);
            }
          }
      if (worst) {
        w.st.bank_access++;
        w.st.bank_conflict += worst - 1;
      }
    }
  } else {
    (store ? w.st.g_bytes_st : w.st.g_bytes_ld) += bytes;
    u64 sec[128];
    int ns = 0;
    for (int l = 0; l < 32; l++)
      if ((m >> l) & 1)
        for (u64 s = addr[l] >> 5; s <= (addr[l] + sz - 1) >> 5; s++) {
          bool dup = false;
          for (int k = ns - 1; k >= 0 && k >= ns - 8; k--)
            if (sec[k] == s) dup = true;
          if (!dup && ns < 128) sec[ns++] = s;
        }
    w.st.g_sectors += ns;
  }
}
[[noreturn]] void misaligned(u64 a, u32 sz, int l) {
  throw SimError(kMisaligned, "misaligned access: address " + hex(a) + " is not a multiple of " + std::to_string(sz), l);
}
inline u32 pow2(u32 v) { return v & (v - 1) ? 1u << (31 - __builtin_clz(v)) : v; }

inline void addresses(Warp& w, const Inst& i, int k, u32 m, u64* a) {
  if (i.aw == 8) {
    const u64* r = w.reg<u64>(i.o[k]);
    for (int l = 0; l < 32; l++) a[l] = r[l] + i.imm;
  } else {
    const u32* r = w.reg<u32>(i.o[k]);
    for (int l = 0; l < 32; l++) a[l] = (u32)(r[l] + (u32)i.imm);
  }
}
void check_shared(Warp& w, const Inst& i, u64 a, u32 sz, int l, const u8* p, bool store, bool atomic) {
  Cta* c = w.cluster->ctas[(u32)a >> kRankShift].get();
  u32 off = p - c->smem.data();
  if (options().uninit) {
    if (store)
      memset(&c->written[off], 1, sz);
    else
      for (u32 k = 0; k < sz; k++)
        if (!c->written[off + k]) { throw SimError(kIllegalAddress, "read of shared memory that nobody has written: address " + hex(a + k), l); }
  }
  if (w.cluster->race) {
    if (store)
      race_write(w, (u32)a, sz, i, l, atomic);
    else
      race_read(w, (u32)a, sz, i, l);
  }
}

template <int W, int RW, bool SGN>
inline void ext(char* d, const u8* s) {
  if constexpr (W == RW)
    memcpy(d, s, W);
  else {
    u64 v = 0;
    memcpy(&v, s, W);
    if (SGN) v = (u64)((s64)(v << (64 - 8 * W)) >> (64 - 8 * W));
    memcpy(d, &v, RW);
  }
}
template <int W, int RW, bool SGN>
void ld_h(Warp& w, const Inst& i, u32 m) {
  u64 a[32];
  addresses(w, i, 1, m, a);
  u32 sz = i.n * W, al = pow2(sz);
  u64 orv = 0;
  for (int l = 0; l < 32; l++) orv |= (m >> l) & 1 ? a[l] : 0;
  if (orv & (al - 1))
    lanes(m, [&](int l) {
      if (a[l] & (al - 1)) misaligned(a[l], al, l);
    });
  if (options().stats) stat_mem(w, i, a, m, sz, false);
  const u32* regs = i.n > 1 ? i.x->v[0].data() : &i.o[0];
  bool checks = options().race || options().uninit, cl = i.flags & kFlagShcluster;
  u32 n = i.n;
  auto one = [&](int l) {
    const u8* p = w.resolve(i.space, a[l], sz, l, cl);
    if (checks && is_shared(i, a[l])) check_shared(w, i, a[l], sz, l, p, false, false);
    for (u32 k = 0; k < n; k++) ext<W, RW, SGN>(w.R + regs[k] + l * RW, p + k * W);
  };
  lanes(m, one);
}
template <int W, int RW>
void st_h(Warp& w, const Inst& i, u32 m) {
  u64 a[32];
  addresses(w, i, 1, m, a);
  u32 sz = i.n * W, al = pow2(sz);
  u64 orv = 0;
  for (int l = 0; l < 32; l++) orv |= (m >> l) & 1 ? a[l] : 0;
  if (orv & (al - 1))
    lanes(m, [&](int l) {
      if (a[l] & (al - 1)) misaligned(a[l], al, l);
    });
  if (options().stats) stat_mem(w, i, a, m, sz, true);
  const u32* regs = i.n > 1 ? i.x->v[0].data() : &i.o[0];
  bool checks = options().race || options().uninit, cl = i.flags & kFlagShcluster;
  u32 n = i.n;
  lanes(m, [&](int l) {
    u8* p = w.resolve(i.space, a[l], sz, l, cl);
    if (checks && is_shared(i, a[l])) check_shared(w, i, a[l], sz, l, p, true, false);
    for (u32 k = 0; k < n; k++) memcpy(p + k * W, w.R + regs[k] + l * RW, W);
  });
  w.cluster->progress++;
}
// ld.param of a kernel parameter with a symbolic address: the same value for all lanes
template <int W, int RW>
void ld_uniform(Warp& w, const Inst& i, u32 m) {
  const u32* regs = i.n > 1 ? i.x->v[0].data() : &i.o[0];
  for (u32 k = 0; k < i.n; k++) {
    u64 v[2] = {0, 0};
    memcpy(v, (u8*)i.imm + k * W, W);
    char* d = w.R + regs[k];
    lanes(m, [&](int l) { memcpy(d + l * RW, v, RW); });
  }
}

template <int W>
Handler ld_pick(int rw, bool s) {
  switch (rw) {
    case 2:
      if constexpr (W <= 2) return s ? &ld_h<W, 2, true> : &ld_h<W, 2, false>;
      return nullptr;
    case 4:
      if constexpr (W <= 4) return s ? &ld_h<W, 4, true> : &ld_h<W, 4, false>;
      return nullptr;
    case 8:
      if constexpr (W <= 8) return s ? &ld_h<W, 8, true> : &ld_h<W, 8, false>;
      return nullptr;
    case 16:
      if constexpr (W == 16) return &ld_h<16, 16, false>;
      return nullptr;
  }
  return nullptr;
}
template <int W>
Handler st_pick(int rw) {
  switch (rw) {
    case 2:
      if constexpr (W <= 2) return &st_h<W, 2>;
      return nullptr;
    case 4:
      if constexpr (W <= 4) return &st_h<W, 4>;
      return nullptr;
    case 8:
      if constexpr (W <= 8) return &st_h<W, 8>;
      return nullptr;
    case 16:
      if constexpr (W == 16) return &st_h<16, 16>;
      return nullptr;
  }
  return nullptr;
}
void mem_class(Inst& i) {
  i.cls = i.space == Space::Shared ? kClassLdstS : (i.space == Space::Global || i.space == Space::Generic) ? kClassLdstG : kClassLdstO;
}

void dec_ld(Decoder& d, Inst& i) {
  bool st = d.part(0) == "st";
  if (st && d.has("async")) { return dec_st_async(d, i); }
  if (d.has("acquire") || d.has("release") || d.has("volatile") || d.has("relaxed")) i.flags |= kFlagVolatile;
  Ty t = d.last_ty();
  int bits = ty_bits(t);
  if (bits < 8) d.bad("unsupported type");
  Space sp = d.space_of();
  const AstOp &data = d.op(st ? 1 : 0), &ad = d.op(st ? 0 : 1);
  bool kparam = false;
  if (sp == Space::Param && !st && d.af.is_entry && !ad.name.empty()) {
    AstReg r;
    if (!d.lookup_reg(ad.name, d.a->scope, r)) {
      for (auto& p : d.af.params)
        if (p.name == ad.name) kparam = true;
    }
  }
  d.addr(ad, i, 1, sp);
  i.space = sp;
  if (d.has("shared::cluster")) i.flags |= kFlagShcluster;
  mem_class(i);
  i.w = bits / 8;
  u8 rw = 0;
  auto one = [&](const AstOp& o) {
    u8 wd;
    u32 r = st ? d.any_src(o, std::max(16, bits), wd, ty_float(t)) : d.any_dst(o, std::max(16, bits), wd);
    if (o.kind == AstOp::Sink && rw) wd = rw;
    if (rw && wd != rw) d.bad("mixed register widths");
    rw = wd;
    return r;
  };
  if (data.kind == AstOp::Vec) {
    auto& x = d.ext(i);
    for (auto& s : data.sub) x.v[0].push_back(one(s));
    i.n = data.sub.size();
    if (i.n == 1) i.o[0] = x.v[0][0];
  } else
    i.o[0] = one(data);
  i.rw = rw;
  if (kparam) {
    for (size_t k = 0; k < d.af.params.size(); k++)
      if (d.af.params[k].name == ad.name) i.imm += d.f.param_addr + d.f.param_off[k];
    if (i.w == 1 && rw == 2)
      i.fn = ty_signed(t) ? nullptr : &ld_uniform<1, 2>;
    else if (i.w == rw)
      i.fn = rw == 2 ? &ld_uniform<2, 2> : rw == 4 ? &ld_uniform<4, 4> : &ld_uniform<8, 8>;
    if (i.fn) return;
    i.imm -= 0;
    // widening load: generic path with an absolute address
    i.o[1] = d.const_slot(0, 64);
    i.aw = 8;
    i.space = Space::Const;
  }
  bool sg = ty_signed(t);
  switch (i.w) {
    case 1: i.fn = st ? st_pick<1>(rw) : ld_pick<1>(rw, sg); break;
    case 2: i.fn = st ? st_pick<2>(rw) : ld_pick<2>(rw, sg); break;
    case 4: i.fn = st ? st_pick<4>(rw) : ld_pick<4>(rw, sg); break;
    case 8: i.fn = st ? st_pick<8>(rw) : ld_pick<8>(rw, sg); break;
    case 16: i.fn = st ? st_pick<16>(rw) : ld_pick<16>(rw, false); break;
  }
}

// ---- atomics ------------------------------------------------------------------
enum AtomOp { kAtomAdd, kAtomMin, kAtomMax, kAtomAnd, kAtomOr, kAtomXor, kAtomExch, kAtomCas, kAtomInc, kAtomDec };
u64 rmw(int op, Ty t, u64 o, u64 b, u64 c) {
  switch (op) {
    case kAtomAnd: return o & b;
    case kAtomOr: return o | b;
    case kAtomXor: return o ^ b;
    case kAtomExch: return b;
    case kAtomCas: return o == b ? c : o;
    case kAtomInc: return (u32)o >= (u32)b ? 0 : (u32)o + 1;
    case kAtomDec: return ((u32)o == 0 || (u32)o > (u32)b) ? (u32)b : (u32)o - 1;
  }
  auto f16op = [&](u16 x, u16 y, bool bf) -> u16 {
    double p = bf ? bf16f(x) : f16f(x), q = bf ? bf16f(y) : f16f(y);
    double r = op == kAtomAdd ? p + q : op == kAtomMin ? (p != p ? q : q != q ? p : std::min(p, q)) : (p != p ? q : q != q ? p : std::max(p, q));
    return bf ? pack_bf16(r, Rnd::RN) : pack_f16(r, Rnd::RN);
  };
  switch (t) {
    case Ty::F32: {
      float x = bitsf(o), y = bitsf(b);
      return fbits(op == kAtomAdd ? x + y : op == kAtomMin ? std::fmin(x, y) : std::fmax(x, y));
    }
    case Ty::F64: {
      double x, y;
      memcpy(&x, &o, 8);
      memcpy(&y, &b, 8);
      x = op == kAtomAdd ? x + y : op == kAtomMin ? std::fmin(x, y) : std::fmax(x, y);
      u64 r;
      memcpy(&r, &x, 8);
      return r;
    }
    case Ty::F16: return f16op(o, b, false);
    case Ty::BF16: return f16op(o, b, true);
    case Ty::F16x2: return (u32)f16op(o, b, false) | (u32)f16op(o >> 16, b >> 16, false) << 16;
    case Ty::BF16x2: return (u32)f16op(o, b, true) | (u32)f16op(o >> 16, b >> 16, true) << 16;
    case Ty::S32: return (u32)(op == kAtomAdd ? (s32)((u32)o + (u32)b) : op == kAtomMin ? std::min((s32)o, (s32)b) : std::max((s32)o, (s32)b));
    case Ty::U32:
    case Ty::B32: return op == kAtomAdd ? (u32)o + (u32)b : op == kAtomMin ? std::min((u32)o, (u32)b) : std::max((u32)o, (u32)b);
    case Ty::S64: return op == kAtomAdd ? o + b : op == kAtomMin ? (u64)std::min((s64)o, (s64)b) : (u64)std::max((s64)o, (s64)b);
    default: return op == kAtomAdd ? o + b : op == kAtomMin ? std::min(o, b) : std::max(o, b);
  }
}
template <class T>
T cas_loop(u8* p, int op, Ty t, u64 b, u64 c) {
  T* q = (T*)p;
  T old = __atomic_load_n(q, __ATOMIC_SEQ_CST);
  for (;;) {
    T nw = (T)rmw(op, t, old, b, c);
    if (__atomic_compare_exchange_n(q, &old, nw, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return old;
  }
}
std::mutex g128;
}  // namespace
u64 atomic_at(u8* p, int op, Ty t, u64 b, u64 c, int bytes) {
  switch (bytes) {
    case 2: return cas_loop<u16>(p, op, t, b, c);
    case 4: return cas_loop<u32>(p, op, t, b, c);
    default: return cas_loop<u64>(p, op, t, b, c);
  }
}
namespace {
// o[0] dest, o[1] address, o[2] operand, o[3] second operand; aux op, aux2 type; n vector count; target: has destination
void atom_h(Warp& w, const Inst& i, u32 m) {
  u64 a[32];
  addresses(w, i, 1, m, a);
  Ty t = (Ty)i.aux2;
  u32 eb = i.w, sz = eb * i.n;
  bool cl = i.flags & kFlagShcluster;
  if (options().stats) stat_mem(w, i, a, m, sz, true);
  lanes(m, [&](int l) {
    if (a[l] & (pow2(sz) - 1)) misaligned(a[l], sz, l);
    u8* p = w.resolve(i.space, a[l], sz, l, cl);
    if ((options().race || options().uninit) && is_shared(i, a[l])) check_shared(w, i, a[l], sz, l, p, true, true);
    if (eb == 16) {
      std::lock_guard<std::mutex> lk(g128);
      u64 old[2];
      memcpy(old, p, 16);
      char* b = w.R + i.o[2] + l * 16;
      if (i.aux == kAtomExch)
        memcpy(p, b, 16);
      else if (!memcmp(old, b, 16))
        memcpy(p, w.R + i.o[3] + l * 16, 16);
      if (i.target) memcpy(w.R + i.o[0] + l * 16, old, 16);
      return;
    }
    for (u32 k = 0; k < i.n; k++) {
      u32 rb = i.n > 1 ? i.x->v[1][k] : i.o[2];
      u64 b = 0, c = 0;
      memcpy(&b, w.R + rb + l * i.rw, eb);
      if (i.aux == kAtomCas) memcpy(&c, w.R + i.o[3] + l * i.rw, eb);
      u64 old = atomic_at(p + k * eb, i.aux, t, b, c, eb);
      if (i.target) memcpy(w.R + (i.n > 1 ? i.x->v[0][k] : i.o[0]) + l * i.rw, &old, i.rw);
    }
  });
  w.cluster->progress++;
}
void dec_atom(Decoder& d, Inst& i) {
  bool red = d.part(0) == "red";
  if (red && d.has("async")) { return dec_st_async(d, i); }
  static const std::unordered_map<std::string_view, int> t = {{"add", kAtomAdd}, {"min", kAtomMin},   {"max", kAtomMax}, {"and", kAtomAnd}, {"or", kAtomOr},
                                                              {"xor", kAtomXor}, {"exch", kAtomExch}, {"cas", kAtomCas}, {"inc", kAtomInc}, {"dec", kAtomDec}};
  int op = -1;
  Ty ty = Ty::None;
  for (auto p : d.a->parts) {
    auto it = t.find(p);
    if (it != t.end() && op < 0) op = it->second;
    Ty y = parse_ty(p);
    if (y != Ty::None) ty = y;
  }
  if (op < 0 || ty == Ty::None) d.bad("unsupported form");
  Space sp = d.space_of();
  size_t k = red ? 0 : 1;
  d.addr(d.op(k), i, 1, sp);
  i.space = sp;
  if (d.has("shared::cluster")) i.flags |= kFlagShcluster;
  int bits = ty_bits(ty);
  i.w = bits / 8;
  i.rw = i.w;
  i.aux = op;
  i.aux2 = (u32)ty;
  i.cls = kClassAtom;
  i.target = !red && d.op(0).kind != AstOp::Sink;
  const AstOp& data = d.op(k + 1);
  if (data.kind == AstOp::Vec) {
    auto& x = d.ext(i);
    i.n = data.sub.size();
    for (auto& s : data.sub) x.v[1].push_back(d.src(s, bits));
    if (!red) {
      if (d.op(0).kind == AstOp::Vec)
        for (auto& s : d.op(0).sub) x.v[0].push_back(d.dst(s, bits));
    }
    if (i.n == 1) d.bad("unsupported form");
  } else {
    i.o[2] = d.src(data, bits, ty_float(ty));
    if (op == kAtomCas) i.o[3] = d.src(d.op(k + 2), bits, ty_float(ty));
    i.o[0] = red ? d.scratch : d.dst(d.op(0), bits);
  }
  i.fn = &atom_h;
}

// ---- cp.async (16-byte and smaller copies by threads) -----------------------------
void cp_async(Warp& w, const Inst& i, u32 m) {
  u64 da[32], sa[32];
  Inst tmp = i;
  addresses(w, i, 1, m, da);
  tmp.imm = i.x->p[0];
  tmp.aw = i.x->p[1];
  addresses(w, tmp, 2, m, sa);
  u32 sz = i.aux;
  if (options().stats) {
    tmp.space = Space::Global;
    stat_mem(w, tmp, sa, m, sz, false);
    tmp.space = Space::Shared;
    stat_mem(w, tmp, da, m, sz, true);
  }
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
    if (options().race || options().uninit) check_shared(w, i, da[l], sz, l, d, true, false);
    auto run = [d, s, n, sz] {
      if (n) memcpy(d, s, n);
      if (n < sz) memset(d + n, 0, sz - n);
    };
    if (options().lazy)
      w.cluster->async.push_back({run, &w, l, 2, w.cp_open[l], w.cluster->tick + w.cluster->rng() % 64, "cp.async"});
    else
      run();
  });
}
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
    i.fn = [](Warp& w, const Inst&, u32 m) { lanes(m, [&](int l) { w.cp_open[l]++; }); };
    return;
  }
  if (d.has("wait_group") || d.has("wait_all")) {
    i.aux = d.has("wait_all") ? 0 : d.op(0).imm;
    i.aux2 = d.has("wait_all");
    i.fn = [](Warp& w, const Inst& i, u32 m) {
      if (!options().lazy) return;
      lanes(m, [&](int l) { drain_async(w, l, 2, i.aux2 ? INT32_MAX : w.cp_open[l] - (int)i.aux); });
    };
    return;
  }
  if (d.has("mbarrier")) {  // cp.async.mbarrier.arrive{.noinc}.shared.b64 [addr]
    Space sp = d.space_of();
    d.addr(d.op(0), i, 1, sp);
    i.aux = d.has("noinc");
    i.fn = [](Warp& w, const Inst& i, u32 m) {
      u64 a[32];
      addresses(w, i, 1, m, a);
      lanes(m, [&](int l) {
        if (options().lazy) drain_async(w, l, 2, INT32_MAX);
        if (w.cluster->race) race_release(w, race_sync_var(*w.cluster, (u32)a[l]));
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

// ---- ldmatrix / stmatrix -------------------------------------------------------------
void ldmatrix_h(Warp& w, const Inst& i, u32 m) {
  u64 a[32];
  addresses(w, i, 1, m, a);
  u16 mat[4][8][8];
  for (u32 j = 0; j < i.n; j++)
    for (int r = 0; r < 8; r++) {
      int l = j * 8 + r;
      if (a[l] & 15) misaligned(a[l], 16, l);
      u8* p = w.resolve(i.space, a[l], 16, l, false);
      if (options().race || options().uninit) check_shared(w, i, a[l], 16, l, p, false, false);
      memcpy(mat[j][r], p, 16);
    }
  if (options().stats) {
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
void stmatrix_h(Warp& w, const Inst& i, u32 m) {
  u64 a[32];
  addresses(w, i, 1, m, a);
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
  if (options().stats) {
    for (u32 j = 0; j < i.n; j++) stat_mem(w, i, a, 0xffu << (8 * j), 16, true);
  }
  for (u32 j = 0; j < i.n; j++)
    for (int r = 0; r < 8; r++) {
      int l = j * 8 + r;
      if (a[l] & 15) misaligned(a[l], 16, l);
      u8* p = w.resolve(i.space, a[l], 16, l, false);
      if (options().race || options().uninit) check_shared(w, i, a[l], 16, l, p, true, false);
      memcpy(p, mat[j][r], 16);
    }
}
void matrix_ctl(Warp& w, const Inst& i, u32 m) {
  if (!converge(w, i, m, w.live)) return;
  if (i.aux2)
    stmatrix_h(w, i, m);
  else
    ldmatrix_h(w, i, m);
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
void dec_nop(Decoder& d, Inst& i) {
  i.fn = &nop;
  i.cls = kClassLdstO;
  if (d.part(0) == "fence" && d.has("proxy") && d.has("async"))
    i.fn = [](Warp& w, const Inst&, u32) {
      if (w.cluster->race) race_proxy_fence(w);
    };
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

void drain_bulk(Warp& w, int lane, int upto) { drain_async(w, lane, 1, upto); }

void register_mem(DecodeTable& t) {
  t["ld"] = t["st"] = t["ldu"] = dec_ld;
  t["atom"] = t["red"] = dec_atom;
  t["cp"] = dec_cp_async;
  t["ldmatrix"] = t["stmatrix"] = dec_matrix;
  for (auto n : {"membar", "fence", "prefetch", "prefetchu", "applypriority", "discard"}) t[n] = dec_nop;
  t["createpolicy"] = dec_policy;
  t["mapa"] = dec_mapa;
  t["getctarank"] = dec_get_cta_rank;
}

}  // namespace atoll::gpusim
