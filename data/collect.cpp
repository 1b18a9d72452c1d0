// Walks folders, hashes files and splits them. Policy: the order is that of the names' bytes and the split that of the contents' hashes;
// whatever cannot be read is counted or named, never passed over in silence.
#include "data/collect.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
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

// 0, or the errno that says why not.
int read_file(const std::string& path, std::string& bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  struct stat info {};
  int error = ::fstat(fd, &info) != 0 ? errno : S_ISREG(info.st_mode) ? 0 : EINVAL;
  bytes.clear();
  try {
    if (error == 0) bytes.resize(static_cast<size_t>(info.st_size));
  } catch (const std::bad_alloc&) {
    error = ENOMEM;
  }
  size_t done = 0;
  while (error == 0 && done < bytes.size()) {
    const ssize_t got = ::read(fd, bytes.data() + done, bytes.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) error = errno;
    if (got <= 0) break;
    done += static_cast<size_t>(got);
  }
  bytes.resize(done);
  ::close(fd);
  return error;
}

// fnmatch(3): of a name, or of the whole path where the pattern has a '/'. There '*' crosses folders.
bool is_excluded(const fs::path& path, const std::vector<std::string>& patterns) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
    const bool is_whole = pattern.find('/') != std::string::npos;
    return ::fnmatch(pattern.c_str(), is_whole ? path.c_str() : path.filename().c_str(), 0) == 0;
  });
}

// Names of regular files below a folder, in byte order. Links inside it are not followed: their targets are elsewhere in the text or not ours.
void walk(const fs::path& folder, const std::vector<std::string>& exclude, std::vector<std::string>& files, CollectReport& report) {
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
    if (is_excluded(entry.path(), exclude)) ++report.excluded;
    else if (error) ++report.unreadable;
    else if (fs::is_symlink(status)) ++report.symlinks;
    else if (fs::is_directory(status)) {
      if (entry.path().filename().native()[0] != '.') walk(entry.path(), exclude, files, report);
    } else if (fs::is_regular_file(status)) files.push_back(entry.path().native());
    else ++report.special;
  }
}

struct ListedFile {
  std::string path;
  bool is_named = false;  // by the user; else found in a folder
};

std::vector<ListedFile> list_files(const CollectOptions& options, CollectReport& report) {
  std::vector<ListedFile> files;
  std::set<std::string> named, seen;  // a folder may be named twice, or inside another one, and a file beside its folder
  const auto normal = [](const std::string& path) { return fs::path(path).lexically_normal().native(); };
  for (const auto& path : options.paths) {
    std::error_code error;
    const auto status = fs::status(path, error);  // a link named by the user is followed
    if (status.type() == fs::file_type::not_found) throw ConfigError(path + " does not exist; name files or folders with text");
    if (status.type() == fs::file_type::none) throw ConfigError(path + " cannot be looked at (" + error.message() + ")");
    if (fs::is_directory(status)) {
      std::string trimmed = path;
      while (trimmed.size() > 1 && trimmed.back() == '/') trimmed.pop_back();
      fs::directory_iterator first(trimmed, error);
      if (error) throw ConfigError(path + " cannot be read (" + error.message() + ")");
      std::vector<std::string> found;
      walk(trimmed, options.exclude, found, report);
      for (std::string& file : found) files.push_back({std::move(file)});
    } else if (fs::is_regular_file(status)) {
      files.push_back({path});
      named.insert(normal(path));
    } else {
      throw ConfigError(path + " is neither a file nor a folder");
    }
  }
  for (ListedFile& file : files) file.is_named = named.count(normal(file.path)) > 0;
  std::erase_if(files, [&](const ListedFile& file) { return !seen.insert(normal(file.path)).second; });
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
  if (const int error = read_file(file.path, bytes)) throw DataError(file.path + " can no longer be read (" + std::strerror(error) + "); run the command again");
  if (!to_text(bytes) || xxh3_128(bytes) != file.hash) throw DataError(file.path + " changed while the store was being made; run the command again");
  return bytes;
}

Collection collect(const CollectOptions& options, const Progress& progress) {
  if (options.paths.empty()) throw ConfigError("no text given: name at least one file or folder");
  Collection collection;
  auto& [files, report] = collection;
  const auto listed = list_files(options, report);
  std::unordered_set<Hash128, HashOfHash> seen;
  std::string bytes;
  int64_t looked_at = 0;
  for (const auto& [name, is_named] : listed) {
    if (progress) progress("reading", ++looked_at, static_cast<int64_t>(listed.size()));
    std::error_code error;
    const auto size = fs::file_size(name, error);
    if (!is_named && !error && size > static_cast<uintmax_t>(options.max_file_bytes)) { ++report.too_large; continue; }
    if (const int why = read_file(name, bytes)) {
      if (why == ENOMEM) throw DataError(detail::concat(name, " has ", size, " bytes, which this machine has no memory for; split it into files, one a document"));
      if (is_named) throw DataError(name + " cannot be read (" + std::strerror(why) + ")");
      ++report.unreadable;
      continue;
    }
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
  add(r.too_large, "found in folders and larger than 1 GiB (name such a file itself and it is read)");
  add(r.excluded, "files and folders that --exclude names");
  add(r.symlinks, "symbolic links");
  add(r.special, "devices, sockets or pipes");
  if (r.latin1 > 0) out << "; " << r.latin1 << " files are not UTF-8 and were read as Latin-1";
  return out.str();
}

}  // namespace atoll
