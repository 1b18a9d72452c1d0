// Fault points: the table of names, the parser of ATOLL_FAULT and the actions.
#include "trainer/fault.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <vector>

#include "kernels/base/error.h"

namespace atoll {
namespace {

constexpr std::array kPoints = {
    FaultPoint{"save-begin", "before anything of a save is written"},
    FaultPoint{"before-rank-file", "the folder of the new checkpoint is there, this rank's file is not"},
    FaultPoint{"mid-rank-file", "half of this rank's tensors are written"},
    FaultPoint{"after-rank-file", "this rank's file is hashed and synced"},
    FaultPoint{"before-manifest", "all files of all ranks are there, the manifest is not"},
    FaultPoint{"after-manifest", "the manifest is there, the folder still has its temporary name"},
    FaultPoint{"after-rename", "the checkpoint has its name, LATEST still names the previous one"},
    FaultPoint{"before-latest", "the new LATEST is written under a temporary name"},
    FaultPoint{"after-latest", "LATEST names the new checkpoint, old ones are not yet pruned"},
    FaultPoint{"mid-prune", "a checkpoint to be pruned has lost its name, its files are still there"},
    FaultPoint{"after-prune", "one old checkpoint is gone"},
    FaultPoint{"load-file", "a file of a verified checkpoint is about to be read"},
};
constexpr std::array<std::string_view, 6> kActions = {"kill9", "stop", "enospc", "flip", "truncate", "fill"};

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

struct Fault {
  std::string_view point, action;
  int64_t rank = -1, step = -1;
};

Fault parse_fault(std::string_view text) {
  Fault fault;
  const auto bad = [&](const std::string& why) { return ConfigError("ATOLL_FAULT: '" + std::string(text) + "': " + why + "; expected point[:rank=R][:step=S]:action=A"); };
  const std::vector<std::string_view> parts = split(text, ':');
  fault.point = parts[0];
  if (std::none_of(kPoints.begin(), kPoints.end(), [&](const FaultPoint& p) { return p.name == fault.point; })) throw bad("there is no such fault point");
  for (size_t i = 1; i < parts.size(); ++i) {
    const size_t equals = parts[i].find('=');
    if (equals == std::string_view::npos) throw bad("a part without '='");
    const std::string_view key = parts[i].substr(0, equals), value = parts[i].substr(equals + 1);
    if (key == "action") {
      fault.action = value;
    } else if (key == "rank" || key == "step") {
      int64_t& number = key == "rank" ? fault.rank : fault.step;
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
      if (error != std::errc() || end != value.data() + value.size() || number < 0) throw bad("not a number");
    } else {
      throw bad("unknown key " + std::string(key));
    }
  }
  if (std::find(kActions.begin(), kActions.end(), fault.action) == kActions.end()) throw bad("unknown action");
  return fault;
}

void flip_bit(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  ATOLL_CHECK(fd >= 0, "fault flip: cannot open ", path);
  const off_t middle = ::lseek(fd, 0, SEEK_END) / 2;
  unsigned char byte = 0;
  const bool is_read = ::pread(fd, &byte, 1, middle) == 1;
  byte ^= 0x10;
  const bool is_written = is_read && ::pwrite(fd, &byte, 1, middle) == 1;
  ::close(fd);
  ATOLL_CHECK(is_written, "fault flip: cannot change ", path);
}

void fill_disk(const std::string& path) {
  const std::string filler = path + ".filler";
  const int fd = ::open(filler.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  ATOLL_CHECK(fd >= 0, "fault fill: cannot create ", filler);
  const std::vector<char> piece(4096, 'x');
  while (::write(fd, piece.data(), piece.size()) > 0) {}
  ::close(fd);
}

void act(const Fault& fault, const FaultSite& site) {
  if (fault.action == "kill9") ::kill(::getpid(), SIGKILL);
  if (fault.action == "stop") ::kill(::getpid(), SIGSTOP);
  if (fault.action == "enospc") throw Error(site.path + ": No space left on device (injected at " + std::string(fault.point) + ")", ExitCode::kData);
  if (fault.action == "flip") flip_bit(site.path);
  if (fault.action == "fill") fill_disk(site.path);
  if (fault.action == "truncate") {
    struct stat status {};
    ATOLL_CHECK(::stat(site.path.c_str(), &status) == 0 && ::truncate(site.path.c_str(), std::max<off_t>(0, status.st_size - 1)) == 0, "fault truncate: ", site.path);
  }
}

}  // namespace

std::span<const FaultPoint> fault_points() { return kPoints; }

void fault_point(std::string_view name, const FaultSite& site) {
  const char* text = std::getenv("ATOLL_FAULT");
  if (!text || !*text) return;
  for (std::string_view one : split(text, ',')) {
    const Fault fault = parse_fault(one);
    if (fault.point == name && (fault.rank < 0 || fault.rank == site.rank) && (fault.step < 0 || fault.step == site.step)) act(fault, site);
  }
}

}  // namespace atoll
