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

// aux: destination type, aux2: source type; n: rounding; flags of x->p: 0 integer rounding, 1 ftz, 2 sat, 3 relu
void cvt_slow(Warp& w, const Inst& i, u32 m) {
  Ty dt = (Ty)i.aux, st = (Ty)i.aux2;
  Rnd r = (Rnd)i.n;
  bool int_round = i.x->p[0], ftz = i.x->p[1], sat = i.x->p[2], relu = i.x->p[3];
  int drw = i.rw, srw = i.w;
  char *D = w.R + i.o[0], *S = w.R + i.o[1];
  lanes(m, [&](int l) {
    char* d = D + l * drw;
    const char* s = S + l * srw;
    if (!ty_float(st)) {
      s64 v = load_int(s, st);
      if (!ty_float(dt)) {
        if (sat) {
          double lo, hi;
          s64 ilo;
          u64 ihi;
          int_range(dt, lo, hi, ilo, ihi);
          if (ty_signed(st) || st != Ty::U64) {
            if (v < ilo)
              v = ilo;
            else if (v > 0 && (u64)v > ihi)
              v = (s64)ihi;
          } else if ((u64)v > ihi)
            v = (s64)ihi;
        }
        store_int(d, v, dt, drw);
        return;
      }
      bool uns64 = st == Ty::U64 || st == Ty::B64;
      if (dt == Ty::F64) {
        double x = uns64 ? (double)(u64)v : (double)v;
        memcpy(d, &x, 8);
        return;
      }
      if (dt == Ty::F32) {
        float x = uns64 ? (float)(u64)v : (float)v;
        if (r == Rnd::RZ || r == Rnd::RM || r == Rnd::RP) {
          long double e = uns64 ? (long double)(u64)v : (long double)v;
          long double y = x;
          if (y != e) {
            bool up = y > e;
            if (r == Rnd::RZ ? (up ? e > 0 : e < 0) : r == Rnd::RM ? up : !up) x = std::nextafterf(x, r == Rnd::RZ ? 0.f : r == Rnd::RM ? -INFINITY : INFINITY);
          }
        }
        memcpy(d, &x, 4);
        return;
      }
      double x = uns64 ? (double)(u64)v : (double)v;
      u16 h = dt == Ty::F16 ? pack_f16(x, r) : pack_bf16(x, r);
      memcpy(d, &h, 2);
      return;
    }
    double x = load_float(s, st);
    if (ftz && st == Ty::F32) x = flush((float)x);
    if (!ty_float(dt)) {  // float -> integer
      u64 v;
      double lo, hi;
      s64 ilo;
      u64 ihi;
      int_range(dt, lo, hi, ilo, ihi);
      if (x != x)
        v = ty_bits(dt) == 64 ? 0x8000000000000000ull : 0;
      else {
        double y = round_int(x, r);
        if (y <= lo)
          v = (u64)ilo;
        else if (y >= hi)
          v = ihi;
        else
          v = ty_signed(dt) ? (u64)(s64)y : (u64)y;
        if (y == lo) v = (u64)ilo;
      }
      store_int(d, v, dt, drw);
      return;
    }
    if (int_round) x = round_int(x, r);
    switch (dt) {
      case Ty::F64: {
        if (sat) x = x != x ? 0 : std::min(1.0, std::max(0.0, x));
        memcpy(d, &x, 8);
        return;
      }
      case Ty::F32: {
        float y = (float)x;
        if (st == Ty::F64 && (r == Rnd::RZ || r == Rnd::RM || r == Rnd::RP) && (double)y != x && std::isfinite(x)) {
          bool up = (double)y > x;
          if (r == Rnd::RZ ? (up ? x > 0 : x < 0) : r == Rnd::RM ? up : !up) y = std::nextafterf(y, r == Rnd::RZ ? 0.f : r == Rnd::RM ? -INFINITY : INFINITY);
        }
        if (ftz) y = flush(y);
        if (sat) y = y != y ? 0 : std::min(1.f, std::max(0.f, y));
        if (relu && !(y > 0)) y = y != y ? y : 0;
        if (y != y && (st == Ty::F16 || st == Ty::BF16 || st == Ty::F64)) {
          u32 q = 0x7fffffff;
          memcpy(d, &q, 4);
          return;
        }
        memcpy(d, &y, 4);
        return;
      }
      case Ty::F16:
      case Ty::BF16: {
        if (sat) x = x != x ? 0 : std::min(1.0, std::max(0.0, x));
        if (relu && x < 0) x = 0;
        u16 h = dt == Ty::F16 ? pack_f16(x, r) : pack_bf16(x, r);
        memcpy(d, &h, 2);
        return;
      }
      case Ty::TF32: {
        float y = (float)x;
        u32 u = fbits(y);
        if (std::isfinite(y)) {
          if (r == Rnd::RZ)
            u &= 0xffffe000u;
          else if (r == Rnd::RNA)
            u = (u + 0x1000) & 0xffffe000u;
          else
            u = (u + 0xfff + ((u >> 13) & 1)) & 0xffffe000u;
        } else if (y != y)
          u = 0x7fffffff;
        if (relu && (u & 0x80000000u)) u = 0;
        memcpy(d, &u, 4);
        return;
      }
      default: return;
    }
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

void dec_cvt(Decoder& d, Inst& i) {
  i.cls = kClassCvt;
  if (d.has("pack")) {  // cvt.pack.sat.T.s32{.b32} d, a, b{, c}
    auto ty = d.types();
    Ty t = ty[0];
    i.o[0] = d.dst(d.op(0), 32);
    i.o[1] = d.src(d.op(1), 32);
    i.o[2] = d.src(d.op(2), 32);
    i.o[3] = d.nops() > 3 ? d.src(d.op(3), 32) : d.const_slot(0, 32);
    int b = t == Ty::U4 || t == Ty::S4 ? 4 : ty_bits(t);
    bool sg = ty_signed(t) || t == Ty::S4;
    i.aux = b;
    i.aux2 = sg;
    i.fn = [](Warp& w, const Inst& i, u32 m) {
      s64 lo = i.aux2 ? -(1ll << (i.aux - 1)) : 0, hi = i.aux2 ? (1ll << (i.aux - 1)) - 1 : (1ll << i.aux) - 1;
      u32 mask = (1u << i.aux) - 1;
      lanes(m, [&](int l) {
        s64 a = std::min(hi, std::max<s64>(lo, w.reg<s32>(i.o[1])[l])), b = std::min(hi, std::max<s64>(lo, w.reg<s32>(i.o[2])[l]));
        u32 c = w.reg<u32>(i.o[3])[l];
        w.reg<u32>(i.o[0])[l] = ((u32)b & mask) | ((u32)a & mask) << i.aux | (i.aux == 16 ? 0 : c << (2 * i.aux));
      });
    };
    return;
  }
  auto ty = d.types();
  if (ty.size() != 2) d.bad("unsupported form");
  Ty dt = ty[0], st = ty[1];
  auto& x = d.ext(i);
  Rnd r = Rnd::RN;
  bool int_round = false;
  for (auto p : d.a->parts) {
    if (p == "rn" || p == "rni") r = Rnd::RN;
    if (p == "rz" || p == "rzi") r = Rnd::RZ;
    if (p == "rm" || p == "rmi") r = Rnd::RM;
    if (p == "rp" || p == "rpi") r = Rnd::RP;
    if (p == "rna") r = Rnd::RNA;
    if (p == "rs") d.bad("unsupported rounding");
    if (p.size() == 3 && p[0] == 'r' && p[2] == 'i') int_round = true;
  }
  i.n = (u8)r;
  x.p[0] = int_round;
  x.p[1] = d.has("ftz");
  x.p[2] = d.has("sat");
  x.p[3] = d.has("relu");
  x.p[4] = d.has("satfinite");
  i.aux = (u32)dt;
  i.aux2 = (u32)st;
  bool packed = dt == Ty::BF16x2 || dt == Ty::F16x2 || dt == Ty::E4M3x2 || dt == Ty::E5M2x2 || dt == Ty::UE8M0x2;
  if (packed && st == Ty::F32) {
    i.o[0] = d.dst(d.op(0), ty_bits(dt));
    i.o[1] = d.src(d.op(1), 32, true);
    i.o[2] = d.src(d.op(2), 32, true);
    i.fn = &cvt_pack2;
    return;
  }
  if (packed || ty_bits(dt) == 0) {
    bool ok = (dt == Ty::F16x2 && (st == Ty::E4M3x2 || st == Ty::E5M2x2)) ||
              ((dt == Ty::E4M3x2 || dt == Ty::E5M2x2) && (st == Ty::F16x2 || st == Ty::BF16x2)) || (dt == Ty::BF16x2 && st == Ty::UE8M0x2);
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
  i.rw = dw;
  i.w = sw;
  bool plain = !x.p[1] && !x.p[2] && !x.p[3] && !int_round;
  if (plain && dw * 8 == ty_bits(dt) && sw * 8 == ty_bits(st)) {
    if (dt == Ty::U64 && st == Ty::U32) {
      i.fn = &cvt_fast<u64, u32>;
      return;
    }
    if (dt == Ty::S64 && st == Ty::S32) {
      i.fn = &cvt_fast<s64, s32>;
      return;
    }
    if (dt == Ty::S64 && st == Ty::U32) {
      i.fn = &cvt_fast<u64, u32>;
      return;
    }
    if (ty_bits(dt) == 32 && !ty_float(dt) && ty_bits(st) == 64 && !ty_float(st)) {
      i.fn = &cvt_fast<u32, u64>;
      return;
    }
    if (ty_bits(dt) == 32 && !ty_float(dt) && st == Ty::U16) {
      i.fn = &cvt_fast<u32, u16>;
      return;
    }
    if (ty_bits(dt) == 32 && !ty_float(dt) && st == Ty::S16) {
      i.fn = &cvt_fast<s32, s16>;
      return;
    }
    if (ty_bits(dt) == 16 && !ty_float(dt) && ty_bits(st) == 32 && !ty_float(st)) {
      i.fn = &cvt_fast<u16, u32>;
      return;
    }
    if (dt == Ty::F32 && st == Ty::S32 && r == Rnd::RN) {
      i.fn = &cvt_fast<float, s32>;
      return;
    }
    if (dt == Ty::F32 && st == Ty::U32 && r == Rnd::RN) {
      i.fn = &cvt_fast<float, u32>;
      return;
    }
    if (dt == Ty::F64 && st == Ty::F32) {
      i.fn = &cvt_fast<double, float>;
      return;
    }
    if (dt == Ty::F32 && st == Ty::F64 && r == Rnd::RN) {
      i.fn = &cvt_fast<float, double>;
      return;
    }
    if (dt == Ty::F32 && st == Ty::F16) {
      i.fn = mk1<float, u16>([](u16 v) { return f16f(v); });
      return;
    }
    if (dt == Ty::F32 && st == Ty::BF16) {
      i.fn = mk1<float, u16>([](u16 v) { return bf16f(v); });
      return;
    }
    if (dt == Ty::BF16 && st == Ty::F32 && r == Rnd::RN) {
      i.fn = mk1<u16, float>([](float v) { return f2bf(v); });
      return;
    }
    if (dt == Ty::F16 && st == Ty::F32 && r == Rnd::RN) {
      i.fn = mk1<u16, float>([](float v) { return f2h(v); });
      return;
    }
  }
  if ((dt == Ty::F16 || dt == Ty::BF16 || dt == Ty::F32 || dt == Ty::F64 || dt == Ty::TF32) && dw * 8 != ty_bits(dt)) d.bad("register width");
  i.fn = &cvt_slow;
}
}  // namespace

void register_cvt(DecodeTable& t) { t["cvt"] = dec_cvt; }

}  // namespace atoll::gpusim
