// mov in all its forms, selp, slct, cvta, isspacep, setp, set.
#include "tests/gpusim/halfs.h"
#include "tests/gpusim/handlers.h"
#include "tests/gpusim/int_handlers.h"

namespace atoll::gpusim {
namespace {
// ---- mov, selp, cvta -----------------------------------------------------------
template <class T>
Handler mov_h() {
  return mk1<T, T>([](T a) { return a; });
}
struct P128 {
  u64 a, b;
};
Handler mov_bits(int bits) {
  switch (bits) {
    case 8:
    case 16: return mov_h<u16>();
    case 32: return mov_h<u32>();
    case 64: return mov_h<u64>();
    case 128: return mov_h<P128>();
    default: return nullptr;
  }
}
void mov_pack(Warp& w, const Inst& i, u32 m) {  // d = {v0, v1, ..}
  const auto& v = i.x->v[0];
  u32 eb = i.w, db = i.rw;
  for (size_t k = 0; k < v.size(); k++) {
    const char* s = w.R + v[k];
    char* d = w.R + i.o[0] + k * eb;
    lanes(m, [&](int l) { memcpy(d + l * db, s + l * eb, eb); });
  }
}
void mov_unpack(Warp& w, const Inst& i, u32 m) {  // {v0, v1, ..} = a
  const auto& v = i.x->v[0];
  u32 eb = i.w, db = i.rw;
  u8 tmp[512];
  memcpy(tmp, w.R + i.o[1], db * 32);
  for (size_t k = 0; k < v.size(); k++) {
    char* d = w.R + v[k];
    const u8* s = tmp + k * eb;
    lanes(m, [&](int l) { memcpy(d + l * i.x->w[0][k], s + l * db, eb); });
  }
}
void mov_clock(Warp& w, const Inst& i, u32 m) {
  static std::atomic<u64> tick{1};
  u64 t = tick += 16;
  t += w.st.warp_inst * 4 + w.cluster->tick;
  lanes(m, [&](int l) {
    if (i.rw == 8)
      w.reg<u64>(i.o[0])[l] = t;
    else
      w.reg<u32>(i.o[0])[l] = i.aux ? (u32)(t >> 32) : (u32)t;
  });
}
}  // namespace
void dec_mov_pred(Decoder& d, Inst& i, bool is_not) {
  bool n;
  i.o[0] = d.pdst(d.op(0));
  i.o[1] = d.psrc(d.op(1), n);
  i.aux = n != is_not;
  i.fn = [](Warp& w, const Inst& i, u32 m) {
    u32& p = *w.reg<u32>(i.o[0]);
    u32 a = *w.reg<u32>(i.o[1]);
    if (i.aux) a = ~a;
    p = (p & ~m) | (a & m);
  };
}
namespace {
void dec_mov_pack(Decoder& d, Inst& i, int bits) {
  auto& x = d.ext(i);
  const auto& parts = d.op(1).sub;
  const int part_bits = bits / parts.size();
  i.o[0] = d.dst(d.op(0), bits);
  i.rw = bits / 8;
  i.w = part_bits / 8;
  for (auto& s : parts) x.v[0].push_back(d.src(s, std::max(part_bits, 16)));
  i.fn = &mov_pack;
  if (part_bits == 8)  // bytes live in 16-bit registers
    i.fn = [](Warp& w, const Inst& i, u32 m) {
      for (size_t k = 0; k < i.x->v[0].size(); k++) lanes(m, [&](int l) { w.R[i.o[0] + l * i.rw + k] = w.reg<u16>(i.x->v[0][k])[l]; });
    };
}
void dec_mov_unpack(Decoder& d, Inst& i, int bits) {
  auto& x = d.ext(i);
  const auto& parts = d.op(0).sub;
  const int part_bits = bits / parts.size();
  i.o[1] = d.src(d.op(1), bits);
  i.rw = bits / 8;
  i.w = part_bits / 8;
  for (auto& s : parts) {
    u8 width;
    x.v[0].push_back(d.any_dst(s, part_bits, width));
    x.w[0].push_back(s.kind == AstOp::Sink ? part_bits / 8 : width);
  }
  i.fn = &mov_unpack;
}
void dec_mov(Decoder& d, Inst& i) {
  Ty t = d.last_ty();
  const AstOp &o0 = d.op(0), &o1 = d.op(1);
  int bits = ty_bits(t);
  if (t == Ty::Pred) return dec_mov_pred(d, i, false);
  if (o1.kind == AstOp::Vec) return dec_mov_pack(d, i, bits);
  if (o0.kind == AstOp::Vec) return dec_mov_unpack(d, i, bits);
  int id;
  bool clk;
  if (o1.kind == AstOp::Ident && !d.is_reg(o1) && d.special_reg(o1.name, id, clk) && clk) {
    i.o[0] = d.dst(o0, bits);
    i.rw = bits / 8;
    i.aux = o1.name.find("hi") != std::string_view::npos;
    i.fn = &mov_clock;
    return;
  }
  if (o1.kind == AstOp::Ident && o1.imm && !d.is_reg(o1)) {  // symbol + offset
    AstOp base = o1;
    base.imm = 0;
    i.o[0] = d.dst(o0, bits);
    i.o[1] = d.src(base, bits);
    i.imm = o1.imm;
    i.fn = bits == 64 ? (Handler)[](Warp & w, const Inst& i, u32 m) {
      lanes(m, [&](int l) { w.reg<u64>(i.o[0])[l] = w.reg<u64>(i.o[1])[l] + i.imm; });
    }
                      : (Handler)[](Warp& w, const Inst& i, u32 m) {
                        lanes(m, [&](int l) { w.reg<u32>(i.o[0])[l] = w.reg<u32>(i.o[1])[l] + (u32)i.imm; });
                      };
                      return;
  }
  if (o1.kind == AstOp::Ident && o1.name == "%activemask") d.bad("unsupported");
  i.o[0] = d.dst(o0, std::max(bits, 16));
  i.o[1] = d.src(o1, std::max(bits, 16), t == Ty::F32 || t == Ty::F64);
  i.fn = mov_bits(bits);
}
template <class T>
void selp_h(Warp& w, const Inst& i, u32 m) {
  T *d = w.reg<T>(i.o[0]), *a = w.reg<T>(i.o[1]), *b = w.reg<T>(i.o[2]);
  u32 p = *w.reg<u32>(i.o[3]);
  if (i.aux) p = ~p;
  lanes(m, [&](int l) { d[l] = (p >> l) & 1 ? a[l] : b[l]; });
}
void dec_selp(Decoder& d, Inst& i) {
  Ty t = d.last_ty();
  int b = std::max(ty_bits(t), 16);
  i.o[0] = d.dst(d.op(0), b);
  i.o[1] = d.src(d.op(1), b, ty_float(t));
  i.o[2] = d.src(d.op(2), b, ty_float(t));
  bool n;
  i.o[3] = d.psrc(d.op(3), n);
  i.aux = n;
  i.fn = b == 16 ? &selp_h<u16> : b == 32 ? &selp_h<u32> : b == 64 ? &selp_h<u64> : &selp_h<P128>;
}
void dec_slct(Decoder& d, Inst& i) {
  auto ty = d.types();
  int b = ty_bits(ty[0]);
  i.o[0] = d.dst(d.op(0), b);
  i.o[1] = d.src(d.op(1), b);
  i.o[2] = d.src(d.op(2), b);
  i.o[3] = d.src(d.op(3), 32);
  i.aux = ty[1] == Ty::F32;
  i.rw = b / 8;
  i.fn = [](Warp& w, const Inst& i, u32 m) {
    lanes(m, [&](int l) {
      bool ge = i.aux ? w.reg<float>(i.o[3])[l] >= 0 : w.reg<s32>(i.o[3])[l] >= 0;
      memcpy(w.R + i.o[0] + l * i.rw, w.R + i.o[ge ? 1 : 2] + l * i.rw, i.rw);
    });
  };
}
void dec_cvta(Decoder& d, Inst& i) {
  Ty t = d.last_ty();
  int b = ty_bits(t);
  bool to = d.has("to");
  Space sp = d.space_of();
  i.o[0] = d.dst(d.op(0), b);
  i.o[1] = d.src(d.op(1), b);
  if (sp == Space::Shared) {
    if (b == 32)
      i.fn = mov_bits(32);
    else
      i.fn = to ? mk1<u64, u64>([](u64 a) { return a & 0xffffffffull; }) : mk1<u64, u64>([](u64 a) { return (kSharedTag << 32) | (a & 0xffffffffull); });
  } else if (sp == Space::Local)
    i.fn = to ? mk1<u64, u64>([](u64 a) { return a & 0xffffffffull; }) : mk1<u64, u64>([](u64 a) { return (kLocalTag << 32) | (a & 0xffffffffull); });
  else
    i.fn = mov_bits(b);
  if (sp == Space::Param && !d.af.is_entry)
    i.fn = to ? mk1<u64, u64>([](u64 a) { return a & 0xffffffffull; }) : mk1<u64, u64>([](u64 a) { return (kLocalTag << 32) | (a & 0xffffffffull); });
}
void dec_isspacep(Decoder& d, Inst& i) {
  i.o[0] = d.pdst(d.op(0));
  i.o[1] = d.src(d.op(1), 64);
  i.aux = (u32)d.space_of();
  i.aux2 = d.has("shared::cluster");
  i.fn = [](Warp& w, const Inst& i, u32 m) {
    u32 r = 0;
    lanes(m, [&](int l) {
      u64 a = w.reg<u64>(i.o[1])[l], tag = a >> 32;
      bool v = false;
      switch ((Space)i.aux) {
        case Space::Shared: v = tag == kSharedTag && (i.aux2 || (u32)a >> kRankShift == w.cta->rank); break;
        case Space::Local: v = tag == kLocalTag; break;
        case Space::Global: v = tag < kSharedTag; break;
        default: v = false;
      }
      r |= (u32)v << l;
    });
    u32& p = *w.reg<u32>(i.o[0]);
    p = (p & ~m) | (r & m);
  };
}

// ---- setp / set ------------------------------------------------------------------
enum Cmp { EQ, NE, LT, LE, GT, GE, EQU, NEU, LTU, LEU, GTU, GEU, NUM, NANC, CMP_N };
template <int C, class T>
inline bool cmp(T a, T b) {
  if constexpr (C == EQ) return a == b;
  if constexpr (C == NE) {
    if constexpr (std::is_floating_point_v<T>)
      return a < b || a > b;
    else
      return a != b;
  }
  if constexpr (C == LT) return a < b;
  if constexpr (C == LE) return a <= b;
  if constexpr (C == GT) return a > b;
  if constexpr (C == GE) return a >= b;
  if constexpr (C == EQU) return !(a < b || a > b);
  if constexpr (C == NEU) return !(a == b);
  if constexpr (C == LTU) return !(a >= b);
  if constexpr (C == LEU) return !(a > b);
  if constexpr (C == GTU) return !(a <= b);
  if constexpr (C == GEU) return !(a < b);
  if constexpr (C == NUM) return a == a && b == b;
  return !(a == a && b == b);
}
bool compare(int c, double a, double b) {  // by number, for the rare forms
  switch (c) {
    case EQ: return cmp<EQ>(a, b);
    case NE: return cmp<NE>(a, b);
    case LT: return a < b;
    case LE: return a <= b;
    case GT: return a > b;
    case GE: return a >= b;
    case EQU: return cmp<EQU>(a, b);
    case NEU: return cmp<NEU>(a, b);
    case LTU: return cmp<LTU>(a, b);
    case LEU: return cmp<LEU>(a, b);
    case GTU: return cmp<GTU>(a, b);
    case GEU: return cmp<GEU>(a, b);
    case NUM: return cmp<NUM>(a, b);
    default: return cmp<NANC>(a, b);
  }
}
struct AsF16 {
  u16 v;
  operator float() const { return f16f(v); }
};
struct AsBF16 {
  u16 v;
  operator float() const { return bf16f(v); }
};
template <class T>
struct CmpT {
  using type = T;
};
template <>
struct CmpT<AsF16> {
  using type = float;
};
template <>
struct CmpT<AsBF16> {
  using type = float;
};

// What of a comparison's result is written: `and` with a written false, `or` with a written true do not depend on the other side.
void note_comparison(Warp& w, const Inst& i, u32 m, u32 r, u32 c) {
  const u32 op = i.aux2 & 3, wr = written_lanes(w, i.o[2]) & written_lanes(w, i.o[3]);
  if (!op) return note_written(w, i, i.o[0], m, wr, {i.o[2], i.o[3]});
  const u32 wc = written_lanes(w, i.o[4]), decided = op == 1 ? (wr & ~r) | (wc & ~c) : op == 2 ? (wr & r) | (wc & c) : 0;
  note_written(w, i, i.o[0], m, (wr & wc) | decided, {i.o[2], i.o[3], i.o[4]});
}
inline void bool_combine(Warp& w, const Inst& i, u32 m, u32 r) {
  // aux2: bits 0-1 boolop (0 none, 1 and, 2 or, 3 xor), bit 2 negate c, bit 3 has q
  u32 q = ~r;
  u32 op = i.aux2 & 3;
  u32 c = 0;
  if (op) {
    c = *w.reg<u32>(i.o[4]);
    if (i.aux2 & 4) c = ~c;
  }
  if (i.flags & kFlagTracked) note_comparison(w, i, m, r, c);
  if (op) {
    if (op == 1) {
      r &= c;
      q &= c;
    } else if (op == 2) {
      r |= c;
      q |= c;
    } else {
      r ^= c;
      q ^= c;
    }
  }
  u32& p = *w.reg<u32>(i.o[0]);
  p = (p & ~m) | (r & m);
  if (i.aux2 & 8) {
    u32& pq = *w.reg<u32>(i.o[1]);
    pq = (pq & ~m) | (q & m);
  }
}
template <int C, class T>
void setp_h(Warp& w, const Inst& i, u32 m) {
  using V = typename CmpT<T>::type;
  const T *a = w.reg<T>(i.o[2]), *b = w.reg<T>(i.o[3]);
  u32 r = 0;
  for (int l = 0; l < 32; l++) r |= (u32)cmp<C, V>((V)a[l], (V)b[l]) << l;
  bool_combine(w, i, m, r);
}
template <class T>
Handler setp_for(int c) {
  static const Handler h[CMP_N] = {&setp_h<0, T>, &setp_h<1, T>, &setp_h<2, T>, &setp_h<3, T>,  &setp_h<4, T>,  &setp_h<5, T>,  &setp_h<6, T>,
                                   &setp_h<7, T>, &setp_h<8, T>, &setp_h<9, T>, &setp_h<10, T>, &setp_h<11, T>, &setp_h<12, T>, &setp_h<13, T>};
  return h[c];
}
int cmp_of(std::string_view s, bool& uns) {
  static const std::unordered_map<std::string_view, int> t = {{"eq", EQ},      {"ne", NE},      {"lt", LT},      {"le", LE},      {"gt", GT},   {"ge", GE},
                                                              {"lo", LT | 64}, {"ls", LE | 64}, {"hi", GT | 64}, {"hs", GE | 64}, {"equ", EQU}, {"neu", NEU},
                                                              {"ltu", LTU},    {"leu", LEU},    {"gtu", GTU},    {"geu", GEU},    {"num", NUM}, {"nan", NANC}};
  auto it = t.find(s);
  if (it == t.end()) return -1;
  uns = it->second & 64;
  return it->second & 63;
}
void dec_setp_packed(Decoder& d, Inst& i, int c, Ty t) {  // p: low half, q: high half
  const AstOp& o0 = d.op(0);
  if (o0.kind != AstOp::PredPair) d.bad("unsupported form");
  i.o[0] = d.pdst(o0.sub[0]);
  i.o[1] = d.pdst(o0.sub[1]);
  i.o[2] = d.src(d.op(1), 32);
  i.o[3] = d.src(d.op(2), 32);
  i.aux = c | (t == Ty::BF16x2 ? 64 : 0);
  if (d.nops() > 3) d.bad("unsupported form");
  i.fn = [](Warp& w, const Inst& i, u32 m) {
    for (int h = 0; h < 2; h++) {
      u32 r = 0;
      for (int l = 0; l < 32; l++) {
        u16 a = w.reg<u32>(i.o[2])[l] >> (16 * h), b = w.reg<u32>(i.o[3])[l] >> (16 * h);
        float x = i.aux & 64 ? bf16f(a) : f16f(a), y = i.aux & 64 ? bf16f(b) : f16f(b);
        r |= (u32)compare(i.aux & 63, x, y) << l;
      }
      u32& p = *w.reg<u32>(i.o[h]);
      p = (p & ~m) | (r & m);
    }
  };
}
void dec_setp(Decoder& d, Inst& i) {
  Ty t = d.last_ty();
  bool uns = false;
  int c = cmp_of(d.part(1), uns);
  if (c < 0) d.bad("unknown comparison");
  const AstOp& o0 = d.op(0);
  if (t == Ty::F16x2 || t == Ty::BF16x2) return dec_setp_packed(d, i, c, t);
  if (o0.kind == AstOp::PredPair) {
    i.o[0] = d.pdst(o0.sub[0]);
    i.o[1] = d.pdst(o0.sub[1]);
    i.aux2 |= 8;
  } else
    i.o[0] = d.pdst(o0);
  int b = ty_bits(t);
  i.o[2] = d.src(d.op(1), b, ty_float(t));
  i.o[3] = d.src(d.op(2), b, ty_float(t));
  if (d.nops() > 3) {
    bool n;
    i.o[4] = d.psrc(d.op(3), n);
    i.aux2 |= (d.has("and") ? 1 : d.has("or") ? 2 : 3) | (n ? 4 : 0);
  }
  if (uns) t = b == 16 ? Ty::U16 : b == 32 ? Ty::U32 : Ty::U64;
  switch (t) {
    case Ty::U16:
    case Ty::B16: i.fn = setp_for<u16>(c); break;
    case Ty::S16: i.fn = setp_for<s16>(c); break;
    case Ty::U32:
    case Ty::B32: i.fn = setp_for<u32>(c); break;
    case Ty::S32: i.fn = setp_for<s32>(c); break;
    case Ty::U64:
    case Ty::B64: i.fn = setp_for<u64>(c); break;
    case Ty::S64: i.fn = setp_for<s64>(c); break;
    case Ty::F32: i.fn = setp_for<float>(c); break;
    case Ty::F64: i.fn = setp_for<double>(c); break;
    case Ty::F16: i.fn = setp_for<AsF16>(c); break;
    case Ty::BF16: i.fn = setp_for<AsBF16>(c); break;
    default: d.bad("unsupported type");
  }
}
double cmp_val(Warp& w, u32 off, Ty t, int l, int half) {
  switch (t) {
    case Ty::F32: return w.reg<float>(off)[l];
    case Ty::F64: return w.reg<double>(off)[l];
    case Ty::F16: return f16f(w.reg<u16>(off)[l]);
    case Ty::BF16: return bf16f(w.reg<u16>(off)[l]);
    case Ty::F16x2: return f16f(w.reg<u32>(off)[l] >> (16 * half));
    case Ty::BF16x2: return bf16f(w.reg<u32>(off)[l] >> (16 * half));
    case Ty::S32: return w.reg<s32>(off)[l];
    case Ty::U32:
    case Ty::B32: return w.reg<u32>(off)[l];
    case Ty::U16: return w.reg<u16>(off)[l];
    case Ty::S16: return w.reg<s16>(off)[l];
    default: return 0;
  }
}
void dec_set(Decoder& d, Inst& i) {  // set.cmp{.bool}.dtype.stype d, a, b{, c}
  bool uns;
  int c = cmp_of(d.part(1), uns);
  auto ty = d.types();
  if (c < 0 || ty.size() != 2 || ty_bits(ty[1]) > 32) d.bad("unsupported form");
  i.o[0] = d.dst(d.op(0), ty_bits(ty[0]));
  i.o[1] = d.src(d.op(1), ty_bits(ty[1]));
  i.o[2] = d.src(d.op(2), ty_bits(ty[1]));
  if (d.nops() > 3) d.bad("unsupported form");
  i.aux = c;
  i.aux2 = (u32)ty[0] | (u32)ty[1] << 8;
  i.fn = [](Warp& w, const Inst& i, u32 m) {
    Ty dt = (Ty)(i.aux2 & 255), st = (Ty)(i.aux2 >> 8);
    bool x2 = st == Ty::F16x2 || st == Ty::BF16x2;
    lanes(m, [&](int l) {
      u32 r = 0;
      for (int h = 0; h < (x2 ? 2 : 1); h++) {
        double x = cmp_val(w, i.o[1], st, l, h), y = cmp_val(w, i.o[2], st, l, h);
        u32 one = dt == Ty::F16x2 || dt == Ty::F16     ? 0x3c00
                  : dt == Ty::BF16x2 || dt == Ty::BF16 ? 0x3f80
                  : dt == Ty::F32                      ? 0x3f800000
                  : x2                                 ? 0xffff
                                                       : kFullMask;
        if (compare(i.aux, x, y)) r |= one << (16 * h);
      }
      if (ty_bits(dt) == 16)
        w.reg<u16>(i.o[0])[l] = r;
      else
        w.reg<u32>(i.o[0])[l] = r;
    });
  };
}
}  // namespace

void register_move(DecodeTable& t) {
  t["mov"] = dec_mov;
  t["selp"] = dec_selp;
  t["slct"] = dec_slct;
  t["cvta"] = dec_cvta;
  t["isspacep"] = dec_isspacep;
  t["setp"] = dec_setp;
  t["set"] = dec_set;
}

}  // namespace atoll::gpusim
