// POSIX calls, each checked. See the header for the order that makes a save atomic.
#include "trainer/checkpoint_files.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <random>

#include "kernels/base/error.h"

namespace atoll {
namespace {

namespace fs = std::filesystem;

// A full disk is the user's to mend (exit 65), as bad data is.
[[noreturn]] void fail(const std::string& path, const char* what) {
  const int error = errno;
  throw Error(path + ": " + what + ": " + std::strerror(error), error == ENOSPC || error == EDQUOT ? ExitCode::kData : ExitCode::kFailed);
}

class File {
 public:
  File(const std::string& path, int flags, mode_t mode = 0) : path_(path), fd_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {
    if (fd_ < 0) fail(path, "cannot be opened");
  }
  ~File() { if (fd_ >= 0) ::close(fd_); }
  File(const File&) = delete;
  int fd() const { return fd_; }
  void sync() const { if (::fsync(fd_) != 0) fail(path_, "cannot be synced to disk"); }
  void close() {
    const int fd = fd_;
    fd_ = -1;
    if (::close(fd) != 0) fail(path_, "cannot be closed");
  }

 private:
  std::string path_;
  int fd_;
};

std::string parent_of(const std::string& path) {
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

}  // namespace

bool is_plain_basename(const std::string& name) {
  if (name.empty() || name.size() > 200 || name[0] == '.') return false;
  return std::all_of(name.begin(), name.end(), [](unsigned char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-'; });
}

std::string checkpoint_name(int64_t step) {
  char name[40];
  std::snprintf(name, sizeof name, "step-%08lld", static_cast<long long>(step));
  return name;
}

std::optional<int64_t> step_of(const std::string& name) {
  constexpr size_t kPrefix = 5;
  if (name.rfind("step-", 0) != 0) return std::nullopt;
  int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data() + kPrefix, name.data() + name.size(), step);
  if (error != std::errc() || end != name.data() + name.size() || name != checkpoint_name(step)) return std::nullopt;
  return step;
}

std::string rank_file_name(int rank) {
  char name[24];
  std::snprintf(name, sizeof name, "rank-%05d.h5", rank);
  return name;
}

std::string random_suffix() {
  std::random_device device;
  char text[20];
  std::snprintf(text, sizeof text, "%08x%08x", device(), device());
  return text;
}

std::string checkpoints_dir(const std::string& run_dir) { return run_dir + "/checkpoints"; }

void write_synced(const std::string& path, const std::string& contents) {
  File file(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
  for (size_t done = 0; done < contents.size();) {
    const ssize_t n = ::write(file.fd(), contents.data() + done, contents.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(path, "cannot be written");
    done += static_cast<size_t>(n);
  }
  file.sync();
  file.close();
}

void rename_synced(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail(from, ("cannot be renamed to " + to).c_str());
  sync_dir(parent_of(to));
}

void sync_file(const std::string& path) {
  File file(path, O_RDONLY);
  file.sync();
  file.close();
}

void sync_dir(const std::string& path) {
  File file(path, O_RDONLY | O_DIRECTORY);
  if (::fsync(file.fd()) != 0 && errno != EINVAL) fail(path, "cannot be synced to disk");  // EINVAL: a file system without it
}

std::string read_text(const std::string& path, int64_t max_bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) throw DataError(path + ": cannot be opened: " + std::strerror(errno));
  std::string contents;
  struct stat status {};
  std::string error;
  if (::fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) error = "is not a file";
  else if (status.st_size > max_bytes) error = "is larger than " + std::to_string(max_bytes) + " bytes";
  else contents.resize(static_cast<size_t>(status.st_size));
  for (size_t done = 0; error.empty() && done < contents.size();) {
    const ssize_t n = ::read(fd, contents.data() + done, contents.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) error = std::string("cannot be read: ") + std::strerror(errno);
    if (n == 0) error = "became shorter while it was read";
    if (n > 0) done += static_cast<size_t>(n);
  }
  ::close(fd);
  if (!error.empty()) throw DataError(path + ": " + error);
  return contents;
}

void make_dirs(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw Error(path + ": cannot be created: " + error.message(), error == std::errc::no_space_on_device ? ExitCode::kData : ExitCode::kFailed);
}

int64_t free_bytes(const std::string& dir) {
  struct statvfs status {};
  if (::statvfs(dir.c_str(), &status) != 0) fail(dir, "free space cannot be read");
  return static_cast<int64_t>(status.f_bavail) * static_cast<int64_t>(status.f_frsize);
}

std::string commit_dir(const std::string& from, const std::string& to) {
  struct stat status {};
  const bool replaces = ::lstat(to.c_str(), &status) == 0;
  if (!replaces) {
    if (::rename(from.c_str(), to.c_str()) != 0) fail(from, ("cannot be renamed to " + to).c_str());
  } else if (::syscall(SYS_renameat2, AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) != 0) {
    if (errno != EINVAL && errno != ENOSYS) fail(from, ("cannot be exchanged with " + to).c_str());
    const std::string aside = to + ".tmp-" + random_suffix();  // a file system without exchange: for a moment this step has no checkpoint, older ones remain
    if (::rename(to.c_str(), aside.c_str()) != 0) fail(to, "cannot be moved aside");
    if (::rename(from.c_str(), to.c_str()) != 0) fail(from, ("cannot be renamed to " + to).c_str());
    if (::rename(aside.c_str(), from.c_str()) != 0) return aside + ": cannot be removed";
  }
  try {
    sync_dir(parent_of(to));
    if (replaces) fs::remove_all(from);
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

std::vector<std::string> checkpoint_names(const std::string& root) {
  std::vector<std::pair<int64_t, std::string>> found;
  std::error_code error;
  for (fs::directory_iterator it(root, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (const auto step = step_of(name)) found.emplace_back(*step, name);
  }
  if (error && error != std::errc::no_such_file_or_directory) throw DataError(root + ": cannot be listed: " + error.message());
  std::sort(found.rbegin(), found.rend());
  std::vector<std::string> names;
  for (auto& [step, name] : found) names.push_back(std::move(name));
  return names;
}

std::vector<std::string> leftovers(const std::string& root) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(root, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    const size_t dot = name.find(".tmp-");
    if (dot == std::string::npos) continue;
    const std::string stem = name.substr(0, dot);
    if (stem == kLatestName || step_of(stem)) names.push_back(name);
  }
  return names;
}

std::string read_latest(const std::string& root) {
  try {
    std::string name = read_text(root + "/" + kLatestName, 256);
    while (!name.empty() && (name.back() == '\n' || name.back() == ' ' || name.back() == '\r')) name.pop_back();
    return step_of(name) ? name : "";
  } catch (const DataError&) {
    return "";
  }
}

}  // namespace atoll
