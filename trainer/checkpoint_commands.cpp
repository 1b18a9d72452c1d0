// Listing, describing and verifying checkpoints. Reasons are the ones resume would give.
#include "trainer/checkpoint_commands.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "kernels/base/error.h"
#include "trainer/checkpoint.h"
#include "trainer/checkpoint_agree.h"
#include "trainer/checkpoint_files.h"
#include "trainer/checkpoint_verify.h"
#include "trainer/file_hash.h"
#include "trainer/hdf5_file.h"

namespace atoll {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

std::string size_text(int64_t bytes) {
  const double b = static_cast<double>(bytes);
  if (b >= 1e9) return fmt::format("{:.2f} GB", b / 1e9);
  if (b >= 1e6) return fmt::format("{:.1f} MB", b / 1e6);
  return fmt::format("{:.1f} kB", b / 1e3);
}

// The last part of a path, with or without a slash behind it.
std::string name_of_dir(const std::string& path) {
  const size_t last = path.find_last_not_of('/');
  return last == std::string::npos ? path : fs::path(path.substr(0, last + 1)).filename().string();
}

bool is_checkpoint(const std::string& path) { return step_of(name_of_dir(path)).has_value() && fs::is_directory(path); }

void check_sizes(const std::string& dir, const Manifest& manifest) {
  for (const ManifestFile& file : manifest.files) {
    struct stat status {};
    if (::lstat((dir + "/" + file.name).c_str(), &status) != 0) throw DataError(file.name + ": is missing");
    if (status.st_size != file.bytes) throw DataError(fmt::format("{}: has {} bytes instead of {}", file.name, status.st_size, file.bytes));
  }
}

// The checkpoints that `path` names: itself, or all of a run.
std::vector<std::string> directories_of(const std::string& path) {
  if (is_checkpoint(path)) return {path};
  std::vector<std::string> dirs;
  const std::string root = checkpoints_dir(path);
  for (const std::string& name : checkpoint_names(root)) dirs.push_back(root + "/" + name);
  if (dirs.empty()) throw DataError(path + " is neither a run with checkpoints nor a checkpoint (.../checkpoints/step-00001000)");
  return dirs;
}

// The datasets as HDF5 reads them, against the hashes taken from memory. The file's own hash was verified before.
void verify_datasets(const std::string& dir, const Manifest& manifest) {
  std::vector<std::vector<std::pair<const ManifestTensor*, const ManifestShard*>>> by_file(manifest.files.size());
  for (const ManifestTensor& tensor : manifest.tensors)
    for (const ManifestShard& shard : tensor.shards) by_file[static_cast<size_t>(shard.file)].emplace_back(&tensor, &shard);
  std::vector<char> rows;
  for (size_t f = 0; f < by_file.size(); ++f) {
    if (by_file[f].empty()) continue;
    const Hdf5Reader file(dir + "/" + manifest.files[f].name);
    for (const auto& [tensor, shard] : by_file[f]) {
      rows.resize(static_cast<size_t>(shard->row_count * tensor->cols) * size_of(tensor->dtype));
      file.read(shard->dataset, {tensor->dtype, shard->row_count, tensor->cols, tensor->is_vector}, 0, shard->row_count, rows.data());
      if (hash_of(rows.data(), rows.size()) != shard->hash) throw DataError(manifest.files[f].name + ":" + shard->dataset + ": hash differs from the manifest");
    }
  }
}

struct KindSummary { int64_t tensors = 0, elements = 0, bytes = 0; };

std::map<std::string, KindSummary> by_kind(const Manifest& manifest) {
  std::map<std::string, KindSummary> kinds;
  for (const ManifestTensor& tensor : manifest.tensors) {
    KindSummary& sum = kinds[tensor.kind];
    ++sum.tensors;
    sum.elements += tensor.rows * tensor.cols;
    sum.bytes += tensor.rows * tensor.cols * static_cast<int64_t>(size_of(tensor.dtype));
  }
  return kinds;
}

std::string show_text(const CheckpointReader& reader) {
  const Manifest& m = reader.manifest();
  std::string text = fmt::format("{}\n  step {}  tokens {}  sequences {}  saved {}\n  mesh {}\n  data {}\n  config hash {}\n  {} in {} files\n", reader.directory(), m.meta.step,
                                 m.meta.tokens, m.meta.sequences, m.saved_at, m.meta.mesh, m.meta.data_fingerprint, m.config_hash, size_text(m.total_bytes()), m.files.size());
  for (const auto& [kind, sum] : by_kind(m)) text += fmt::format("  {:<12} {:>6} tensors {:>16} elements {:>12}\n", kind, sum.tensors, sum.elements, size_text(sum.bytes));
  for (const ManifestTensor& t : m.tensors)
    text += fmt::format("  {:<12} {:<70} {:<24} {} shard{}\n", t.kind, t.name, t.shape(), t.shards.size(), t.shards.size() == 1 ? "" : "s");
  return text;
}

}  // namespace

CommandOutput checkpoint_ls(const std::string& run_dir, bool json) {
  const std::string root = checkpoints_dir(run_dir), latest = read_latest(root);
  CommandOutput output;
  Json list = Json::array();
  std::string table = fmt::format("{:<16} {:>16} {:>12} {:>6}  {:<20}  {}\n", "checkpoint", "tokens", "size", "files", "saved", "state");
  for (const std::string& dir : directories_of(run_dir)) {
    const std::string name = name_of_dir(dir);
    Manifest m;
    const std::string why = error_of([&] { check_sizes(dir, m = read_manifest(dir)); });
    output.ok = output.ok && why.empty();
    list.push_back({{"name", name}, {"step", *step_of(name)}, {"is_complete", why.empty()}, {"is_latest", name == latest}, {"error", why}, {"tokens", m.meta.tokens},
                    {"bytes", m.total_bytes()}, {"files", m.files.size()}, {"saved_at", m.saved_at}, {"path", dir}});
    const std::string state = (why.empty() ? "complete" : "BAD: " + why) + (name == latest ? "  <- LATEST" : "");
    table += fmt::format("{:<16} {:>16} {:>12} {:>6}  {:<20}  {}\n", name, m.meta.tokens, size_text(m.total_bytes()), m.files.size(), m.saved_at, state);
  }
  output.text = json ? list.dump(2) + "\n" : table;
  return output;
}

CommandOutput checkpoint_show(const std::string& path, bool json) {
  std::optional<CheckpointReader> reader = is_checkpoint(path) ? CheckpointReader::open(path) : CheckpointReader::open_newest(path);
  if (!reader) throw DataError(path + " has no checkpoints");
  if (!json) return {show_text(*reader), true};
  Json whole = Json::parse(reader->manifest().to_json());
  whole["path"] = reader->directory();
  return {whole.dump(2) + "\n", true};
}

CommandOutput checkpoint_verify(const std::string& path, bool json) {
  CommandOutput output;
  Json list = Json::array();
  std::string lines;
  for (const std::string& dir : directories_of(path)) {
    Manifest m;
    std::string why = verify_checkpoint(nullptr, dir, m);
    if (why.empty()) why = error_of([&] { verify_datasets(dir, m); });
    output.ok = output.ok && why.empty();
    list.push_back({{"path", dir}, {"is_good", why.empty()}, {"error", why}, {"files", m.files.size()}, {"tensors", m.tensors.size()}, {"bytes", m.total_bytes()}});
    lines += why.empty() ? fmt::format("good  {}  {} files, {} tensors, {}\n", dir, m.files.size(), m.tensors.size(), size_text(m.total_bytes())) : fmt::format("BAD   {}  {}\n", dir, why);
  }
  output.text = json ? list.dump(2) + "\n" : lines;
  return output;
}

}  // namespace atoll
