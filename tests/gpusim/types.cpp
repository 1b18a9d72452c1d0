// Names and widths of PTX types.
#include "tests/gpusim/decode.h"

namespace atoll::gpusim {
Ty parse_ty(std::string_view s) {
  static const std::unordered_map<std::string_view, Ty> t = {
      {"u8", Ty::U8},         {"u16", Ty::U16},         {"u32", Ty::U32},     {"u64", Ty::U64},   {"s8", Ty::S8},         {"s16", Ty::S16},
      {"s32", Ty::S32},       {"s64", Ty::S64},         {"b8", Ty::B8},       {"b16", Ty::B16},   {"b32", Ty::B32},       {"b64", Ty::B64},
      {"b128", Ty::B128},     {"f16", Ty::F16},         {"f16x2", Ty::F16x2}, {"bf16", Ty::BF16}, {"bf16x2", Ty::BF16x2}, {"f32", Ty::F32},
      {"f64", Ty::F64},       {"pred", Ty::Pred},       {"e4m3", Ty::E4M3},   {"e5m2", Ty::E5M2}, {"e4m3x2", Ty::E4M3x2}, {"e5m2x2", Ty::E5M2x2},
      {"e2m1x2", Ty::E2M1x2}, {"ue8m0x2", Ty::UE8M0x2}, {"tf32", Ty::TF32},   {"s4", Ty::S4},     {"u4", Ty::U4},         {"b1", Ty::B1}};
  auto it = t.find(s);
  return it == t.end() ? Ty::None : it->second;
}
int ty_bits(Ty t) {
  switch (t) {
    case Ty::U8:
    case Ty::S8:
    case Ty::B8:
    case Ty::E4M3:
    case Ty::E5M2:
    case Ty::E2M1x2: return 8;
    case Ty::U16:
    case Ty::S16:
    case Ty::B16:
    case Ty::F16:
    case Ty::BF16:
    case Ty::E4M3x2:
    case Ty::E5M2x2:
    case Ty::UE8M0x2: return 16;
    case Ty::U32:
    case Ty::S32:
    case Ty::B32:
    case Ty::F32:
    case Ty::F16x2:
    case Ty::BF16x2:
    case Ty::TF32: return 32;
    case Ty::U64:
    case Ty::S64:
    case Ty::B64:
    case Ty::F64: return 64;
    case Ty::B128: return 128;
    case Ty::Pred: return 1;
    default: return 0;
  }
}

}  // namespace atoll::gpusim
