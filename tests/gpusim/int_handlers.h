// Handlers of integer types from one lambda: ibin, iun; operands of the same width: ops.
#pragma once
#include "tests/gpusim/decode.h"

namespace atoll::gpusim {
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
inline void ops(Decoder& d, Inst& i, int nsrc, int bits) {
  i.o[0] = d.dst(d.op(0), bits);
  for (int k = 1; k <= nsrc; k++) i.o[k] = d.src(d.op(k), bits);
}

}  // namespace atoll::gpusim
