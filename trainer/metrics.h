// What a run says while it runs: one console line a step, one JSON object a step in metrics.jsonl (the source of truth; one write per line, rank 0 alone).
// Policy: losses are also written as hex floats, so that "bit for bit" can be read off the file.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/base/log.h"
#include "trainer/engine.h"
#include "trainer/schedules.h"

namespace atoll {

struct StepMetrics {
  Position position;           // at the end of the step
  int64_t total_steps = 0;
  double lr = 0, mtp_lambda = 0, balance_alpha = 0, bias_gamma = 0;
  double seconds = 0, tokens_per_second = 0, flops_per_second = 0, mfu = 0;  // of all ranks; mfu against the measured GEMM peak of all ranks
  double eta_seconds = 0;
  int64_t skipped = 0;         // updates skipped so far
  const StepResult* result = nullptr;
};

std::string console_line(const StepMetrics& m);
std::string duration(double seconds);       // "3m12s", "2h05m"
std::string with_thousands(int64_t n);      // 12,345

// The line that is overwritten: the most important fields that fit into so many columns. A longer one would wrap, and a wrapped line cannot be overwritten.
std::string live_line(const StepMetrics& m, int columns);

// Console progress: on a terminal the line of a step overwrites the last one (each `every`-th stays); elsewhere plain lines. One rank speaks, the others say nothing.
// Under mpirun stderr is a pipe: ATOLL_TERMINAL (1 or 0) and ATOLL_COLUMNS say what the one who started it sees.
class StepConsole {
 public:
  StepConsole(int64_t every, bool speaks);
  void step(const StepMetrics& m);
  void message(const std::string& text);  // a line that stays
  void warning(const std::string& text);
  void error(const std::string& text);
  void finish();                          // ends an overwritten line

 private:
  int64_t every_;
  bool speaks_, is_terminal_, is_open_ = false;
};

// A disk that is full loses lines, never the run: it is said once, counted, and each later line tries again.
class MetricsFile {
 public:
  // Appends to an existing file. On resume, lines of later steps are superseded: a {"event":"resume"} line says from where; readers take a step's last line.
  // warn: who says that lines are lost.
  MetricsFile(const std::string& path, bool is_resumed, const Position& from, std::function<void(const std::string&)> warn = log::warn);
  ~MetricsFile();
  MetricsFile(const MetricsFile&) = delete;
  void step(const StepMetrics& m);
  void evaluation(const Position& at, double nats_per_token, double bits_per_byte, const std::vector<double>& mtp);
  void event(const std::string& name, const Position& at, const std::string& text);
  void raw_event(const std::string& json);  // one object that has its "event"
  int64_t num_lost() const { return num_lost_; }  // lines that were not written, so far

 private:
  void write(const std::string& line);
  std::string path_;
  std::function<void(const std::string&)> warn_;
  int fd_ = -1;
  int64_t num_lost_ = 0, num_lost_in_a_row_ = 0;
  bool is_torn_ = false;  // the file does not end with a whole line
};

// Whether the file says that this step was evaluated, and no later resume took that back.
bool was_evaluated(const std::string& path, int64_t step);

}  // namespace atoll
