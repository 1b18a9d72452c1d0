// atom and red on global and shared memory.
#include "tests/gpusim/halfs.h"
#include "tests/gpusim/handlers.h"

namespace atoll::gpusim {
namespace {
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
  addresses(w, i, 1, a);
  Ty t = (Ty)i.aux2;
  u32 eb = i.w, sz = eb * i.n;
  bool cl = i.flags & kFlagShcluster;
  if (options().count) stat_mem(w, i, a, m, sz, true);
  lanes(m, [&](int l) {
    if (a[l] & (pow2(sz) - 1)) misaligned(a[l], sz, l);
    u8* p = w.resolve(i.space, a[l], sz, l, cl);
    if (options().race || options().uninit) check_access(w, i, a[l], sz, p, true, l, false);
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
  i.flags |= kFlagVolatile;
  if (d.has("acquire") || d.has("acq_rel")) i.flags |= kFlagAcquire;
  if (d.has("release") || d.has("acq_rel")) i.flags |= kFlagRelease;
  if (d.has("cta") || d.has("cluster")) i.flags |= kFlagNarrow;
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

}  // namespace

void register_atomic(DecodeTable& t) { t["atom"] = t["red"] = dec_atom; }

}  // namespace atoll::gpusim
