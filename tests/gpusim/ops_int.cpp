// Integer arithmetic: add, sub, mul, mad, div, rem, min, max, unary operations, dot products.
#include "tests/gpusim/halfs.h"
#include "tests/gpusim/handlers.h"
#include "tests/gpusim/int_handlers.h"

namespace atoll::gpusim {
namespace {
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
u32 max_s16x2(u32 a, u32 b) { return (u32)(u16)std::max((s16)a, (s16)b) | (u32)(u16)std::max((s16)(a >> 16), (s16)(b >> 16)) << 16; }
u32 min_s16x2(u32 a, u32 b) { return (u32)(u16)std::min((s16)a, (s16)b) | (u32)(u16)std::min((s16)(a >> 16), (s16)(b >> 16)) << 16; }
void dec_min_max(Decoder& d, Inst& i) {
  const bool relu = d.has("relu"), mn = d.part(0) == "min";
  Ty t = relu ? d.any_ty() : d.last_ty();  // .relu follows an integer type
  if (ty_float(t)) return dec_float_arith(d, i);
  if (relu && t != Ty::S32 && !d.has("s16x2")) d.bad(".relu of a type without sign");
  if (d.has("u16x2") || d.has("s16x2")) {
    ops(d, i, 2, 32);
    if (relu)
      i.fn = mn ? mk2<u32, u32, u32>([](u32 a, u32 b) { return max_s16x2(min_s16x2(a, b), 0); })
                : mk2<u32, u32, u32>([](u32 a, u32 b) { return max_s16x2(max_s16x2(a, b), 0); });
    else if (d.has("s16x2"))
      i.fn = mn ? mk2<u32, u32, u32>([](u32 a, u32 b) { return min_s16x2(a, b); }) : mk2<u32, u32, u32>([](u32 a, u32 b) { return max_s16x2(a, b); });
    else
      i.fn = mn ? mk2<u32, u32, u32>([](u32 a, u32 b) { return (u32)std::min((u16)a, (u16)b) | (u32)std::min((u16)(a >> 16), (u16)(b >> 16)) << 16; })
                : mk2<u32, u32, u32>([](u32 a, u32 b) { return (u32)std::max((u16)a, (u16)b) | (u32)std::max((u16)(a >> 16), (u16)(b >> 16)) << 16; });
    return;
  }
  ops(d, i, 2, ty_bits(t));
  if (relu)
    i.fn = mn ? mk2<s32, s32, s32>([](s32 a, s32 b) { return std::max(0, std::min(a, b)); })
              : mk2<s32, s32, s32>([](s32 a, s32 b) { return std::max(0, std::max(a, b)); });
  else
    i.fn = mn ? ibin(t, [](auto a, auto b) { return a < b ? a : b; }) : ibin(t, [](auto a, auto b) { return a > b ? a : b; });
}
void dec_unary(Decoder& d, Inst& i) {
  Ty t = d.last_ty();
  std::string_view o = d.part(0);
  if (ty_float(t)) return dec_float_arith(d, i);
  if (o == "not" && t == Ty::Pred) return dec_mov_pred(d, i, true);
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

}  // namespace

void register_int(DecodeTable& t) {
  for (auto n : {"add", "sub", "addc", "subc"}) t[n] = dec_add_sub;
  t["mul"] = dec_mul;
  t["mad"] = t["madc"] = dec_mad;
  t["fma"] = dec_float_arith;
  t["div"] = t["rem"] = dec_div_rem;
  t["min"] = t["max"] = dec_min_max;
  for (auto n : {"not", "cnot", "neg", "abs", "popc", "clz", "brev"}) t[n] = dec_unary;
  t["sad"] = dec_sad;
  t["dp4a"] = t["dp2a"] = dec_dp;
  t["mul24"] = t["mad24"] = dec_mul24;
  t["szext"] = dec_szext;
}

}  // namespace atoll::gpusim
