// Logging: the one global. Lines go to stderr (and, once set, to a file of this rank); rank 0 alone speaks on the console below `warn`.
// std::format is absent in g++ 12: callers build the text (fmt in sources, streams elsewhere).
#pragma once
#include <string>

namespace atoll::log {

enum class Level { kDebug, kInfo, kWarn, kError };
void set_rank(int rank, int world);            // before the first line of a multi-rank program
void set_file(const std::string& path);        // appended; flushed on each line of warn or above, else by flush(): the trainer calls it after each step
void set_console_level(Level level);
void write(Level level, const std::string& text);
inline void debug(const std::string& text) { write(Level::kDebug, text); }
inline void info(const std::string& text) { write(Level::kInfo, text); }
inline void warn(const std::string& text) { write(Level::kWarn, text); }
inline void error(const std::string& text) { write(Level::kError, text); }
void flush();

}  // namespace atoll::log
