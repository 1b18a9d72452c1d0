// Errors: every broken contract or failed call throws Error, which says where, what was expected, the values, and
// what to do next. Rank and host are added once, where the error leaves the rank (launch/main.cpp).
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace atoll {

enum class ExitCode : int { kDone = 0, kFailed = 1, kConfig = 64, kData = 65, kHang = 75, kSaved = 85, kNoRestart = 93 };

class Error : public std::runtime_error {
 public:
  Error(const std::string& what, ExitCode code = ExitCode::kFailed) : std::runtime_error(what), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

// Bad configuration (exit 64) and bad data files (exit 65): the message is for the user, without file:line of ours.
struct ConfigError : Error {
  explicit ConfigError(const std::string& what) : Error(what, ExitCode::kConfig) {}
};
struct DataError : Error {
  explicit DataError(const std::string& what) : Error(what, ExitCode::kData) {}
};

namespace detail {
[[noreturn]] void fail_check(const char* file, int line, const char* expression, const std::string& message);
template <class... T>
std::string concat(const T&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}
}  // namespace detail
}  // namespace atoll

// CHECK(condition, "values ", x, " and what to do"): throws Error when the condition is false.
#define ATOLL_CHECK(condition, ...)                                                                    \
  do {                                                                                                 \
    if (!(condition)) [[unlikely]]                                                                     \
      ::atoll::detail::fail_check(__FILE__, __LINE__, #condition, ::atoll::detail::concat(__VA_ARGS__)); \
  } while (0)
