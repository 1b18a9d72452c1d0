// Syntax tree of one PTX module. Produced by parser.cpp, consumed by decode.cpp.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace atoll::gpusim {

struct PtxError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// State spaces. Generic addresses are classified at run time (see machine.h).
enum class Space : uint8_t { None, Reg, Global, Const, Shared, Local, Param, Generic };

struct AstOp {
  enum Kind : uint8_t { Ident, Imm, Float32, Float64, Vec, Addr, PredPair, Sink } kind = Ident;
  bool neg = false;        // '!' in front of a predicate, '-' in front of a register
  std::string_view name;   // Ident; base of an Addr (empty: absolute)
  uint64_t imm = 0;        // Imm value; float bits; offset of an Addr
  std::vector<AstOp> sub;  // Vec elements; PredPair halves; Addr coordinates ({..} inside [..])
  bool has_coords = false;
};

struct AstInst {
  std::string_view op;                  // whole opcode text: ld.global.v4.f32
  std::vector<std::string_view> parts;  // split at '.'
  std::vector<AstOp> ops;
  std::vector<AstOp> call_ret, call_args;  // for call
  std::string_view pred;                   // guard register, empty when none
  bool pred_neg = false;
  int line = 0;                    // line in the PTX text
  int loc_file = 0, loc_line = 0;  // nearest .loc in front
  int inlined = 0;                 // where that was inlined: index into Module::inlined, 0: nowhere
  int scope = 0;                   // lexical scope for registers and labels
};

struct AstVar {  // .global/.const/.shared/.local/.param variable
  std::string name;
  Space space = Space::None;
  uint32_t align = 1;
  uint64_t size = 0;
  bool is_extern = false;
  int elem_size = 1;
  std::vector<uint8_t> init;
  struct Reloc {
    uint64_t at;
    std::string sym;
    int64_t add;
    int bytes;
  };
  std::vector<Reloc> relocs;
  int scope = 0;
};

struct AstReg {
  uint16_t bits;
  bool is_pred;
  int index;
};

struct AstFunc {
  std::string name;
  bool is_entry = false, has_body = false;
  std::vector<AstVar> params, rets;
  std::vector<AstVar> vars;  // .local, .shared and call .param in the body
  std::vector<AstInst> insts;
  std::vector<int> scope_parent;                                   // scope tree, scope 0 = body
  std::vector<std::unordered_map<std::string_view, AstReg>> regs;  // per scope
  struct RegRange {
    std::string_view prefix;
    int count;
    AstReg reg;
  };
  std::vector<std::vector<RegRange>> reg_ranges;                  // per scope: %r<100>
  std::vector<std::unordered_map<std::string_view, int>> labels;  // per scope: index of the next instruction
  std::map<std::string_view, std::vector<std::string_view>> branch_targets;
  int reqntid[3] = {0, 0, 0}, maxntid[3] = {0, 0, 0};
  int req_cluster[3] = {0, 0, 0};
  int nregs = 0;  // registers declared
  int line = 0;
};

struct Module {
  std::string text;  // owns the characters every string_view points into
  std::string name;
  std::vector<AstVar> globals;  // .global, .const and module-scope .shared
  std::vector<std::unique_ptr<AstFunc>> funcs;
  std::unordered_map<std::string, AstFunc*> by_name;
  std::map<int, std::string> files;
  struct Inlined {
    int file, line, outer;  // outer: where this was inlined in turn, as `inlined` above
  };
  std::vector<Inlined> inlined{{0, 0, 0}};
  std::string target;
};

std::unique_ptr<Module> parse_ptx(std::string text, const std::string& name);

}  // namespace atoll::gpusim
