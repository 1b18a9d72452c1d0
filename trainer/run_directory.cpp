// See the header. Everything here happens on rank 0; the others learn the outcome.
#include "trainer/run_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <thread>

#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "trainer/checkpoint_agree.h"
#include "trainer/checkpoint_files.h"

namespace atoll {
namespace {
namespace fs = std::filesystem;
constexpr const char* kConfigName = "config.yaml";
constexpr const char* kMetricsName = "metrics.jsonl";
constexpr int64_t kMaxConfigBytes = 1 << 24;

bool starts_with(const std::string& text, const std::string& prefix) { return text.rfind(prefix, 0) == 0; }

// What a start that was cut off may have left beside a missing config.yaml; nothing in it is worth keeping.
bool is_empty_leftover(const fs::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  if (name == "lock" || starts_with(name, std::string(kConfigName) + ".tmp")) return true;
  if (name == "checkpoints") return entry.is_directory() && fs::is_empty(entry.path());
  if (name != "log" || !entry.is_directory()) return false;
  return std::all_of(fs::directory_iterator(entry.path()), fs::directory_iterator(), [](const fs::directory_entry& e) { return starts_with(e.path().filename().string(), "rank-"); });
}

std::string holder_text() {
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  return fmt::format("process {} on host {}", ::getpid(), host);
}

// What the holder of this lock wrote about itself.
std::string holder_of(int fd) {
  char text[512] = {};
  const ssize_t n = ::pread(fd, text, sizeof text - 1, 0);
  std::string holder(text, static_cast<size_t>(std::max<ssize_t>(0, n)));
  holder = holder.substr(0, holder.find('\n'));
  return holder.empty() ? "another process" : holder;
}
}  // namespace

RunLock::~RunLock() {
  if (fd_ >= 0) ::close(fd_);
}

std::string RunLock::take(const std::string& path, double wait_seconds) {
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) throw Error(path + ": cannot be opened: " + std::strerror(errno), errno == ENOSPC || errno == EDQUOT ? ExitCode::kData : ExitCode::kConfig);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(wait_seconds);
  while (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) {
      log::warn(path + ": this file system has no locks (" + std::strerror(errno) + "); take care that only one job works in this folder");
      return "";
    }
    if (std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      continue;
    }
    const std::string holder = holder_of(fd_);
    ::close(fd_);
    fd_ = -1;
    return holder;
  }
  const std::string me = holder_text() + "\n";
  const bool is_said = ::ftruncate(fd_, 0) == 0 && ::pwrite(fd_, me.data(), me.size(), 0) == static_cast<ssize_t>(me.size());
  if (!is_said) log::warn(path + ": cannot be written: " + std::strerror(errno) + "; the lock is held all the same");
  return "";
}

std::string RunLock::holder(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return "";
  const std::string holder = ::flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK ? holder_of(fd) : "";
  ::close(fd);
  return holder;
}

void require_free(const std::string& run_dir, const std::string& holder) {
  if (holder.empty()) return;
  throw ConfigError(fmt::format("{} is in use by {}: two jobs in one run folder would destroy each other's work; wait for it or end it, or choose another run.name", run_dir, holder));
}

void require_usable(const RunConfig& config, FolderUse use) {
  const std::string path = config.run.path();
  if (use == FolderUse::kOthers)
    throw ConfigError(fmt::format("{} exists and is not a run folder of atoll (no {} in it); choose another run.name or run.dir", path, kConfigName));
  if (use != FolderUse::kNew && config.train.resume == "never")
    throw ConfigError(fmt::format("run folder {} exists and train.resume = never; nothing is ever overwritten: choose another run.name, move the folder away, or use train.resume=auto", path));
}

FolderUse use_of(const std::string& run_dir) {
  if (!fs::exists(run_dir)) return FolderUse::kNew;
  if (!fs::is_directory(run_dir)) return FolderUse::kOthers;
  if (!fs::exists(run_dir + "/" + kConfigName))
    return std::all_of(fs::directory_iterator(run_dir), fs::directory_iterator(), is_empty_leftover) ? FolderUse::kNew : FolderUse::kOthers;
  const std::string metrics = run_dir + "/" + kMetricsName;
  const bool is_trained = !checkpoint_names(checkpoints_dir(run_dir)).empty() || (fs::exists(metrics) && fs::file_size(metrics) > 0);
  return is_trained ? FolderUse::kTrained : FolderUse::kStarted;
}

RunDirectory::RunDirectory(Communicator& world, const RunConfig& config, const std::string& resolved_yaml, double lock_wait_seconds)
    : world_(world), path_(config.run.path()), resolved_(resolved_yaml) {
  on_rank_0(world_, [&] { open(config, lock_wait_seconds); });
  int64_t flag = has_checkpoint_;
  world_.broadcast(&flag, sizeof flag, 0);
  has_checkpoint_ = flag != 0;
}

void RunDirectory::open(const RunConfig& config, double lock_wait_seconds) {
  require_usable(config, use_of(path_));
  std::error_code error;
  fs::create_directories(path_, error);
  if (error) throw Error(fmt::format("run folder {} cannot be created: {}; choose another run.dir", path_, error.message()), error == std::errc::no_space_on_device ? ExitCode::kData : ExitCode::kConfig);
  require_free(path_, lock_.take(path_ + "/lock", lock_wait_seconds));
  const FolderUse use = use_of(path_);  // as it is now that nobody else changes it
  require_usable(config, use);
  has_checkpoint_ = !checkpoint_names(checkpoints_dir(path_)).empty();
  if (use == FolderUse::kTrained) {
    std::vector<std::string> changes;
    const std::string unreadable = error_of([&] { changes = forbidden_changes(read_text(path_ + "/" + kConfigName, kMaxConfigBytes), config); });
    if (!unreadable.empty() && !has_checkpoint_) throw ConfigError(unreadable);
    if (!unreadable.empty()) log::warn(fmt::format("{}/{}: {}; what the checkpoint says counts", path_, kConfigName, unreadable));
    if (!changes.empty()) {
      std::string text = fmt::format("{} cannot go on with this configuration ({} forbidden change{}):", path_, changes.size(), changes.size() == 1 ? "" : "s");
      for (const std::string& c : changes) text += "\n  " + c;
      throw ConfigError(text + "\nuse the old values, or start a new run with another run.name");
    }
  }
  if (use == FolderUse::kNew) write_config();
  make_dirs(path_ + "/log");
  make_dirs(checkpoints_dir(path_));
}

void RunDirectory::replace_config() {
  on_rank_0(world_, [&] { write_config(); });
}

void RunDirectory::write_config() const {
  std::vector<fs::path> old;
  for (const fs::directory_entry& e : fs::directory_iterator(path_))
    if (starts_with(e.path().filename().string(), std::string(kConfigName) + ".tmp")) old.push_back(e.path());
  for (const fs::path& path : old) fs::remove(path);
  const std::string path = path_ + "/" + kConfigName, beside = path + ".tmp-" + random_suffix();
  std::string was;
  error_of([&] { was = read_text(path, kMaxConfigBytes); });  // missing: to be written
  if (was == resolved_) return;
  write_synced(beside, resolved_);
  rename_synced(beside, path);
}

}  // namespace atoll
