// Characters, type names and source places of PTX text, for the parser.
#pragma once
#include <cctype>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <tuple>

#include "tests/gpusim/ptx.h"

namespace atoll::gpusim {

inline bool ident_start(char c) { return isalpha((unsigned char)c) || c == '_' || c == '$' || c == '%'; }
inline bool ident_char(char c) { return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '%'; }

inline int type_bytes(std::string_view t) {
  if (t == "pred") return 1;
  size_t i = 0;
  while (i < t.size() && !isdigit((unsigned char)t[i])) i++;
  int bits = atoi(std::string(t.substr(i)).c_str());
  if (t.find("x2") != std::string_view::npos && bits == 16) return 4;
  return bits / 8;
}

struct Place {  // of the last .loc of a function
  int file = 0, line = 0, inlined = 0;                  // inlined: index into Module::inlined
  std::map<std::tuple<int, int, int>, int> inlined_at;  // by file, line, column: `inlined` of the last .loc there
  void set(Module& m, int f, int l, int column, std::string_view rest) {
    file = f, line = l, inlined = 0;
    constexpr std::string_view key = "inlined_at";
    if (const size_t at = rest.find(key); at != rest.npos) {
      char* next = const_cast<char*>(rest.data() + at + key.size());
      const int caller = strtol(next, &next, 10), caller_line = strtol(next, &next, 10), caller_column = strtol(next, &next, 10);
      auto outer = inlined_at.find({caller, caller_line, caller_column});
      inlined = (int)m.inlined.size();
      m.inlined.push_back({caller, caller_line, outer == inlined_at.end() ? 0 : outer->second});
    }
    inlined_at[{file, line, column}] = inlined;
  }
};

}  // namespace atoll::gpusim
