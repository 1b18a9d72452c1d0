// mma.sync: fragments in registers, one warp.
#include "tests/gpusim/handlers.h"
#include "tests/gpusim/tensor_product.h"

namespace atoll::gpusim {
namespace {
// B fragment (8 columns) of mma.sync -> b4
void load_b_regs(Warp& w, const std::vector<u32>& regs, Ty t, int K, float* b4) {
  int eb = e_bytes(t), per = 4 / eb;
  for (size_t r = 0; r < regs.size(); r++) {
    const u32* s = w.reg<u32>(regs[r]);
    for (int l = 0; l < 32; l++)
      for (int e = 0; e < per; e++) {
        int k = (l % 4) * per + e + r * 4 * per, n = l / 4;
        b4[((n & 1) * K + k) * 4 + n / 2] = elem(t, (const u8*)&s[l], e);
      }
  }
}

// ---- mma.sync --------------------------------------------------------------------
// x: v[0] D, v[1] A, v[2] B, v[3] C; aux A type, aux2 B type; n = K; rw: accumulator 0 f32, 1 f16, 2 s32
void mma_h(Warp& w, const Inst& i, u32 m) {
  if (!converge(w, i, m, w.live)) return;
  alignas(64) float acc[4][32], b4[2 * 32 * 4] = {};
  float a[16][32] = {};
  Frag f;
  const InstExt& x = *i.x;
  int K = i.n;
  load_a_regs(w, x.v[1], (Ty)i.aux, a);
  load_b_regs(w, x.v[2], (Ty)i.aux2, K, b4);
  expand_a(f, a, K);
  float* p[4] = {acc[0], acc[1], acc[2], acc[3]};
  if (i.rw == 0)
    for (int r = 0; r < 4; r++) memcpy(acc[r], w.reg<float>(x.v[3][r]), 128);
  else if (i.rw == 1)
    for (int r = 0; r < 4; r++)
      for (int l = 0; l < 32; l++) acc[r][l] = f16f(w.reg<u32>(x.v[3][r / 2])[l] >> (16 * (r & 1)));
  else
    memset(acc, 0, sizeof acc);
  product(f, b4, p, 8, K, (Ty)i.aux, (Ty)i.aux2, false);
  if (i.rw == 0)
    for (int r = 0; r < 4; r++) memcpy(w.reg<float>(x.v[0][r]), acc[r], 128);
  else if (i.rw == 1)
    for (int r = 0; r < 2; r++)
      for (int l = 0; l < 32; l++) w.reg<u32>(x.v[0][r])[l] = (u32)f2h(acc[2 * r][l]) | (u32)f2h(acc[2 * r + 1][l]) << 16;
  else
    for (int r = 0; r < 4; r++)
      for (int l = 0; l < 32; l++) w.reg<s32>(x.v[0][r])[l] = w.reg<s32>(x.v[3][r])[l] + (s32)acc[r][l];
  w.st.macs += 16 * 8 * K;
  w.cur.pc++;
}
void regs(Decoder& d, const AstOp& o, std::vector<u32>& out) {
  if (o.kind == AstOp::Vec)
    for (auto& s : o.sub) out.push_back(d.src(s, 32, true));
  else
    out.push_back(d.src(o, 32));
}
void mma_f64(Warp& w, const Inst& i, u32 m) {
  if (!converge(w, i, m, w.live)) return;
  const InstExt& x = *i.x;
  double r[2][32];
  for (int l = 0; l < 32; l++)
    for (int b = 0; b < 2; b++) {
      double s = w.reg<double>(x.v[3][b])[l];
      for (int k = 0; k < 4; k++) s = std::fma(w.reg<double>(x.v[1][0])[(l / 4) * 4 + k], w.reg<double>(x.v[2][0])[((l % 4) * 2 + b) * 4 + k], s);
      r[b][l] = s;
    }
  for (int b = 0; b < 2; b++) memcpy(w.reg<double>(x.v[0][b]), r[b], 256);
  w.st.macs += 8 * 8 * 4;
  w.cur.pc++;
}
void dec_mma(Decoder& d, Inst& i) {
  i.cls = kClassTensor;
  i.flags |= kFlagCtrl;
  if (d.has("sp") || d.part(1) != "sync" || !d.has("row") || !d.has("col")) d.bad("unsupported form");
  auto& x = d.ext(i);
  auto ty = d.types();
  if (d.has("m8n8k4") && ty.size() == 4 && ty[0] == Ty::F64) {
    for (int k = 0; k < 4; k++) {
      d.accumulating = k == 0;
      const AstOp& o = d.op(k);
      if (o.kind == AstOp::Vec)
        for (auto& s : o.sub) x.v[k].push_back(d.src(s, 64, true));
      else
        x.v[k].push_back(d.src(o, 64, true));
    }
    d.accumulating = false;
    i.fn = &mma_f64;
    return;
  }
  std::string shape;
  for (auto p : d.a->parts)
    if (p.size() > 4 && p[0] == 'm' && p.find('n') != std::string_view::npos && p.find('k') != std::string_view::npos) shape = std::string(p);
  if (shape.substr(0, 6) != "m16n8k" || ty.size() != 4) d.bad("unsupported shape");
  i.n = atoi(shape.c_str() + 6);
  if (i.n > 32) d.bad("unsupported shape");
  i.aux = (u32)ty[1];
  i.aux2 = (u32)ty[2];
  for (int k = 1; k <= 2; k++)
    if (ty[k] != Ty::BF16 && ty[k] != Ty::F16 && ty[k] != Ty::TF32 && ty[k] != Ty::E4M3 && ty[k] != Ty::E5M2 && ty[k] != Ty::S8 && ty[k] != Ty::U8)
      d.bad("unsupported type");
  i.rw = ty[0] == Ty::F32 ? 0 : ty[0] == Ty::F16 ? 1 : ty[0] == Ty::S32 ? 2 : 99;
  if (i.rw == 99) d.bad("unsupported type");
  for (int k = 0; k < 4; k++) {
    d.accumulating = k == 0;  // D is a result
    regs(d, d.op(k), x.v[k]);
  }
  d.accumulating = false;
  i.fn = &mma_h;
}

}  // namespace

void register_mma(DecodeTable& t) { t["mma"] = dec_mma; }

}  // namespace atoll::gpusim
