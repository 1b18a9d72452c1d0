// Collect: which files are the text, which of them are held out. Only names, sizes and hashes stay in memory; texts are read again when needed.
// Policy: a file is held out by its content alone (hash below the fraction), so the split does not depend on names, order or other files.
// Then held-out files that a training file nearly repeats are dropped, from the held-out side only. Training text is never lost to the split.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/hash.h"

namespace atoll {

struct SourceFile {
  std::string path;
  int64_t bytes = 0;  // of the text as UTF-8, which is what is tokenized
  Hash128 hash;       // of the same
  bool is_held_out = false;
};

struct CollectOptions {
  std::vector<std::string> paths;       // files and folders; folders are walked in byte order of names; hidden folders (".git") are left out
  double held_out_fraction = 0.01;
  double near_duplicate_share = 0.5;    // of a held-out file's distinct 5-word shingles, found in one training file
  int64_t max_file_bytes = 1ll << 30;   // of files found in folders; one that is named is read however large, as one document
  size_t max_shingles = 4 << 20;        // beyond that the shingles are sampled by hash (bounded memory)
  std::vector<std::string> exclude;     // shell patterns of names of files and folders that are left out where folders are walked; with a '/', of paths
};

struct CollectReport {
  int64_t files = 0, bytes = 0;                        // kept, both splits
  int64_t held_out_files = 0, held_out_bytes = 0;      // kept
  int64_t empty = 0, binary = 0, unreadable = 0, too_large = 0, symlinks = 0, special = 0, excluded = 0;  // left out: count each
  int64_t latin1 = 0;                                  // kept: not UTF-8, read as Latin-1
  int64_t exact_duplicates = 0, exact_duplicate_bytes = 0;
  int64_t near_duplicates = 0, near_duplicate_bytes = 0;  // held-out files dropped
};

struct Collection {
  std::vector<SourceFile> files;  // in walking order, no two alike
  CollectReport report;
};

using Progress = std::function<void(const std::string& phase, int64_t done, int64_t total)>;  // bytes, or files where the total is not known (0)

// ConfigError for a path that does not exist or cannot be looked at; DataError for a named file that cannot be read, and when no text is found.
// One file is in memory at a time, its tokens later beside it: 3 to 6 bytes a byte of the largest file.
Collection collect(const CollectOptions& options, const Progress& progress = {});
bool is_held_out(const Hash128& hash, double fraction);
std::string describe(const CollectReport& report);

// The text of a file as UTF-8. False: it is binary (a NUL byte, or neither UTF-8 nor Latin-1 text). was_latin1 may be null.
bool to_text(std::string& bytes, bool* was_latin1 = nullptr);
// Reads it again and checks that it still is what was collected (DataError: the file changed meanwhile).
std::string read_text(const SourceFile& file);

}  // namespace atoll
