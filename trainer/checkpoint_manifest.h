// The manifest of a checkpoint: what manifest.json says, as values. It names every file with size and hash, and every tensor with the shards that cover it.
// Policy: whatever is parsed is validated here once (plain basenames, coverage exactly once, numbers in range); the code behind trusts a Manifest.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/dtype.h"

namespace atoll {

struct CheckpointMeta {
  int64_t step = 0, tokens = 0, sequences = 0;
  std::string resolved_config_yaml;
  std::string data_fingerprint;
  std::string mesh;        // for people: "pp 2 x dp 2 ..."; loading does not depend on it
  std::string extra_json;  // an object: metrics cursor, optimizer step, skipped counts. "" is {}
};

struct ManifestShard {
  int file = 0;         // index into Manifest::files
  std::string dataset;  // path inside the HDF5 file
  int64_t row_begin = 0, row_count = 0;
  std::string hash;     // xxh3-128 of the rows' bytes
};
struct ManifestTensor {
  std::string name, kind;
  DType dtype = DType::kF32;
  int64_t rows = 0, cols = 1;
  bool is_vector = false;
  std::vector<ManifestShard> shards;  // by row_begin; none is empty
  std::string shape() const;          // "fp32[4, 8]"
};
struct ManifestFile {
  std::string name;  // plain basename
  int64_t bytes = 0;
  std::string hash;  // xxh3-128 of the file
};

struct Manifest {
  static constexpr int kFormatVersion = 1;
  CheckpointMeta meta;
  std::string config_hash;  // xxh3-128 of resolved_config_yaml
  std::string previous;     // what LATEST named when this one was saved; "" at first
  std::string previous_hash;  // xxh3-128 of that one's manifest.json: a step that was saved again after the run went back has another; "" if it was unreadable
  std::string saved_at;     // UTC, for people
  std::vector<ManifestFile> files;
  std::vector<ManifestTensor> tensors;  // by (kind, name)

  int64_t total_bytes() const;
  const ManifestTensor* find(const std::string& kind, const std::string& name) const;
  std::string to_json() const;
  // DataError that says what is wrong. `text` has passed its hash, but is validated like foreign input all the same.
  static Manifest parse(const std::string& text);
  // Sorts tensors by (kind, name) and shards by row, merging what several ranks said of one tensor. DataError unless the shards of every tensor cover each row
  // exactly once, lie in range and name listed files, and file names are plain and unique.
  void normalize();
  // The CHECKSUMS file, in the format of `xxhsum -c`: all files and the manifest itself.
  std::string checksums(const std::string& manifest_hash) const;
};

// The part of a Manifest that one rank contributes: its file, and its shards (file index 0).
std::string rank_record(const ManifestFile& file, const std::vector<ManifestTensor>& tensors);
void add_rank_record(Manifest& manifest, const std::string& record);

}  // namespace atoll
