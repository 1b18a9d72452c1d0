// Files and folders of checkpoints: durable writes, atomic replacement, names. Policy: whatever must survive a power cut is fsynced before the rename that makes it
// visible, and so is the folder after it. Errors name the path and the reason of the system.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace atoll {

inline constexpr const char* kManifestName = "manifest.json";
inline constexpr const char* kChecksumsName = "CHECKSUMS";
inline constexpr const char* kLatestName = "LATEST";

bool is_plain_basename(const std::string& name);  // letters, digits, '.', '_', '-'; no leading '.'
std::string checkpoint_name(int64_t step);        // "step-00001000"
std::optional<int64_t> step_of(const std::string& name);
std::string rank_file_name(int rank);             // "rank-00000.h5"
std::string random_suffix();                      // 16 hex digits
std::string checkpoints_dir(const std::string& run_dir);

void write_synced(const std::string& path, const std::string& contents);                         // created (must not exist), written, fsynced
void rename_synced(const std::string& from, const std::string& to);                               // rename, fsync of the folder
void sync_file(const std::string& path);
void sync_dir(const std::string& path);
std::string read_text(const std::string& path, int64_t max_bytes);  // DataError
void make_dirs(const std::string& path);
int64_t free_bytes(const std::string& dir);  // for an unprivileged user
// Gives the folder `from` the name `to` in one step. If `to` exists the two are exchanged, and the old one is then removed under the name `from`.
// Throws while nothing has its new name; what goes wrong afterwards is returned as a warning.
std::string commit_dir(const std::string& from, const std::string& to);

std::vector<std::string> checkpoint_names(const std::string& root);  // complete-looking or not, newest step first; none if `root` does not exist
std::vector<std::string> leftovers(const std::string& root);         // names of temporary files and folders that interrupted saves left
std::string read_latest(const std::string& root);                    // the name in LATEST; "" if missing or not a checkpoint's name

}  // namespace atoll
