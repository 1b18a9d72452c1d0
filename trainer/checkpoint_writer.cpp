// CheckpointWriter::save: one save as a sequence of stages, each ended by an agreement of all ranks (reference: the steps in docs/walkthrough.md).
// Rank 0 alone makes folders, the manifest and renames; every rank writes, hashes and syncs its own file.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <limits>
#include <set>

#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "trainer/checkpoint.h"
#include "trainer/checkpoint_agree.h"
#include "trainer/checkpoint_files.h"
#include "trainer/checkpoint_verify.h"
#include "trainer/fault.h"
#include "trainer/file_hash.h"
#include "trainer/hdf5_file.h"

namespace atoll {
namespace {

namespace fs = std::filesystem;

int64_t bytes_of(const ShardView& shard) { return shard.row_count * shard.global_cols * static_cast<int64_t>(size_of(shard.dtype)); }

std::string in_megabytes(int64_t bytes) {
  char text[40];
  std::snprintf(text, sizeof text, "%.1f MB", static_cast<double>(bytes) / 1e6);
  return text;
}

std::string now_utc() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &parts));
  return text;
}

void check_shards(std::span<const ShardView> shards) {
  std::set<std::string> datasets;
  for (const ShardView& s : shards) {
    const std::string name = s.kind + "/" + s.tensor;
    ATOLL_CHECK(!s.kind.empty() && !s.tensor.empty() && s.kind.find('/') == std::string::npos && s.tensor.find('/') == std::string::npos, "a shard is named '", name, "'");
    ATOLL_CHECK(s.global_rows >= 0 && s.global_cols >= 1 && (!s.is_vector || s.global_cols == 1), "shard of ", name, ": shape [", s.global_rows, ", ", s.global_cols, "]");
    ATOLL_CHECK(s.row_begin >= 0 && s.row_count >= 0 && s.row_begin <= s.global_rows - s.row_count, "shard of ", name, ": rows [", s.row_begin, ", ", s.row_begin + s.row_count,
                ") of ", s.global_rows);
    ATOLL_CHECK(s.row_count == 0 || s.data, "shard of ", name, " has no data");
    ATOLL_CHECK(s.row_count == 0 || datasets.insert(name + "@" + std::to_string(s.row_begin)).second, "rank passes the shard of ", name, " at row ", s.row_begin, " twice");
  }
}

class Save {
 public:
  Save(Communicator& world, const std::string& run_dir, const CheckpointMeta& meta, std::span<const ShardView> mine, std::span<const AttachedFile> attached, int keep_last)
      : world_(world), meta_(meta), mine_(mine), attached_(attached), keep_last_(keep_last), root_(checkpoints_dir(run_dir)), name_(checkpoint_name(meta.step)) {}

  SaveResult run() {
    const auto start = std::chrono::steady_clock::now();
    SaveResult result;
    result.directory = root_ + "/" + name_;
    result.error = write_and_commit();
    if (!result.error.empty()) {
      result.error = "checkpoint of step " + std::to_string(meta_.step) + " was not saved: " + result.error;
    } else {
      result.ok = true;
      const std::string latest_error = broadcast_text(&world_, is_root() ? error_of([&] { publish(); }) : "");
      const std::string prune_error = prune(result.pruned);
      result.warning = commit_warning_;
      for (const std::string& error : {latest_error, prune_error})
        if (!error.empty()) result.warning += (result.warning.empty() ? "" : "; ") + error;
    }
    int64_t bytes = is_root() && result.ok ? manifest_.total_bytes() : 0;
    world_.broadcast(&bytes, sizeof bytes, 0);
    result.bytes = bytes;
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return result;
  }

 private:
  bool is_root() const { return world_.rank() == 0; }
  FaultSite site(const std::string& path) const { return {world_.rank(), meta_.step, path}; }

  // "" once the checkpoint has its name. Otherwise why not, after the temporary folder was removed. Each stage runs only if the one before succeeded on all ranks.
  std::string write_and_commit() {
    temporary_ = root_ + "/" + broadcast_text(&world_, is_root() ? name_ + ".tmp-" + random_suffix() : "");
    std::string error = agreed([&] {
      check_shards(mine_);
      if (is_root()) prepare_root();
    });
    if (error.empty()) error = check_space();
    if (error.empty()) error = agreed([&] { if (is_root()) make_temporary(); });
    if (error.empty()) error = agreed([&] { write_rank_file(); });
    if (error.empty()) {
      const std::vector<std::string> records = gather_texts(&world_, record_);
      error = broadcast_text(&world_, is_root() ? error_of([&] { commit(records); }) : "");
    }
    if (!error.empty() && is_root()) {
      std::error_code failed;
      fs::remove_all(temporary_, failed);
      if (failed) log::warn(temporary_ + ": cannot be removed: " + failed.message());
    }
    world_.barrier();  // nobody goes on, or tries again, while rank 0 still removes
    commit_warning_ = broadcast_text(&world_, commit_warning_);
    return error;
  }

  template <class Body>
  std::string agreed(Body&& body) { return errors_of_all(&world_, error_of(body)); }

  void prepare_root() {
    fault_point("save-begin", site(root_));
    make_dirs(root_);
    for (const std::string& name : leftovers(root_)) {
      log::info("removing " + root_ + "/" + name + ", left by an interrupted save");
      fs::remove_all(root_ + "/" + name);
    }
    previous_ = read_latest(root_);
    previous_hash_ = previous_.empty() ? "" : manifest_hash(root_ + "/" + previous_);
  }

  // All ranks write into one shared folder: the sum of all must fit, with a tenth to spare.
  std::string check_space() {
    struct Need { int64_t bytes, free; } need{0, 0};
    std::string error = agreed([&] {
      for (const ShardView& shard : mine_) need.bytes += bytes_of(shard);
      if (is_root()) for (const AttachedFile& file : attached_) need.bytes += static_cast<int64_t>(file.contents.size());
      need.free = free_bytes(root_);
    });
    if (!error.empty()) return error;
    std::vector<Need> all(static_cast<size_t>(world_.size()));
    world_.all_gather(&need, sizeof need, all.data());
    int64_t bytes = 0, free = std::numeric_limits<int64_t>::max();
    for (const Need& one : all) {
      bytes += one.bytes;
      free = std::min(free, one.free);
    }
    const int64_t wanted = bytes + bytes / 10;
    if (free >= wanted) return "";
    return "not enough space: " + in_megabytes(wanted) + " are needed (" + in_megabytes(bytes) + " and a tenth for safety), " + in_megabytes(free) + " are free in " + root_ +
           "; free some, keep fewer checkpoints, or move the run to a larger disk";
  }

  void make_temporary() {
    if (!fs::create_directory(temporary_)) throw Error(temporary_ + ": exists already");
    for (const AttachedFile& file : attached_) {
      ATOLL_CHECK(is_plain_basename(file.name), "attached file '", file.name, "' is not a plain file name");
      write_synced(temporary_ + "/" + file.name, file.contents);
    }
  }

  void write_rank_file() {
    const std::string file_name = rank_file_name(world_.rank()), path = temporary_ + "/" + file_name;
    fault_point("before-rank-file", site(path));
    std::vector<ManifestTensor> tensors;
    Hdf5Writer file(path);
    for (size_t i = 0; i < mine_.size(); ++i) {
      if (i == mine_.size() / 2) fault_point("mid-rank-file", site(path));
      const ShardView& s = mine_[i];
      ManifestTensor tensor{s.tensor, s.kind, s.dtype, s.global_rows, s.global_cols, s.is_vector, {}};
      if (s.row_count > 0) {
        const std::string dataset = s.kind + "/" + s.tensor + "@" + std::to_string(s.row_begin);
        file.write(dataset, {s.dtype, s.row_count, s.global_cols, s.is_vector}, s.data);
        tensor.shards.push_back({0, dataset, s.row_begin, s.row_count, hash_of(s.data, static_cast<size_t>(bytes_of(s)))});
      }
      tensors.push_back(std::move(tensor));
    }
    file.close();
    const FileHash hash = hash_of_file(path);  // from the page cache
    sync_file(path);
    record_ = rank_record({file_name, hash.bytes, hash.hash}, tensors);
    fault_point("after-rank-file", site(path));
  }

  void commit(const std::vector<std::string>& records) {
    fault_point("before-manifest", site(temporary_));
    manifest_.meta = meta_;
    manifest_.config_hash = hash_of(meta_.resolved_config_yaml);
    manifest_.previous = previous_;
    manifest_.previous_hash = previous_hash_;
    manifest_.saved_at = now_utc();
    for (const std::string& record : records) add_rank_record(manifest_, record);
    for (const AttachedFile& file : attached_) manifest_.files.push_back({file.name, static_cast<int64_t>(file.contents.size()), hash_of(file.contents)});
    manifest_.normalize();
    const std::string text = manifest_.to_json();
    write_synced(temporary_ + "/" + kChecksumsName, manifest_.checksums(hash_of(text)));
    write_synced(temporary_ + "/" + kManifestName + ".tmp", text);
    rename_synced(temporary_ + "/" + kManifestName + ".tmp", temporary_ + "/" + kManifestName);
    fault_point("after-manifest", site(temporary_ + "/" + kManifestName));
    commit_warning_ = commit_dir(temporary_, root_ + "/" + name_);
    fault_point("after-rename", site(root_ + "/" + name_ + "/" + rank_file_name(0)));
  }

  void publish() {
    const std::string temporary = root_ + "/" + kLatestName + ".tmp-" + random_suffix();
    const std::string error = error_of([&] {
      write_synced(temporary, name_ + "\n");
      fault_point("before-latest", site(temporary));
      rename_synced(temporary, root_ + "/" + kLatestName);
    });
    if (!error.empty()) {
      std::error_code ignored;  // what remains is removed by the next save
      fs::remove(temporary, ignored);
      throw Error("the checkpoint is complete but LATEST does not name it: " + error);
    }
    fault_point("after-latest", site(root_ + "/" + name_ + "/" + rank_file_name(0)));
  }

  // Collective. From the newest down: the one just written is good; others count once all their hashes hold; what is older than keep_last good ones goes.
  // Newer steps (a continuation the run went back from) are neither counted nor removed.
  std::string prune(std::vector<std::string>& pruned) {
    if (keep_last_ <= 0) return "";
    std::string list;
    std::string error = is_root() ? error_of([&] {
      for (const std::string& name : checkpoint_names(root_)) if (*step_of(name) < meta_.step) list += name + "\n";
    }) : "";
    error = broadcast_text(&world_, error);
    list = broadcast_text(&world_, list);
    if (!error.empty()) return error;
    std::vector<std::string> names;
    for (size_t begin = 0; begin < list.size(); begin = list.find('\n', begin) + 1) names.push_back(list.substr(begin, list.find('\n', begin) - begin));
    if (static_cast<int>(names.size()) + 1 <= keep_last_) return "";
    int good = 1;
    for (const std::string& name : names) {
      if (good >= keep_last_) {
        error = broadcast_text(&world_, is_root() ? error_of([&] { remove_checkpoint(name); }) : "");
        if (!error.empty()) return "old checkpoints were not all removed: " + error;
        pruned.push_back(name);
        continue;
      }
      Manifest manifest;
      const std::string why = verify_checkpoint(&world_, root_ + "/" + name, manifest);
      if (why.empty()) ++good;
      else if (is_root()) log::warn("checkpoint " + name + " is bad and not counted among the last " + std::to_string(keep_last_) + ": " + why);
    }
    return "";
  }

  // First the name goes, so that a half-removed checkpoint is never taken for one.
  void remove_checkpoint(const std::string& name) {
    const std::string doomed = root_ + "/" + name + ".tmp-" + random_suffix();
    rename_synced(root_ + "/" + name, doomed);
    fault_point("mid-prune", site(doomed));
    fs::remove_all(doomed);
    fault_point("after-prune", site(root_));
  }

  Communicator& world_;
  const CheckpointMeta& meta_;
  std::span<const ShardView> mine_;
  std::span<const AttachedFile> attached_;
  int keep_last_;
  std::string root_, name_, temporary_, previous_, previous_hash_, record_, commit_warning_;
  Manifest manifest_;  // on rank 0
};

}  // namespace

SaveResult CheckpointWriter::save(Communicator& world, const std::string& run_dir, const CheckpointMeta& meta, std::span<const ShardView> mine,
                                  std::span<const AttachedFile> attached, int keep_last) {
  return Save(world, run_dir, meta, mine, attached, keep_last).run();
}

}  // namespace atoll
