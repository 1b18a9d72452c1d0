// Warp-level instructions: shfl, vote, match, redux, elect, activemask.
#include "tests/gpusim/decode.h"
#include "tests/gpusim/halfs.h"

namespace atoll::gpusim {
namespace {
// The member mask; a lane that is not in its own is undefined.
u32 mask_at(Warp& w, const Inst& i, int k, u32 m) {
  const u32* masks = w.reg<u32>(i.o[k]);
  u32 inside = 0;
  for (int l = 0; l < 32; l++) inside |= masks[l] & (1u << l);
  if (m & ~inside) {
    const int l = __builtin_ctz(m & ~inside);
    throw SimError(kIllegalInstruction, "a lane executes this that is not in its own member mask " + hex(masks[l]), l);
  }
  return masks[__builtin_ctz(m)];
}

// Lanes that execute: after converge() the group may have grown, so the guard predicate is evaluated again.
u32 exec_mask(Warp& w, const Inst& i) {
  u32 m = w.cur.mask;
  if (i.pred_kind) {
    u32 p = *w.reg<u32>(i.pred);
    m &= i.pred_kind == 1 ? p : ~p;
  }
  return m;
}
// The destination of shfl, match and elect: d, or d|p; the predicate becomes operand 5.
void dst_and_predicate(Decoder& d, Inst& i) {
  const AstOp* o = &d.op(0);
  if (o->kind == AstOp::PredPair) {
    i.aux2 = 1;
    i.o[5] = d.pdst(o->sub[1]);
    o = &o->sub[0];
  }
  i.o[0] = d.dst(*o, 32);
}
void set_predicate(Warp& w, u32 offset, u32 m, u32 value) {
  u32& p = *w.reg<u32>(offset);
  p = (p & ~m) | (value & m);
}
void must_be_sync(Decoder& d, Inst& i) {
  i.cls = kClassWarp;
  i.flags |= kFlagCtrl;
  if (!d.has("sync")) d.bad("unsupported form (without .sync)");
}
#define CONVERGE(mask_op)                                    \
  if (!converge(w, i, m, mask_at(w, i, mask_op, m))) return; \
  m = exec_mask(w, i);                                       \
  w.cur.pc++;

// shfl.sync.mode.b32 d|p, a, b, c, membermask
void shfl_h(Warp& w, const Inst& i, u32 m) {
  CONVERGE(4)
  u32 *d = w.reg<u32>(i.o[0]), src[32];
  memcpy(src, w.reg<u32>(i.o[1]), 128);
  const u32 *b = w.reg<u32>(i.o[2]), *c = w.reg<u32>(i.o[3]);
  const bool tracked = i.flags & kFlagTracked;
  const u32 written = tracked ? written_lanes(w, i.o[1]) : 0;
  u32 pr = 0, written_d = 0;
  lanes(m, [&](int l) {
    u32 bv = b[l] & 31, cv = c[l] & 31, seg = (c[l] >> 8) & 31;
    int max_l = (l & seg) | (cv & ~seg), min_l = l & seg, j;
    bool p;
    switch (i.aux) {
      case 0:
        j = l - (int)bv;
        p = j >= max_l;
        break;  // up
      case 1:
        j = l + (int)bv;
        p = j <= max_l;
        break;  // down
      case 2:
        j = l ^ (int)bv;
        p = j <= max_l;
        break;  // bfly
      default:
        j = min_l | (bv & ~seg);
        p = j <= max_l;
        break;  // idx
    }
    if (!p) j = l;
    d[l] = src[j & 31];
    pr |= (u32)p << l;
    written_d |= ((written & m) >> (j & 31) & 1) << l;  // of a lane that is not there the value is undefined
  });
  if (tracked) note_written(w, i, i.o[0], m, written_d, {i.o[1]});
  if (i.aux2) {
    if (tracked) note_written(w, i, i.o[5], m, kFullMask, {});
    set_predicate(w, i.o[5], m, pr);
  }
}
void dec_shfl(Decoder& d, Inst& i) {
  must_be_sync(d, i);
  dst_and_predicate(d, i);
  for (int k = 1; k <= 4; k++) i.o[k] = d.src(d.op(k), 32);
  i.aux = d.has("up") ? 0 : d.has("down") ? 1 : d.has("bfly") ? 2 : 3;
  i.fn = &shfl_h;
}
// vote.sync.{all,any,uni}.pred d, {!}a, mask;  vote.sync.ballot.b32 d, {!}a, mask
void vote_h(Warp& w, const Inst& i, u32 m) {
  u32 mem = mask_at(w, i, 2, m);
  CONVERGE(2)
  u32 p = *w.reg<u32>(i.o[1]);
  if (i.aux2) p = ~p;
  u32 act = m & mem;
  p &= act;
  if (i.aux == 3) {
    u32* d = w.reg<u32>(i.o[0]);
    lanes(m, [&](int l) { d[l] = p; });
    return;
  }
  bool v = i.aux == 0 ? p == act : i.aux == 1 ? p != 0 : p == 0 || p == act;
  set_predicate(w, i.o[0], m, v ? m : 0);
}
void dec_vote(Decoder& d, Inst& i) {
  must_be_sync(d, i);
  i.aux = d.has("all") ? 0 : d.has("any") ? 1 : d.has("uni") ? 2 : 3;
  i.o[0] = i.aux == 3 ? d.dst(d.op(0), 32) : d.pdst(d.op(0));
  bool n;
  i.o[1] = d.psrc(d.op(1), n);
  i.aux2 = n;
  i.o[2] = d.src(d.op(2), 32);
  i.fn = &vote_h;
}
// match.{any,all}.sync.type d{|p}, a, mask
void match_h(Warp& w, const Inst& i, u32 m) {
  CONVERGE(2)
  u64 v[32];
  for (int l = 0; l < 32; l++) v[l] = i.rw == 8 ? w.reg<u64>(i.o[1])[l] : w.reg<u32>(i.o[1])[l];
  u32 mem[32];
  memcpy(mem, w.reg<u32>(i.o[2]), 128);
  u32* d = w.reg<u32>(i.o[0]);
  u32 pr = 0;
  lanes(m, [&](int l) {
    u32 r = 0, act = m & mem[l];
    for (int k = 0; k < 32; k++)
      if ((act >> k) & 1 && v[k] == v[l]) r |= 1u << k;
    if (i.aux) {
      bool all = r == act;
      d[l] = all ? act : 0;
      pr |= (u32)all << l;
    } else
      d[l] = r;
  });
  if (i.aux2) set_predicate(w, i.o[5], m, pr);
}
void dec_match(Decoder& d, Inst& i) {
  must_be_sync(d, i);
  dst_and_predicate(d, i);
  i.rw = ty_bits(d.any_ty()) / 8;
  i.o[1] = d.src(d.op(1), i.rw * 8);
  i.o[2] = d.src(d.op(2), 32);
  i.aux = d.has("all");
  i.fn = &match_h;
}
void redux_h(Warp& w, const Inst& i, u32 m) {
  CONVERGE(2)
  u32* a = w.reg<u32>(i.o[1]);
  u32 mem[32], r[32];
  memcpy(mem, w.reg<u32>(i.o[2]), 128);
  lanes(m, [&](int l) {
    u32 act = m & mem[l], v = a[__builtin_ctz(act)];
    for (u32 k = act & (act - 1); k; k &= k - 1) {
      u32 x = a[__builtin_ctz(k)];
      switch (i.aux) {
        case 0: v += x; break;
        case 1: v &= x; break;
        case 2: v |= x; break;
        case 3: v ^= x; break;
        case 4: v = i.aux2 ? (u32)std::min((s32)v, (s32)x) : std::min(v, x); break;
        default: v = i.aux2 ? (u32)std::max((s32)v, (s32)x) : std::max(v, x);
      }
    }
    r[l] = v;
  });
  u32* d = w.reg<u32>(i.o[0]);
  lanes(m, [&](int l) { d[l] = r[l]; });
}
void dec_redux(Decoder& d, Inst& i) {
  must_be_sync(d, i);
  if (d.last_ty() == Ty::F32) d.bad("unsupported form (sm_100)");
  i.o[0] = d.dst(d.op(0), 32);
  i.o[1] = d.src(d.op(1), 32);
  i.o[2] = d.src(d.op(2), 32);
  i.aux = d.has("add") ? 0 : d.has("and") ? 1 : d.has("or") ? 2 : d.has("xor") ? 3 : d.has("min") ? 4 : 5;
  i.aux2 = d.last_ty() == Ty::S32;
  i.fn = &redux_h;
}
// elect.sync d|p, mask: the lowest lane of the mask leads
void elect_h(Warp& w, const Inst& i, u32 m) {
  u32 mem = mask_at(w, i, 2, m);
  CONVERGE(2)
  u32 act = m & mem, lead = __builtin_ctz(act ? act : m);
  u32* d = w.reg<u32>(i.o[0]);
  lanes(m, [&](int l) { d[l] = lead; });
  u32& p = *w.reg<u32>(i.o[5]);
  p = (p & ~m) | (1u << lead);
}
void dec_elect(Decoder& d, Inst& i) {
  must_be_sync(d, i);
  if (d.op(0).kind != AstOp::PredPair) d.bad("unsupported form");
  dst_and_predicate(d, i);
  i.o[2] = d.src(d.op(1), 32);
  i.fn = &elect_h;
}
void dec_activemask(Decoder& d, Inst& i) {
  i.cls = kClassWarp;
  i.o[0] = d.dst(d.op(0), 32);
  i.fn = [](Warp& w, const Inst& i, u32 m) {
    u32* d = w.reg<u32>(i.o[0]);
    lanes(m, [&](int l) { d[l] = m; });
  };
}
}  // namespace

void register_warp(DecodeTable& t) {
  t["shfl"] = dec_shfl;
  t["vote"] = dec_vote;
  t["match"] = dec_match;
  t["redux"] = dec_redux;
  t["elect"] = dec_elect;
  t["activemask"] = dec_activemask;
}

}  // namespace atoll::gpusim
