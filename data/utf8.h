// UTF-8: validity (Unicode table 3-7: no overlong forms, no surrogates, at most U+10FFFF) and a stream that only ever emits valid text.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace atoll {

// Length in bytes (1-4) of the sequence at the front of `bytes`; 0 if it is broken; -1 if it is a proper prefix of a valid one that was cut off.
// `broken` (may be null) receives how many bytes one U+FFFD stands for (the maximal subpart, at least 1).
int utf8_length(std::string_view bytes, size_t* broken = nullptr);
bool is_valid_utf8(std::string_view bytes);
std::string latin1_to_utf8(std::string_view bytes);

// Bytes go in as tokens produce them, complete characters come out; what can never become valid comes out as U+FFFD.
class Utf8Stream {
 public:
  std::string push(std::string_view bytes);
  std::string finish();  // what is still waiting is broken now

 private:
  std::string waiting_;  // at most 3 bytes
};

}  // namespace atoll
