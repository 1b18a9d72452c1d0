// Decoder: resolves names and picks the handler of each instruction.
#pragma once
#include "tests/gpusim/machine.h"

namespace atoll::gpusim {

enum class Ty : u8 {
  None,
  U8,
  U16,
  U32,
  U64,
  S8,
  S16,
  S32,
  S64,
  B8,
  B16,
  B32,
  B64,
  B128,
  F16,
  F16x2,
  BF16,
  BF16x2,
  F32,
  F64,
  Pred,
  E4M3,
  E5M2,
  E4M3x2,
  E5M2x2,
  E2M1x2,
  UE8M0x2,
  TF32,
  S4,
  U4,
  B1
};
Ty parse_ty(std::string_view s);
int ty_bits(Ty t);
inline u32 slot_bytes(int bits) { return bits == 1 ? 4 : bits * 4; }  // of a register: 32 lanes, or one mask
inline bool ty_float(Ty t) { return t == Ty::F16 || t == Ty::F16x2 || t == Ty::BF16 || t == Ty::BF16x2 || t == Ty::F32 || t == Ty::F64 || t == Ty::TF32; }
inline bool ty_signed(Ty t) { return t == Ty::S8 || t == Ty::S16 || t == Ty::S32 || t == Ty::S64; }

struct Decoder {
  LoadedModule& lm;
  Func& f;
  const AstFunc& af;
  const AstInst* a = nullptr;

  struct Slot {
    u32 off;
    u16 bits;
    bool pred;
  };
  std::vector<Slot> reg_slots;                        // by register index
  std::unordered_map<std::string, Slot> const_slots;  // key: value/width
  std::unordered_map<std::string, u32> shared_off;    // .shared symbol (name@scope or name) -> address
  u32 scratch = 0;
  // registers named by the instruction being decoded; accumulating: operands given to src are results
  std::vector<u32> reads, writes;
  bool accumulating = false;

  Decoder(LoadedModule& l, Func& fn, const AstFunc& ast) : lm(l), f(fn), af(ast) {}

  bool has(std::string_view part) const {
    for (auto p : a->parts)
      if (p == part) return true;
    return false;
  }
  std::string_view part(size_t i) const { return i < a->parts.size() ? a->parts[i] : std::string_view(); }
  Ty last_ty() const { return parse_ty(a->parts.back()); }
  Ty any_ty() const {
    for (auto p : a->parts) {
      Ty t = parse_ty(p);
      if (t != Ty::None) return t;
    }
    return Ty::None;
  }
  std::vector<Ty> types() const {
    std::vector<Ty> v;
    for (size_t i = 1; i < a->parts.size(); i++) {
      Ty t = parse_ty(a->parts[i]);
      if (t != Ty::None) v.push_back(t);
    }
    return v;
  }
  const AstOp& op(size_t i) const {
    if (i >= a->ops.size()) bad("too few operands");
    return a->ops[i];
  }
  size_t nops() const { return a->ops.size(); }
  [[noreturn]] void bad(const std::string& why) const;

  bool lookup_reg(std::string_view n, int scope, AstReg& out) const;
  bool is_reg(const AstOp& o) const {
    AstReg r;
    return o.kind == AstOp::Ident && lookup_reg(o.name, a->scope, r);
  }
  int reg_bits(const AstOp& o) const;  // 0 when not a register
  u32 const_slot(u64 v, int bits, u64 hi = 0);
  u32 alloc_const(int bits);
  u32 pred_const(bool v);
  u32 dst(const AstOp& o, int bits);
  u32 src(const AstOp& o, int bits, bool is_float = false);
  u32 psrc(const AstOp& o, bool& neg);  // predicate operand
  u32 pdst(const AstOp& o);
  u32 any_src(const AstOp& o, int def_bits, u8& width_bytes, bool is_float = false);  // any register width
  u32 any_dst(const AstOp& o, int def_bits, u8& width_bytes);
  void addr(const AstOp& o, Inst& i, int k, Space& sp);  // i.o[k], i.aw, i.imm
  u32 relocated_slot(const std::string& key, u64 value, int bits, std::vector<std::pair<u32, int>>& relocs);
  u32 literal(const AstOp& o, int bits, bool is_float);
  u32 special_slot(int id, int bits);
  u32 symbol(std::string_view n, int bits, Space* sp, bool& ok);
  bool special_reg(std::string_view n, int& id, bool& clock) const;
  InstExt& ext(Inst& i) {
    if (!i.x) {
      f.ext.emplace_back();
      i.x = &f.ext.back();
    }
    return *i.x;
  }
  Space space_of() const;
  int label(const AstOp& o) const;
};

using DecodeFn = void (*)(Decoder&, Inst&);
using DecodeTable = std::unordered_map<std::string_view, DecodeFn>;
void register_int(DecodeTable&);
void register_float(DecodeTable&);
void register_cvt(DecodeTable&);
void register_mem(DecodeTable&);
void register_bits(DecodeTable&);
void register_move(DecodeTable&);
void register_atomic(DecodeTable&);
void register_copy(DecodeTable&);
void register_mbarrier(DecodeTable&);
void register_tensor_map(DecodeTable&);
void register_mma(DecodeTable&);
void register_wgmma(DecodeTable&);
void register_ctl(DecodeTable&);
void register_warp(DecodeTable&);

// Handler makers: a captureless lambda applied to each lane.
template <class D, class A, class F>
void h1(Warp& w, const Inst& i, u32 m) {
  D* d = w.reg<D>(i.o[0]);
  const A* a = w.reg<A>(i.o[1]);
  lanes(m, [&](int l) { d[l] = F{}(a[l]); });
}
template <class D, class A, class B, class F>
void h2(Warp& w, const Inst& i, u32 m) {
  D* d = w.reg<D>(i.o[0]);
  const A* a = w.reg<A>(i.o[1]);
  const B* b = w.reg<B>(i.o[2]);
  lanes(m, [&](int l) { d[l] = F{}(a[l], b[l]); });
}
template <class D, class A, class B, class C, class F>
void h3(Warp& w, const Inst& i, u32 m) {
  D* d = w.reg<D>(i.o[0]);
  const A* a = w.reg<A>(i.o[1]);
  const B* b = w.reg<B>(i.o[2]);
  const C* c = w.reg<C>(i.o[3]);
  lanes(m, [&](int l) { d[l] = F{}(a[l], b[l], c[l]); });
}
template <class D, class A, class F>
Handler mk1(F) {
  return &h1<D, A, F>;
}
template <class D, class A, class B, class F>
Handler mk2(F) {
  return &h2<D, A, B, F>;
}
template <class D, class A, class B, class C, class F>
Handler mk3(F) {
  return &h3<D, A, B, C, F>;
}

}  // namespace atoll::gpusim
