// Functions decoded on first use (register file layout), modules loaded from PTX text, global variables.
#include "tests/gpusim/decode.h"
#include "tests/gpusim/memory.h"

namespace atoll::gpusim {
// ---- functions -------------------------------------------------------------
namespace {
DecodeTable& table() {
  static DecodeTable t = [] {
    DecodeTable x;
    for (auto add : {register_int, register_bits, register_move, register_float, register_cvt, register_mem, register_atomic, register_copy, register_ctl,
                     register_warp, register_mbarrier, register_tensor_map, register_mma, register_wgmma})
      add(x);
    return x;
  }();
  return t;
}
std::vector<Func*>& all_funcs() {
  static std::vector<Func*> v;
  return v;
}
std::recursive_mutex g_decode_mu;

void place_registers(Decoder& d) {
  Func& f = d.f;
  const AstFunc& af = d.af;
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
  if (!options().registers) return;
  f.reg_at.assign(off / 4, -1);
  for (size_t k = 0; k < d.reg_slots.size(); k++) f.reg_at[d.reg_slots[k].off / 4] = (s32)k;
}
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
  for (auto& v : af.vars)
    if (v.space == Space::Param)
      add_local(v, v.scope);
    else if (v.space == Space::Shared)
      add_shared(v);
  for (auto& v : af.vars)  // at the end of the frame: an overrun leaves it
    if (v.space == Space::Local) add_local(v, v.scope);
  sh = align_up(sh, f.dyn_align);
  f.static_smem = sh - kSmemBase;
  for (auto& n : dyn) d.shared_off[n] = sh;
  f.local_size = lo;
  place_registers(d);
}

Func::RegUseKind kind_of_use(const AstInst& a, const Inst& i, bool writes) {
  const std::string_view name = a.parts[0];
  const bool is_async = std::find(a.parts.begin(), a.parts.end(), "async") != a.parts.end();
  if (a.op.substr(0, 16) == "wgmma.mma_async.") return Func::kWgmma;
  if (name == "mov") return Func::kCopy;
  if (name == "selp") return Func::kSelect;
  if (name == "ld") return Func::kLoad;
  if (name == "st" && !is_async) return Func::kStore;
  const bool is_logic = name == "and" || name == "or";
  if (name == "shfl" || (name == "setp" && a.ops[0].kind != AstOp::PredPair) || (is_logic && a.parts.back() == "pred")) return Func::kOwn;
  const bool computes = i.cls == kClassInt || i.cls == kClassFloat || i.cls == kClassCvt;
  if (!computes || !writes || (i.flags & kFlagCtrl)) return Func::kUse;
  return is_logic ? Func::kLogic : Func::kCompute;
}
// Notes the registers of the instruction just decoded; those that must have been written come first: its guard, the address of a store, the lane of a shuffle.
void note_registers(Decoder& d, const AstInst& a, Inst& i, const std::vector<u32>& guard) {
  Func::RegUse u;
  u.first = (u32)d.f.reg_list.size();
  u.kind = kind_of_use(a, i, !d.writes.empty());
  size_t strict = 0;
  AstReg r;
  if (u.kind == Func::kUse || u.kind == Func::kLoad)
    strict = d.reads.size();
  else if (u.kind == Func::kStore)
    strict = d.lookup_reg(a.ops[0].name, a.scope, r);  // the address is read before the data
  else if (a.parts[0] == "shfl") {
    const bool value = d.is_reg(a.ops[1]);
    if (value) std::rotate(d.reads.begin(), d.reads.begin() + 1, d.reads.end());
    strict = d.reads.size() - value;
  }
  if (u.kind == Func::kOwn || u.kind == Func::kLoad || u.kind == Func::kStore) i.flags |= kFlagTracked;
  d.reads.insert(d.reads.begin(), guard.begin(), guard.end());
  u.strict = (u16)(strict + guard.size());
  u.reads = (u16)d.reads.size(), u.writes = (u16)d.writes.size();
  d.f.reg_list.insert(d.f.reg_list.end(), d.reads.begin(), d.reads.end());
  d.f.reg_list.insert(d.f.reg_list.end(), d.writes.begin(), d.writes.end());
  d.f.uses.push_back(u);
}

void decode_one(Decoder& d, const AstInst& a, Inst& i) {
  d.a = &a;
  d.reads.clear();
  d.writes.clear();
  std::vector<u32> guard;
  i.ast = &a;
  if (!a.pred.empty()) {
    AstOp o;
    o.name = a.pred;
    bool neg;
    i.pred = d.psrc(o, neg);
    i.pred_kind = a.pred_neg ? 2 : 1;
    guard.swap(d.reads);
  }
  auto& t = table();
  auto it = t.find(a.parts[0]);
  if (it == t.end()) d.bad("unsupported instruction");
  it->second(d, i);
  if (!i.fn) d.bad("unsupported form");
  if (options().registers) note_registers(d, a, i, guard);
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
    for (auto& s : unsupported_instructions(raw)) fprintf(stderr, "[gpusim] ERROR at load: %s\n", s.c_str());
  return raw;
}

}  // namespace atoll::gpusim
