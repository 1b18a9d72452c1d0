// wgmma: matrix descriptors, asynchronous execution, commit and wait groups.
#include "tests/gpusim/handlers.h"
#include "tests/gpusim/tensor_product.h"

namespace atoll::gpusim {
namespace {
// ---- wgmma -----------------------------------------------------------------------------
struct Desc {
  u32 start, lbo, sbo, base;
  int mode;
};  // mode: bytes of a swizzle row 16, 32, 64, 128
Desc parse_desc(u64 v) {
  static const int rows[4] = {16, 128, 64, 32};
  return {(u32)(v & 0x3fff) << 4, (u32)((v >> 16) & 0x3fff) << 4, (u32)((v >> 32) & 0x3fff) << 4, (u32)(v >> 49) & 7, rows[v >> 62]};
}
inline u32 swizzled(const Desc& d, u32 a) {
  if (d.mode == 16) return a;
  u32 phase = ((a >> 7) - d.base) & (d.mode / 16 - 1);
  return a ^ (phase << 4);
}
// 16-byte chunk of the operand: K-major: row r (of M or N), chunk c along K. MN-major: chunk c along MN, row k.
inline u32 chunk_k(const Desc& d, u32 r, u32 c) {
  u32 o = d.mode == 16 ? (r & 7) * 16 + (r >> 3) * d.sbo + c * d.lbo : (r & 7) * d.mode + (r >> 3) * d.sbo + c * 16;
  return swizzled(d, d.start + o);
}
inline u32 chunk_mn(const Desc& d, u32 c, u32 k) {
  u32 per = d.mode / 16;
  u32 o = d.mode == 16 ? c * d.sbo + (k & 7) * 16 + (k >> 3) * d.lbo : (c % per) * 16 + (k & 7) * d.mode + (c / per) * d.lbo + (k >> 3) * d.sbo;
  return swizzled(d, d.start + o);
}
// 16-byte chunks of the CTA's shared memory as the async proxy sees it.
struct Chunks {
  const u8* base;
  u32 size;
  const u8* at(u32 a) const {
    if (__builtin_expect(a - kSmemBase + 16 > size || a < kSmemBase, 0))
      throw SimError(kIllegalAddress, "wgmma: matrix descriptor reaches shared offset " + std::to_string((int)a - (int)kSmemBase) + ", the CTA has " +
                                          std::to_string(size) + " bytes");
    return base + a;
  }
};
template <Ty T>
inline float elem_t(const u8* p, int k) {
  return elem(T, p, k);
}
template <Ty T>
void pack_b(float* q, const u8* raw, int N, int K, bool trans) {
  for (int n = 0; n < N; n++) {
    float* dst = q + ((n / 8 * 2 + (n & 1)) * K) * 4 + (n % 8) / 2;
    if (!trans) {
      const u8* s = raw + (size_t)n * 32;
      for (int k = 0; k < K; k++) dst[k * 4] = elem_t<T>(s, k);
    } else
      for (int k = 0; k < K; k++) dst[k * 4] = elem_t<T>(raw, k * N + n);
  }
}
template <Ty T>
void pack_a(const Chunks& ch, const Desc& d, u32 row0, int K, bool trans, float (*a)[32]) {
  const int per = 16 / e_bytes(T);
  if (!trans)
    for (int r = 0; r < 16; r++)
      for (int c = 0; c < 2; c++) {
        const u8* s = ch.at(chunk_k(d, row0 + r, c));
        for (int e = 0; e < per; e++) a[r][c * per + e] = elem_t<T>(s, e);
      }
  else
    for (int k = 0; k < K; k++)
      for (int c = 0; c < 2; c++) {
        const u8* s = ch.at(chunk_mn(d, row0 / 8 + c, k));
        for (int e = 0; e < 8; e++) a[c * 8 + e][k] = elem_t<T>(s, e);
      }
}
#define BY_TYPE(t, CALL)         \
  switch (t) {                   \
    case Ty::BF16: {             \
      constexpr Ty T = Ty::BF16; \
      CALL;                      \
      break;                     \
    }                            \
    case Ty::F16: {              \
      constexpr Ty T = Ty::F16;  \
      CALL;                      \
      break;                     \
    }                            \
    case Ty::E4M3: {             \
      constexpr Ty T = Ty::E4M3; \
      CALL;                      \
      break;                     \
    }                            \
    case Ty::E5M2: {             \
      constexpr Ty T = Ty::E5M2; \
      CALL;                      \
      break;                     \
    }                            \
    default: {                   \
      constexpr Ty T = Ty::TF32; \
      CALL;                      \
      break;                     \
    }                            \
  }
// The four warps of a warpgroup (and often two warpgroups) read the same B: keep decoded tiles, compare the raw bytes.
struct BCache {
  u64 key = ~0ull;
  std::vector<u8> raw;
  std::vector<float> b4;
};
thread_local BCache g_b[128];

const float* decode_b(const Chunks& ch, u64 desc, Ty t, int N, int K, bool trans) {
  thread_local std::vector<u8> raw;
  Desc d = parse_desc(desc);
  raw.resize((size_t)N * 32);
  u8* o = raw.data();
  if (!trans)
    for (int n = 0; n < N; n++)
      for (int c = 0; c < 2; c++, o += 16) memcpy(o, ch.at(chunk_k(d, n, c)), 16);
  else
    for (int k = 0; k < K; k++)
      for (int c = 0; c < N / 8; c++, o += 16) memcpy(o, ch.at(chunk_mn(d, c, k)), 16);
  u64 key = (u64)t | (u64)N << 8 | (u64)K << 20 | (u64)trans << 32;
  BCache& b = g_b[(u32)((u32)desc * 2654435761u) >> 25];
  if (b.key == key && !memcmp(b.raw.data(), raw.data(), raw.size())) return b.b4.data();
  b.key = key;
  b.raw = raw;
  b.b4.resize((size_t)N * K + 16);
  BY_TYPE(t, pack_b<T>(b.b4.data(), raw.data(), N, K, trans))
  return b.b4.data();
}
// x: v[0] D, v[1] A registers (empty: descriptor in o[1]); o[2] B descriptor; o[3] scale-d predicate
// p: 0 N, 1 K, 2 A type, 3 B type, 4 sign, 5 transpose A, 6 transpose B, 7 scale-d negated, 8 f16 accumulator
u32 wg_key(const Warp& w) { return w.cta->rank * 8 + w.id / 4; }
u64 wg_number(const Warp& w, u32 number) { return (u64)(w.id / 4) << 32 | number; }
struct Issued {  // operands that are read when the instruction is issued; registers and shared memory are read late
  u64 desc_a, desc_b;
  bool accumulate;
  u32 number;  // of the warpgroup's operations
};
// The chunks of shared memory that this warp's quarter of a wgmma reads (the four read the same B: the first answers for it).
template <class F>
void for_each_chunk(const Warp& w, const Inst& i, const Issued& op, F f) {
  const InstExt& x = *i.x;
  const u32 row0 = (w.id % 4) * 16, N = x.p[0], K = x.p[1];
  if (x.v[1].empty()) {
    const Desc d = parse_desc(op.desc_a);
    for (u32 k = 0; k < (x.p[5] ? K : 16); k++)
      for (u32 c = 0; c < 2; c++) f(x.p[5] ? chunk_mn(d, row0 / 8 + c, k) : chunk_k(d, row0 + k, c));
  }
  if (w.id % 4) return;
  const Desc d = parse_desc(op.desc_b);
  for (u32 k = 0; k < (x.p[6] ? K : N); k++)
    for (u32 c = 0; c < (x.p[6] ? N / 8 : 2); c++) f(x.p[6] ? chunk_mn(d, c, k) : chunk_k(d, k, c));
}
// All four warps have issued it: from here to the wait its tiles must be there and stay. Checked now, however late it runs.
void wgmma_check_sources(Warp& w, const Inst& i, const Issued& op) {
  Cta& cta = *w.cta;
  Access access;
  access.async = true, access.line = i.ast->line, access.clock = op.number;
  if (w.cluster->race) {
    access.agent = race_agent(*w.cluster, AgentKind::kWgmma, wg_key(w));
    access.clocks = &cta.wgmma_clocks[wg_number(w, op.number)];
  }
  const Chunks bounds{nullptr, cta.smem_size};
  for_each_chunk(w, i, op, [&](u32 at) {
    bounds.at(at);
    if (options().uninit)
      for (int k = 0; k < 16; k++)
        if (!cta.written[at + k])
          throw SimError(kIllegalAddress, "wgmma reads shared memory that nobody has written, offset " + std::to_string(at + k - kSmemBase));
    if (w.cluster->race) race_shared(w, at | cta.rank << kRankShift, 16, access);
  });
  if (w.id % 4 == 3) cta.wgmma_clocks.erase(wg_number(w, op.number));
}
// Late wgmma: from issue to wait an accumulator lives here, and whoever reads the register gets a NaN.
void hold_accumulators(Warp& w, const Inst& i) {
  for (u32 r : i.x->v[0]) {
    u32* reg = w.reg<u32>(r);
    auto [it, fresh] = w.wg_held.try_emplace(w.R + r);
    it->second.group = w.wg_open;
    if (!fresh) continue;
    memcpy(it->second.value, reg, 128);
    for (int l = 0; l < 32; l++) reg[l] = 0x7fffffff;
  }
}
void give_accumulators_back(Warp& w, int upto) {
  for (auto it = w.wg_held.begin(); it != w.wg_held.end();)
    if (it->second.group < upto) {
      memcpy(it->first, it->second.value, 128);
      it = w.wg_held.erase(it);
    } else
      ++it;
}
void wgmma_run(Warp& w, char* R, const Inst& i, const Issued& op) {
  char* keep = w.R;
  w.R = R;
  const InstExt& x = *i.x;
  const int N = x.p[0], K = x.p[1];
  const bool scale = op.accumulate;
  Ty ta = (Ty)x.p[2], tb = (Ty)x.p[3];
  const Chunks ch{w.cta->async_view(), w.cta->smem_size};
  auto accumulator = [&](u32 r) { return options().lazy ? w.wg_held.at(R + r).value : w.reg<float>(r); };
  float a[16][32];
  if (x.v[1].empty()) {
    Desc d = parse_desc(op.desc_a);
    u32 row0 = (w.id % 4) * 16;
    BY_TYPE(ta, pack_a<T>(ch, d, row0, K, x.p[5], a))
  } else
    load_a_regs(w, x.v[1], ta, a);
  if (x.p[4] < 0)
    for (auto& r : a)
      for (int k = 0; k < K; k++) r[k] = -r[k];
  const float* b4 = decode_b(ch, op.desc_b, tb, N, K, x.p[6]);
  Frag f;
  expand_a(f, a, K);
  float* acc[128];
  alignas(64) float tmp[128][32];
  int nr = N / 2;
  if (x.p[8]) {
    for (int r = 0; r < nr; r++) {
      acc[r] = tmp[r];
      if (scale)
        for (int l = 0; l < 32; l++) tmp[r][l] = f16f(reinterpret_cast<u32*>(accumulator(x.v[0][r / 2]))[l] >> (16 * (r & 1)));
      else
        memset(tmp[r], 0, 128);
    }
  } else
    for (int r = 0; r < nr; r++) {
      acc[r] = accumulator(x.v[0][r]);
      if (!scale) memset(acc[r], 0, 128);
    }
  product(f, b4, acc, N, K, ta, tb, true);
  if (x.p[8])
    for (int r = 0; r < nr / 2; r++)
      for (int l = 0; l < 32; l++) reinterpret_cast<u32*>(accumulator(x.v[0][r]))[l] = (u32)f2h(tmp[2 * r][l]) | (u32)f2h(tmp[2 * r + 1][l]) << 16;
  w.st.macs += (u64)16 * N * K;
  w.R = keep;
}
template <class F>
void wgmma_drain(Warp& v, F more) {
  while (!v.wg.empty() && more(v)) {
    auto f = v.wg.front().run;
    v.wg.pop_front();
    v.wg_done++;
    f();
  }
}
void wgmma_h(Warp& w, const Inst& i, u32 m) {
  if (!converge(w, i, m, w.live)) return;
  if (w.live != kFullMask) throw SimError(kIllegalInstruction, "wgmma in a warp with exited threads");
  if ((w.id | 3) >= (int)w.cta->warps.size()) throw SimError(kIllegalInstruction, "wgmma outside a complete warpgroup");
  const u32 sd = *w.reg<u32>(i.o[3]) ^ (i.x->p[7] ? kFullMask : 0);
  const Issued op{i.x->v[1].empty() ? w.reg<u64>(i.o[1])[0] : 0, w.reg<u64>(i.o[2])[0], (sd & 1) != 0, ++w.wg_ops};
  if (options().registers) wgmma_takes_regs(w, i, op.accumulate);
  w.wg.push_back({[&w, R = w.R, &i, op] { wgmma_run(w, R, i, op); }, w.wg_open});
  w.wg_issued++;
  const int wg = w.id / 4;
  if (w.cluster->race) {
    w.cta->wgmma_clocks[wg_number(w, op.number)].join(w.clock);
    w.clock.seen[w.agent]++;
  }
  if (w.cluster->race || options().uninit) {
    w.wg_unchecked.push_back([&w, &i, op] { wgmma_check_sources(w, i, op); });
    auto issued = [&] {
      for (int k = wg * 4; k < wg * 4 + 4; k++)
        if (w.cta->warps[k]->wg_unchecked.empty()) return false;
      return true;
    };
    while (issued())
      for (int k = wg * 4; k < wg * 4 + 4; k++) {
        auto check = std::move(w.cta->warps[k]->wg_unchecked.front());
        w.cta->warps[k]->wg_unchecked.pop_front();
        check();
      }
  }
  if (options().lazy)
    hold_accumulators(w, i);
  else {  // starts when all four warps have issued it
    int least = w.wg_issued;
    for (int k = wg * 4; k < wg * 4 + 4; k++)
      if (w.cta->warps[k]->live) least = std::min(least, w.cta->warps[k]->wg_issued);
    for (int k = wg * 4; k < wg * 4 + 4; k++) wgmma_drain(*w.cta->warps[k], [&](Warp& v) { return v.wg_done < least; });
  }
  w.cur.pc++;
}
// wgmma is one operation of the warpgroup: it starts when its four warps have issued it, and when one warp has waited
// for it the tiles are free. Programs rely on both (FlashMLA: one warp refills a tile right after its own wait).
void wgmma_wait(Warp& w, const Inst& i, u32 m) {
  if (!converge(w, i, m, w.live)) return;
  const int wg = w.id / 4;
  if (i.aux == 0) {
    const int upto = w.wg_open - (int)i.aux2;
    if (!wgmma_ready(w, upto)) {
      w.cur.wait_addr = (u64)upto;
      park_current(w, St::Wgmma);
      return;
    }
    if (options().lazy)
      for (int k = wg * 4; k < wg * 4 + 4 && k < (int)w.cta->warps.size(); k++)
        wgmma_drain(*w.cta->warps[k], [&](Warp& v) { return v.wg.front().group < upto; });
    if (options().lazy) give_accumulators_back(w, upto);
    if (options().registers) wgmma_frees_regs(w, upto);
    if (w.cluster->race && upto > 0) {
      w.clock.raise(race_agent(*w.cluster, AgentKind::kWgmma, wg_key(w)), w.wg_group_ops[upto - 1]);
    }
  } else if (i.aux == 1) {
    w.wg_group_ops.push_back(w.wg_ops);
    w.wg_open++;
  } else
    w.fence_interval++;
  w.cur.pc++;
}
void dec_wgmma(Decoder& d, Inst& i) {
  i.cls = kClassTensor;
  i.flags |= kFlagCtrl;
  if (d.part(1) != "mma_async") {
    i.aux = d.part(1) == "wait_group" ? 0 : d.part(1) == "commit_group" ? 1 : 2;
    if (i.aux == 0) i.aux2 = d.op(0).imm;
    i.fn = &wgmma_wait;
    return;
  }
  if (d.has("sp")) d.bad("unsupported form (sparse)");
  auto& x = d.ext(i);
  auto ty = d.types();
  std::string shape;
  for (auto p : d.a->parts)
    if (p.substr(0, 4) == "m64n") shape = std::string(p);
  if (shape.empty() || ty.size() != 3) d.bad("unsupported form");
  x.p[0] = atoi(shape.c_str() + 4);
  x.p[1] = atoi(shape.c_str() + shape.find('k') + 1);
  x.p[2] = (int)ty[1];
  x.p[3] = (int)ty[2];
  for (int k = 1; k <= 2; k++)
    if (ty[k] != Ty::BF16 && ty[k] != Ty::F16 && ty[k] != Ty::TF32 && ty[k] != Ty::E4M3 && ty[k] != Ty::E5M2) d.bad("unsupported operand type");
  if (ty[0] != Ty::F32 && ty[0] != Ty::F16) d.bad("unsupported accumulator type");
  x.p[8] = ty[0] == Ty::F16;
  if (x.p[0] % 8 || x.p[0] < 8 || x.p[0] > 256 || x.p[1] * e_bytes(ty[1]) != 32) d.bad("illegal shape");
  d.accumulating = true;
  for (auto& s : d.op(0).sub) x.v[0].push_back(d.src(s, 32, true));
  d.accumulating = false;
  if ((int)x.v[0].size() != x.p[0] / (x.p[8] ? 4 : 2)) d.bad("number of accumulator registers");
  if (d.op(1).kind == AstOp::Vec)
    for (auto& s : d.op(1).sub) x.v[1].push_back(d.src(s, 32));
  else
    i.o[1] = d.src(d.op(1), 64);
  i.o[2] = d.src(d.op(2), 64);
  bool n = false;
  i.o[3] = d.psrc(d.op(3), n);
  x.p[7] = n;
  x.p[4] = 1;
  size_t k = 4;
  if (d.nops() > k) {
    if ((s64)d.op(k).imm == -1) x.p[4] = -x.p[4];
    k++;
  }
  if (d.nops() > k) {
    if ((s64)d.op(k).imm == -1) x.p[4] = -x.p[4];
    k++;
  }
  if (x.v[1].empty() && d.nops() > k) x.p[5] = d.op(k++).imm;
  if (d.nops() > k) x.p[6] = d.op(k++).imm;
  if ((x.p[5] || x.p[6]) && e_bytes(ty[1]) != 2) d.bad("transposition needs 16-bit operands");
  i.fn = &wgmma_h;
}
}  // namespace

bool wgmma_ready(Warp& w, int upto) {
  int wg = w.id / 4;
  for (int k = wg * 4; k < wg * 4 + 4 && k < (int)w.cta->warps.size(); k++) {
    Warp& v = *w.cta->warps[k];
    if (v.live && v.wg_open < upto) return false;
  }
  return true;
}

void register_wgmma(DecodeTable& t) { t["wgmma"] = dec_wgmma; }

}  // namespace atoll::gpusim
