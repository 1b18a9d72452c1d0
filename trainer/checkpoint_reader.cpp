// CheckpointReader: choosing a checkpoint that all ranks can trust, and filling row ranges from the shards that hold them.
#include <algorithm>
#include <map>

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

// Rows of one shard that go to one view.
struct Piece {
  const ManifestTensor* tensor;
  const ManifestShard* shard;
  int64_t from_row, rows;  // within the shard
  char* data;
};

// Collects problems; the message lists the first few.
class Problems {
 public:
  void add(const std::string& text) { if (++count_ <= kShown) list_ += "\n  " + text; }
  void throw_if_any(const std::string& directory) const {
    if (count_ == 0) return;
    const std::string more = count_ > kShown ? "\n  and " + std::to_string(count_ - kShown) + " more" : "";
    throw DataError(directory + " does not fit this model:" + list_ + more);
  }

 private:
  static constexpr int kShown = 5;
  int count_ = 0;
  std::string list_;
};

std::string shape_of(const ShardView& view) {
  return std::string(name_of(view.dtype)) + "[" + std::to_string(view.global_rows) + (view.is_vector ? "" : ", " + std::to_string(view.global_cols)) + "]";
}

// The tensor of a view, or null and a problem.
const ManifestTensor* match(const Manifest& manifest, const ShardView& view, Problems& problems) {
  const std::string name = view.kind + "/" + view.tensor;
  const ManifestTensor* tensor = manifest.find(view.kind, view.tensor);
  if (!tensor) return problems.add(name + " is missing in the checkpoint"), nullptr;
  if (shape_of(view) != tensor->shape()) return problems.add(name + " is " + tensor->shape() + " in the checkpoint, the model wants " + shape_of(view)), nullptr;
  const bool in_range = view.row_begin >= 0 && view.row_count >= 0 && view.row_begin <= view.global_rows - view.row_count;
  if (!in_range || (view.row_count > 0 && !view.data)) return problems.add(name + ": the rows asked for are out of range or have no memory"), nullptr;
  return tensor;
}

void add_pieces(const ManifestTensor& tensor, const ShardView& view, std::vector<Piece>& pieces) {
  const int64_t end = view.row_begin + view.row_count, row_bytes = view.global_cols * static_cast<int64_t>(size_of(view.dtype));
  auto it = std::upper_bound(tensor.shards.begin(), tensor.shards.end(), view.row_begin, [](int64_t row, const ManifestShard& s) { return row < s.row_begin + s.row_count; });
  for (; it != tensor.shards.end() && it->row_begin < end; ++it) {
    const int64_t first = std::max(it->row_begin, view.row_begin), last = std::min(it->row_begin + it->row_count, end);
    pieces.push_back({&tensor, &*it, first - it->row_begin, last - first, static_cast<char*>(view.data) + (first - view.row_begin) * row_bytes});
  }
}

// Pieces of one file. A piece that is a whole shard is checked against the hash taken from memory when it was saved.
void read_pieces(const std::string& path, std::span<const Piece> pieces) {
  const Hdf5Reader file(path);
  for (const Piece& p : pieces) {
    const DatasetShape shape{p.tensor->dtype, p.shard->row_count, p.tensor->cols, p.tensor->is_vector};
    file.read(p.shard->dataset, shape, p.from_row, p.rows, p.data);
    const size_t bytes = static_cast<size_t>(p.rows * p.tensor->cols) * size_of(p.tensor->dtype);
    if (p.rows == p.shard->row_count && hash_of(p.data, bytes) != p.shard->hash) throw DataError(path + ":" + p.shard->dataset + ": hash differs from the manifest");
  }
}

// Which tensors of the manifest some rank wants.
std::vector<uint8_t> wanted_by_any(Communicator* world, std::vector<uint8_t> mine) {
  if (!world || world->size() == 1 || mine.empty()) return mine;
  std::vector<uint8_t> all(mine.size() * static_cast<size_t>(world->size()));
  world->all_gather(mine.data(), static_cast<int64_t>(mine.size()), all.data());
  for (size_t i = 0; i < all.size(); ++i) mine[i % mine.size()] |= all[i];
  return mine;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size(); begin = text.find('\n', begin) + 1) lines.push_back(text.substr(begin, text.find('\n', begin) - begin));
  return lines;
}

}  // namespace

std::optional<CheckpointReader> CheckpointReader::open_newest(Communicator* world, const std::string& run_dir) {
  const std::string root = checkpoints_dir(run_dir);
  const bool is_root = !world || world->rank() == 0;
  std::string list, error;
  if (is_root) error = error_of([&] { for (const std::string& name : names_to_try(root)) list += name + "\n"; });
  error = broadcast_text(world, error);
  if (!error.empty()) throw DataError(error);
  list = broadcast_text(world, list);
  if (list.empty()) return std::nullopt;
  CheckpointReader reader;
  reader.world_ = world;
  for (const std::string& name : lines_of(list)) {
    reader.directory_ = root + "/" + name;
    const std::string why = verify_checkpoint(world, reader.directory_, reader.manifest_);
    if (why.empty()) {
      if (is_root && !reader.skipped_.empty()) log::warn("using checkpoint " + name + " instead");
      return reader;
    }
    reader.skipped_.push_back(name + ": " + why);
    if (is_root) log::warn("checkpoint " + name + " is bad and will not be used: " + why);
  }
  std::string all;
  for (const std::string& line : reader.skipped_) all += "\n  " + line;
  throw DataError("no checkpoint in " + root + " is good:" + all + "\nto start afresh, move the folder away");
}

CheckpointReader CheckpointReader::open(Communicator* world, const std::string& checkpoint_dir) {
  CheckpointReader reader;
  reader.world_ = world;
  reader.directory_ = checkpoint_dir;
  const std::string why = verify_checkpoint(world, checkpoint_dir, reader.manifest_);
  if (!why.empty()) throw DataError("checkpoint " + checkpoint_dir + " is bad: " + why);
  return reader;
}

std::optional<CheckpointReader> CheckpointReader::open_newest(Communicator& world, const std::string& run_dir) { return open_newest(&world, run_dir); }
std::optional<CheckpointReader> CheckpointReader::open_newest(const std::string& run_dir) { return open_newest(nullptr, run_dir); }
CheckpointReader CheckpointReader::open(Communicator& world, const std::string& checkpoint_dir) { return open(&world, checkpoint_dir); }
CheckpointReader CheckpointReader::open(const std::string& checkpoint_dir) { return open(nullptr, checkpoint_dir); }

void CheckpointReader::load(std::span<const ShardView> wanted, Unexpected unexpected) const {
  Problems problems;
  std::vector<Piece> pieces;
  std::vector<uint8_t> is_wanted(manifest_.tensors.size(), 0);
  for (const ShardView& view : wanted) {
    const ManifestTensor* tensor = match(manifest_, view, problems);
    if (!tensor) continue;
    is_wanted[static_cast<size_t>(tensor - manifest_.tensors.data())] = 1;
    add_pieces(*tensor, view, pieces);
  }
  std::string error = errors_of_all(world_, error_of([&] { problems.throw_if_any(directory_); }));
  if (!error.empty()) throw DataError(error);
  if (unexpected == Unexpected::kError) {
    is_wanted = wanted_by_any(world_, std::move(is_wanted));
    for (size_t i = 0; i < is_wanted.size(); ++i)
      if (!is_wanted[i]) problems.add(manifest_.tensors[i].kind + "/" + manifest_.tensors[i].name + " is in the checkpoint, but the model has no such tensor");
    problems.throw_if_any(directory_);  // the same on all ranks
  }
  std::stable_sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.shard->file < b.shard->file; });
  error = error_of([&] {
    for (size_t begin = 0, end = 0; begin < pieces.size(); begin = end) {
      const int file = pieces[begin].shard->file;
      while (end < pieces.size() && pieces[end].shard->file == file) ++end;
      const std::string path = directory_ + "/" + manifest_.files[static_cast<size_t>(file)].name;
      fault_point("load-file", {world_ ? world_->rank() : 0, manifest_.meta.step, path});
      read_pieces(path, std::span<const Piece>(pieces).subspan(begin, end - begin));
    }
  });
  error = errors_of_all(world_, error);
  if (!error.empty()) throw DataError("loading " + directory_ + " failed: " + error);
}

std::string CheckpointReader::attached(const std::string& name) const {
  for (const ManifestFile& file : manifest_.files) {
    if (file.name != name) continue;
    std::string contents = read_text(directory_ + "/" + name, file.bytes);
    if (hash_of(contents) != file.hash) throw DataError(directory_ + "/" + name + ": hash differs from the manifest");
    return contents;
  }
  throw DataError(directory_ + " holds no file " + name);
}

}  // namespace atoll
