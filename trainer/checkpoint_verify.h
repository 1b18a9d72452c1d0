// Verification of a checkpoint by hashes alone: manifest, then sizes, then hashes. Opens no HDF5 file.
#pragma once
#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "trainer/checkpoint_manifest.h"

namespace atoll {

// manifest.json and CHECKSUMS of the folder; DataError that says what is wrong.
Manifest read_manifest(const std::string& checkpoint_dir);
std::string manifest_hash(const std::string& checkpoint_dir);  // of manifest.json as it lies there; "" if it cannot be read
// One file against the manifest: size first, then hash. DataError.
void verify_file(const std::string& checkpoint_dir, const ManifestFile& file);
// Collective (null: alone): rank 0 reads the manifest, file i is hashed by rank i mod world. "" and the manifest on every rank, or why it is bad, the same on every rank.
std::string verify_checkpoint(Communicator* world, const std::string& checkpoint_dir, Manifest& manifest);
// The order in which the checkpoints of a folder are tried: what was saved right after LATEST (a crash before LATEST was renewed), LATEST, older ones, and last those newer
// than LATEST that are not its successors: a continuation the run went back from.
std::vector<std::string> names_to_try(const std::string& root);

}  // namespace atoll
