// Checkpoints: the state of a run as named tensors, each cut into row shards that cover every element exactly once, so any layout loads any other's.
// Policy: a checkpoint is complete or it is not there. Files are written beside, hashed, fsynced, renamed; on reading nothing opens an HDF5 file before its hash was verified;
// all ranks use the same checkpoint or all ranks throw. The run folder lies on a file system that all ranks share.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/base/dtype.h"
#include "parallel/communicator.h"
#include "trainer/checkpoint_manifest.h"

namespace atoll {

// Rows [row_begin, row_begin + row_count) of a global tensor [global_rows, global_cols], contiguous at `data`. Saving reads it, loading fills it.
struct ShardView {
  std::string tensor;  // the parameter's Hugging Face name
  std::string kind;    // "master", "exp_avg", "exp_avg_sq", "bias"
  DType dtype = DType::kF32;
  int64_t global_rows = 0, global_cols = 1;
  bool is_vector = false;  // global shape is [global_rows]; global_cols is 1
  int64_t row_begin = 0, row_count = 0;
  void* data = nullptr;
};

// A file that rides along (tokenizer.model, config.yaml). `name` is a plain basename.
struct AttachedFile { std::string name, contents; };

struct SaveResult {
  bool ok = false;
  std::string error;      // why not, naming rank and file; the same text on every rank. The failed attempt left nothing behind.
  std::string warning;    // the checkpoint is complete, but LATEST was not written or old ones were not pruned
  std::string directory;  // .../checkpoints/step-00001000
  int64_t bytes = 0;      // of all files
  double seconds = 0;
  std::vector<std::string> pruned;  // names of the checkpoints that were removed
};

class CheckpointWriter {
 public:
  // Collective over `world`. `mine`: every element of every tensor is in exactly one shard of exactly one rank (checked; a replica that is not the owner passes nothing).
  // `attached` counts on rank 0. keep_last <= 0 keeps all; else older checkpoints are removed once keep_last newer ones pass full verification.
  // A failure (full disk, read-only folder, bad shards) on any rank is returned on all ranks, never thrown: training goes on, the caller counts.
  // Saving a step again replaces that step's checkpoint.
  SaveResult save(Communicator& world, const std::string& run_dir, const CheckpointMeta& meta, std::span<const ShardView> mine, std::span<const AttachedFile> attached,
                  int keep_last);
};

enum class Unexpected { kError, kIgnore };  // tensors of the checkpoint that no rank wants: an error on resume; ignored where only the weights are wanted

class CheckpointReader {
 public:
  // Collective. The newest complete checkpoint of run_dir/checkpoints that passes verification; each bad one is logged with its reason and the next older one is tried.
  // nullopt: there is none at all. Some, but none good: DataError that lists why. Both on all ranks alike.
  static std::optional<CheckpointReader> open_newest(Communicator& world, const std::string& run_dir);
  // Exactly this one (.../step-00001000), or DataError.
  static CheckpointReader open(Communicator& world, const std::string& checkpoint_dir);
  // The same for one process alone (eval, generate).
  static std::optional<CheckpointReader> open_newest(const std::string& run_dir);
  static CheckpointReader open(const std::string& checkpoint_dir);

  const CheckpointMeta& meta() const { return manifest_.meta; }
  const Manifest& manifest() const { return manifest_; }
  const std::string& directory() const { return directory_; }
  const std::vector<std::string>& skipped() const { return skipped_; }  // "step-00001000: rank-00001.h5: hash differs ...", newest first

  // Collective. Fills every view from whatever shards hold its rows, straight into `data`. Missing or unexpected tensors, another shape or dtype: DataError on all ranks
  // that lists the first few; nothing is filled then.
  void load(std::span<const ShardView> wanted, Unexpected unexpected = Unexpected::kError) const;
  std::string attached(const std::string& name) const;  // contents of a file that rode along; DataError if there is none

 private:
  CheckpointReader() = default;
  static std::optional<CheckpointReader> open_newest(Communicator* world, const std::string& run_dir);
  static CheckpointReader open(Communicator* world, const std::string& checkpoint_dir);

  Communicator* world_ = nullptr;  // null: alone
  std::string directory_;
  Manifest manifest_;
  std::vector<std::string> skipped_;
};

}  // namespace atoll
