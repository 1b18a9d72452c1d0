// Formatting and writing of what a run says. Policy: the console may be thinned out or shortened; in metrics.jsonl every step is a line, written whole.
#include "trainer/metrics.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

namespace atoll {

std::string duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  const auto s = static_cast<int64_t>(std::llround(seconds));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  if (s < 48 * 3600) return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
  return fmt::format("{}d{:02}h", s / 86400, s / 3600 % 24);
}

std::string with_thousands(int64_t n) {
  std::string text = std::to_string(n);
  for (int64_t at = static_cast<int64_t>(text.size()) - 3; at > (n < 0 ? 1 : 0); at -= 3) text.insert(static_cast<size_t>(at), 1, ',');
  return text;
}

std::string console_line(const StepMetrics& m) {
  const StepResult& r = *m.result;
  std::string mtp;
  for (double loss : r.mtp_loss) mtp += fmt::format(" mtp {:.4f}", loss);
  return fmt::format("step {}/{} | loss {:.4f}{} | balance {:.2e} | norm {:.3f} | lr {:.2e} | {} tok/s | MFU {:.1f}% | load {:.2f} | ETA {}{}", m.position.step, m.total_steps, r.loss, mtp,
                     r.balance, r.grad_norm, m.lr, with_thousands(static_cast<int64_t>(m.tokens_per_second)), 100 * m.mfu, r.expert_load_max_over_mean, duration(m.eta_seconds),
                     r.applied ? "" : " | SKIPPED: " + r.reason);
}

std::string live_line(const StepMetrics& m, int columns) {
  const StepResult& r = *m.result;
  std::vector<std::string> fields = {fmt::format("step {}/{}", m.position.step, m.total_steps), fmt::format("loss {:.4f}", r.loss)};
  if (!r.applied) fields.push_back("SKIPPED");
  fields.push_back(fmt::format("{} tok/s", with_thousands(static_cast<int64_t>(m.tokens_per_second))));
  fields.push_back("ETA " + duration(m.eta_seconds));
  fields.push_back(fmt::format("norm {:.3f}", r.grad_norm));
  fields.push_back(fmt::format("lr {:.2e}", m.lr));
  fields.push_back(fmt::format("MFU {:.1f}%", 100 * m.mfu));
  for (double loss : r.mtp_loss) fields.push_back(fmt::format("mtp {:.4f}", loss));
  fields.push_back(fmt::format("load {:.2f}", r.expert_load_max_over_mean));
  fields.push_back(fmt::format("balance {:.2e}", r.balance));
  const size_t width = static_cast<size_t>(std::max(2, columns)) - 1;  // the last column makes some terminals wrap
  std::string line = fields[0].substr(0, width);
  for (size_t i = 1; i < fields.size() && line.size() + 3 + fields[i].size() <= width; ++i) line += " | " + fields[i];
  return line;
}

namespace {
bool has_terminal() {
  if (const char* told = std::getenv("ATOLL_TERMINAL")) return std::string(told) == "1";
  return isatty(STDERR_FILENO) != 0;
}

int terminal_columns() {  // asked for each line: a window may be resized
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  const char* told = std::getenv("ATOLL_COLUMNS");
  const int columns = told ? std::atoi(told) : 0;
  return columns > 0 ? columns : 80;
}
}  // namespace

StepConsole::StepConsole(int64_t every, bool speaks) : every_(std::max<int64_t>(1, every)), speaks_(speaks), is_terminal_(has_terminal()) {}

void StepConsole::step(const StepMetrics& m) {
  if (!speaks_) return;
  const bool stays = m.position.step % every_ == 0 || m.position.step == 1 || m.position.step == m.total_steps || !m.result->applied;
  if (!is_terminal_) {
    if (stays) log::info(console_line(m));
    return;
  }
  const std::string line = stays ? console_line(m) + "\n" : live_line(m, terminal_columns());  // a line that stays may wrap
  std::fprintf(stderr, "\r\033[K%s", line.c_str());
  std::fflush(stderr);
  is_open_ = !stays;
}

void StepConsole::message(const std::string& text) {
  finish();
  if (speaks_) log::info(text);
}

void StepConsole::warning(const std::string& text) {
  finish();
  if (speaks_) log::warn(text);
}

void StepConsole::error(const std::string& text) {
  finish();
  if (speaks_) log::error(text);
}

void StepConsole::finish() {
  if (is_open_) std::fputc('\n', stderr);
  is_open_ = false;
}

MetricsFile::MetricsFile(const std::string& path, bool is_resumed, const Position& from, std::function<void(const std::string&)> warn)
    : path_(path), warn_(std::move(warn)), fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) {
  if (fd_ < 0) throw DataError(path + ": cannot be opened for writing: " + std::strerror(errno));
  char last = '\n';
  const off_t size = ::lseek(fd_, 0, SEEK_END);
  is_torn_ = size > 0 && ::pread(fd_, &last, 1, size - 1) == 1 && last != '\n';  // a line that a crash or a full disk cut off
  if (is_resumed) event("resume", from, "later lines of earlier attempts are superseded");
}

MetricsFile::~MetricsFile() { ::close(fd_); }

void MetricsFile::write(const std::string& line) {
  std::string text = is_torn_ ? "\n" : "";
  if (num_lost_in_a_row_ > 0) text += nlohmann::ordered_json{{"event", "lines lost"}, {"lines", num_lost_in_a_row_}}.dump() + "\n";
  text += line + "\n";
  size_t done = 0;
  int error = 0;
  while (done < text.size() && error == 0) {
    const ssize_t n = ::write(fd_, text.data() + done, text.size() - done);
    if (n > 0) done += static_cast<size_t>(n);
    else if (n == 0) error = ENOSPC;
    else if (errno != EINTR) error = errno;
  }
  if (done > 0) is_torn_ = text[done - 1] != '\n';
  if (error == 0) {
    if (num_lost_in_a_row_ > 0) warn_(fmt::format("{}: written again; {} lines were lost", path_, num_lost_in_a_row_));
    num_lost_in_a_row_ = 0;
    return;
  }
  if (num_lost_in_a_row_ == 0) warn_(fmt::format("{}: cannot be written: {}; training goes on, lines are lost until it can", path_, std::strerror(error)));
  ++num_lost_;
  ++num_lost_in_a_row_;
}

bool was_evaluated(const std::string& path, int64_t step) {
  std::ifstream in(path);
  bool is_evaluated = false;
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("{\"event\":", 0) != 0) continue;  // steps are many
    const nlohmann::json j = nlohmann::json::parse(line, nullptr, false);
    if (j.is_discarded() || !j.contains("step") || !j["step"].is_number_integer() || !j["event"].is_string()) continue;
    if (j["event"] == "evaluation" && j["step"] == step) is_evaluated = true;
    if (j["event"] == "resume" && j["step"] < step) is_evaluated = false;  // another branch
  }
  return is_evaluated;
}

void MetricsFile::step(const StepMetrics& m) {
  const StepResult& r = *m.result;
  nlohmann::ordered_json j;
  j["step"] = m.position.step;
  j["tokens"] = m.position.tokens;
  j["loss"] = r.loss;
  j["loss_hex"] = fmt::format("{:a}", r.loss);
  if (!r.mtp_loss.empty()) j["mtp_loss"] = r.mtp_loss;
  j["balance_loss"] = r.balance;
  j["total_loss_hex"] = fmt::format("{:a}", r.total);
  j["grad_norm"] = r.grad_norm;
  j["grad_norm_hex"] = fmt::format("{:a}", r.grad_norm);
  j["clip"] = r.clip;
  j["lr"] = m.lr;
  j["mtp_lambda"] = m.mtp_lambda;
  j["balance_alpha"] = m.balance_alpha;
  j["bias_gamma"] = m.bias_gamma;
  j["labels"] = r.labels;
  j["sequences"] = r.sequences;
  j["seconds"] = m.seconds;
  j["tokens_per_second"] = m.tokens_per_second;
  j["gflops"] = m.flops_per_second * 1e-9;
  j["mfu"] = m.mfu;
  j["expert_load_max_over_mean"] = r.expert_load_max_over_mean;
  j["bytes_sent_rank0"] = r.bytes_sent;
  j["dispatch_bytes_rank0"] = r.dispatch_bytes;
  j["combine_bytes_rank0"] = r.combine_bytes;
  j["applied"] = r.applied;
  if (!r.applied) j["reason"] = r.reason;
  j["skipped"] = m.skipped;
  write(j.dump());  // non-finite numbers become null; the hex fields keep them
}

void MetricsFile::evaluation(const Position& at, double nats, double bits_per_byte, const std::vector<double>& mtp) {
  write(nlohmann::ordered_json{{"event", "evaluation"}, {"step", at.step}, {"tokens", at.tokens}, {"heldout_loss", nats}, {"heldout_bits_per_byte", bits_per_byte}, {"heldout_mtp_loss", mtp}}.dump());
}

void MetricsFile::raw_event(const std::string& json) { write(json); }

void MetricsFile::event(const std::string& name, const Position& at, const std::string& text) {
  write(nlohmann::ordered_json{{"event", name}, {"step", at.step}, {"tokens", at.tokens}, {"text", text}}.dump());
}

}  // namespace atoll
