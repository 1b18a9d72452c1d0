// Name resolution, register file layout, module loading.
#include "tests/gpusim/decode.h"
#include <cstdio>

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

void Decoder::bad(const std::string& why) const {
  std::string s =
      lm.mod->name + ":" + std::to_string(a ? a->line : 0) + ": " + why + ": `" + std::string(a ? a->op : std::string_view("?")) + "` in " + af.name;
  if (a && a->loc_line) {
    auto it = lm.mod->files.find(a->loc_file);
    if (it != lm.mod->files.end()) s += " (source " + it->second + ":" + std::to_string(a->loc_line) + ")";
  }
  throw PtxError(s);
}

bool Decoder::lookup_reg(std::string_view n, int scope, AstReg& out) const {
  for (int s = scope; s >= 0; s = af.scope_parent[s]) {
    auto it = af.regs[s].find(n);
    if (it != af.regs[s].end()) {
      out = it->second;
      return true;
    }
    for (auto& r : af.reg_ranges[s])
      if (n.size() > r.prefix.size() && n.compare(0, r.prefix.size(), r.prefix) == 0) {
        u32 k = 0;
        bool num = true;
        for (size_t i = r.prefix.size(); i < n.size(); i++) {
          if (!isdigit((unsigned char)n[i])) {
            num = false;
            break;
          }
          k = k * 10 + (n[i] - '0');
        }
        if (num && (int)k < r.count) {
          out = r.reg;
          out.index += k;
          return true;
        }
      }
  }
  return false;
}
int Decoder::reg_bits(const AstOp& o) const {
  AstReg r;
  return o.kind == AstOp::Ident && lookup_reg(o.name, a->scope, r) ? r.bits : 0;
}

static u32 slot_bytes(int bits) { return bits == 1 ? 4 : bits * 4; }

u32 Decoder::alloc_const(int bits) {
  u32 al = bits == 1 ? 4 : 64;
  f.const_bytes = (f.const_bytes + al - 1) / al * al;
  u32 off = f.const_bytes;
  f.const_bytes += slot_bytes(bits);
  f.const_image.resize(f.const_bytes);
  return off;
}
u32 Decoder::const_slot(u64 v, int bits, u64 hi) {
  if (bits < 64 && bits > 1) v &= (1ull << bits) - 1;
  std::string key = std::to_string(v) + "/" + std::to_string(bits) + "/" + std::to_string(hi);
  auto it = const_slots.find(key);
  if (it != const_slots.end()) return it->second.off;
  u32 off = alloc_const(bits);
  for (int l = 0; l < 32; l++) {
    if (bits == 128) {
      memcpy(&f.const_image[off + l * 16], &v, 8);
      memcpy(&f.const_image[off + l * 16 + 8], &hi, 8);
    } else
      memcpy(&f.const_image[off + l * bits / 8], &v, bits / 8);
  }
  const_slots[key] = {off, (u16)bits, false};
  return off;
}
u32 Decoder::pred_const(bool v) {
  std::string key = v ? "p1" : "p0";
  auto it = const_slots.find(key);
  if (it != const_slots.end()) return it->second.off;
  u32 off = alloc_const(1), x = v ? kFullMask : 0;
  memcpy(&f.const_image[off], &x, 4);
  const_slots[key] = {off, 1, true};
  return off;
}

bool Decoder::special_reg(std::string_view n, int& id, bool& clock) const {
  clock = false;
  static const std::unordered_map<std::string_view, int> t = {{"%tid.x", kSrTidx},
                                                              {"%tid.y", kSrTidy},
                                                              {"%tid.z", kSrTidz},
                                                              {"%ntid.x", kSrNtidx},
                                                              {"%ntid.y", kSrNtidy},
                                                              {"%ntid.z", kSrNtidz},
                                                              {"%ctaid.x", kSrCtax},
                                                              {"%ctaid.y", kSrCtay},
                                                              {"%ctaid.z", kSrCtaz},
                                                              {"%nctaid.x", kSrNctax},
                                                              {"%nctaid.y", kSrNctay},
                                                              {"%nctaid.z", kSrNctaz},
                                                              {"%laneid", kSrLane},
                                                              {"%warpid", kSrWarp},
                                                              {"%nwarpid", kSrNwarp},
                                                              {"%smid", kSrSm},
                                                              {"%nsmid", kSrNsm},
                                                              {"%gridid", kSrGridid},
                                                              {"%clusterid.x", kSrClx},
                                                              {"%clusterid.y", kSrCly},
                                                              {"%clusterid.z", kSrClz},
                                                              {"%nclusterid.x", kSrNclx},
                                                              {"%nclusterid.y", kSrNcly},
                                                              {"%nclusterid.z", kSrNclz},
                                                              {"%cluster_ctaid.x", kSrCctax},
                                                              {"%cluster_ctaid.y", kSrCctay},
                                                              {"%cluster_ctaid.z", kSrCctaz},
                                                              {"%cluster_nctaid.x", kSrCnctax},
                                                              {"%cluster_nctaid.y", kSrCnctay},
                                                              {"%cluster_nctaid.z", kSrCnctaz},
                                                              {"%cluster_ctarank", kSrCrank},
                                                              {"%cluster_nctarank", kSrCnrank},
                                                              {"%is_explicit_cluster", kSrExplicit},
                                                              {"%lanemask_eq", kSrLmeq},
                                                              {"%lanemask_le", kSrLmle},
                                                              {"%lanemask_lt", kSrLmlt},
                                                              {"%lanemask_ge", kSrLmge},
                                                              {"%lanemask_gt", kSrLmgt},
                                                              {"%dynamic_smem_size", kSrDynsmem},
                                                              {"%total_smem_size", kSrTotsmem},
                                                              {"%aggr_smem_size", kSrTotsmem},
                                                              {"%reserved_smem_offset_begin", kSrZero}};
  auto it = t.find(n);
  if (it != t.end()) {
    id = it->second;
    return true;
  }
  if (n == "%clock" || n == "%clock64" || n == "%globaltimer" || n == "%clock_hi" || n == "%globaltimer_lo" || n == "%globaltimer_hi") {
    clock = true;
    return true;
  }
  if (n == "%envreg1" || n == "%envreg2") {
    id = n == "%envreg1" ? kSrEnv1 : kSrEnv2;
    return true;
  }
  if (n.substr(0, 7) == "%envreg") {
    id = kSrZero;
    return true;
  }
  return false;
}

// Address of a symbol as a constant slot.
u32 Decoder::symbol(std::string_view name, int bits, Space* sp, bool& ok) {
  ok = true;
  for (int s = a->scope; s >= 0; s = af.scope_parent[s]) {
    std::string key = std::string(name) + "@" + std::to_string(s);
    auto l = f.local_off.find(key);
    if (l != f.local_off.end()) {
      if (sp) *sp = Space::Local;
      std::string ck = "local:" + key + "/" + std::to_string(bits);
      auto it = const_slots.find(ck);
      if (it != const_slots.end()) return it->second.off;
      u32 off = alloc_const(bits);
      for (int i = 0; i < 32; i++) {
        u64 v = l->second;
        memcpy(&f.const_image[off + i * bits / 8], &v, bits / 8);
      }
      f.local_relocs.push_back({off, bits});
      const_slots[ck] = {off, (u16)bits, false};
      return off;
    }
  }
  for (size_t i = 0; af.is_entry && i < af.params.size(); i++)
    if (af.params[i].name == name) {
      if (sp) *sp = Space::Param;
      return const_slot(f.param_addr + f.param_off[i], bits);
    }
  auto sh = shared_off.find(std::string(name));
  if (sh != shared_off.end()) {
    if (sp) *sp = Space::Shared;
    std::string ck = "shared:" + std::string(name) + "/" + std::to_string(bits);
    auto it = const_slots.find(ck);
    if (it != const_slots.end()) return it->second.off;
    u32 off = alloc_const(bits);
    for (int i = 0; i < 32; i++) {
      u64 v = sh->second;
      memcpy(&f.const_image[off + i * bits / 8], &v, bits / 8);
    }
    f.shared_relocs.push_back({off, bits});
    const_slots[ck] = {off, (u16)bits, false};
    return off;
  }
  auto g = lm.sym_addr.find(std::string(name));
  if (g != lm.sym_addr.end()) {
    if (sp) *sp = Space::Global;
    return const_slot(g->second, bits);
  }
  auto fn = lm.mod->by_name.find(std::string(name));
  if (fn != lm.mod->by_name.end()) {
    Func* callee = get_func(&lm, std::string(name));
    return const_slot((kFuncTag << 32) | (u32)callee->index, bits);
  }
  ok = false;
  return 0;
}

u32 Decoder::any_src(const AstOp& o, int def_bits, u8& width, bool is_float) {
  if (o.neg && o.kind == AstOp::Ident) bad("negated register operand");
  width = def_bits / 8;
  switch (o.kind) {
    case AstOp::Ident: {
      AstReg r;
      if (lookup_reg(o.name, a->scope, r)) {
        if (r.is_pred) bad("predicate register where a value is needed: " + std::string(o.name));
        width = r.bits / 8;
        return reg_slots[r.index].off;
      }
      int id;
      bool clk;
      if (special_reg(o.name, id, clk)) {
        if (clk) bad("clock register only allowed in mov");
        std::string ck = "sr:" + std::to_string(id) + "/" + std::to_string(def_bits);
        auto it = const_slots.find(ck);
        if (it != const_slots.end()) return it->second.off;
        u32 off = alloc_const(def_bits);
        f.specials.push_back({off | (def_bits == 64 ? 1u : def_bits == 16 ? 2u : 0u), id});
        const_slots[ck] = {off, (u16)def_bits, false};
        return off;
      }
      bool ok;
      u32 s = symbol(o.name, def_bits, nullptr, ok);
      if (ok) {
        if (o.imm) bad("symbol+offset operand");  // rare; handled in mov
        return s;
      }
      bad("unknown name " + std::string(o.name));
    }
    case AstOp::Imm:
      if (is_float && def_bits == 32) {
        float v = (float)(s64)o.imm;
        u32 b;
        memcpy(&b, &v, 4);
        return const_slot(b, 32);
      }
      if (is_float && def_bits == 64) {
        double v = (double)(s64)o.imm;
        u64 b;
        memcpy(&b, &v, 8);
        return const_slot(b, 64);
      }
      return const_slot(o.imm, def_bits);
    case AstOp::Float32: {
      if (def_bits == 64) {
        float v;
        u32 b = o.imm;
        memcpy(&v, &b, 4);
        double dv = v;
        u64 db;
        memcpy(&db, &dv, 8);
        return const_slot(db, 64);
      }
      return const_slot(o.imm, def_bits);
    }
    case AstOp::Float64: {
      if (def_bits == 32) {
        double dv;
        memcpy(&dv, &o.imm, 8);
        float v = (float)dv;
        u32 b;
        memcpy(&b, &v, 4);
        return const_slot(b, 32);
      }
      return const_slot(o.imm, def_bits);
    }
    default: bad("operand form");
  }
}
u32 Decoder::src(const AstOp& o, int bits, bool is_float) {
  u8 w;
  u32 r = any_src(o, bits, w, is_float);
  if (w * 8 != bits) bad("operand " + std::string(o.name) + " has " + std::to_string(w * 8) + " bits, " + std::to_string(bits) + " expected");
  return r;
}
u32 Decoder::any_dst(const AstOp& o, int def_bits, u8& width) {
  width = def_bits / 8;
  if (o.kind == AstOp::Sink) return scratch;
  AstReg r;
  if (o.kind != AstOp::Ident || !lookup_reg(o.name, a->scope, r)) bad("destination is not a register: " + std::string(o.name));
  if (r.is_pred) bad("predicate destination: " + std::string(o.name));
  width = r.bits / 8;
  return reg_slots[r.index].off;
}
u32 Decoder::dst(const AstOp& o, int bits) {
  u8 w;
  u32 r = any_dst(o, bits, w);
  if (w * 8 != bits) bad("destination " + std::string(o.name) + " has " + std::to_string(w * 8) + " bits, " + std::to_string(bits) + " expected");
  return r;
}
u32 Decoder::psrc(const AstOp& o, bool& neg) {
  neg = o.neg;
  if (o.kind == AstOp::Imm) return pred_const(o.imm != 0);
  AstReg r;
  if (o.kind != AstOp::Ident || !lookup_reg(o.name, a->scope, r) || !r.is_pred) bad("predicate operand expected: " + std::string(o.name));
  return reg_slots[r.index].off;
}
u32 Decoder::pdst(const AstOp& o) {
  if (o.kind == AstOp::Sink) return scratch;
  bool n;
  return psrc(o, n);
}

Space Decoder::space_of() const {
  for (auto p : a->parts) {
    if (p == "global") return Space::Global;
    if (p == "shared" || p == "shared::cta" || p == "shared::cluster") return Space::Shared;
    if (p == "local") return Space::Local;
    if (p == "const") return Space::Const;
    if (p == "param" || p == "param::entry" || p == "param::func") return Space::Param;
  }
  return Space::Generic;
}

void Decoder::addr(const AstOp& o, Inst& i, int k, Space& sp) {
  if (o.kind != AstOp::Addr) bad("address operand expected");
  i.imm = (s64)o.imm;
  if (o.name.empty()) {
    i.o[k] = const_slot(0, 64);
    i.aw = 8;
    return;
  }
  AstReg r;
  if (lookup_reg(o.name, a->scope, r)) {
    if (r.bits != 32 && r.bits != 64) bad("address register width");
    i.o[k] = reg_slots[r.index].off;
    i.aw = r.bits / 8;
    if (sp == Space::Param) sp = af.is_entry ? Space::Const : Space::Local;
    return;
  }
  bool ok;
  Space ss = Space::None;
  i.o[k] = symbol(o.name, 64, &ss, ok);
  i.aw = 8;
  if (!ok) bad("unknown symbol " + std::string(o.name));
  if (sp == Space::Param)
    sp = ss == Space::Local ? Space::Local : Space::Const;
  else if (sp == Space::Generic && ss != Space::None)
    sp = ss == Space::Param ? Space::Const : ss;
}

int Decoder::label(const AstOp& o) const {
  for (int s = a->scope; s >= 0; s = af.scope_parent[s]) {
    auto it = af.labels[s].find(o.name);
    if (it != af.labels[s].end()) return it->second;
  }
  bad("unknown label " + std::string(o.name));
}

// ---- functions -------------------------------------------------------------
namespace {
DecodeTable& table() {
  static DecodeTable t = [] {
    DecodeTable x;
    register_int(x);
    register_float(x);
    register_cvt(x);
    register_mem(x);
    register_ctl(x);
    register_warp(x);
    register_async(x);
    register_tensor(x);
    return x;
  }();
  return t;
}
std::vector<Func*>& all_funcs() {
  static std::vector<Func*> v;
  return v;
}
std::recursive_mutex g_decode_mu;

u32 align_up(u32 v, u32 a) { return (v + a - 1) / a * a; }

void layout(Decoder& d) {
  Func& f = d.f;
  const AstFunc& af = d.af;
  // kernel parameters
  if (af.is_entry) {
    u32 off = 0;
    for (auto& p : af.params) {
      off = align_up(off, std::max<u32>(p.align, 1));
      f.param_off.push_back(off);
      off += p.size;
    }
    f.param_bytes = off;
    f.param_addr = mem_alloc(std::max<u32>(off, 16), "parameters of " + af.name, 4096);
  }
  u32 lo = 0;
  auto add_local = [&](const AstVar& v, int scope) {
    lo = align_up(lo, std::max<u32>(v.align, 8));
    f.local_off[v.name + "@" + std::to_string(scope)] = lo;
    lo += v.size;
  };
  if (!af.is_entry) {
    for (auto& p : af.rets) add_local(p, 0);
    for (auto& p : af.params) add_local(p, 0);
  }
  u32 sh = kSmemBase;
  std::vector<std::string> dyn;
  auto add_shared = [&](const AstVar& v) {
    if (v.is_extern || v.size == 0) {
      dyn.push_back(v.name);
      f.dyn_align = std::max(f.dyn_align, v.align);
      return;
    }
    sh = align_up(sh, std::max<u32>(v.align, 1));
    d.shared_off[v.name] = sh;
    sh += v.size;
  };
  // module-scope .shared variables are visible to each function
  for (auto& v : d.lm.mod->globals)
    if (v.space == Space::Shared) add_shared(v);
  for (auto& v : af.vars) {
    if (v.space == Space::Local || v.space == Space::Param)
      add_local(v, v.scope);
    else if (v.space == Space::Shared)
      add_shared(v);
  }
  sh = align_up(sh, f.dyn_align);
  f.static_smem = sh - kSmemBase;
  for (auto& n : dyn) d.shared_off[n] = sh;
  f.local_size = align_up(lo, 16);
  // registers (offsets patched later: they follow the constants)
  d.reg_slots.resize(af.nregs);
  u32 off = 0;
  auto place = [&](const AstReg& r, int idx) {
    u32 al = r.is_pred ? 4 : 64;
    off = align_up(off, al);
    d.reg_slots[idx] = {off, r.bits, r.is_pred};
    off += slot_bytes(r.bits);
  };
  for (size_t s = 0; s < af.regs.size(); s++) {
    for (auto& [n, r] : af.regs[s]) place(r, r.index);
    for (auto& rr : af.reg_ranges[s])
      for (int k = 0; k < rr.count; k++) place(rr.reg, rr.reg.index + k);
  }
  off = align_up(off, 64);
  d.scratch = off;
  off += 512;
  f.reg_bytes = off;
}

void decode_one(Decoder& d, const AstInst& a, Inst& i) {
  d.a = &a;
  i.ast = &a;
  if (!a.pred.empty()) {
    AstOp o;
    o.name = a.pred;
    bool neg;
    i.pred = d.psrc(o, neg);
    i.pred_kind = a.pred_neg ? 2 : 1;
  }
  auto& t = table();
  auto it = t.find(a.parts[0]);
  if (it == t.end()) d.bad("unsupported instruction");
  it->second(d, i);
  if (!i.fn) d.bad("unsupported form");
}
}  // namespace

// Constants come first in the register file, but their number is known only after decoding. Registers are
// therefore placed first: offsets below reg_bytes are registers, constants are decoded at reg_bytes onwards.
Func* get_func(LoadedModule* m, const std::string& name) {
  std::lock_guard<std::recursive_mutex> lk(g_decode_mu);
  auto it = m->funcs.find(name);
  if (it != m->funcs.end()) return it->second.get();
  auto b = m->mod->by_name.find(name);
  if (b == m->mod->by_name.end()) throw PtxError("no function " + name + " in " + m->mod->name);
  auto fp = std::make_unique<Func>();
  Func* f = fp.get();
  f->ast = b->second;
  f->mod = m->mod.get();
  f->index = all_funcs().size();
  all_funcs().push_back(f);
  m->funcs[name] = std::move(fp);
  if (!f->ast->has_body) return f;  // vprintf and friends
  try {
    Decoder d(*m, *f, *f->ast);
    layout(d);
    f->const_bytes = f->reg_bytes;
    f->const_image.resize(f->const_bytes);
    f->code.resize(f->ast->insts.size() + 1);
    for (size_t k = 0; k < f->ast->insts.size(); k++) decode_one(d, f->ast->insts[k], f->code[k]);
    // an implicit ret behind the last instruction
    static AstInst ret_ast;
    if (ret_ast.op.empty()) {
      ret_ast.op = "ret";
      ret_ast.parts = {"ret"};
    }
    decode_one(d, ret_ast, f->code.back());
    f->const_image.erase(f->const_image.begin(), f->const_image.begin() + f->reg_bytes);
  } catch (...) {
    all_funcs()[f->index] = nullptr;
    m->funcs.erase(name);
    throw;
  }
  return f;
}
Func* func_by_index(u32 idx) {
  auto& v = all_funcs();
  return idx < v.size() ? v[idx] : nullptr;
}

std::vector<std::string> unsupported_instructions(LoadedModule* m) {
  std::vector<std::string> out;
  for (auto& fn : m->mod->funcs) {
    if (!fn->has_body) continue;
    Func tmp;
    tmp.ast = fn.get();
    tmp.mod = m->mod.get();
    Decoder d(*m, tmp, *fn);
    layout(d);
    tmp.const_bytes = tmp.reg_bytes;
    tmp.const_image.resize(tmp.const_bytes);
    for (auto& a : fn->insts) {
      Inst i;
      try {
        decode_one(d, a, i);
      } catch (PtxError& e) { out.push_back(e.what()); }
    }
  }
  return out;
}

LoadedModule* load_module(std::string text, const std::string& name) {
  auto lm = std::make_unique<LoadedModule>();
  lm->mod = parse_ptx(std::move(text), name);
  for (auto& v : lm->mod->globals) {
    if (v.space == Space::Shared) continue;
    if (lm->sym_addr.count(v.name)) continue;
    u64 sz = std::max<u64>(v.size, v.init.size());
    u64 p = mem_alloc(std::max<u64>(sz, 1), std::string(v.space == Space::Const ? "constant " : "variable ") + v.name, v.align);
    memset((void*)p, 0, sz);
    memcpy((void*)p, v.init.data(), v.init.size());
    lm->sym_addr[v.name] = p;
    lm->sym_size[v.name] = sz;
  }
  LoadedModule* raw = lm.release();
  for (auto& v : raw->mod->globals)
    for (auto& r : v.relocs) {
      auto g = raw->sym_addr.find(r.sym);
      u64 val;
      if (g != raw->sym_addr.end())
        val = g->second + r.add;
      else if (raw->mod->by_name.count(r.sym))
        val = (kFuncTag << 32) | (u32)get_func(raw, r.sym)->index;
      else
        throw PtxError("initializer of " + v.name + ": unknown symbol " + r.sym);
      memcpy((u8*)raw->sym_addr[v.name] + r.at, &val, std::min(8, r.bytes));
    }
  if (options().eager)
    for (auto& s : unsupported_instructions(raw)) fprintf(stderr, "gpusim: %s\n", s.c_str());
  return raw;
}

}  // namespace atoll::gpusim
