// What can go wrong with checkpoints on disk, made to go wrong: kills at every named point of a save, flipped bits, cut files, full and read-only disks.
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <functional>
#include <map>

#include "checkpoint_fixture.h"
#include "trainer/fault.h"
#include "trainer/hdf5_file.h"

using namespace atoll;
using namespace atoll::test;
using Catch::Contains;

namespace {

class FaultGuard {
 public:
  explicit FaultGuard(const std::string& fault) { ::setenv("ATOLL_FAULT", fault.c_str(), 1); }
  ~FaultGuard() { ::unsetenv("ATOLL_FAULT"); }
};

// The wait status of a forked process that runs `body` and exits with what it returns.
int status_of_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    int code = 99;
    try { code = body(); } catch (...) {}
    ::_exit(code);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return status;
}

// A tmpfs of its own, or a reason why not.
class Tmpfs {
 public:
  explicit Tmpfs(const std::string& size) {
    is_mounted_ = ::mount("tmpfs", dir_.path().c_str(), "tmpfs", 0, ("size=" + size).c_str()) == 0;
    if (!is_mounted_) WARN("skipped: a tmpfs cannot be mounted here: " << std::strerror(errno));
  }
  ~Tmpfs() { if (is_mounted_) ::umount2(dir_.path().c_str(), MNT_DETACH); }
  explicit operator bool() const { return is_mounted_; }
  const std::string& path() const { return dir_.path(); }

 private:
  TempDir dir_;
  bool is_mounted_ = false;
};

// Why the newest checkpoint of the run was passed over; "" if it was used.
std::string reason_against_newest(const std::string& run_dir) {
  const auto reader = CheckpointReader::open_newest(run_dir);
  return reader->skipped().empty() ? "" : reader->skipped()[0];
}

}  // namespace

TEST_CASE("Killed at any point of a save, the run finds the previous or the new checkpoint") {
  const std::map<std::string, int64_t> found = {{"save-begin", 2},     {"before-rank-file", 2}, {"mid-rank-file", 2}, {"after-rank-file", 2}, {"before-manifest", 2}, {"after-manifest", 2},
                                                {"after-rename", 3},   {"before-latest", 3},    {"after-latest", 3},  {"mid-prune", 3},       {"after-prune", 3}};
  for (const FaultPoint& point : fault_points()) {
    const std::string name(point.name);
    if (name == "load-file") continue;
    INFO(name);
    TempDir dir;
    for (int64_t step : {1, 2}) REQUIRE(save_alone(dir.path(), step).ok);
    const int status = status_of_child([&] {
      ::setenv("ATOLL_FAULT", (name + ":rank=0:step=3:action=kill9").c_str(), 1);
      return save_alone(dir.path(), 3, 2).ok ? 0 : 1;
    });
    REQUIRE(WIFSIGNALED(status));
    REQUIRE(WTERMSIG(status) == SIGKILL);
    REQUIRE(found.count(name) == 1);
    CHECK(newest_step(dir.path()) == found.at(name));
    CHECK(reason_against_newest(dir.path()).empty());
    REQUIRE(save_alone(dir.path(), 3, 2).ok);
    CHECK(newest_step(dir.path()) == 3);
    CHECK(names_in(dir.path() + "/checkpoints") == std::vector<std::string>{"LATEST", "step-00000002", "step-00000003"});
  }
}

TEST_CASE("Killed while a step is saved again, the run finds that step") {
  for (const char* point : {"after-manifest", "after-rename"}) {
    TempDir dir;
    for (int64_t step : {1, 2}) REQUIRE(save_alone(dir.path(), step).ok);
    const int status = status_of_child([&] {
      ::setenv("ATOLL_FAULT", (std::string(point) + ":action=kill9").c_str(), 1);
      return save_alone(dir.path(), 2).ok ? 0 : 1;
    });
    REQUIRE(WIFSIGNALED(status));
    CHECK(newest_step(dir.path()) == 2);
  }
}

TEST_CASE("A failure at any point before the commit leaves nothing behind and the run goes on") {
  for (const char* point : {"save-begin", "before-rank-file", "mid-rank-file", "after-rank-file", "before-manifest", "after-manifest"}) {
    INFO(point);
    TempDir dir;
    REQUIRE(save_alone(dir.path(), 1).ok);
    {
      const FaultGuard fault(std::string(point) + ":action=enospc");
      const SaveResult result = save_alone(dir.path(), 2);
      CHECK_FALSE(result.ok);
      CHECK_THAT(result.error, Contains("checkpoint of step 2 was not saved") && Contains("No space left on device (injected at " + std::string(point)));
    }
    CHECK(names_in(dir.path() + "/checkpoints") == std::vector<std::string>{"LATEST", "step-00000001"});
    CHECK(save_alone(dir.path(), 2).ok);
  }
}

TEST_CASE("A failure after the commit is a warning") {
  TempDir dir;
  REQUIRE(save_alone(dir.path(), 1).ok);
  const FaultGuard fault("before-latest:action=enospc");
  const SaveResult result = save_alone(dir.path(), 2);
  CHECK(result.ok);
  CHECK_THAT(result.warning, Contains("LATEST does not name it") && Contains("No space left"));
  CHECK(names_in(dir.path() + "/checkpoints") == std::vector<std::string>{"LATEST", "step-00000001", "step-00000002"});
  CHECK(text_of(dir.path() + "/checkpoints/LATEST") == "step-00000001\n");
  CHECK(newest_step(dir.path()) == 2);
}

TEST_CASE("A flipped bit, a cut, longer, missing or foreign file is found before HDF5 opens it") {
  TempDir dir;
  for (int64_t step : {1, 2}) REQUIRE(save_alone(dir.path(), step).ok);
  for (const std::string& name : names_in(step_dir(dir.path(), 2))) {
    const std::string path = step_dir(dir.path(), 2) + "/" + name, good = text_of(path);
    const auto is_found = [&](const std::string& how) {
      INFO(name << ": " << how);
      const std::string reason = reason_against_newest(dir.path());
      CHECK_THAT(reason, Contains("step-00000002: "));
      CHECK_THAT(reason, Contains(name) || Contains("CHECKSUMS") || Contains("manifest.json"));
      CHECK_THAT(reason, !Contains("H5"));
      if (name == "manifest.json" && how.rfind("bit", 0) == 0) CHECK_THAT(reason, Contains("manifest.json: hash differs"));  // before anything of it is parsed
    };
    const size_t probes = std::min<size_t>(good.size(), 40);
    for (size_t probe = 0; probe < probes; ++probe) {
      std::string bad = good;
      const size_t at = probes == 1 ? 0 : probe * (good.size() - 1) / (probes - 1);
      bad[at] = static_cast<char>(bad[at] ^ (1 << (probe % 8)));
      write_text(path, bad);
      is_found("bit flipped at " + std::to_string(at));
    }
    for (size_t length : {size_t{0}, size_t{1}, good.size() / 2, good.size() - 1}) {
      write_text(path, good.substr(0, length));
      is_found("cut to " + std::to_string(length));
    }
    write_text(path, good + '\0');
    is_found("one byte longer");
    fs::remove(path);
    is_found("missing");
    fs::create_directory(path);
    is_found("a folder");
    fs::remove(path);
    write_text(dir.path() + "/elsewhere", good);
    fs::create_symlink(dir.path() + "/elsewhere", path);
    is_found("a link");
    fs::remove(path);
    write_text(path, good);
    CHECK(reason_against_newest(dir.path()).empty());
  }
  CHECK(newest_step(dir.path()) == 2);
}

TEST_CASE("When no checkpoint is good, that is an error and not a fresh start") {
  TempDir dir;
  for (int64_t step : {1, 2}) REQUIRE(save_alone(dir.path(), step).ok);
  fs::remove(step_dir(dir.path(), 1) + "/manifest.json");
  write_text(step_dir(dir.path(), 2) + "/rank-00000.h5", "");
  CHECK_THROWS_AS(CheckpointReader::open_newest(dir.path()), DataError);
  CHECK_THROWS_WITH(CheckpointReader::open_newest(dir.path()),
                    Contains("no checkpoint in") && Contains("step-00000002: rank-00000.h5: has 0 bytes") && Contains("step-00000001: ") && Contains("manifest.json: cannot be opened"));
  CHECK_THROWS_WITH(CheckpointReader::open(step_dir(dir.path(), 2)), Contains("rank-00000.h5"));
}

TEST_CASE("A file that rots right after it was written is found") {
  TempDir dir;
  REQUIRE(save_alone(dir.path(), 1).ok);
  for (const char* fault : {"after-rank-file:action=flip", "after-rank-file:action=truncate", "after-manifest:action=flip", "after-rename:action=flip"}) {
    const FaultGuard guard(fault);
    REQUIRE(save_alone(dir.path(), 2).ok);
    CHECK(newest_step(dir.path()) == 1);
  }
}

TEST_CASE("A file that changes between its verification and its use is found") {
  TempDir dir;
  REQUIRE(save_alone(dir.path(), 1).ok);
  const auto reader = CheckpointReader::open_newest(dir.path());
  RankState state(0, 1, 0);
  const FaultGuard guard("load-file:action=flip");
  CHECK_THROWS_AS(reader->load(state.views), DataError);
}

TEST_CASE("A file size limit in the midst of a file is one clear error") {
  TempDir dir;
  REQUIRE(save_alone(dir.path(), 1).ok);
  std::string report = dir.path() + "/report";
  const int status = status_of_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4 << 20, 4 << 20};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
    const SaveResult result = save_alone(dir.path(), 2);
    write_text(report, result.error);
    return result.ok ? 1 : 0;
  });
  CHECK(status == 0);
  CHECK_THAT(text_of(report), Contains("rank-00000.h5") && Contains("File too large"));
  CHECK(names_in(dir.path() + "/checkpoints") == std::vector<std::string>{"LATEST", "step-00000001"});
  CHECK(newest_step(dir.path()) == 1);
}

TEST_CASE("HDF5's write is an error itself when the disk takes no more") {  // later calls may all report success
  TempDir dir;
  const int status = status_of_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{2 << 20, 2 << 20};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
    const std::vector<float> rows(2 << 20);
    Hdf5Writer file(dir.path() + "/x.h5");
    file.write("master/small@0", {DType::kF32, 16, 16, false}, rows.data());
    try {
      file.write("master/large@0", {DType::kF32, 2048, 1024, false}, rows.data());
    } catch (const Error&) {
      return 0;
    }
    return 1;
  });
  CHECK(status == 0);
}

TEST_CASE("A full disk is one clear error, and no checkpoint is harmed") {
  Tmpfs disk("32m");  // a checkpoint has 9.5 MB
  if (!disk) return;
  REQUIRE(save_alone(disk.path(), 1).ok);
  for (const char* point : {"before-rank-file", "mid-rank-file"}) {  // full after the check of free space: HDF5's own writes fail
    const FaultGuard fault(std::string(point) + ":action=fill");
    const SaveResult result = save_alone(disk.path(), 2);
    CHECK_FALSE(result.ok);
    CHECK_THAT(result.error, Contains("rank-00000.h5") && Contains("No space left on device"));
    CHECK(names_in(disk.path() + "/checkpoints") == std::vector<std::string>{"LATEST", "step-00000001"});
    CHECK(newest_step(disk.path()) == 1);
  }
  {  // full when the manifest is to be written
    const FaultGuard fault("before-manifest:action=fill");
    const SaveResult result = save_alone(disk.path(), 2);
    CHECK_FALSE(result.ok);
    CHECK_THAT(result.error, Contains("No space left on device"));
  }
  for (const std::string& name : names_in(disk.path() + "/checkpoints"))
    if (name.find("filler") != std::string::npos) fs::remove(disk.path() + "/checkpoints/" + name);
  {  // full when LATEST is to be written
    const FaultGuard fault("after-manifest:action=fill");
    const SaveResult result = save_alone(disk.path(), 2);
    CHECK(result.ok);
    CHECK_THAT(result.warning, Contains("LATEST") && Contains("No space left on device"));
    fs::remove(result.directory + "/manifest.json.filler");
    CHECK(text_of(disk.path() + "/checkpoints/LATEST") == "step-00000001\n");
    CHECK(newest_step(disk.path()) == 2);
  }
  REQUIRE(save_alone(disk.path(), 3).ok);
  const SaveResult result = save_alone(disk.path(), 4);
  CHECK_FALSE(result.ok);
  CHECK_THAT(result.error, Contains("not enough space") && Contains("MB are needed") && Contains("are free in") && Contains("keep fewer checkpoints"));
  CHECK(newest_step(disk.path()) == 3);
  fs::remove_all(step_dir(disk.path(), 1));
  CHECK(save_alone(disk.path(), 4).ok);
}

TEST_CASE("A read-only folder is one clear error") {
  if (::geteuid() != 0) {
    TempDir dir;
    ::chmod(dir.path().c_str(), 0555);
    const SaveResult result = save_alone(dir.path(), 1);
    CHECK_THAT(result.error, Contains("checkpoints: cannot be created: Permission denied"));
    return;
  }
  Tmpfs disk("32m");
  if (!disk) return;
  REQUIRE(save_alone(disk.path(), 1).ok);
  REQUIRE(::mount(nullptr, disk.path().c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) == 0);
  const SaveResult result = save_alone(disk.path(), 2);
  CHECK_FALSE(result.ok);
  CHECK_THAT(result.error, Contains("Read-only file system"));
  CHECK(newest_step(disk.path()) == 1);
}

TEST_CASE("A run folder that is a file is one clear error") {
  TempDir dir;
  write_text(dir.path() + "/checkpoints", "");
  CHECK_THAT(save_alone(dir.path(), 1).error, Contains("checkpoints"));
}

TEST_CASE("A malformed ATOLL_FAULT is a configuration error") {
  for (const char* text : {"nowhere:action=kill9", "save-begin", "save-begin:action=explode", "save-begin:rank=x:action=flip", "save-begin:colour=1:action=flip", "save-begin:rank:action=flip"}) {
    INFO(text);
    const FaultGuard guard(text);
    CHECK_THROWS_AS(fault_point("save-begin", {}), ConfigError);
  }
  const FaultGuard guard("save-begin:rank=3:action=enospc,save-begin:step=7:action=enospc");
  CHECK_NOTHROW(fault_point("save-begin", {2, 6, "x"}));
  CHECK_THROWS_WITH(fault_point("save-begin", {3, 6, "x"}), Contains("x: No space left on device"));
  CHECK_THROWS_WITH(fault_point("save-begin", {0, 7, "x"}), Contains("x: No space left on device"));
}
