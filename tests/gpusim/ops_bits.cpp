// Logic, shifts, bit fields, byte permutation.
#include "tests/gpusim/halfs.h"
#include "tests/gpusim/handlers.h"
#include "tests/gpusim/int_handlers.h"

namespace atoll::gpusim {
namespace {
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
      if (i.flags & kFlagTracked) {
        const u32 wa = written_lanes(w, i.o[1]), wb = written_lanes(w, i.o[2]), decided = i.aux2 == 'a' ? (wa & ~a) | (wb & ~b) : (wa & a) | (wb & b);
        note_written(w, i, i.o[0], m, (wa & wb) | decided, {i.o[1], i.o[2]});
      }
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
void dec_bfe(Decoder& d, Inst& i) {
  const Ty t = d.last_ty();
  i.o[0] = d.dst(d.op(0), ty_bits(t));
  i.o[1] = d.src(d.op(1), ty_bits(t));
  i.o[2] = d.src(d.op(2), 32);
  i.o[3] = d.src(d.op(3), 32);
  i.fn = t == Ty::U32   ? mk3<u32, u32, u32, u32>([](u32 a, u32 b, u32 c) { return bfe(a, b, c); })
         : t == Ty::S32 ? mk3<s32, s32, u32, u32>([](s32 a, u32 b, u32 c) { return bfe(a, b, c); })
         : t == Ty::U64 ? mk3<u64, u64, u32, u32>([](u64 a, u32 b, u32 c) { return bfe(a, b, c); })
                        : mk3<s64, s64, u32, u32>([](s64 a, u32 b, u32 c) { return bfe(a, b, c); });
}
template <class T>
void bfi_h(Warp& w, const Inst& i, u32 m) {
  lanes(m, [&](int l) { w.reg<T>(i.o[0])[l] = bfi(w.reg<T>(i.o[1])[l], w.reg<T>(i.o[2])[l], w.reg<u32>(i.o[3])[l], w.reg<u32>(i.o[4])[l]); });
}
void dec_bfi(Decoder& d, Inst& i) {
  const int bits = ty_bits(d.last_ty());
  ops(d, i, 2, bits);
  i.o[3] = d.src(d.op(3), 32);
  i.o[4] = d.src(d.op(4), 32);
  i.fn = bits == 32 ? &bfi_h<u32> : &bfi_h<u64>;
}
void dec_bmsk(Decoder& d, Inst& i) {
  ops(d, i, 2, 32);
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
}
template <class T>
void bfind_h(Warp& w, const Inst& i, u32 m) {  // aux: the shift that brings the bit to the top, instead of its position
  lanes(m, [&](int l) {
    T v = w.reg<T>(i.o[1])[l];
    if (std::is_signed_v<T> && v < 0) v = ~v;
    const u64 a = (std::make_unsigned_t<T>)v;
    u32 r = a ? 63 - __builtin_clzll(a) : kFullMask;
    if (i.aux && a) r = sizeof(T) * 8 - 1 - r;
    w.reg<u32>(i.o[0])[l] = r;
  });
}
void dec_bfind(Decoder& d, Inst& i) {
  const Ty t = d.last_ty();
  i.o[0] = d.dst(d.op(0), 32);
  i.o[1] = d.src(d.op(1), ty_bits(t));
  i.aux = d.has("shiftamt");
  i.fn = t == Ty::S32 ? &bfind_h<s32> : t == Ty::S64 ? &bfind_h<s64> : ty_bits(t) == 64 ? &bfind_h<u64> : &bfind_h<u32>;
}
// The n-th set bit from a base upwards, or (n negative) downwards; with n 0 the base itself if it is set.
void dec_fns(Decoder& d, Inst& i) {
  i.o[0] = d.dst(d.op(0), 32);
  for (int k = 1; k <= 3; k++) i.o[k] = d.src(d.op(k), 32);
  i.fn = mk3<u32, u32, u32, s32>([](u32 mask, u32 base, s32 n) {
    s64 left = n ? std::abs((s64)n) : 1;
    for (s64 at = base; at >= 0 && at < 32; at += n < 0 ? -1 : 1) {
      left -= mask >> at & 1;
      if (!left) return (u32)at;
      if (!n) break;
    }
    return kFullMask;
  });
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
}  // namespace

void register_bits(DecodeTable& t) {
  for (auto n : {"and", "or", "xor"}) t[n] = dec_logic;
  t["shl"] = t["shr"] = dec_shift;
  t["shf"] = dec_shf;
  t["bfe"] = dec_bfe;
  t["bfi"] = dec_bfi;
  t["bfind"] = dec_bfind;
  t["fns"] = dec_fns;
  t["bmsk"] = dec_bmsk;
  t["prmt"] = dec_prmt;
  t["lop3"] = dec_lop3;
}

}  // namespace atoll::gpusim
