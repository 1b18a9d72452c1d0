// Walks folders, hashes files and splits them. Policy: the order is that of the names' bytes and the split that of the contents' hashes;
// whatever cannot be read is counted or named, never passed over in silence.
#include "data/collect.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>
#include <sstream>
#include <unordered_set>

#include "data/shingles.h"
#include "data/utf8.h"
#include "kernels/base/error.h"

namespace atoll {

namespace fs = std::filesystem;

namespace {

struct HashOfHash {
  size_t operator()(const Hash128& h) const { return h.low; }
};

bool read_file(const std::string& path, std::string& bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  struct stat info {};
  bool is_good = ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  bytes.clear();
  if (is_good) bytes.resize(static_cast<size_t>(info.st_size));
  size_t done = 0;
  while (is_good && done < bytes.size()) {
    const ssize_t got = ::read(fd, bytes.data() + done, bytes.size() - done);
    if (got < 0 && errno == EINTR) continue;
    is_good = got >= 0;
    if (got <= 0) break;
    done += static_cast<size_t>(got);
  }
  bytes.resize(done);
  ::close(fd);
  return is_good;
}

// Names of regular files below a folder, in byte order. Links inside it are not followed: their targets are elsewhere in the text or not ours.
void walk(const fs::path& folder, std::vector<std::string>& files, CollectReport& report) {
  std::error_code error;
  std::vector<fs::directory_entry> entries;
  fs::directory_iterator it(folder, error);
  if (error) { ++report.unreadable; return; }
  for (; it != fs::directory_iterator(); it.increment(error)) {
    if (error) { ++report.unreadable; break; }
    entries.push_back(*it);
  }
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.path().native() < b.path().native(); });
  for (const auto& entry : entries) {
    const auto status = entry.symlink_status(error);
    if (error) ++report.unreadable;
    else if (fs::is_symlink(status)) ++report.symlinks;
    else if (fs::is_directory(status)) {
      if (entry.path().filename().native()[0] != '.') walk(entry.path(), files, report);
    } else if (fs::is_regular_file(status)) files.push_back(entry.path().native());
    else ++report.special;
  }
}

std::vector<std::string> list_files(const CollectOptions& options, CollectReport& report) {
  std::vector<std::string> files;
  for (const auto& path : options.paths) {
    std::error_code error;
    const auto status = fs::status(path, error);  // a link named by the user is followed
    if (!fs::exists(status)) throw ConfigError(path + " does not exist; name files or folders with text");
    if (fs::is_directory(status)) {
      std::string trimmed = path;
      while (trimmed.size() > 1 && trimmed.back() == '/') trimmed.pop_back();
      walk(trimmed, files, report);
    } else if (fs::is_regular_file(status)) {
      files.push_back(path);
    } else {
      throw ConfigError(path + " is neither a file nor a folder");
    }
  }
  std::set<std::string> seen;  // a folder named twice, or inside another one
  std::erase_if(files, [&](const std::string& file) { return !seen.insert(fs::path(file).lexically_normal().native()).second; });
  return files;
}

// The held-out files that one training file nearly repeats are taken out of `files`.
void drop_near_duplicates(const CollectOptions& options, Collection& collection, const Progress& progress) {
  auto& [files, report] = collection;
  int64_t training_bytes = 0;
  std::vector<size_t> held_out;
  for (size_t i = 0; i < files.size(); ++i) {
    if (files[i].is_held_out) held_out.push_back(i);
    else training_bytes += files[i].bytes;
  }
  if (held_out.empty()) return;
  ShingleIndex index(options.max_shingles);
  for (const size_t i : held_out) index.add(read_text(files[i]));
  index.finish();
  int64_t done = 0;
  for (const auto& file : files) {
    if (file.is_held_out) continue;
    index.match(read_text(file), options.near_duplicate_share);
    done += file.bytes;
    if (progress) progress("looking for near duplicates", done, training_bytes);
  }
  std::unordered_set<std::string> dropped;
  for (size_t k = 0; k < held_out.size(); ++k) {
    if (!index.is_repeated(k)) continue;
    const auto& file = files[held_out[k]];
    ++report.near_duplicates;
    report.near_duplicate_bytes += file.bytes;
    dropped.insert(file.path);
  }
  std::erase_if(files, [&](const SourceFile& file) { return dropped.count(file.path) > 0; });
}

}  // namespace

bool is_held_out(const Hash128& hash, double fraction) { return static_cast<double>(hash.high >> 11) * 0x1p-53 < fraction; }

bool to_text(std::string& bytes, bool* was_latin1) {
  if (was_latin1) *was_latin1 = false;
  if (std::memchr(bytes.data(), 0, bytes.size()) != nullptr) return false;
  if (is_valid_utf8(bytes)) return true;
  // Latin-1 text has hardly any control characters; C1 ones (0x80-0x9F) count half, they are letters in the Windows code pages.
  size_t controls = 0;
  for (const char c : bytes) {
    const auto u = static_cast<unsigned char>(c);
    if (u < 0x20 && u != '\t' && u != '\n' && u != '\r' && u != '\f' && u != 0x1b) controls += 2;
    else if (u == 0x7f) controls += 2;
    else if (u >= 0x80 && u < 0xA0) controls += 1;
  }
  if (controls * 25 > bytes.size()) return false;
  bytes = latin1_to_utf8(bytes);
  if (was_latin1) *was_latin1 = true;
  return true;
}

std::string read_text(const SourceFile& file) {
  std::string bytes;
  if (!read_file(file.path, bytes)) throw DataError(file.path + " can no longer be read; run the command again");
  if (!to_text(bytes) || xxh3_128(bytes) != file.hash) throw DataError(file.path + " changed while the store was being made; run the command again");
  return bytes;
}

Collection collect(const CollectOptions& options, const Progress& progress) {
  if (options.paths.empty()) throw ConfigError("no text given: name at least one file or folder");
  Collection collection;
  auto& [files, report] = collection;
  const auto names = list_files(options, report);
  std::unordered_set<Hash128, HashOfHash> seen;
  std::string bytes;
  int64_t looked_at = 0;
  for (const auto& name : names) {
    if (progress) progress("reading", ++looked_at, static_cast<int64_t>(names.size()));
    std::error_code error;
    const auto size = fs::file_size(name, error);
    if (!error && size > static_cast<uintmax_t>(options.max_file_bytes)) { ++report.too_large; continue; }
    if (!read_file(name, bytes)) { ++report.unreadable; continue; }
    if (bytes.empty()) { ++report.empty; continue; }
    bool was_latin1 = false;
    if (!to_text(bytes, &was_latin1)) { ++report.binary; continue; }
    SourceFile file{name, static_cast<int64_t>(bytes.size()), xxh3_128(bytes)};
    if (!seen.insert(file.hash).second) {
      ++report.exact_duplicates;
      report.exact_duplicate_bytes += file.bytes;
      continue;
    }
    report.latin1 += was_latin1;
    file.is_held_out = is_held_out(file.hash, options.held_out_fraction);
    files.push_back(std::move(file));
  }
  drop_near_duplicates(options, collection, progress);
  for (const auto& file : files) {
    ++report.files;
    report.bytes += file.bytes;
    report.held_out_files += file.is_held_out;
    report.held_out_bytes += file.is_held_out ? file.bytes : 0;
  }
  if (report.files == report.held_out_files)
    throw DataError("no training text in " + options.paths.front() + (options.paths.size() > 1 ? " and the other paths" : "") + ": " + describe(report));
  return collection;
}

std::string describe(const CollectReport& r) {
  std::ostringstream out;
  out << r.files << " text files (" << r.bytes << " bytes), of them held out " << r.held_out_files << " (" << r.held_out_bytes << " bytes)";
  out << "; left out: " << r.exact_duplicates << " exact duplicates, " << r.near_duplicates << " held-out files nearly repeated in training";
  const auto add = [&](int64_t count, const char* what) {
    if (count > 0) out << ", " << count << " " << what;
  };
  add(r.binary, "binary");
  add(r.empty, "empty");
  add(r.unreadable, "unreadable");
  add(r.too_large, "too large");
  add(r.symlinks, "symbolic links");
  add(r.special, "devices, sockets or pipes");
  if (r.latin1 > 0) out << "; " << r.latin1 << " files are not UTF-8 and were read as Latin-1";
  return out.str();
}

}  // namespace atoll
