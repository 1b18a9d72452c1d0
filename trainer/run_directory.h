// The folder of a run as one job holds it: whose it is, who works in it, and what may be written there when. Policy: nothing is ever overwritten by a job that
// may not go on with it; config.yaml comes first and is synced, so a folder that a crash left is either a run or empty; one job at a time (flock of RUN/lock).
#pragma once
#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "trainer/run_config.h"

namespace atoll {

// An advisory lock that dies with its process. Its file says who holds it.
class RunLock {
 public:
  RunLock() = default;
  RunLock(const RunLock&) = delete;
  ~RunLock();
  // "" once it is held; else what the holder wrote about itself. Tries for so many seconds: ranks of a job that was killed need a moment to end.
  std::string take(const std::string& path, double wait_seconds);
  // The same of who holds it now, without taking it or making its file.
  static std::string holder(const std::string& path);

 private:
  int fd_ = -1;
};

enum class FolderUse { kNew, kOthers, kStarted, kTrained };  // kStarted: our config.yaml, but nothing that a change of it could harm
FolderUse use_of(const std::string& run_dir);
// Throws ConfigError if a start may not use the run's folder as it is.
void require_usable(const RunConfig& config, FolderUse use);
// Throws ConfigError if somebody holds the folder's lock; `holder` as RunLock says it.
void require_free(const std::string& run_dir, const std::string& holder);

class RunDirectory {
 public:
  // Collective; what rank 0 finds wrong is thrown on all ranks. Takes the lock for the life of this object. A new folder gets its config.yaml here.
  RunDirectory(Communicator& world, const RunConfig& config, const std::string& resolved_yaml, double lock_wait_seconds = 5);
  const std::string& path() const { return path_; }
  bool has_checkpoint() const { return has_checkpoint_; }  // one that looks complete; good or not
  // Collective. Replaces config.yaml: for a run that goes on, once it is known that it may.
  void replace_config();

 private:
  void open(const RunConfig& config, double lock_wait_seconds);
  void write_config() const;

  Communicator& world_;
  std::string path_, resolved_;
  bool has_checkpoint_ = false;
  RunLock lock_;  // on rank 0
};

}  // namespace atoll
