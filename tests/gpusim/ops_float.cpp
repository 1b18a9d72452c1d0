// Floating-point arithmetic: f32, f64, f16(x2), bf16(x2).
#include <cfenv>
#include "tests/gpusim/approximate.h"
#include "tests/gpusim/decode.h"
#include "tests/gpusim/halfs.h"

namespace atoll::gpusim {
namespace {

inline float sat01(float x) { return x != x ? 0.f : x < 0 ? 0.f : x > 1 ? 1.f : x; }
template <class T>
inline T pmin(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == 0 && b == 0) return std::signbit(a) ? a : b;
  return a < b ? a : b;
}
template <class T>
inline T pmax(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == 0 && b == 0) return std::signbit(a) ? b : a;
  return a > b ? a : b;
}

enum Fop { FADD, FSUB, FMUL, FFMA, FDIV, FMIN, FMAX, FABS, FNEG, FSQRT, FRSQRT, FRCP, FEX2, FLG2, FSIN, FCOS, FTANH, FCOPYSIGN, FREM };

template <int OP, class T>
inline T apply(T a, T b, T c) {
  if constexpr (OP == FADD) return a + b;
  if constexpr (OP == FSUB) return a - b;
  if constexpr (OP == FMUL) return a * b;
  if constexpr (OP == FFMA) return std::fma(a, b, c);
  if constexpr (OP == FDIV) return a / b;
  if constexpr (OP == FMIN) return pmin(a, b);
  if constexpr (OP == FMAX) return pmax(a, b);
  if constexpr (OP == FABS) return std::fabs(a);
  if constexpr (OP == FNEG) return -a;
  if constexpr (OP == FSQRT) return std::sqrt(a);
  if constexpr (OP == FRSQRT) return (T)(1.0 / std::sqrt((double)a));
  if constexpr (OP == FRCP) return T(1) / a;
  if constexpr (OP == FEX2) return std::exp2(a);
  if constexpr (OP == FLG2) return std::log2(a);
  if constexpr (OP == FSIN) return std::sin(a);
  if constexpr (OP == FCOS) return std::cos(a);
  if constexpr (OP == FTANH) return std::tanh(a);
  return std::copysign(b, a);  // copysign.f32 d, a, b: sign of a, magnitude of b
}
constexpr int arity(int op) { return op == FFMA ? 3 : (op <= FDIV || op == FMIN || op == FMAX || op == FCOPYSIGN) ? 2 : 1; }

// FLAGS: 1 ftz, 2 sat
template <int OP, class T, int FLAGS>
void fh(Warp& w, const Inst& i, u32 m) {
  T* d = w.reg<T>(i.o[0]);
  const T *a = w.reg<T>(i.o[1]), *b = w.reg<T>(i.o[arity(OP) >= 2 ? 2 : 1]), *c = w.reg<T>(i.o[arity(OP) >= 3 ? 3 : 1]);
  lanes(m, [&](int l) {
    T x = a[l], y = b[l], z = c[l];
    if constexpr (sizeof(T) == 4 && (FLAGS & 1)) {
      x = flush(x);
      y = flush(y);
      z = flush(z);
    }
    T r = apply<OP, T>(x, y, z);
    if constexpr (sizeof(T) == 4) {
      if (FLAGS & 1) r = flush(r);
      if (FLAGS & 2) r = sat01(r);
    }
    d[l] = r;
  });
}
// other rounding modes: aux = op, aux2 = mode | ftz << 4 | sat << 5
template <class T>
__attribute__((noinline)) T rounded(int op, T a0, T b0, T c0, int mode) {
  volatile T a = a0, b = b0, c = c0, r = 0;
  int old = fegetround();
  fesetround(mode);
  switch (op) {
    case FADD: r = a + b; break;
    case FSUB: r = a - b; break;
    case FMUL: r = a * b; break;
    case FDIV: r = a / b; break;
    case FFMA: r = std::fma((T)a, (T)b, (T)c); break;
    case FSQRT: r = std::sqrt((T)a); break;
    case FRCP: r = T(1) / a; break;
  }
  fesetround(old);
  return r;
}
template <class T>
void fh_round(Warp& w, const Inst& i, u32 m) {
  static const int modes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
  lanes(m, [&](int l) {
    T x = w.reg<T>(i.o[1])[l], y = w.reg<T>(i.o[2])[l], z = w.reg<T>(i.o[3])[l];
    bool ftz = i.aux2 & 16;
    if (sizeof(T) == 4 && ftz) {
      x = flush(x);
      y = flush(y);
      z = flush(z);
    }
    T r = rounded<T>(i.aux, x, y, z, modes[i.aux2 & 3]);
    if (sizeof(T) == 4) {
      if (ftz) r = flush(r);
      if (i.aux2 & 32) r = sat01(r);
    }
    w.reg<T>(i.o[0])[l] = r;
  });
}
template <int OP>
Handler pick_f(Ty t, int flags) {
  if (t == Ty::F64) return &fh<OP, double, 0>;
  switch (flags) {
    case 0: return &fh<OP, float, 0>;
    case 1: return &fh<OP, float, 1>;
    case 2: return &fh<OP, float, 2>;
    default: return &fh<OP, float, 3>;
  }
}
Handler pick(int op, Ty t, int fl) {
  switch (op) {
    case FADD: return pick_f<FADD>(t, fl);
    case FSUB: return pick_f<FSUB>(t, fl);
    case FMUL: return pick_f<FMUL>(t, fl);
    case FFMA: return pick_f<FFMA>(t, fl);
    case FDIV: return pick_f<FDIV>(t, fl);
    case FMIN: return pick_f<FMIN>(t, fl);
    case FMAX: return pick_f<FMAX>(t, fl);
    case FABS: return pick_f<FABS>(t, fl);
    case FNEG: return pick_f<FNEG>(t, fl);
    case FSQRT: return pick_f<FSQRT>(t, fl);
    case FRSQRT: return pick_f<FRSQRT>(t, fl);
    case FRCP: return pick_f<FRCP>(t, fl);
    case FEX2: return pick_f<FEX2>(t, fl);
    case FLG2: return pick_f<FLG2>(t, fl);
    case FSIN: return pick_f<FSIN>(t, fl);
    case FCOS: return pick_f<FCOS>(t, fl);
    case FTANH: return pick_f<FTANH>(t, fl);
    case FCOPYSIGN: return pick_f<FCOPYSIGN>(t, fl);
  }
  return nullptr;
}

// 16-bit formats. aux2: 1 bf16, 2 x2, 4 relu, 8 sat, 16 NaN-propagating min/max, 32 ftz
inline double half_op(int op, double a, double b, double c) {
  switch (op) {
    case FADD: return a + b;
    case FSUB: return a - b;
    case FMUL: return a * b;
    case FFMA: return std::fma(a, b, c);
    case FDIV: return a / b;
    case FMIN: return pmin(a, b);
    case FMAX: return pmax(a, b);
    case FEX2: return std::exp2(a);
    case FTANH: return std::tanh(a);
    case FSQRT: return std::sqrt(a);
    case FRCP: return 1 / a;
    case FLG2: return std::log2(a);
  }
  return 0;
}
inline u16 half1(int op, u32 fl, u16 a, u16 b, u16 c) {
  if (op == FABS) return a & 0x7fff;
  if (op == FNEG) return a ^ 0x8000;
  bool bf = fl & 1;
  double x = bf ? bf16f(a) : f16f(a), y = bf ? bf16f(b) : f16f(b), z = bf ? bf16f(c) : f16f(c);
  double r = half_op(op, x, y, z);
  if ((fl & 16) && (op == FMIN || op == FMAX) && (x != x || y != y)) return 0x7fff;
  if (fl & 8) r = r != r ? 0 : r < 0 ? 0 : r > 1 ? 1 : r;
  if ((fl & 4) && r < 0) r = 0;
  // single rounding from a (nearly) exact double; add and mul of two 16-bit values are exact enough in double
  return bf ? pack_bf16(r, Rnd::RN) : pack_f16(r, Rnd::RN);
}
void half_h(Warp& w, const Inst& i, u32 m) {
  int op = i.aux;
  u32 fl = i.aux2;
  if (fl & 2) {
    u32 *d = w.reg<u32>(i.o[0]), *a = w.reg<u32>(i.o[1]), *b = w.reg<u32>(i.o[2]), *c = w.reg<u32>(i.o[3]);
    lanes(m, [&](int l) {
      u32 lo = half1(op, fl, a[l], b[l], c[l]), hi = half1(op, fl, a[l] >> 16, b[l] >> 16, c[l] >> 16);
      d[l] = lo | hi << 16;
    });
  } else {
    u16 *d = w.reg<u16>(i.o[0]), *a = w.reg<u16>(i.o[1]), *b = w.reg<u16>(i.o[2]), *c = w.reg<u16>(i.o[3]);
    lanes(m, [&](int l) { d[l] = half1(op, fl, a[l], b[l], c[l]); });
  }
}
int fop_of(std::string_view n) {
  static const std::unordered_map<std::string_view, int> t = {{"add", FADD},   {"sub", FSUB},     {"mul", FMUL},   {"fma", FFMA},          {"mad", FFMA},
                                                              {"div", FDIV},   {"min", FMIN},     {"max", FMAX},   {"abs", FABS},          {"neg", FNEG},
                                                              {"sqrt", FSQRT}, {"rsqrt", FRSQRT}, {"rcp", FRCP},   {"ex2", FEX2},          {"lg2", FLG2},
                                                              {"sin", FSIN},   {"cos", FCOS},     {"tanh", FTANH}, {"copysign", FCOPYSIGN}};
  auto it = t.find(n);
  return it == t.end() ? -1 : it->second;
}
// aux: op; aux2: 1 ftz, 2 sat. The exact value, moved by as much as the documentation allows.
void worst_approximation(Warp& w, const Inst& i, u32 m) {
  lanes(m, [&](int l) {
    float x = w.reg<float>(i.o[1])[l], y = w.reg<float>(i.o[2])[l];
    if (i.aux2 & 1) x = flush(x), y = flush(y);
    double e = 0;
    switch (i.aux) {
      case FDIV: e = (double)x / y; break;
      case FSQRT: e = std::sqrt((double)x); break;
      case FRSQRT: e = 1 / std::sqrt((double)x); break;
      case FRCP: e = 1 / (double)x; break;
      case FEX2: e = std::exp2((double)x); break;
      case FLG2: e = std::log2((double)x); break;
      case FSIN: e = std::sin((double)x); break;
      case FCOS: e = std::cos((double)x); break;
      default: e = std::tanh((double)x);
    }
    float r = worst_within(e, error_bound(i.ast->parts[0], x), x, options().seed);
    if (i.aux2 & 1) r = flush(r);
    if (i.aux2 & 2) r = sat01(r);
    w.reg<float>(i.o[0])[l] = r;
  });
}
void nan_min_max(Warp& w, const Inst& i, u32 m) {  // aux: op; f32 with .NaN
  lanes(m, [&](int l) {
    float x = w.reg<float>(i.o[1])[l], y = w.reg<float>(i.o[2])[l];
    if (i.aux2) {
      x = flush(x);
      y = flush(y);
    }
    w.reg<u32>(i.o[0])[l] = (x != x || y != y) ? 0x7fffffff : fbits(i.aux == FMIN ? pmin(x, y) : pmax(x, y));
  });
}
}  // namespace

void dec_float_arith(Decoder& d, Inst& i) {
  i.cls = kClassFloat;
  int op = fop_of(d.part(0));
  if (op < 0) d.bad("unsupported instruction");
  if (d.types().size() > 1) d.bad("unsupported form (mixed types)");
  if (d.has("xorsign")) d.bad("unsupported form");
  Ty t = d.last_ty();
  int bits = ty_bits(t), n = arity(op);
  if ((int)d.nops() != n + 1) d.bad("operand count");
  i.o[0] = d.dst(d.op(0), bits);
  for (int k = 1; k <= n; k++) i.o[k] = d.src(d.op(k), bits, true);
  for (int k = n + 1; k <= 3; k++) i.o[k] = i.o[1];
  if (t == Ty::F16 || t == Ty::F16x2 || t == Ty::BF16 || t == Ty::BF16x2) {
    i.aux = op;
    i.aux2 = (t == Ty::BF16 || t == Ty::BF16x2) | (t == Ty::F16x2 || t == Ty::BF16x2) << 1 | d.has("relu") << 2 | d.has("sat") << 3 | d.has("NaN") << 4 |
             d.has("ftz") << 5;
    i.fn = &half_h;
    return;
  }
  bool ftz = d.has("ftz"), sat = d.has("sat");
  if (t == Ty::F64) ftz = sat = false;
  if (d.has("NaN")) {
    i.aux = op;
    i.aux2 = ftz;
    i.fn = &nan_min_max;
    return;
  }
  int mode = d.has("rz") ? 1 : d.has("rm") ? 2 : d.has("rp") ? 3 : 0;
  if (mode) {
    i.aux = op;
    i.aux2 = mode | ftz << 4 | sat << 5;
    i.fn = t == Ty::F64 ? &fh_round<double> : &fh_round<float>;
    return;
  }
  i.fn = pick(op, t, ftz | sat << 1);
  if (options().approx_worst && t == Ty::F32 && (d.has("approx") || d.has("full"))) {
    i.aux = op;
    i.aux2 = ftz | sat << 1;
    i.fn = &worst_approximation;
  }
}

static void dec_testp(Decoder& d, Inst& i) {
  Ty t = d.last_ty();
  i.o[0] = d.pdst(d.op(0));
  i.o[1] = d.src(d.op(1), ty_bits(t), true);
  auto k = d.part(1);
  i.aux = k == "finite" ? 0 : k == "infinite" ? 1 : k == "number" ? 2 : k == "notanumber" ? 3 : k == "normal" ? 4 : 5;
  i.aux2 = t == Ty::F64;
  i.fn = [](Warp& w, const Inst& i, u32 m) {
    u32 r = 0;
    lanes(m, [&](int l) {
      int c = i.aux2 ? std::fpclassify(w.reg<double>(i.o[1])[l]) : std::fpclassify(w.reg<float>(i.o[1])[l]);
      bool v = false;
      switch (i.aux) {
        case 0: v = c != FP_NAN && c != FP_INFINITE; break;
        case 1: v = c == FP_INFINITE; break;
        case 2: v = c != FP_NAN; break;
        case 3: v = c == FP_NAN; break;
        case 4: v = c == FP_NORMAL; break;
        default: v = c == FP_SUBNORMAL;
      }
      r |= (u32)v << l;
    });
    u32& p = *w.reg<u32>(i.o[0]);
    p = (p & ~m) | (r & m);
  };
}

void register_float(DecodeTable& t) {
  for (auto n : {"sqrt", "rsqrt", "rcp", "ex2", "lg2", "sin", "cos", "tanh", "copysign"}) t[n] = dec_float_arith;
  t["testp"] = dec_testp;
}

}  // namespace atoll::gpusim
