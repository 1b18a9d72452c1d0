// What a run says while it runs: one console line a step, one JSON object a step in metrics.jsonl (the source of truth; one write per line, rank 0 alone).
// Policy: losses are also written as hex floats, so that "bit for bit" can be read off the file.
#pragma once
#include <cstdint>
#include <fstream>
#include <string>

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

// Console progress: on a terminal the line of a step overwrites the last one (each `every`-th stays); elsewhere plain lines.
class StepConsole {
 public:
  explicit StepConsole(int64_t every);
  void step(const StepMetrics& m);
  void message(const std::string& text);  // a line that stays
  void finish();                          // ends an overwritten line

 private:
  int64_t every_;
  bool is_terminal_, is_open_ = false;
};

class MetricsFile {
 public:
  // Appends to an existing file. On resume, lines of later steps are superseded: a {"event":"resume"} line says from where; readers take a step's last line.
  MetricsFile(const std::string& path, bool is_resumed, const Position& from);
  void step(const StepMetrics& m);
  void evaluation(const Position& at, double nats_per_token, double bits_per_byte, const std::vector<double>& mtp);
  void event(const std::string& name, const Position& at, const std::string& text);

 private:
  void write(const std::string& line);
  std::ofstream out_;
};

}  // namespace atoll
