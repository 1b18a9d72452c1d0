// cvt in all its forms, cvt.pack.
#include "tests/gpusim/decode.h"
#include "tests/gpusim/halfs.h"

namespace atoll::gpusim {
namespace {

// Any source as a double (exact for f16..f64) or as a 64-bit integer.
inline s64 load_int(const char* p, Ty t) {
  switch (t) {
    case Ty::U8:
    case Ty::B8: return *(const u8*)p;
    case Ty::S8: return *(const s8*)p;
    case Ty::U16:
    case Ty::B16: return *(const u16*)p;
    case Ty::S16: return *(const s16*)p;
    case Ty::U32:
    case Ty::B32: return *(const u32*)p;
    case Ty::S32: return *(const s32*)p;
    default: return *(const s64*)p;
  }
}
inline double load_float(const char* p, Ty t) {
  switch (t) {
    case Ty::F16: return f16f(*(const u16*)p);
    case Ty::BF16: return bf16f(*(const u16*)p);
    case Ty::F32: return *(const float*)p;
    default: return *(const double*)p;
  }
}
inline void store_int(char* p, u64 v, Ty t, int rw) {  // the register may be wider than the type
  if (ty_signed(t)) {
    switch (ty_bits(t)) {
      case 8: v = (s64)(s8)v; break;
      case 16: v = (s64)(s16)v; break;
      case 32: v = (s64)(s32)v; break;
    }
  } else
    switch (ty_bits(t)) {
      case 8: v = (u8)v; break;
      case 16: v = (u16)v; break;
      case 32: v = (u32)v; break;
    }
  memcpy(p, &v, rw);
}
double round_int(double x, Rnd r) {
  switch (r) {
    case Rnd::RZ: return std::trunc(x);
    case Rnd::RM: return std::floor(x);
    case Rnd::RP: return std::ceil(x);
    default: return std::nearbyint(x);
  }
}
void int_range(Ty t, double& lo, double& hi, s64& ilo, u64& ihi) {
  int b = ty_bits(t);
  if (ty_signed(t)) {
    ilo = b == 64 ? INT64_MIN : -(1ll << (b - 1));
    ihi = b == 64 ? INT64_MAX : (1ull << (b - 1)) - 1;
  } else {
    ilo = 0;
    ihi = b == 64 ? UINT64_MAX : (1ull << b) - 1;
  }
  lo = (double)ilo;
  hi = (double)ihi;
}

// One conversion, as the handlers that decide per lane need it.
struct Conversion {
  Ty to, from;
  Rnd rounding;
  bool int_round, ftz, sat, relu;
  int to_bytes;  // of the destination's register
};
// A value in the direction that rz, rm, rp demand, where the nearest one is not exact.
template <class Exact>
float directed(float nearest, Exact exact, Rnd r) {
  if ((r != Rnd::RZ && r != Rnd::RM && r != Rnd::RP) || (Exact)nearest == exact) return nearest;
  const bool above = (Exact)nearest > exact, wrong = r == Rnd::RZ ? (above ? exact > 0 : exact < 0) : r == Rnd::RM ? above : !above;
  return wrong ? std::nextafterf(nearest, r == Rnd::RZ ? 0.f : r == Rnd::RM ? -INFINITY : INFINITY) : nearest;
}
void int_to_int(char* d, s64 v, const Conversion& c) {
  if (c.sat) {
    double lo, hi;
    s64 ilo;
    u64 ihi;
    int_range(c.to, lo, hi, ilo, ihi);
    if (c.from == Ty::U64)
      v = (u64)v > ihi ? (s64)ihi : v;
    else if (v < ilo)
      v = ilo;
    else if (v > 0 && (u64)v > ihi)
      v = (s64)ihi;
  }
  store_int(d, v, c.to, c.to_bytes);
}
void int_to_float(char* d, s64 v, const Conversion& c) {
  const bool is_unsigned = c.from == Ty::U64 || c.from == Ty::B64;
  const double x = is_unsigned ? (double)(u64)v : (double)v;
  if (c.to == Ty::F64) {
    memcpy(d, &x, 8);
  } else if (c.to == Ty::F32) {
    const float y = directed(is_unsigned ? (float)(u64)v : (float)v, is_unsigned ? (long double)(u64)v : (long double)v, c.rounding);
    memcpy(d, &y, 4);
  } else {
    const u16 h = c.to == Ty::F16 ? pack_f16(x, c.rounding) : pack_bf16(x, c.rounding);
    memcpy(d, &h, 2);
  }
}
void float_to_int(char* d, double x, const Conversion& c) {
  double lo, hi;
  s64 ilo;
  u64 ihi, v;
  int_range(c.to, lo, hi, ilo, ihi);
  const double y = round_int(x, c.rounding);
  if (x != x)
    v = ty_bits(c.to) == 64 ? 0x8000000000000000ull : 0;
  else if (y <= lo)
    v = (u64)ilo;
  else if (y >= hi)
    v = ihi;
  else
    v = ty_signed(c.to) ? (u64)(s64)y : (u64)y;
  store_int(d, v, c.to, c.to_bytes);
}
u32 to_tf32(float y, const Conversion& c) {
  u32 u = fbits(y);
  if (std::isfinite(y)) {
    if (c.rounding != Rnd::RZ) u += c.rounding == Rnd::RNA ? 0x1000 : 0xfff + ((u >> 13) & 1);
    u &= 0xffffe000u;
  } else if (y != y)
    u = 0x7fffffff;
  return c.relu && (u & 0x80000000u) ? 0 : u;
}
u32 to_f32(double x, const Conversion& c) {
  float y = (float)x;
  if (c.from == Ty::F64 && std::isfinite(x)) y = directed(y, x, c.rounding);
  if (c.ftz) y = flush(y);
  if (c.sat) y = y != y ? 0 : std::min(1.f, std::max(0.f, y));
  if (c.relu && !(y > 0)) y = y != y ? y : 0;
  return y != y && c.from != Ty::F32 ? 0x7fffffff : fbits(y);
}
void float_to_float(char* d, double x, const Conversion& c) {
  if (c.int_round) x = round_int(x, c.rounding);
  if (c.to == Ty::F32 || c.to == Ty::TF32) {
    const u32 u = c.to == Ty::F32 ? to_f32(x, c) : to_tf32((float)x, c);
    memcpy(d, &u, 4);
    return;
  }
  if (c.sat) x = x != x ? 0 : std::min(1.0, std::max(0.0, x));
  if (c.to == Ty::F64) {
    memcpy(d, &x, 8);
    return;
  }
  if (c.relu && x < 0) x = 0;
  const u16 h = c.to == Ty::F16 ? pack_f16(x, c.rounding) : pack_bf16(x, c.rounding);
  memcpy(d, &h, 2);
}
// aux: destination type, aux2: source type; n: rounding; flags of x->p: 0 integer rounding, 1 ftz, 2 sat, 3 relu
void cvt_slow(Warp& w, const Inst& i, u32 m) {
  const int* p = i.x->p;
  const Conversion c{(Ty)i.aux, (Ty)i.aux2, (Rnd)i.n, p[0] != 0, p[1] != 0, p[2] != 0, p[3] != 0, i.rw};
  char *to = w.R + i.o[0], *from = w.R + i.o[1];
  lanes(m, [&](int l) {
    char* d = to + l * i.rw;
    const char* s = from + l * i.w;
    if (!ty_float(c.from)) return ty_float(c.to) ? int_to_float(d, load_int(s, c.from), c) : int_to_int(d, load_int(s, c.from), c);
    double x = load_float(s, c.from);
    if (c.ftz && c.from == Ty::F32) x = flush((float)x);
    return ty_float(c.to) ? float_to_float(d, x, c) : float_to_int(d, x, c);
  });
}
// Two f32 -> one packed 16-bit pair or pair of small floats: d = (a << hi) | b.  x->p: 3 relu, 4 satfinite
void cvt_pack2(Warp& w, const Inst& i, u32 m) {
  Ty dt = (Ty)i.aux;
  Rnd r = (Rnd)i.n;
  bool relu = i.x->p[3], sat = i.x->p[4];
  lanes(m, [&](int l) {
    float a = w.reg<float>(i.o[1])[l], b = w.reg<float>(i.o[2])[l];
    if (relu) {
      if (a < 0) a = 0;
      if (b < 0) b = 0;
    }
    switch (dt) {
      case Ty::BF16x2:
        w.reg<u32>(i.o[0])[l] = (r == Rnd::RN && !sat) ? (u32)f2bf(a) << 16 | f2bf(b) : (u32)pack_bf16(a, r, sat) << 16 | pack_bf16(b, r, sat);
        break;
      case Ty::F16x2: w.reg<u32>(i.o[0])[l] = (r == Rnd::RN && !sat) ? (u32)f2h(a) << 16 | f2h(b) : (u32)pack_f16(a, r, sat) << 16 | pack_f16(b, r, sat); break;
      case Ty::E4M3x2: w.reg<u16>(i.o[0])[l] = (u16)pack_e4m3(a) << 8 | pack_e4m3(b); break;
      case Ty::E5M2x2: w.reg<u16>(i.o[0])[l] = (u16)pack_e5m2(a) << 8 | pack_e5m2(b); break;
      case Ty::UE8M0x2: {
        auto e = [&](float x) -> u16 {
          if (x != x) return 0xff;
          if (x <= 0) return 0;
          int ex;
          double f = std::frexp((double)x, &ex);
          ex -= 1;
          if (r == Rnd::RP && f != 0.5) ex++;
          return (u16)std::min(254, std::max(0, ex + 127));
        };
        w.reg<u16>(i.o[0])[l] = e(a) << 8 | e(b);
        break;
      }
      default: break;
    }
  });
}
// packed small floats from or to f16x2 / bf16x2
void cvt_small(Warp& w, const Inst& i, u32 m) {
  Ty dt = (Ty)i.aux, st = (Ty)i.aux2;
  bool relu = i.x->p[3];
  lanes(m, [&](int l) {
    if (dt == Ty::F16x2) {
      u16 v = w.reg<u16>(i.o[1])[l];
      float a = st == Ty::E4M3x2 ? e4m3f(v >> 8) : e5m2f(v >> 8), b = st == Ty::E4M3x2 ? e4m3f(v & 255) : e5m2f(v & 255);
      if (relu) {
        if (a < 0) a = 0;
        if (b < 0) b = 0;
      }
      w.reg<u32>(i.o[0])[l] = (u32)f2h(a) << 16 | f2h(b);
    } else if (dt == Ty::BF16x2) {  // from ue8m0x2
      u16 v = w.reg<u16>(i.o[1])[l];
      auto e = [](u8 x) -> u32 { return x == 255 ? 0x7fff : x == 0 ? 0x0040 : (u32)x << 7; };
      w.reg<u32>(i.o[0])[l] = e(v >> 8) << 16 | e(v & 255);
    } else {
      u32 v = w.reg<u32>(i.o[1])[l];
      float a = st == Ty::F16x2 ? f16f(v >> 16) : bf16f(v >> 16), b = st == Ty::F16x2 ? f16f(v & 0xffff) : bf16f(v & 0xffff);
      if (relu) {
        if (a < 0) a = 0;
        if (b < 0) b = 0;
      }
      w.reg<u16>(i.o[0])[l] = dt == Ty::E4M3x2 ? (u16)pack_e4m3(a) << 8 | pack_e4m3(b) : (u16)pack_e5m2(a) << 8 | pack_e5m2(b);
    }
  });
}
template <class D, class S>
void cvt_fast(Warp& w, const Inst& i, u32 m) {
  D* d = w.reg<D>(i.o[0]);
  const S* s = w.reg<S>(i.o[1]);
  lanes(m, [&](int l) { d[l] = (D)s[l]; });
}

void dec_cvt_pack(Decoder& d, Inst& i) {  // cvt.pack.sat.T.s32{.b32} d, a, b{, c}
  const Ty t = d.types()[0];
  i.o[0] = d.dst(d.op(0), 32);
  i.o[1] = d.src(d.op(1), 32);
  i.o[2] = d.src(d.op(2), 32);
  i.o[3] = d.nops() > 3 ? d.src(d.op(3), 32) : d.const_slot(0, 32);
  i.aux = t == Ty::U4 || t == Ty::S4 ? 4 : ty_bits(t);
  i.aux2 = ty_signed(t) || t == Ty::S4;
  i.fn = [](Warp& w, const Inst& i, u32 m) {
    s64 lo = i.aux2 ? -(1ll << (i.aux - 1)) : 0, hi = i.aux2 ? (1ll << (i.aux - 1)) - 1 : (1ll << i.aux) - 1;
    u32 mask = (1u << i.aux) - 1;
    lanes(m, [&](int l) {
      s64 a = std::min(hi, std::max<s64>(lo, w.reg<s32>(i.o[1])[l])), b = std::min(hi, std::max<s64>(lo, w.reg<s32>(i.o[2])[l]));
      u32 c = w.reg<u32>(i.o[3])[l];
      w.reg<u32>(i.o[0])[l] = ((u32)b & mask) | ((u32)a & mask) << i.aux | (i.aux == 16 ? 0 : c << (2 * i.aux));
    });
  };
}
void cvt_modifiers(Decoder& d, Inst& i) {
  auto& x = d.ext(i);
  Rnd r = Rnd::RN;
  for (auto p : d.a->parts) {
    if (p == "rn" || p == "rni") r = Rnd::RN;
    if (p == "rz" || p == "rzi") r = Rnd::RZ;
    if (p == "rm" || p == "rmi") r = Rnd::RM;
    if (p == "rp" || p == "rpi") r = Rnd::RP;
    if (p == "rna") r = Rnd::RNA;
    if (p == "rs") d.bad("unsupported rounding");
    if (p.size() == 3 && p[0] == 'r' && p[2] == 'i') x.p[0] = true;
  }
  i.n = (u8)r;
  x.p[1] = d.has("ftz");
  x.p[2] = d.has("sat");
  x.p[3] = d.has("relu");
  x.p[4] = d.has("satfinite");
}
// Conversions without modifiers between registers of the types' own widths, vectorised; null for the others.
Handler cvt_plain(Ty to, Ty from, Rnd r) {
  const auto integer = [](Ty t, int bits) { return ty_bits(t) == bits && !ty_float(t); };
  if (to == Ty::S64 && from == Ty::S32) return &cvt_fast<s64, s32>;
  if ((to == Ty::U64 || to == Ty::S64) && from == Ty::U32) return &cvt_fast<u64, u32>;
  if (integer(to, 32) && integer(from, 64)) return &cvt_fast<u32, u64>;
  if (integer(to, 32) && from == Ty::U16) return &cvt_fast<u32, u16>;
  if (integer(to, 32) && from == Ty::S16) return &cvt_fast<s32, s16>;
  if (integer(to, 16) && integer(from, 32)) return &cvt_fast<u16, u32>;
  if (to == Ty::F64 && from == Ty::F32) return &cvt_fast<double, float>;
  if (to == Ty::F32 && from == Ty::F16) return mk1<float, u16>([](u16 v) { return f16f(v); });
  if (to == Ty::F32 && from == Ty::BF16) return mk1<float, u16>([](u16 v) { return bf16f(v); });
  if (r != Rnd::RN) return nullptr;
  if (to == Ty::F32 && from == Ty::S32) return &cvt_fast<float, s32>;
  if (to == Ty::F32 && from == Ty::U32) return &cvt_fast<float, u32>;
  if (to == Ty::F32 && from == Ty::F64) return &cvt_fast<float, double>;
  if (to == Ty::BF16 && from == Ty::F32) return mk1<u16, float>([](float v) { return f2bf(v); });
  if (to == Ty::F16 && from == Ty::F32) return mk1<u16, float>([](float v) { return f2h(v); });
  return nullptr;
}
void dec_cvt(Decoder& d, Inst& i) {
  i.cls = kClassCvt;
  if (d.has("pack")) return dec_cvt_pack(d, i);
  auto ty = d.types();
  if (ty.size() != 2) d.bad("unsupported form");
  const Ty dt = ty[0], st = ty[1];
  cvt_modifiers(d, i);
  i.aux = (u32)dt;
  i.aux2 = (u32)st;
  const bool to_f8 = dt == Ty::E4M3x2 || dt == Ty::E5M2x2, packed = dt == Ty::BF16x2 || dt == Ty::F16x2 || to_f8 || dt == Ty::UE8M0x2;
  if (packed && st == Ty::F32) {
    i.o[0] = d.dst(d.op(0), ty_bits(dt));
    i.o[1] = d.src(d.op(1), 32, true);
    i.o[2] = d.src(d.op(2), 32, true);
    i.fn = &cvt_pack2;
    return;
  }
  if (packed || ty_bits(dt) == 0) {
    const bool ok = (dt == Ty::F16x2 && (st == Ty::E4M3x2 || st == Ty::E5M2x2)) || (to_f8 && (st == Ty::F16x2 || st == Ty::BF16x2)) ||
                    (dt == Ty::BF16x2 && st == Ty::UE8M0x2);
    if (!ok) d.bad("unsupported form");
    i.o[0] = d.dst(d.op(0), ty_bits(dt));
    i.o[1] = d.src(d.op(1), ty_bits(st));
    i.fn = &cvt_small;
    return;
  }
  u8 dw, sw;
  i.o[0] = d.any_dst(d.op(0), std::max(16, ty_bits(dt)), dw);
  i.o[1] = d.any_src(d.op(1), std::max(16, ty_bits(st)), sw, ty_float(st));
  if (dw * 8 < ty_bits(dt) || sw * 8 < ty_bits(st)) d.bad("register too narrow");
  if (ty_float(dt) && dw * 8 != ty_bits(dt)) d.bad("register width");
  i.rw = dw;
  i.w = sw;
  const int* p = i.x->p;
  const bool plain = !p[0] && !p[1] && !p[2] && !p[3] && dw * 8 == ty_bits(dt) && sw * 8 == ty_bits(st);
  if (plain) i.fn = cvt_plain(dt, st, (Rnd)i.n);
  if (!i.fn) i.fn = &cvt_slow;
}
}  // namespace

void register_cvt(DecodeTable& t) { t["cvt"] = dec_cvt; }

}  // namespace atoll::gpusim
