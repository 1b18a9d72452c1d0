// Characters and type names of PTX text, for the parser.
#pragma once
#include <cctype>
#include <cstdlib>
#include <string>
#include <string_view>

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

}  // namespace atoll::gpusim
