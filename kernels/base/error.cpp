// How a failed check becomes an Error. Policy: the text is built only where a check has failed; this file keeps that slow path out of every caller.
#include "kernels/base/error.h"

#include <cstring>

namespace atoll::detail {

void fail_check(const char* file, int line, const char* expression, const std::string& message) {
  const char* name = std::strrchr(file, '/');
  throw Error(concat(name ? name + 1 : file, ":", line, ": ", message.empty() ? "broken contract" : message, " [", expression, "]"));
}

}  // namespace atoll::detail
