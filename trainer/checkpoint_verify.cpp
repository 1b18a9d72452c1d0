// CHECKSUMS must be, byte for byte, what the manifest implies: a change of any bit in either file shows.
#include "trainer/checkpoint_verify.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <tuple>

#include "kernels/base/error.h"
#include "trainer/checkpoint_agree.h"
#include "trainer/checkpoint_files.h"
#include "trainer/file_hash.h"

namespace atoll {
namespace {

constexpr int64_t kMaxManifestBytes = int64_t{1} << 31;

// The manifest's text once its hash and CHECKSUMS agree.
std::string read_checked_text(const std::string& dir) {
  const std::string checksums = read_text(dir + "/" + kChecksumsName, kMaxManifestBytes);
  std::string text = read_text(dir + "/" + kManifestName, kMaxManifestBytes);
  const std::string line = hash_of(text) + "  " + kManifestName + "\n";
  const bool is_last = checksums.size() >= line.size() && checksums.compare(checksums.size() - line.size(), line.size(), line) == 0;
  if (!is_last) throw DataError(std::string(kManifestName) + ": hash differs from " + kChecksumsName);
  if (Manifest::parse(text).checksums(hash_of(text)) != checksums) throw DataError(std::string(kChecksumsName) + ": differs from what the manifest says");
  return text;
}

}  // namespace

Manifest read_manifest(const std::string& checkpoint_dir) { return Manifest::parse(read_checked_text(checkpoint_dir)); }

std::string manifest_hash(const std::string& checkpoint_dir) {
  std::string hash;
  error_of([&] { hash = hash_of(read_text(checkpoint_dir + "/" + kManifestName, kMaxManifestBytes)); });
  return hash;
}

void verify_file(const std::string& checkpoint_dir, const ManifestFile& file) {
  const std::string path = checkpoint_dir + "/" + file.name;
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) throw DataError(file.name + ": is missing: " + std::strerror(errno));
  if (!S_ISREG(status.st_mode)) throw DataError(file.name + ": is not a regular file");
  if (status.st_size != file.bytes) throw DataError(file.name + ": has " + std::to_string(status.st_size) + " bytes instead of " + std::to_string(file.bytes));
  const FileHash actual = hash_of_file(path);
  if (actual.hash != file.hash || actual.bytes != file.bytes) throw DataError(file.name + ": hash differs: xxh3 " + actual.hash + " instead of " + file.hash);
}

std::string verify_checkpoint(Communicator* world, const std::string& checkpoint_dir, Manifest& manifest) {
  const int rank = world ? world->rank() : 0, size = world ? world->size() : 1;
  std::string text, error;
  if (rank == 0) error = error_of([&] { text = read_checked_text(checkpoint_dir); });
  error = broadcast_text(world, error);
  if (!error.empty()) return error;
  text = broadcast_text(world, text);
  error = error_of([&] {
    manifest = Manifest::parse(text);
    for (size_t i = static_cast<size_t>(rank); i < manifest.files.size(); i += static_cast<size_t>(size)) verify_file(checkpoint_dir, manifest.files[i]);
  });
  return errors_of_all(world, error);
}

std::vector<std::string> names_to_try(const std::string& root) {
  const std::string latest = read_latest(root);
  std::vector<std::string> names = checkpoint_names(root);
  const auto latest_step = step_of(latest);
  if (!latest_step || std::find(names.begin(), names.end(), latest) == names.end()) return names;
  const std::string latest_hash = manifest_hash(root + "/" + latest);
  const auto urgency = [&](const std::string& name) {
    if (*step_of(name) <= *latest_step) return 1;
    int urgency = 2;
    error_of([&] {  // an unreadable one is no successor
      const Manifest manifest = read_manifest(root + "/" + name);
      if (manifest.previous == latest && !latest_hash.empty() && manifest.previous_hash == latest_hash) urgency = 0;
    });
    return urgency;
  };
  std::vector<std::pair<int, std::string>> order;
  for (std::string& name : names) order.emplace_back(urgency(name), std::move(name));
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  names.clear();
  for (auto& [urgency_unused, name] : order) names.push_back(std::move(name));
  return names;
}

}  // namespace atoll
