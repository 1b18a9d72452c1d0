// Name resolution, register file layout, module loading.
#include "tests/gpusim/decode.h"
#include <cstdio>

namespace atoll::gpusim {

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

static const std::unordered_map<std::string_view, int>& special_ids() {
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
  return t;
}
bool Decoder::special_reg(std::string_view n, int& id, bool& clock) const {
  clock = false;
  auto it = special_ids().find(n);
  if (it != special_ids().end()) {
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

// A constant that differs by frame or block: its value is patched when a frame starts (relocs).
u32 Decoder::relocated_slot(const std::string& key, u64 value, int bits, std::vector<std::pair<u32, int>>& relocs) {
  const std::string slot = key + "/" + std::to_string(bits);
  auto it = const_slots.find(slot);
  if (it != const_slots.end()) return it->second.off;
  const u32 off = alloc_const(bits);
  for (int i = 0; i < 32; i++) memcpy(&f.const_image[off + i * bits / 8], &value, bits / 8);
  relocs.push_back({off, bits});
  const_slots[slot] = {off, (u16)bits, false};
  return off;
}
// Address of a symbol as a constant slot.
u32 Decoder::symbol(std::string_view name, int bits, Space* sp, bool& ok) {
  ok = true;
  auto found = [&](Space space) {
    if (sp) *sp = space;
  };
  for (int s = a->scope; s >= 0; s = af.scope_parent[s]) {
    const std::string key = std::string(name) + "@" + std::to_string(s);
    auto l = f.local_off.find(key);
    if (l == f.local_off.end()) continue;
    found(Space::Local);
    return relocated_slot("local:" + key, l->second, bits, f.local_relocs);
  }
  for (size_t i = 0; af.is_entry && i < af.params.size(); i++)
    if (af.params[i].name == name) {
      found(Space::Param);
      return const_slot(f.param_addr + f.param_off[i], bits);
    }
  auto sh = shared_off.find(std::string(name));
  if (sh != shared_off.end()) {
    found(Space::Shared);
    return relocated_slot("shared:" + std::string(name), sh->second, bits, f.shared_relocs);
  }
  auto g = lm.sym_addr.find(std::string(name));
  if (g != lm.sym_addr.end()) {
    found(Space::Global);
    return const_slot(g->second, bits);
  }
  if (lm.mod->by_name.count(std::string(name))) return const_slot((kFuncTag << 32) | (u32)get_func(&lm, std::string(name))->index, bits);
  ok = false;
  return 0;
}

// A literal, converted between the float widths where the instruction wants the other one.
u32 Decoder::literal(const AstOp& o, int bits, bool is_float) {
  double value = (double)(s64)o.imm;
  if (o.kind == AstOp::Float32) {
    float narrow;
    const u32 b = (u32)o.imm;
    memcpy(&narrow, &b, 4);
    value = narrow;
  } else if (o.kind == AstOp::Float64)
    memcpy(&value, &o.imm, 8);
  const bool as_is = o.kind == AstOp::Imm ? !is_float || bits < 32 : (o.kind == AstOp::Float32 && bits != 64) || (o.kind == AstOp::Float64 && bits != 32);
  if (as_is) return const_slot(o.imm, bits);
  if (bits == 64) {
    u64 b;
    memcpy(&b, &value, 8);
    return const_slot(b, 64);
  }
  const float narrow = (float)value;
  u32 b;
  memcpy(&b, &narrow, 4);
  return const_slot(b, 32);
}
u32 Decoder::special_slot(int id, int bits) {
  const std::string slot = "sr:" + std::to_string(id) + "/" + std::to_string(bits);
  auto it = const_slots.find(slot);
  if (it != const_slots.end()) return it->second.off;
  const u32 off = alloc_const(bits);
  f.specials.push_back({off | (bits == 64 ? 1u : bits == 16 ? 2u : 0u), id});
  const_slots[slot] = {off, (u16)bits, false};
  return off;
}
u32 Decoder::any_src(const AstOp& o, int def_bits, u8& width, bool is_float) {
  if (o.neg && o.kind == AstOp::Ident) bad("negated register operand");
  width = def_bits / 8;
  if (o.kind == AstOp::Imm || o.kind == AstOp::Float32 || o.kind == AstOp::Float64) return literal(o, def_bits, is_float);
  if (o.kind != AstOp::Ident) bad("operand form");
  AstReg r;
  if (lookup_reg(o.name, a->scope, r)) {
    if (r.is_pred) bad("predicate register where a value is needed: " + std::string(o.name));
    width = r.bits / 8;
    (accumulating ? writes : reads).push_back(r.index);
    return reg_slots[r.index].off;
  }
  int id;
  bool is_clock, ok;
  if (special_reg(o.name, id, is_clock)) {
    if (is_clock) bad("clock register only allowed in mov");
    return special_slot(id, def_bits);
  }
  const u32 s = symbol(o.name, def_bits, nullptr, ok);
  if (!ok) bad("unknown name " + std::string(o.name));
  if (o.imm) bad("symbol+offset operand");  // rare; handled in mov
  return s;
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
  writes.push_back(r.index);
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
  reads.push_back(r.index);
  return reg_slots[r.index].off;
}
u32 Decoder::pdst(const AstOp& o) {
  if (o.kind == AstOp::Sink) return scratch;
  bool n;
  const u32 off = psrc(o, n);
  if (o.kind == AstOp::Ident) {
    writes.push_back(reads.back());
    reads.pop_back();
  }
  return off;
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
    reads.push_back(r.index);
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

}  // namespace atoll::gpusim
