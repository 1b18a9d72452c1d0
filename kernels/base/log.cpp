// spdlog is seen here and nowhere else. Policy: the logger is the program's one global, made at first use; warnings are flushed at once, because what follows may be a crash.
#include "kernels/base/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>

namespace atoll::log {
namespace {
struct State {
  int rank = 0;
  std::shared_ptr<spdlog::sinks::stderr_color_sink_mt> console = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  std::shared_ptr<spdlog::sinks::basic_file_sink_mt> file;
  spdlog::logger logger{"atoll", console};
  State() {
    logger.set_level(spdlog::level::debug);
    console->set_level(spdlog::level::info);
    console->set_pattern("%^%v%$");
    logger.flush_on(spdlog::level::warn);
  }
};
State& state() {
  static State s;
  return s;
}
spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::kDebug: return spdlog::level::debug;
    case Level::kInfo: return spdlog::level::info;
    case Level::kWarn: return spdlog::level::warn;
    case Level::kError: return spdlog::level::err;
  }
  return spdlog::level::info;
}
}  // namespace

void set_rank(int rank, int world) {
  state().rank = rank;
  if (world > 1 && rank != 0) state().console->set_level(spdlog::level::warn);
}
void set_file(const std::string& path) {
  State& s = state();
  s.file = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path);
  s.file->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
  s.logger.sinks() = {s.console, s.file};
}
void set_console_level(Level level) { state().console->set_level(to_spdlog(level)); }
void write(Level level, const std::string& text) {
  State& s = state();
  if (level >= Level::kWarn)
    s.logger.log(to_spdlog(level), "{}: rank {}: {}", level == Level::kWarn ? "warning" : "error", s.rank, text);
  else
    s.logger.log(to_spdlog(level), "{}", text);
}
void flush() { state().logger.flush(); }

}  // namespace atoll::log
