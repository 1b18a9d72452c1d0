// PTX text -> Module. A hand-written tokenizer and a recursive-descent parser.
#include <cstring>
#include "tests/gpusim/ptx.h"
#include "tests/gpusim/ptx_text.h"

namespace atoll::gpusim {
namespace {

struct Parser {
  Module& m;
  const char *p, *end;
  int line = 1;
  Place place;

  explicit Parser(Module& mod) : m(mod), p(mod.text.data()), end(p + mod.text.size()) {}

  [[noreturn]] void fail(const std::string& what) { throw PtxError(m.name + ":" + std::to_string(line) + ": PTX syntax: " + what); }
  void ws() {
    while (p < end) {
      if (*p == '\n') {
        line++;
        p++;
      } else if (isspace((unsigned char)*p) || *p == '\0')
        p++;
      else if (p + 1 < end && p[0] == '/' && p[1] == '/') {
        while (p < end && *p != '\n') p++;
      } else if (p + 1 < end && p[0] == '/' && p[1] == '*') {
        p += 2;
        while (p + 1 < end && !(p[0] == '*' && p[1] == '/')) {
          if (*p == '\n') line++;
          p++;
        }
        p += 2;
      } else
        break;
    }
  }
  char peek() {
    ws();
    return p < end ? *p : 0;
  }
  bool accept(char c) {
    if (peek() == c) {
      p++;
      return true;
    }
    return false;
  }
  void expect(char c) {
    if (!accept(c)) fail(std::string("expected '") + c + "' near '" + std::string(p, std::min<size_t>(24, end - p)) + "'");
  }
  // identifier; dots and '::' belong to it when dotted
  std::string_view ident(bool dotted) {
    ws();
    const char* s = p;
    if (p < end && (ident_start(*p) || (dotted && *p == '.'))) {
      p++;
      while (p < end) {
        if (ident_char(*p))
          p++;
        else if (dotted && *p == '.')
          p++;
        else if (dotted && p + 2 < end && p[0] == ':' && p[1] == ':' && ident_char(p[2]))
          p += 2;
        else
          break;
      }
    }
    if (s == p) fail("identifier expected near '" + std::string(p, std::min<size_t>(24, end - p)) + "'");
    return {s, size_t(p - s)};
  }
  std::string_view directive() {  // after '.'
    expect('.');
    const char* s = p;
    while (p < end && (isalnum((unsigned char)*p) || *p == '_')) p++;
    return {s, size_t(p - s)};
  }
  void skip_line() {
    while (p < end && *p != '\n') p++;
  }
  void skip_to(char c) {
    while (peek() && *p != c) p++;
    accept(c);
  }

  AstOp number() {
    AstOp o;
    bool neg = false;
    if (accept('-')) neg = true;
    ws();
    const char* s = p;
    while (p < end && (isalnum((unsigned char)*p) || *p == '.' ||
                       ((*p == '+' || *p == '-') && p > s && (p[-1] == 'e' || p[-1] == 'E') && !(s[0] == '0' && (s[1] == 'x' || s[1] == 'f' || s[1] == 'd')))))
      p++;
    std::string t(s, p - s);
    if (t.size() > 2 && t[0] == '0' && (t[1] == 'f' || t[1] == 'F') && t.size() == 10) {
      o.kind = AstOp::Float32;
      o.imm = strtoull(t.c_str() + 2, nullptr, 16);
      if (neg) o.imm ^= 0x80000000u;
    } else if (t.size() > 2 && t[0] == '0' && (t[1] == 'd' || t[1] == 'D') && t.size() == 18) {
      o.kind = AstOp::Float64;
      o.imm = strtoull(t.c_str() + 2, nullptr, 16);
      if (neg) o.imm ^= 1ull << 63;
    } else if (t.find('.') != std::string::npos || ((t.find('e') != std::string::npos || t.find('E') != std::string::npos) && t.compare(0, 2, "0x") != 0)) {
      o.kind = AstOp::Float64;
      double d = strtod(t.c_str(), nullptr);
      if (neg) d = -d;
      memcpy(&o.imm, &d, 8);
    } else {
      o.kind = AstOp::Imm;
      if (t.size() && (t.back() == 'U' || t.back() == 'u')) t.pop_back();
      if (t.size() > 2 && t[0] == '0' && (t[1] == 'b' || t[1] == 'B'))
        o.imm = strtoull(t.c_str() + 2, nullptr, 2);
      else
        o.imm = strtoull(t.c_str(), nullptr, 0);
      if (neg) o.imm = 0 - o.imm;
    }
    return o;
  }

  AstOp operand() {
    AstOp o;
    char c = peek();
    if (c == '!') {
      p++;
      o = operand();
      o.neg = true;
      return o;
    }
    if (c == '{') {
      p++;
      o.kind = AstOp::Vec;
      if (!accept('}')) {
        do o.sub.push_back(operand());
        while (accept(','));
        expect('}');
      }
      return o;
    }
    if (c == '[') {
      p++;
      o.kind = AstOp::Addr;
      c = peek();
      if (ident_start(c))
        o.name = ident(true);
      else
        o.imm = number().imm;
      for (;;) {
        c = peek();
        if (c == '+') {
          p++;
          o.imm += number().imm;
        } else if (c == '-') {
          o.imm += number().imm;
        } else
          break;
      }
      while (accept(',')) {
        o.sub.push_back(operand());
        o.has_coords = true;
      }
      expect(']');
      return o;
    }
    if (isdigit((unsigned char)c)) return number();
    if (c == '-') {
      const char* q = p + 1;
      while (q < end && isspace((unsigned char)*q)) q++;
      if (isdigit((unsigned char)*q)) return number();
      p++;
      o = operand();
      o.neg = true;
      return o;
    }
    if (c == '(') {  // constant expression in parentheses: accept a plain number
      p++;
      o = operand();
      expect(')');
      return o;
    }
    o.name = ident(true);
    if (o.name == "_") { o.kind = AstOp::Sink; }
    if (o.name == "WARP_SZ") {
      o.kind = AstOp::Imm;
      o.imm = 32;
      return o;
    }
    c = peek();
    if (c == '|') {
      p++;
      AstOp pair;
      pair.kind = AstOp::PredPair;
      pair.sub.push_back(o);
      pair.sub.push_back(operand());
      return pair;
    }
    if (c == '+' && o.kind == AstOp::Ident) {
      p++;
      o.imm = number().imm;
    }
    return o;
  }

  // ---- variables -------------------------------------------------------
  void initializer(AstVar& v, uint64_t& at) {
    if (accept('{')) {
      if (accept('}')) return;
      do initializer(v, at);
      while (accept(','));
      expect('}');
      return;
    }
    char c = peek();
    auto put = [&](uint64_t val) {
      if (v.init.size() < at + v.elem_size) v.init.resize(at + v.elem_size);
      memcpy(&v.init[at], &val, std::min(8, v.elem_size));
      at += v.elem_size;
    };
    if (ident_start(c)) {
      std::string_view n = ident(true);
      int64_t add = 0;
      int bytes = v.elem_size;
      std::string sym(n);
      if (n == "generic" && accept('(')) {
        sym = std::string(ident(true));
        if (accept('+')) add = number().imm;
        expect(')');
      } else if (n == "mask")
        fail("mask() initializer");
      if (accept('+')) add += (int64_t)number().imm;
      v.relocs.push_back({at, sym, add, bytes});
      put(0);
      return;
    }
    // 0xFF(sym) masks are not supported
    AstOp o = number();
    put(o.imm);
  }
  AstVar variable(Space sp, bool is_extern) {
    AstVar v;
    v.space = sp;
    v.is_extern = is_extern;
    int vec = 1;
    for (;;) {
      if (peek() != '.') break;
      std::string_view d = directive();
      if (d == "align")
        v.align = number().imm;
      else if (d == "v2")
        vec = 2;
      else if (d == "v4")
        vec = 4;
      else if (d == "ptr" || d == "global" || d == "shared" || d == "const" || d == "local" || d == "noundef") {
      } else if (d == "attribute") {
        expect('(');
        skip_to(')');
      } else if (d == "texref" || d == "samplerref" || d == "surfref")
        v.elem_size = 8;
      else
        v.elem_size = type_bytes(d);
    }
    v.elem_size *= vec;
    v.name = std::string(ident(false));
    uint64_t count = 1;
    bool open = false;
    while (accept('[')) {
      if (peek() == ']') {
        open = true;
      } else
        count *= number().imm;
      expect(']');
    }
    if (open) count = 0;
    v.size = count * v.elem_size;
    if (v.align < (uint32_t)v.elem_size && v.align == 1) v.align = v.elem_size;
    if (accept('=')) {
      uint64_t at = 0;
      if (vec > 1) v.elem_size /= vec;
      initializer(v, at);
      if (v.size == 0) v.size = v.init.size();
    }
    return v;
  }

  // ---- functions -------------------------------------------------------
  void param_list(std::vector<AstVar>& out) {
    expect('(');
    if (accept(')')) return;
    do {
      std::string_view d = directive();
      if (d == "param" || d == "reg")
        out.push_back(variable(Space::Param, false));
      else
        fail("parameter");
    } while (accept(','));
    expect(')');
  }

  void function(bool is_entry) {
    auto f = std::make_unique<AstFunc>();
    f->is_entry = is_entry;
    f->line = line;
    if (!is_entry && peek() == '(') param_list(f->rets);
    f->name = std::string(ident(false));
    if (peek() == '(') param_list(f->params);
    for (;;) {
      char c = peek();
      if (c == ';') {
        p++;
        break;
      }
      if (c == '{') {
        body(*f);
        break;
      }
      std::string_view d = directive();
      auto three = [&](int* v) {
        v[0] = v[1] = v[2] = 1;
        int i = 0;
        do {
          AstOp o = number();
          if (i < 3) v[i++] = o.imm;
        } while (accept(','));
      };
      int dummy[3];
      if (d == "maxntid")
        three(f->maxntid);
      else if (d == "reqntid")
        three(f->reqntid);
      else if (d == "reqnctapercluster")
        three(f->req_cluster);
      else if (d == "minnctapersm" || d == "maxnctapersm" || d == "maxnreg" || d == "maxclusterrank")
        three(dummy);
      else if (d == "explicitcluster" || d == "noreturn" || d == "blocksareclusters") {
      } else if (d == "pragma")
        skip_to(';');
      else if (d == "abi_preserve" || d == "abi_preserve_control")
        three(dummy);
      else if (d == "unified") {
        expect('(');
        skip_to(')');
      } else
        fail("function directive ." + std::string(d));
    }
    AstFunc* raw = f.get();
    auto it = m.by_name.find(raw->name);
    if (it == m.by_name.end() || raw->has_body) m.by_name[raw->name] = raw;
    m.funcs.push_back(std::move(f));
  }

  int new_scope(AstFunc& f, int parent) {
    f.scope_parent.push_back(parent);
    f.regs.emplace_back();
    f.reg_ranges.emplace_back();
    f.labels.emplace_back();
    return (int)f.scope_parent.size() - 1;
  }

  void reg_decl(AstFunc& f, int scope) {
    std::string_view t = directive();
    if (t == "v2" || t == "v4") fail("vector registers");
    AstReg r;
    r.is_pred = t == "pred";
    r.bits = r.is_pred ? 1 : std::max(16, type_bytes(t) * 8);
    do {
      std::string_view n = ident(false);
      if (accept('<')) {
        int count = number().imm;
        expect('>');
        r.index = f.nregs;
        f.nregs += count;
        f.reg_ranges[scope].push_back({n, count, r});
      } else {
        r.index = f.nregs++;
        f.regs[scope][n] = r;
      }
    } while (accept(','));
    expect(';');
  }

  void body(AstFunc& f) {
    expect('{');
    f.has_body = true;
    int scope = new_scope(f, -1);
    place = Place();
    std::vector<int> stack{scope};
    while (!stack.empty()) {
      char c = peek();
      scope = stack.back();
      if (!c) fail("end of text in function " + f.name);
      if (c == '}') {
        p++;
        stack.pop_back();
        continue;
      }
      if (c == '{') {
        p++;
        stack.push_back(new_scope(f, scope));
        continue;
      }
      if (c == ';') {
        p++;
        continue;
      }
      if (c == '.') {
        std::string_view d = directive();
        if (d == "reg")
          reg_decl(f, scope);
        else if (d == "loc")
          loc();
        else if (d == "pragma")
          skip_to(';');
        else if (d == "local" || d == "shared" || d == "param" || d == "const" || d == "global") {
          Space sp = d == "local" ? Space::Local : d == "shared" ? Space::Shared : d == "param" ? Space::Param : d == "const" ? Space::Const : Space::Global;
          AstVar v = variable(sp, false);
          expect(';');
          v.scope = scope;
          if (sp == Space::Global || sp == Space::Const)
            m.globals.push_back(v);
          else
            f.vars.push_back(v);
        } else if (d == "branchtargets")
          fail(".branchtargets without label");
        else
          fail("directive ." + std::string(d) + " in a body");
        continue;
      }
      statement(f, scope);
    }
  }
  void loc() {  // file line column[, function_name X, inlined_at file line column]
    const int file = number().imm, at = number().imm, column = number().imm;
    const char* from = p;
    while (p < end && *p != '\n') p++;
    place.set(m, file, at, column, {from, (size_t)(p - from)});
  }

  void statement(AstFunc& f, int scope) {
    AstInst in;
    in.line = line;
    in.loc_file = place.file;
    in.loc_line = place.line;
    in.inlined = place.inlined;
    in.scope = scope;
    if (accept('@')) {
      if (accept('!')) in.pred_neg = true;
      in.pred = ident(false);
    }
    in.line = line;
    std::string_view op = ident(true);
    if (in.pred.empty() && peek() == ':') {
      p++;
      // label or labelled directive
      if (peek() == '.') {
        const char* save = p;
        int sl = line;
        std::string_view d = directive();
        if (d == "branchtargets") {
          auto& v = f.branch_targets[op];
          do v.push_back(ident(true));
          while (accept(','));
          expect(';');
          return;
        }
        if (d == "callprototype" || d == "calltargets") {
          skip_to(';');
          return;
        }
        p = save;
        line = sl;
      }
      f.labels[scope][op] = (int)f.insts.size();
      return;
    }
    in.op = op;
    size_t s = 0;
    while (s <= op.size()) {
      size_t e = op.find('.', s);
      if (e == std::string_view::npos) e = op.size();
      in.parts.push_back(op.substr(s, e - s));
      s = e + 1;
    }
    if (in.parts[0] == "call") {
      auto list = [&](std::vector<AstOp>& out) {
        expect('(');
        if (accept(')')) return;
        do out.push_back(operand());
        while (accept(','));
        expect(')');
      };
      if (peek() == '(') {
        list(in.call_ret);
        expect(',');
      }
      in.ops.push_back(operand());
      while (accept(',')) {
        if (peek() == '(')
          list(in.call_args);
        else
          in.ops.push_back(operand());
      }
      expect(';');
    } else if (peek() != ';') {
      do in.ops.push_back(operand());
      while (accept(','));
      expect(';');
    } else
      p++;
    f.insts.push_back(std::move(in));
  }

  void module() {
    for (;;) {
      char c = peek();
      if (!c) break;
      if (c == ';') {
        p++;
        continue;
      }
      bool is_extern = false;
      std::string_view d = directive();
      while (d == "visible" || d == "extern" || d == "weak" || d == "common") {
        if (d == "extern") is_extern = true;
        peek();
        d = directive();
      }
      if (d == "version") {
        number();
      } else if (d == "target") {
        m.target = std::string(ident(false));
        while (accept(',')) ident(false);
      } else if (d == "address_size")
        number();
      else if (d == "entry")
        function(true);
      else if (d == "func") {
        while (peek() == '.') {
          std::string_view x = directive();
          if (x != "attribute" && x != "noreturn" && x != "unified") fail("func ." + std::string(x));
          if (peek() == '(' && x == "attribute") {
            p++;
            skip_to(')');
          }
        }
        function(false);
      } else if (d == "global" || d == "const" || d == "shared") {
        Space sp = d == "global" ? Space::Global : d == "const" ? Space::Const : Space::Shared;
        AstVar v = variable(sp, is_extern);
        while (accept(',')) {
          m.globals.push_back(v);
          v.name = std::string(ident(false));
        }
        expect(';');
        m.globals.push_back(std::move(v));
      } else if (d == "file") {
        int n = number().imm;
        expect('"');
        const char* s = p;
        while (p < end && *p != '"') p++;
        m.files[n] = std::string(s, p - s);
        p++;
        while (p < end && *p != '\n') p++;
      } else if (d == "section") {
        ident(true);
        expect('{');
        int depth = 1;
        while (p < end && depth) {
          if (*p == '{') depth++;
          if (*p == '}') depth--;
          if (*p == '\n') line++;
          p++;
        }
      } else if (d == "alias") {
        ident(false);
        accept(',');
        ident(false);
        accept(';');
      } else if (d == "pragma")
        skip_to(';');
      else if (d == "loc")
        skip_line();
      else
        fail("directive ." + std::string(d));
    }
  }
};

}  // namespace

std::unique_ptr<Module> parse_ptx(std::string text, const std::string& name) {
  auto m = std::make_unique<Module>();
  m->text = std::move(text);
  m->name = name;
  Parser(*m).module();
  return m;
}

}  // namespace atoll::gpusim
