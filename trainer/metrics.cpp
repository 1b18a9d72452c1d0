// Formatting and writing of what a run says. Policy: the console may be thinned out or shortened; in metrics.jsonl every step is a line, written whole.
#include "trainer/metrics.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "kernels/base/log.h"

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
  for (int64_t at = static_cast<int64_t>(text.size()) - 3; at > (n < 0 ? 1 : 0); at -= 3) text.insert(static_cast<size_t>(at), ",");
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

namespace {
// Under mpirun stderr is a pipe: whoever starts it and knows better says so.
bool has_terminal() {
  if (const char* told = std::getenv("ATOLL_TERMINAL")) return std::string(told) == "1";
  return isatty(STDERR_FILENO) != 0;
}
}  // namespace

StepConsole::StepConsole(int64_t every) : every_(std::max<int64_t>(1, every)), is_terminal_(has_terminal()) {}

void StepConsole::step(const StepMetrics& m) {
  const bool stays = m.position.step % every_ == 0 || m.position.step == 1 || m.position.step == m.total_steps || !m.result->applied;
  if (!is_terminal_) {
    if (stays) log::info(console_line(m));
    return;
  }
  std::fprintf(stderr, "\r\033[K%s%s", console_line(m).c_str(), stays ? "\n" : "");
  std::fflush(stderr);
  is_open_ = !stays;
}

void StepConsole::message(const std::string& text) {
  finish();
  log::info(text);
}

void StepConsole::finish() {
  if (is_open_) std::fputc('\n', stderr);
  is_open_ = false;
}

MetricsFile::MetricsFile(const std::string& path, bool is_resumed, const Position& from) : out_(path, std::ios::app) {
  if (!out_) throw Error(path + ": cannot be opened for writing");
  if (is_resumed) event("resume", from, "later lines of earlier attempts are superseded");
}

void MetricsFile::write(const std::string& line) {
  out_ << line + "\n" << std::flush;
  if (!out_) throw Error("metrics.jsonl cannot be written: is the disk full?");
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

void MetricsFile::event(const std::string& name, const Position& at, const std::string& text) {
  write(nlohmann::ordered_json{{"event", name}, {"step", at.step}, {"tokens", at.tokens}, {"text", text}}.dump());
}

}  // namespace atoll
