// UTF-8 as the Unicode standard's table 3-7 has it, by the range of the second byte. Policy: a stream keeps an unfinished character back until its next bytes come,
// and broken bytes become one replacement character for each maximal part.
#include "data/utf8.h"

#include <cstdint>
#include <cstring>

namespace atoll {

namespace {
constexpr char kReplacement[] = "\xEF\xBF\xBD";
}

int utf8_length(std::string_view bytes, size_t* broken) {
  if (broken) *broken = 1;
  if (bytes.empty()) return -1;
  const auto at = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char lead = at(0);
  if (lead < 0x80) return 1;
  int length = 0;
  unsigned char low = 0x80, high = 0xBF;  // what the second byte may be
  if (lead >= 0xC2 && lead <= 0xDF) length = 2;
  else if (lead >= 0xE0 && lead <= 0xEF) length = 3;
  else if (lead >= 0xF0 && lead <= 0xF4) length = 4;
  else return 0;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (int i = 1; i < length; ++i) {
    if (static_cast<size_t>(i) >= bytes.size()) return -1;
    if (at(i) < low || at(i) > high) {
      if (broken) *broken = static_cast<size_t>(i);
      return 0;
    }
    low = 0x80;
    high = 0xBF;
  }
  return length;
}

bool is_valid_utf8(std::string_view bytes) {
  size_t i = 0;
  while (i < bytes.size()) {
    uint64_t word;
    while (i + 8 <= bytes.size() && (std::memcpy(&word, bytes.data() + i, 8), (word & 0x8080808080808080ull) == 0)) i += 8;
    if (i == bytes.size()) break;
    const int length = utf8_length(bytes.substr(i));
    if (length <= 0) return false;
    i += static_cast<size_t>(length);
  }
  return true;
}

std::string latin1_to_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() + bytes.size() / 8);
  for (const char c : bytes) {
    const auto u = static_cast<unsigned char>(c);
    if (u < 0x80) {
      out.push_back(c);
    } else {
      out.push_back(static_cast<char>(0xC0 | (u >> 6)));
      out.push_back(static_cast<char>(0x80 | (u & 0x3F)));
    }
  }
  return out;
}

std::string Utf8Stream::push(std::string_view bytes) {
  waiting_.append(bytes);
  std::string out;
  std::string_view rest = waiting_;
  while (!rest.empty()) {
    size_t broken = 0;
    const int length = utf8_length(rest, &broken);
    if (length < 0) break;
    if (length > 0) {
      out.append(rest.substr(0, static_cast<size_t>(length)));
      rest.remove_prefix(static_cast<size_t>(length));
    } else {
      out.append(kReplacement);
      rest.remove_prefix(broken);
    }
  }
  waiting_ = std::string(rest);
  return out;
}

std::string Utf8Stream::finish() {
  const bool is_broken = !waiting_.empty();
  waiting_.clear();
  return is_broken ? kReplacement : "";
}

}  // namespace atoll
