// `atoll checkpoint ls | show | verify` as functions: paths in, text or JSON out. One process; nothing is changed on disk.
#pragma once
#include <string>

namespace atoll {

struct CommandOutput {
  std::string text;  // ends with a newline
  bool ok = true;    // false: something is bad (exit 65)
};

// Every checkpoint of a run, newest first: step, tokens, size, and whether manifest and file sizes are sound (hashes are `verify`'s).
CommandOutput checkpoint_ls(const std::string& run_dir, bool json);
// What one checkpoint holds. `path`: a checkpoint (.../step-00001000) or a run (its newest good one). DataError if there is none.
CommandOutput checkpoint_show(const std::string& path, bool json);
// Every hash of one checkpoint, or of every checkpoint of a run: manifest, files, and the datasets inside them as they were in memory when saved.
CommandOutput checkpoint_verify(const std::string& path, bool json);

}  // namespace atoll
