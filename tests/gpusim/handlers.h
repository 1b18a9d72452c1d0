// What the instruction handlers share across files: address arithmetic, access checks, parking a group of lanes, mbarrier transitions.
#pragma once
#include "tests/gpusim/decode.h"
#include "tests/gpusim/mbar.h"

namespace atoll::gpusim {

// Control (ops_ctl.cpp).
void park_current(Warp& w, St st);       // the running group waits in state st; the turn ends
void split_off(Warp& w, u32 exec_mask);  // lanes that do not execute go on as a group of their own

// Memory (ops_mem.cpp, ops_atomic.cpp, ops_copy.cpp).
enum AtomOp { kAtomAdd, kAtomMin, kAtomMax, kAtomAnd, kAtomOr, kAtomXor, kAtomExch, kAtomCas, kAtomInc, kAtomDec };
inline bool is_shared(const Inst& i, u64 a) { return i.space == Space::Shared || (i.space == Space::Generic && a >> 32 == kSharedTag); }
inline u32 pow2(u32 v) { return v & (v - 1) ? 1u << (31 - __builtin_clz(v)) : v; }
inline void addresses(Warp& w, const Inst& i, int k, u64* a) {
  if (i.aw == 8) {
    const u64* r = w.reg<u64>(i.o[k]);
    for (int l = 0; l < 32; l++) a[l] = r[l] + i.imm;
  } else {
    const u32* r = w.reg<u32>(i.o[k]);
    for (int l = 0; l < 32; l++) a[l] = (u32)(r[l] + (u32)i.imm);
  }
}
// Uninitialised reads and races of one lane's access to shared or global memory; p is where it lives.
void check_access(Warp& w, const Inst& i, u64 a, u32 n, const u8* p, bool write, int lane, bool same_value);
[[noreturn]] void misaligned(u64 a, u32 size, int lane);
void stat_mem(Warp& w, const Inst& i, const u64* addr, u32 m, u32 size, bool store);
u64 atomic_at(u8* p, int op, Ty t, u64 b, u64 c, int bytes);
void drain_async(Warp& w, int lane, int kind, int upto);  // completes this thread's groups < upto

// Addresses of the asynchronous copies (ops_mbarrier.cpp).
struct AddrOp {
  u32 off;
  u8 aw;
  s64 imm;
};
AddrOp addr_op(Decoder& d, const AstOp& o, Space sp);
void put_addr(InstExt& x, int k, AddrOp a);
u64 addr_val(Warp& w, const Inst& i, int k, int l);
u32 sh_addr(u64 a, int l);  // a shared address from a 32-bit shared or a 64-bit generic value
MBar mbar_load(Cluster& c, u32 addr);

void dec_st_async(Decoder&, Inst&);
void dec_bulk(Decoder&, Inst&);
void dec_cp_async(Decoder&, Inst&);
void dec_float_arith(Decoder&, Inst&);
void dec_mov_pred(Decoder&, Inst&, bool is_not);  // a predicate copied, or its opposite

}  // namespace atoll::gpusim
