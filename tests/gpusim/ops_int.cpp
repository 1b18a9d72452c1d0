// Integer, logic, move, predicate and address-space instructions.
#include "tests/gpusim/decode.h"
#include "tests/gpusim/halfs.h"

namespace atoll::gpusim {
void dec_float_arith(Decoder& d, Inst& i);  // ops_float.cpp

namespace {
template <class F>
Handler ibin(Ty t, F) {
  switch (t) {
    case Ty::U16:
    case Ty::B16: return &h2<u16, u16, u16, F>;
    case Ty::S16: return &h2<s16, s16, s16, F>;
    case Ty::U32:
    case Ty::B32: return &h2<u32, u32, u32, F>;
    case Ty::S32: return &h2<s32, s32, s32, F>;
    case Ty::U64:
    case Ty::B64: return &h2<u64, u64, u64, F>;
    case Ty::S64: return &h2<s64, s64, s64, F>;
    default: return nullptr;
  }
}
template <class F>
Handler iun(Ty t, F) {
  switch (t) {
    case Ty::U16:
    case Ty::B16: return &h1<u16, u16, F>;
    case Ty::S16: return &h1<s16, s16, F>;
    case Ty::U32:
    case Ty::B32: return &h1<u32, u32, F>;
    case Ty::S32: return &h1<s32, s32, F>;
    case Ty::U64:
    case Ty::B64: return &h1<u64, u64, F>;
    case Ty::S64: return &h1<s64, s64, F>;
    default: return nullptr;
  }
}
void ops(Decoder& d, Inst& i, int nsrc, int bits) {
  i.o[0] = d.dst(d.op(0), bits);
  for (int k = 1; k <= nsrc; k++) i.o[k] = d.src(d.op(k), bits);
}
template <class T>
T mulhi(T a, T b) {
  if constexpr (sizeof(T) == 8) {
    if constexpr (std::is_signed_v<T>)
      return (T)(((__int128)a * b) >> 64);
    else
      return (T)(((unsigned __int128)a * b) >> 64);
  } else if constexpr (sizeof(T) == 4) {
    if constexpr (std::is_signed_v<T>)
      return (T)(((s64)a * b) >> 32);
    else
      return (T)(((u64)a * b) >> 32);
  } else
    return (T)(((s64)a * (s64)b) >> 16);
}

// add/sub with carry: aux bit0 subtract, bit1 carry in, bit2 carry out
template <class T>
void add_carry(Warp& w, const Inst& i, u32 m) {
  T *d = w.reg<T>(i.o[0]), *a = w.reg<T>(i.o[1]), *b = w.reg<T>(i.o[2]);
  bool sub = i.aux & 1, in = i.aux & 2, out = i.aux & 4;
  lanes(m, [&](int l) {
    u32 c = in ? (w.cc >> l) & 1 : 0;
    unsigned __int128 r;
    bool co;
    if (sub) {
      r = (unsigned __int128)a[l] - b[l] - c;
      co = (unsigned __int128)a[l] < (unsigned __int128)b[l] + c;
    } else {
      r = (unsigned __int128)a[l] + b[l] + c;
      co = (r >> (sizeof(T) * 8)) & 1;
    }
    d[l] = (T)r;
    if (out) w.cc = (w.cc & ~(1u << l)) | ((u32)co << l);
  });
}
template <class T>
void mad_carry(Warp& w, const Inst& i, u32 m) {  // aux bit3: hi
  T *d = w.reg<T>(i.o[0]), *a = w.reg<T>(i.o[1]), *b = w.reg<T>(i.o[2]), *c3 = w.reg<T>(i.o[3]);
  lanes(m, [&](int l) {
    T p = (i.aux & 8) ? mulhi<T>(a[l], b[l]) : (T)(a[l] * b[l]);
    u32 c = (i.aux & 2) ? (w.cc >> l) & 1 : 0;
    unsigned __int128 r = (unsigned __int128)p + c3[l] + c;
    d[l] = (T)r;
    if (i.aux & 4) w.cc = (w.cc & ~(1u << l)) | (((u32)(r >> (sizeof(T) * 8)) & 1) << l);
  });
}

void dec_add_sub(Decoder& d, Inst& i) {
  Ty t = d.last_ty();
  if (ty_float(t) || d.types().size() > 1) return dec_float_arith(d, i);
  std::string_view o = d.part(0);
  bool sub = o == "sub" || o == "subc", cin = o == "addc" || o == "subc", cout = d.has("cc");
  if (d.a->parts.back() == "u16x2" || d.a->parts.back() == "s16x2") {
    ops(d, i, 2, 32);
    i.fn = mk2<u32, u32, u32>([](u32 a, u32 b) { return ((a + b) & 0xffff) | ((a & 0xffff0000) + (b & 0xffff0000)); });
    if (sub) d.bad("unsupported form");
    return;
  }
  ops(d, i, 2, ty_bits(t));
  if (cin || cout) {
    i.aux = sub | cin << 1 | cout << 2;
    i.fn = ty_bits(t) == 64 ? &add_carry<u64> : &add_carry<u32>;
    return;
  }
  if (d.has("sat")) {
    if (t != Ty::S32) d.bad("unsupported form");
    i.fn = sub ? mk2<s32, s32, s32>([](s32 a, s32 b) {
      s64 r = (s64)a - b;
      return (s32)std::min<s64>(std::max<s64>(r, INT32_MIN), INT32_MAX);
    })
               : mk2<s32, s32, s32>([](s32 a, s32 b) {
                   s64 r = (s64)a + b;
                   return (s32)std::min<s64>(std::max<s64>(r, INT32_MIN), INT32_MAX);
                 });
    return;
  }
  switch (ty_bits(t)) {
    case 16: i.fn = sub ? mk2<u16, u16, u16>([](u16 a, u16 b) { return (u16)(a - b); }) : mk2<u16, u16, u16>([](u16 a, u16 b) { return (u16)(a + b); }); break;
    case 32: i.fn = sub ? mk2<u32, u32, u32>([](u32 a, u32 b) { return a - b; }) : mk2<u32, u32, u32>([](u32 a, u32 b) { return a + b; }); break;
    case 64: i.fn = sub ? mk2<u64, u64, u64>([](u64 a, u64 b) { return a - b; }) : mk2<u64, u64, u64>([](u64 a, u64 b) { return a + b; }); break;
    default: d.bad("unsupported type");
  }
}
void dec_mul(Decoder& d, Inst& i) {
  Ty t = d.last_ty();
  if (ty_float(t)) return dec_float_arith(d, i);
  if (d.has("wide")) {
    i.o[0] = d.dst(d.op(0), ty_bits(t) * 2);
    i.o[1] = d.src(d.op(1), ty_bits(t));
    i.o[2] = d.src(d.op(2), ty_bits(t));
    if (t == Ty::U16)
      i.fn = mk2<u32, u16, u16>([](u16 a, u16 b) { return (u32)a * b; });
    else if (t == Ty::S16)
      i.fn = mk2<s32, s16, s16>([](s16 a, s16 b) { return (s32)a * b; });
    else if (t == Ty::U32)
      i.fn = mk2<u64, u32, u32>([](u32 a, u32 b) { return (u64)a * b; });
    else if (t == Ty::S32)
      i.fn = mk2<s64, s32, s32>([](s32 a, s32 b) { return (s64)a * b; });
    else
      d.bad("unsupported type");
    return;
  }
  ops(d, i, 2, ty_bits(t));
  if (d.has("hi"))
    i.fn = ibin(t, [](auto a, auto b) { return mulhi(a, b); });
  else
    i.fn = ibin(t, [](auto a, auto b) {
      using T = decltype(a);
      return (T)((std::make_unsigned_t<T>)a * (u64)(std::make_unsigned_t<T>)b);
    });
}
void dec_mad(Decoder& d, Inst& i) {
  Ty t = d.last_ty();
  if (ty_float(t)) return dec_float_arith(d, i);
  if (d.has("wide")) {
    int b = ty_bits(t);
    i.o[0] = d.dst(d.op(0), b * 2);
    i.o[1] = d.src(d.op(1), b);
    i.o[2] = d.src(d.op(2), b);
    i.o[3] = d.src(d.op(3), b * 2);
    if (t == Ty::U16)
      i.fn = mk3<u32, u16, u16, u32>([](u16 a, u16 b, u32 c) { return (u32)a * b + c; });
    else if (t == Ty::S16)
      i.fn = mk3<u32, s16, s16, u32>([](s16 a, s16 b, u32 c) { return (u32)((s32)a * b) + c; });
    else if (t == Ty::U32)
      i.fn = mk3<u64, u32, u32, u64>([](u32 a, u32 b, u64 c) { return (u64)a * b + c; });
    else if (t == Ty::S32)
      i.fn = mk3<u64, s32, s32, u64>([](s32 a, s32 b, u64 c) { return (u64)((s64)a * b) + c; });
    else
      d.bad("unsupported type");
    return;
  }
  ops(d, i, 3, ty_bits(t));
  bool hi = d.has("hi"), cc = d.has("cc"), cin = d.part(0) == "madc";
  if (cc || cin) {
    i.aux = cin << 1 | cc << 2 | hi << 3;
    if (t == Ty::S32 || t == Ty::S64) {
      if (hi)
        i.fn = nullptr;
      else
        i.fn = ty_bits(t) == 64 ? &mad_carry<u64> : &mad_carry<u32>;
    } else
      i.fn = ty_bits(t) == 64 ? &mad_carry<u64> : &mad_carry<u32>;
    return;
  }
  switch (t) {
    case Ty::U16:
    case Ty::S16:
    case Ty::B16: i.fn = hi ? nullptr : mk3<u16, u16, u16, u16>([](u16 a, u16 b, u16 c) { return (u16)((u32)a * b + c); }); break;
    case Ty::U32:
      i.fn = hi ? mk3<u32, u32, u32, u32>([](u32 a, u32 b, u32 c) { return mulhi(a, b) + c; })
                : mk3<u32, u32, u32, u32>([](u32 a, u32 b, u32 c) { return a * b + c; });
      break;
    case Ty::S32:
    case Ty::B32:
      i.fn = hi ? mk3<s32, s32, s32, u32>([](s32 a, s32 b, u32 c) { return (s32)((u32)mulhi(a, b) + c); })
                : mk3<u32, u32, u32, u32>([](u32 a, u32 b, u32 c) { return a * b + c; });
      break;
    case Ty::U64:
      i.fn = hi ? mk3<u64, u64, u64, u64>([](u64 a, u64 b, u64 c) { return mulhi(a, b) + c; })
                : mk3<u64, u64, u64, u64>([](u64 a, u64 b, u64 c) { return a * b + c; });
      break;
    case Ty::S64:
    case Ty::B64:
      i.fn = hi ? mk3<s64, s64, s64, u64>([](s64 a, s64 b, u64 c) { return (s64)((u64)mulhi(a, b) + c); })
                : mk3<u64, u64, u64, u64>([](u64 a, u64 b, u64 c) { return a * b + c; });
      break;
    default: d.bad("unsupported type");
  }
}
void dec_div_rem(Decoder& d, Inst& i) {
  Ty t = d.last_ty();
  if (ty_float(t)) return dec_float_arith(d, i);
  ops(d, i, 2, ty_bits(t));
  if (d.part(0) == "div")
    i.fn = ibin(t, [](auto a, auto b) {
      using T = decltype(a);
      if (b == 0) return (T)-1;
      if (std::is_signed_v<T> && b == (T)-1) return (T)(0 - (std::make_unsigned_t<T>)a);
      return (T)(a / b);
    });
  else
    i.fn = ibin(t, [](auto a, auto b) {
      using T = decltype(a);
      if (b == 0) return a;
      if (std::is_signed_v<T> && b == (T)-1) return (T)0;
      return (T)(a % b);
    });
}
void dec_min_max(Decoder& d, Inst& i) {
  Ty t = d.last_ty();
  if (ty_float(t)) return dec_float_arith(d, i);
  bool mn = d.part(0) == "min";
  auto last = d.a->parts.back();
  if (last == "u16x2" || last == "s16x2" || d.has("u16x2") || d.has("s16x2")) {
    ops(d, i, 2, 32);
    bool s = d.has("s16x2");
    if (s)
      i.fn =
          mn ? mk2<u32, u32, u32>([](u32 a, u32 b) { return (u32)(u16)std::min((s16)a, (s16)b) | (u32)(u16)std::min((s16)(a >> 16), (s16)(b >> 16)) << 16; })
             : mk2<u32, u32, u32>([](u32 a, u32 b) { return (u32)(u16)std::max((s16)a, (s16)b) | (u32)(u16)std::max((s16)(a >> 16), (s16)(b >> 16)) << 16; });
    else
      i.fn = mn ? mk2<u32, u32, u32>([](u32 a, u32 b) { return (u32)std::min((u16)a, (u16)b) | (u32)std::min((u16)(a >> 16), (u16)(b >> 16)) << 16; })
                : mk2<u32, u32, u32>([](u32 a, u32 b) { return (u32)std::max((u16)a, (u16)b) | (u32)std::max((u16)(a >> 16), (u16)(b >> 16)) << 16; });
    return;
  }
  ops(d, i, 2, ty_bits(t));
  if (d.has("relu"))
    i.fn = mn ? mk2<s32, s32, s32>([](s32 a, s32 b) { return std::max(0, std::min(a, b)); })
              : mk2<s32, s32, s32>([](s32 a, s32 b) { return std::max(0, std::max(a, b)); });
  else
    i.fn = mn ? ibin(t, [](auto a, auto b) { return a < b ? a : b; }) : ibin(t, [](auto a, auto b) { return a > b ? a : b; });
}
void dec_unary(Decoder& d, Inst& i) {
  Ty t = d.last_ty();
  std::string_view o = d.part(0);
  if (ty_float(t)) return dec_float_arith(d, i);
  if (o == "not" && t == Ty::Pred) {
    i.o[0] = d.pdst(d.op(0));
    bool n;
    i.o[1] = d.psrc(d.op(1), n);
    i.aux = n;
    i.fn = [](Warp& w, const Inst& i, u32 m) {
      u32& p = *w.reg<u32>(i.o[0]);
      u32 a = *w.reg<u32>(i.o[1]);
      if (i.aux) a = ~a;
      p = (p & ~m) | (~a & m);
    };
    return;
  }
  if (o == "popc" || o == "clz") {
    i.o[0] = d.dst(d.op(0), 32);
    i.o[1] = d.src(d.op(1), ty_bits(t));
    if (o == "popc")
      i.fn = ty_bits(t) == 64 ? mk1<u32, u64>([](u64 a) { return (u32)__builtin_popcountll(a); })
                              : mk1<u32, u32>([](u32 a) { return (u32)__builtin_popcount(a); });
    else
      i.fn = ty_bits(t) == 64 ? mk1<u32, u64>([](u64 a) { return a ? (u32)__builtin_clzll(a) : 64u; })
                              : mk1<u32, u32>([](u32 a) { return a ? (u32)__builtin_clz(a) : 32u; });
    return;
  }
  ops(d, i, 1, ty_bits(t));
  if (o == "not")
    i.fn = iun(t, [](auto a) { return (decltype(a))~a; });
  else if (o == "cnot")
    i.fn = iun(t, [](auto a) { return (decltype(a))(a == 0); });
  else if (o == "neg")
    i.fn = iun(t, [](auto a) {
      using T = decltype(a);
      return (T)(0 - (std::make_unsigned_t<T>)a);
    });
  else if (o == "abs")
    i.fn = iun(t, [](auto a) {
      using T = decltype(a);
      using U = std::make_unsigned_t<T>;
      return (T)((std::is_signed_v<T> && a < 0) ? (U)(0 - (U)a) : (U)a);
    });
  else if (o == "brev")
    i.fn = ty_bits(t) == 64 ? mk1<u64, u64>([](u64 a) {
      u64 r = 0;
      for (int k = 0; k < 64; k++) r |= ((a >> k) & 1) << (63 - k);
      return r;
    })
                            : mk1<u32, u32>([](u32 a) {
                                u32 r = 0;
                                for (int k = 0; k < 32; k++) r |= ((a >> k) & 1) << (31 - k);
                                return r;
                              });
}
void dec_logic(Decoder& d, Inst& i) {
  Ty t = d.last_ty();
  char o = d.part(0)[0];
  if (t == Ty::Pred) {
    i.o[0] = d.pdst(d.op(0));
    bool n1, n2;
    i.o[1] = d.psrc(d.op(1), n1);
    i.o[2] = d.psrc(d.op(2), n2);
    i.aux = n1 | n2 << 1;
    i.aux2 = o;
    i.fn = [](Warp& w, const Inst& i, u32 m) {
      u32 a = *w.reg<u32>(i.o[1]), b = *w.reg<u32>(i.o[2]);
      if (i.aux & 1) a = ~a;
      if (i.aux & 2) b = ~b;
      u32 r = i.aux2 == 'a' ? a & b : i.aux2 == 'o' ? a | b : a ^ b;
      u32& p = *w.reg<u32>(i.o[0]);
      p = (p & ~m) | (r & m);
    };
    return;
  }
  ops(d, i, 2, ty_bits(t));
  if (o == 'a')
    i.fn = ibin(t, [](auto a, auto b) { return (decltype(a))(a & b); });
  else if (o == 'o')
    i.fn = ibin(t, [](auto a, auto b) { return (decltype(a))(a | b); });
  else
    i.fn = ibin(t, [](auto a, auto b) { return (decltype(a))(a ^ b); });
}
template <class T>
Handler shl_h() {
  return mk2<T, T, u32>([](T a, u32 b) { return b >= sizeof(T) * 8 ? (T)0 : (T)(a << b); });
}
template <class T>
Handler shr_h() {
  return mk2<T, T, u32>([](T a, u32 b) { return b >= sizeof(T) * 8 ? (T)(std::is_signed_v<T> && a < 0 ? -1 : 0) : (T)(a >> b); });
}
void dec_shift(Decoder& d, Inst& i) {
  Ty t = d.last_ty();
  i.o[0] = d.dst(d.op(0), ty_bits(t));
  i.o[1] = d.src(d.op(1), ty_bits(t));
  i.o[2] = d.src(d.op(2), 32);
  if (d.part(0) == "shl")
    i.fn = ty_bits(t) == 16 ? shl_h<u16>() : ty_bits(t) == 32 ? shl_h<u32>() : shl_h<u64>();
  else
    switch (t) {
      case Ty::S16: i.fn = shr_h<s16>(); break;
      case Ty::S32: i.fn = shr_h<s32>(); break;
      case Ty::S64: i.fn = shr_h<s64>(); break;
      default: i.fn = ty_bits(t) == 16 ? shr_h<u16>() : ty_bits(t) == 32 ? shr_h<u32>() : shr_h<u64>();
    }
}
void dec_shf(Decoder& d, Inst& i) {
  i.o[0] = d.dst(d.op(0), 32);
  for (int k = 1; k <= 3; k++) i.o[k] = d.src(d.op(k), 32);
  bool l = d.has("l"), wrap = d.has("wrap");
  if (l)
    i.fn = wrap ? mk3<u32, u32, u32, u32>([](u32 a, u32 b, u32 c) {
      c &= 31;
      return (u32)(((((u64)b << 32) | a) << c) >> 32);
    })
                : mk3<u32, u32, u32, u32>([](u32 a, u32 b, u32 c) {
                    c = std::min(c, 32u);
                    return c == 32 ? a : (u32)(((((u64)b << 32) | a) << c) >> 32);
                  });
  else
    i.fn = wrap ? mk3<u32, u32, u32, u32>([](u32 a, u32 b, u32 c) {
      c &= 31;
      return (u32)((((u64)b << 32) | a) >> c);
    })
                : mk3<u32, u32, u32, u32>([](u32 a, u32 b, u32 c) {
                    c = std::min(c, 32u);
                    return (u32)((((u64)b << 32) | a) >> c);
                  });
}
template <class T>
T bfe(T a, u32 b, u32 c) {
  using U = std::make_unsigned_t<T>;
  constexpr int msb = sizeof(T) * 8 - 1;
  u32 pos = b & 0xff, len = c & 0xff;
  U sbit = 0;
  if (std::is_signed_v<T> && len) sbit = ((U)a >> std::min<u32>(pos + len - 1, msb)) & 1;
  U r = 0;
  if (pos <= (u32)msb) {
    r = (U)a >> pos;
    if (len <= (u32)msb) r &= ((U)1 << len) - 1;
    // bits beyond the msb take the sign
    u32 avail = msb + 1 - pos, got = std::min(len, avail);
    if (sbit && got <= (u32)msb) r |= got == 0 ? ~(U)0 : ~(((U)1 << got) - 1);
    if (len == 0) r = 0;
  } else
    r = sbit ? ~(U)0 : 0;
  return (T)r;
}
template <class T>
T bfi(T a, T b, u32 c, u32 dd) {  // insert a into b
  constexpr u32 W = sizeof(T) * 8;
  u32 pos = c & 0xff, len = dd & 0xff;
  T r = b;
  for (u32 k = 0; k < len && pos + k < W; k++) {
    T bit = (a >> k) & 1;
    r = (r & ~((T)1 << (pos + k))) | (bit << (pos + k));
  }
  return r;
}
void dec_bf(Decoder& d, Inst& i) {
  Ty t = d.last_ty();
  int b = ty_bits(t);
  std::string_view o = d.part(0);
  i.o[0] = d.dst(d.op(0), o == "bfind" || o == "bmsk" ? 32 : b);
  if (o == "bfe") {
    i.o[1] = d.src(d.op(1), b);
    i.o[2] = d.src(d.op(2), 32);
    i.o[3] = d.src(d.op(3), 32);
    i.fn = t == Ty::U32   ? mk3<u32, u32, u32, u32>([](u32 a, u32 b, u32 c) { return bfe(a, b, c); })
           : t == Ty::S32 ? mk3<s32, s32, u32, u32>([](s32 a, u32 b, u32 c) { return bfe(a, b, c); })
           : t == Ty::U64 ? mk3<u64, u64, u32, u32>([](u64 a, u32 b, u32 c) { return bfe(a, b, c); })
                          : mk3<s64, s64, u32, u32>([](s64 a, u32 b, u32 c) { return bfe(a, b, c); });
  } else if (o == "bfi") {
    i.o[1] = d.src(d.op(1), b);
    i.o[2] = d.src(d.op(2), b);
    i.o[3] = d.src(d.op(3), 32);
    i.o[4] = d.src(d.op(4), 32);
    if (b == 32)
      i.fn = [](Warp& w, const Inst& i, u32 m) {
        lanes(m, [&](int l) { w.reg<u32>(i.o[0])[l] = bfi(w.reg<u32>(i.o[1])[l], w.reg<u32>(i.o[2])[l], w.reg<u32>(i.o[3])[l], w.reg<u32>(i.o[4])[l]); });
      };
    else
      i.fn = [](Warp& w, const Inst& i, u32 m) {
        lanes(m, [&](int l) { w.reg<u64>(i.o[0])[l] = bfi(w.reg<u64>(i.o[1])[l], w.reg<u64>(i.o[2])[l], w.reg<u32>(i.o[3])[l], w.reg<u32>(i.o[4])[l]); });
      };
  } else if (o == "bmsk") {
    i.o[1] = d.src(d.op(1), 32);
    i.o[2] = d.src(d.op(2), 32);
    i.aux = d.has("wrap");
    i.fn = [](Warp& w, const Inst& i, u32 m) {
      lanes(m, [&](int l) {
        u32 a = w.reg<u32>(i.o[1])[l], b = w.reg<u32>(i.o[2])[l];
        if (i.aux) {
          a &= 31;
          b &= 31;
        }
        u64 mask = b >= 32 ? 0xffffffffull : ((1ull << b) - 1);
        w.reg<u32>(i.o[0])[l] = a >= 32 ? 0 : (u32)(mask << a);
      });
    };
  } else {  // bfind
    i.o[1] = d.src(d.op(1), b);
    i.aux = d.has("shiftamt");
    i.aux2 = (u32)t;
    i.fn = [](Warp& w, const Inst& i, u32 m) {
      Ty t = (Ty)i.aux2;
      lanes(m, [&](int l) {
        u64 a;
        int msb;
        if (ty_bits(t) == 64) {
          a = w.reg<u64>(i.o[1])[l];
          msb = 63;
          if (t == Ty::S64 && (s64)a < 0) a = ~a;
        } else {
          a = w.reg<u32>(i.o[1])[l];
          msb = 31;
          if (t == Ty::S32 && (s32)a < 0) a = (u32)~a;
        }
        u32 r = a ? 63 - __builtin_clzll(a) : kFullMask;
        if (i.aux && r != kFullMask) r = msb - r;
        w.reg<u32>(i.o[0])[l] = r;
      });
    };
  }
}
void dec_prmt(Decoder& d, Inst& i) {
  i.o[0] = d.dst(d.op(0), 32);
  for (int k = 1; k <= 3; k++) i.o[k] = d.src(d.op(k), 32);
  std::string_view mode = d.a->parts.size() > 2 ? d.part(2) : "";
  if (mode.empty()) {
    i.fn = mk3<u32, u32, u32, u32>([](u32 a, u32 b, u32 s) {
      u64 v = ((u64)b << 32) | a;
      u32 r = 0;
      for (int k = 0; k < 4; k++) {
        u32 sel = s >> (4 * k);
        u32 by = (v >> ((sel & 7) * 8)) & 0xff;
        if (sel & 8) by = (by & 0x80) ? 0xff : 0;
        r |= by << (8 * k);
      }
      return r;
    });
    return;
  }
  i.aux = mode == "f4e" ? 0 : mode == "b4e" ? 1 : mode == "rc8" ? 2 : mode == "ecl" ? 3 : mode == "ecr" ? 4 : 5;
  i.fn = [](Warp& w, const Inst& i, u32 m) {
    lanes(m, [&](int l) {
      u64 v = ((u64)w.reg<u32>(i.o[2])[l] << 32) | w.reg<u32>(i.o[1])[l];
      u32 s = w.reg<u32>(i.o[3])[l] & 3, r = 0;
      for (int k = 0; k < 4; k++) {
        u32 sel = 0;
        switch (i.aux) {
          case 0: sel = s + k; break;
          case 1: sel = (s - k) & 7; break;
          case 2: sel = s; break;
          case 3: sel = std::max<u32>(k, s); break;
          case 4: sel = std::min<u32>(k, s); break;
          case 5: sel = (s & 1) ? 2 + (k & 1) : (k & 1); break;
        }
        r |= (u32)((v >> (sel * 8)) & 0xff) << (8 * k);
      }
      w.reg<u32>(i.o[0])[l] = r;
    });
  };
}
void dec_lop3(Decoder& d, Inst& i) {
  if (d.has("BOOL") || d.op(0).kind == AstOp::PredPair) d.bad("unsupported form");
  i.o[0] = d.dst(d.op(0), 32);
  for (int k = 1; k <= 3; k++) i.o[k] = d.src(d.op(k), 32);
  i.aux = d.op(4).imm;
  i.fn = [](Warp& w, const Inst& i, u32 m) {
    u32 *dd = w.reg<u32>(i.o[0]), *a = w.reg<u32>(i.o[1]), *b = w.reg<u32>(i.o[2]), *c = w.reg<u32>(i.o[3]);
    u32 k[8];
    for (int t = 0; t < 8; t++) k[t] = (i.aux >> t) & 1 ? kFullMask : 0;
    lanes(m, [&](int l) {
      u32 A = a[l], B = b[l], C = c[l];
      dd[l] = (k[0] & ~A & ~B & ~C) | (k[1] & ~A & ~B & C) | (k[2] & ~A & B & ~C) | (k[3] & ~A & B & C) | (k[4] & A & ~B & ~C) | (k[5] & A & ~B & C) |
              (k[6] & A & B & ~C) | (k[7] & A & B & C);
    });
  };
}
void dec_sad(Decoder& d, Inst& i) {
  Ty t = d.last_ty();
  ops(d, i, 3, ty_bits(t));
  i.fn = t == Ty::S32   ? mk3<s32, s32, s32, s32>([](s32 a, s32 b, s32 c) { return c + (a > b ? a - b : b - a); })
         : t == Ty::U32 ? mk3<u32, u32, u32, u32>([](u32 a, u32 b, u32 c) { return c + (a > b ? a - b : b - a); })
                        : nullptr;
}
void dec_dp(Decoder& d, Inst& i) {
  bool dp2 = d.part(0) == "dp2a";
  auto ty = d.types();
  if (ty.size() != 2) d.bad("unsupported form");
  ops(d, i, 3, 32);
  i.aux = (ty[0] == Ty::S32) | (ty[1] == Ty::S32) << 1 | dp2 << 2 | d.has("hi") << 3;
  i.fn = [](Warp& w, const Inst& i, u32 m) {
    lanes(m, [&](int l) {
      u32 a = w.reg<u32>(i.o[1])[l], b = w.reg<u32>(i.o[2])[l], c = w.reg<u32>(i.o[3])[l];
      int n = i.aux & 4 ? 2 : 4;
      for (int k = 0; k < n; k++) {
        s32 x, y;
        if (n == 4)
          x = i.aux & 1 ? (s8)(a >> (8 * k)) : (u8)(a >> (8 * k));
        else
          x = i.aux & 1 ? (s16)(a >> (16 * k)) : (u16)(a >> (16 * k));
        int kb = n == 4 ? k : k + (i.aux & 8 ? 2 : 0);
        y = i.aux & 2 ? (s8)(b >> (8 * kb)) : (u8)(b >> (8 * kb));
        c += (u32)(x * y);
      }
      w.reg<u32>(i.o[0])[l] = c;
    });
  };
}
void dec_mul24(Decoder& d, Inst& i) {
  Ty t = d.last_ty();
  bool mad = d.part(0) == "mad24";
  ops(d, i, mad ? 3 : 2, 32);
  if (d.has("hi")) d.bad("unsupported form");
  if (t == Ty::S32)
    i.fn = mad ? mk3<u32, u32, u32, u32>([](u32 a, u32 b, u32 c) { return (u32)(((s32)(a << 8) >> 8) * (s64)((s32)(b << 8) >> 8)) + c; })
               : mk2<u32, u32, u32>([](u32 a, u32 b) { return (u32)(((s32)(a << 8) >> 8) * (s64)((s32)(b << 8) >> 8)); });
  else
    i.fn = mad ? mk3<u32, u32, u32, u32>([](u32 a, u32 b, u32 c) { return (a & 0xffffff) * (b & 0xffffff) + c; })
               : mk2<u32, u32, u32>([](u32 a, u32 b) { return (a & 0xffffff) * (b & 0xffffff); });
}
void dec_szext(Decoder& d, Inst& i) {
  Ty t = d.last_ty();
  i.o[0] = d.dst(d.op(0), 32);
  i.o[1] = d.src(d.op(1), 32);
  i.o[2] = d.src(d.op(2), 32);
  i.aux = t == Ty::S32;
  i.fn = [](Warp& w, const Inst& i, u32 m) {
    lanes(m, [&](int l) {
      u32 a = w.reg<u32>(i.o[1])[l], n = w.reg<u32>(i.o[2])[l];
      u32 r = n >= 32 ? a : n == 0 ? 0 : i.aux ? (u32)((s32)(a << (32 - n)) >> (32 - n)) : a & ((1u << n) - 1);
      w.reg<u32>(i.o[0])[l] = r;
    });
  };
}

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
void dec_mov(Decoder& d, Inst& i) {
  Ty t = d.last_ty();
  const AstOp &o0 = d.op(0), &o1 = d.op(1);
  int bits = ty_bits(t);
  if (t == Ty::Pred) {
    bool n;
    i.o[0] = d.pdst(o0);
    i.o[1] = d.psrc(o1, n);
    i.aux = n;
    i.fn = [](Warp& w, const Inst& i, u32 m) {
      u32& p = *w.reg<u32>(i.o[0]);
      u32 a = *w.reg<u32>(i.o[1]);
      if (i.aux) a = ~a;
      p = (p & ~m) | (a & m);
    };
    return;
  }
  if (o1.kind == AstOp::Vec) {
    auto& x = d.ext(i);
    int eb = bits / o1.sub.size();
    i.o[0] = d.dst(o0, bits);
    i.rw = bits / 8;
    i.w = eb / 8;
    if (eb == 8) {  // {b8 x4}: elements live in 16-bit registers
      for (auto& s : o1.sub) x.v[0].push_back(d.src(s, 16));
      i.fn = [](Warp& w, const Inst& i, u32 m) {
        for (size_t k = 0; k < i.x->v[0].size(); k++) lanes(m, [&](int l) { w.R[i.o[0] + l * i.rw + k] = w.reg<u16>(i.x->v[0][k])[l]; });
      };
      return;
    }
    for (auto& s : o1.sub) x.v[0].push_back(d.src(s, eb));
    i.fn = &mov_pack;
    return;
  }
  if (o0.kind == AstOp::Vec) {
    auto& x = d.ext(i);
    int eb = bits / o0.sub.size();
    i.o[1] = d.src(o1, bits);
    i.rw = bits / 8;
    i.w = eb / 8;
    for (auto& s : o0.sub) {
      u8 wd;
      x.v[0].push_back(d.any_dst(s, eb, wd));
      x.w[0].push_back(s.kind == AstOp::Sink ? eb / 8 : wd);
    }
    i.fn = &mov_unpack;
    return;
  }
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

inline void bool_combine(Warp& w, const Inst& i, u32 m, u32 r) {
  // aux2: bits 0-1 boolop (0 none, 1 and, 2 or, 3 xor), bit 2 negate c, bit 3 has q
  u32 q = ~r;
  u32 op = i.aux2 & 3;
  if (op) {
    u32 c = *w.reg<u32>(i.o[4]);
    if (i.aux2 & 4) c = ~c;
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
void dec_setp(Decoder& d, Inst& i) {
  Ty t = d.last_ty();
  bool uns = false;
  int c = cmp_of(d.part(1), uns);
  if (c < 0) d.bad("unknown comparison");
  const AstOp& o0 = d.op(0);
  if (t == Ty::F16x2 || t == Ty::BF16x2) {  // p: low half, q: high half
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
          bool v = false;
          switch (i.aux & 63) {
            case EQ: v = x == y; break;
            case NE: v = x < y || x > y; break;
            case LT: v = x < y; break;
            case LE: v = x <= y; break;
            case GT: v = x > y; break;
            case GE: v = x >= y; break;
            case EQU: v = !(x < y || x > y); break;
            case NEU: v = x != y; break;
            case LTU: v = !(x >= y); break;
            case LEU: v = !(x > y); break;
            case GTU: v = !(x <= y); break;
            case GEU: v = !(x < y); break;
            case NUM: v = x == x && y == y; break;
            default: v = x != x || y != y;
          }
          r |= (u32)v << l;
        }
        u32& p = *w.reg<u32>(i.o[h]);
        p = (p & ~m) | (r & m);
      }
    };
    return;
  }
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
        bool v = false;
        switch (i.aux) {
          case EQ: v = x == y; break;
          case NE: v = x < y || x > y; break;
          case LT: v = x < y; break;
          case LE: v = x <= y; break;
          case GT: v = x > y; break;
          case GE: v = x >= y; break;
          case EQU: v = !(x < y || x > y); break;
          case NEU: v = x != y; break;
          case LTU: v = !(x >= y); break;
          case LEU: v = !(x > y); break;
          case GTU: v = !(x <= y); break;
          case GEU: v = !(x < y); break;
          case NUM: v = x == x && y == y; break;
          default: v = x != x || y != y;
        }
        u32 one = dt == Ty::F16x2 || dt == Ty::F16     ? 0x3c00
                  : dt == Ty::BF16x2 || dt == Ty::BF16 ? 0x3f80
                  : dt == Ty::F32                      ? 0x3f800000
                  : x2                                 ? 0xffff
                                                       : kFullMask;
        if (v) r |= one << (16 * h);
      }
      if (ty_bits(dt) == 16)
        w.reg<u16>(i.o[0])[l] = r;
      else
        w.reg<u32>(i.o[0])[l] = r;
    });
  };
}
}  // namespace

void register_int(DecodeTable& t) {
  for (auto n : {"add", "sub", "addc", "subc"}) t[n] = dec_add_sub;
  t["mul"] = dec_mul;
  t["mad"] = dec_mad;
  t["madc"] = dec_mad;
  t["fma"] = dec_float_arith;
  t["div"] = t["rem"] = dec_div_rem;
  t["min"] = t["max"] = dec_min_max;
  for (auto n : {"not", "cnot", "neg", "abs", "popc", "clz", "brev"}) t[n] = dec_unary;
  for (auto n : {"and", "or", "xor"}) t[n] = dec_logic;
  t["shl"] = t["shr"] = dec_shift;
  t["shf"] = dec_shf;
  for (auto n : {"bfe", "bfi", "bfind", "bmsk"}) t[n] = dec_bf;
  t["prmt"] = dec_prmt;
  t["lop3"] = dec_lop3;
  t["sad"] = dec_sad;
  t["dp4a"] = t["dp2a"] = dec_dp;
  t["mul24"] = t["mad24"] = dec_mul24;
  t["szext"] = dec_szext;
  t["mov"] = dec_mov;
  t["selp"] = dec_selp;
  t["slct"] = dec_slct;
  t["cvta"] = dec_cvta;
  t["isspacep"] = dec_isspacep;
  t["setp"] = dec_setp;
  t["set"] = dec_set;
}

}  // namespace atoll::gpusim
