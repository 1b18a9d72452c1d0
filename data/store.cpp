// Writing, committing and opening a token store. Policy: nothing is believed that can be checked: sizes against the index on opening, tokens
// against the vocabulary as they are read, hashes on verifying; each error names the file and says to make or copy the store again.
#include "data/store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "kernels/base/error.h"

namespace atoll {

namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

constexpr char kFormat[] = "atoll token store";
constexpr int kVersion = 1;
constexpr char kMarker[] = "unfinished";  // of a partial folder: that it is ours, and the lock
constexpr char kAgain[] = "; make the store again (atoll data prepare) or copy it again";

Json to_json(const SplitInfo& split) {
  return {{"tokens", split.tokens}, {"documents", split.documents}, {"bytes", split.bytes},
          {"idx_xxh3_128", split.idx_hash}, {"bin_xxh3_128", split.bin_hash}, {"doc_bytes_xxh3_128", split.doc_bytes_hash}};
}
SplitInfo split_from(const Json& json) {
  return {json.at("tokens"), json.at("documents"), json.at("bytes"), json.at("idx_xxh3_128"), json.at("bin_xxh3_128"), json.at("doc_bytes_xxh3_128")};
}
Json to_json(const StoreInfo& info) {
  return {{"format", kFormat}, {"version", kVersion},
          {"tokenizer", {{"file", "tokenizer.model"}, {"xxh3_128", info.tokenizer_hash}, {"vocab_size", info.vocab_size}, {"eos_id", info.eos_id}}},
          {"train", to_json(info.train)}, {"heldout", to_json(info.heldout)},
          {"held_out_rule", info.held_out_rule}, {"request_xxh3_128", info.request_hash}, {"made_from", info.made_from}};
}

StoreInfo read_info(const std::string& folder) {
  const std::string path = folder + "/store.json";
  std::error_code error;
  if (folder.empty()) throw DataError("no token store is given: set data.store to the folder of one (atoll data prepare ... --out FOLDER makes it)");
  if (!fs::is_directory(folder, error)) throw DataError(folder + ": there is no such folder; make a token store with atoll data prepare ... --out " + folder);
  std::ifstream file(path);
  if (!file) throw DataError(folder + ": not a token store (it has no store.json); make one with atoll data prepare ... --out FOLDER");
  std::ostringstream text;
  text << file.rdbuf();
  if (text.str().empty()) throw DataError(path + ": empty" + kAgain);
  try {
    const Json json = Json::parse(text.str());
    if (json.at("format") != kFormat) throw DataError(path + ": describes something else than a token store");
    if (json.at("version") != kVersion) throw DataError(detail::concat(path, ": version ", json.at("version").dump(), " of the format, this program knows ", kVersion));
    StoreInfo info;
    const Json& tokenizer = json.at("tokenizer");
    info.tokenizer_hash = tokenizer.at("xxh3_128");
    info.vocab_size = tokenizer.at("vocab_size");
    info.eos_id = tokenizer.at("eos_id");
    info.train = split_from(json.at("train"));
    info.heldout = split_from(json.at("heldout"));
    info.held_out_rule = json.at("held_out_rule");
    info.request_hash = json.at("request_xxh3_128");
    info.made_from = json.at("made_from");
    return info;
  } catch (const Json::exception& e) {
    throw DataError(path + ": damaged or not ours (" + e.what() + ")" + kAgain);
  }
}

int64_t i64_at(const MappedFile& file, int64_t index) {
  int64_t value;
  std::memcpy(&value, file.bytes().data() + 8 * static_cast<size_t>(index), 8);
  return value;
}

void check_split(const TokenFile& file, const SplitInfo& split, const MappedFile& doc_bytes, const std::string& doc_bytes_path) {
  const auto differ = [&](const char* what, int64_t has, int64_t promised) {
    throw DataError(detail::concat(file.prefix(), ".idx: has ", has, " ", what, ", store.json says ", promised, kAgain));
  };
  if (file.num_tokens() != split.tokens) differ("tokens", file.num_tokens(), split.tokens);
  if (file.num_documents() != split.documents) differ("documents", file.num_documents(), split.documents);
  if (doc_bytes.bytes().size() != 8 * static_cast<size_t>(split.documents))
    throw DataError(detail::concat(doc_bytes_path, ": ", doc_bytes.bytes().size(), " bytes, ", 8 * split.documents, " expected", kAgain));
  int64_t sum = 0;
  for (int64_t d = 0; d < split.documents; ++d) {
    const int64_t bytes = i64_at(doc_bytes, d);
    if (bytes < 0 || bytes > split.bytes - sum) throw DataError(detail::concat(doc_bytes_path, ": document ", d, " cannot have ", bytes, " bytes (", split.bytes, " in all)", kAgain));
    sum += bytes;
  }
  if (sum != split.bytes) throw DataError(detail::concat(doc_bytes_path, ": adds up to ", sum, " bytes, store.json says ", split.bytes, kAgain));
}

void write_synced(const std::string& path, std::string_view bytes) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  bool is_good = fd >= 0;
  for (size_t done = 0; is_good && done < bytes.size();) {
    const ssize_t n = ::write(fd, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    is_good = n > 0;
    if (is_good) done += static_cast<size_t>(n);
  }
  is_good = is_good && ::fsync(fd) == 0;
  const int error = errno;
  if (fd >= 0) ::close(fd);
  if (!is_good) throw DataError(path + ": cannot be written (" + std::strerror(error) + "); is the disk full?");
}

void sync_folder(const std::string& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);  // some file systems cannot; the rename is atomic all the same
  ::close(fd);
}

std::string without_slash(std::string folder) {
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  return folder;
}

}  // namespace

bool is_token_store(const std::string& folder) {
  std::ifstream file(folder + "/store.json");
  std::ostringstream text;
  text << file.rdbuf();
  const Json json = Json::parse(text.str(), nullptr, false);
  return json.is_object() && json.value("format", Json()) == kFormat;
}

TokenStore TokenStore::open(const std::string& folder) {
  TokenStore store;
  store.folder_ = without_slash(folder);
  const std::string base = store.folder_ + "/";
  store.info_ = read_info(store.folder_);
  const auto& info = store.info_;
  store.tokenizer_ = std::make_shared<Tokenizer>(Tokenizer::load(base + "tokenizer.model"));
  if (store.tokenizer_->hash() != info.tokenizer_hash || store.tokenizer_->vocab_size() != info.vocab_size)
    throw DataError(base + "tokenizer.model: not the tokenizer this store was made with" + kAgain);
  if (store.tokenizer_->eos_id() != info.eos_id)
    throw DataError(detail::concat(base, "store.json: documents end with token ", info.eos_id, ", tokenizer.model's end of text is ", store.tokenizer_->eos_id(), kAgain));
  store.train_ = std::make_shared<TokenFile>(base + "train", info.vocab_size);
  store.heldout_ = std::make_shared<TokenFile>(base + "heldout", info.vocab_size);
  store.train_doc_bytes_ = std::make_shared<MappedFile>(base + "train.doc_bytes");
  store.heldout_doc_bytes_ = std::make_shared<MappedFile>(base + "heldout.doc_bytes");
  check_split(*store.train_, info.train, *store.train_doc_bytes_, base + "train.doc_bytes");
  check_split(*store.heldout_, info.heldout, *store.heldout_doc_bytes_, base + "heldout.doc_bytes");
  if (info.train.tokens == 0) throw DataError(store.folder_ + ": has no training tokens" + kAgain);
  for (int32_t id = 0; id < store.tokenizer_->vocab_size(); ++id) store.token_byte_lengths_.push_back(static_cast<int32_t>(store.tokenizer_->token_bytes(id).size()));
  return store;
}

std::string TokenStore::fingerprint() const {
  return xxh3_hex(info_.tokenizer_hash + info_.train.idx_hash + info_.train.bin_hash);
}

int64_t TokenStore::document_bytes(bool is_heldout, int64_t document) const {
  const auto& split = is_heldout ? info_.heldout : info_.train;
  ATOLL_CHECK(document >= 0 && document < split.documents, "document ", document, " of ", split.documents);
  return i64_at(is_heldout ? *heldout_doc_bytes_ : *train_doc_bytes_, document);
}

void clear_marker(const std::string& folder) {
  std::error_code error;
  fs::remove(without_slash(folder) + "/" + kMarker, error);  // where it cannot be removed, it stays: nobody reads it
}

void verify_token_store(const std::string& folder) {
  const TokenStore store = TokenStore::open(folder);
  const auto compare = [](const std::string& path, const std::string& has, const std::string& promised) {
    if (has != promised) throw DataError(path + ": its hash is " + has + ", store.json says " + promised + ": the file is damaged" + kAgain);
  };
  for (const bool is_heldout : {false, true}) {
    const TokenFile& file = is_heldout ? store.heldout() : store.train();
    const SplitInfo& split = is_heldout ? store.info().heldout : store.info().train;
    compare(file.prefix() + ".idx", file.idx_hash().hex(), split.idx_hash);
    compare(file.prefix() + ".bin", file.bin_hash().hex(), split.bin_hash);
    compare(file.prefix() + ".doc_bytes", xxh3_hex(MappedFile(file.prefix() + ".doc_bytes").bytes()), split.doc_bytes_hash);
    int64_t bytes = 0;
    std::vector<int32_t> tokens;
    for (int64_t d = 0; d < file.num_documents(); ++d) {
      tokens.resize(static_cast<size_t>(file.document_begin(d + 1) - file.document_begin(d)));
      file.read(file.document_begin(d), tokens);
      int64_t of_tokens = 0;
      for (const int32_t token : tokens) of_tokens += store.token_byte_lengths()[static_cast<size_t>(token)];
      bytes += store.document_bytes(is_heldout, d);
      if (store.tokenizer().is_lossless() && of_tokens != store.document_bytes(is_heldout, d))
        throw DataError(detail::concat(file.prefix(), ".bin: document ", d, " spells ", of_tokens, " bytes, ", store.document_bytes(is_heldout, d), " recorded", kAgain));
    }
    if (bytes != split.bytes) throw DataError(detail::concat(file.prefix(), ".doc_bytes: adds up to ", bytes, " bytes, store.json says ", split.bytes, kAgain));
  }
}

struct StoreWriter::State {
  std::string folder, partial;
  const Tokenizer& tokenizer;
  int lock = -1;
  std::unique_ptr<TokenFileWriter> files[2];
  std::vector<int64_t> doc_bytes[2];
  SplitInfo splits[2];
  bool is_ours = false;  // the partial folder is locked by us and not committed: removed when we go

  ~State() {
    std::error_code error;
    if (is_ours) {
      clear();
      fs::remove_all(partial, error);
    }
    if (lock >= 0) ::close(lock);
  }
  void clear() {  // all but the marker, which is the last to go
    std::error_code error;
    for (fs::directory_iterator it(partial, error), end; !error && it != end; it.increment(error)) {
      std::error_code ignored;
      if (it->path().filename() != kMarker) fs::remove_all(it->path(), ignored);
    }
  }
};

StoreWriter::StoreWriter(const std::string& folder, const Tokenizer& tokenizer) : state_(new State{without_slash(folder), without_slash(folder) + ".partial", tokenizer}) {
  auto& s = *state_;
  if (tokenizer.eos_id() < 0) throw DataError("the tokenizer has no end-of-sentence piece, which ends each document; use one that has");
  std::error_code error;
  if (fs::exists(s.folder, error) && !(fs::is_directory(s.folder, error) && fs::is_empty(s.folder, error)))
    throw DataError(s.folder + ": exists already; give another --out, or remove it");
  const std::string marker = s.partial + "/" + kMarker;
  if (fs::exists(s.partial, error) && !fs::exists(marker, error) && !fs::is_empty(s.partial, error))
    throw DataError(s.partial + ": is in the way and not an unfinished store; move it away");
  fs::create_directories(s.partial, error);
  if (error) throw DataError(s.partial + ": cannot be made (" + error.message() + "); give an --out you may write to");
  s.lock = ::open(marker.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (s.lock < 0) throw DataError(marker + ": cannot be written (" + std::strerror(errno) + ")");
  if (::flock(s.lock, LOCK_EX | LOCK_NB) != 0) throw DataError(s.partial + ": another process is making this store now; wait for it, or give another --out");
  struct stat locked {}, named {};  // between opening and locking, another process may have finished and moved the folder away
  if (::fstat(s.lock, &locked) != 0 || ::stat(marker.c_str(), &named) != 0 || locked.st_ino != named.st_ino)
    throw DataError(s.partial + ": another process has just made this store; run the command again");
  s.is_ours = true;
  s.clear();
  const TokenType type = token_type_for(tokenizer.vocab_size());
  s.files[0] = std::make_unique<TokenFileWriter>(s.partial + "/train", type);
  s.files[1] = std::make_unique<TokenFileWriter>(s.partial + "/heldout", type);
}

StoreWriter::~StoreWriter() = default;

void StoreWriter::add_document(bool is_heldout, std::vector<int32_t> tokens, int64_t bytes) {
  auto& s = *state_;
  tokens.push_back(s.tokenizer.eos_id());
  s.files[is_heldout]->add_document(tokens);
  s.doc_bytes[is_heldout].push_back(bytes);
  auto& split = s.splits[is_heldout];
  split.tokens += static_cast<int64_t>(tokens.size());
  split.documents += 1;
  split.bytes += bytes;
}

StoreInfo StoreWriter::commit(const std::string& held_out_rule, const std::string& request_hash, const std::string& made_from) {
  auto& s = *state_;
  for (const int side : {0, 1}) {
    const std::string prefix = s.partial + (side ? "/heldout" : "/train");
    s.files[side]->finish();
    const std::string_view bytes(reinterpret_cast<const char*>(s.doc_bytes[side].data()), 8 * s.doc_bytes[side].size());
    write_synced(prefix + ".doc_bytes", bytes);
    s.splits[side].idx_hash = xxh3_hex(MappedFile(prefix + ".idx").bytes());
    s.splits[side].bin_hash = xxh3_hex(MappedFile(prefix + ".bin").bytes());
    s.splits[side].doc_bytes_hash = xxh3_hex(bytes);
  }
  write_synced(s.partial + "/tokenizer.model", s.tokenizer.serialized());
  const StoreInfo info{s.tokenizer.hash(), s.tokenizer.vocab_size(), s.tokenizer.eos_id(), s.splits[0], s.splits[1], held_out_rule, request_hash, made_from};
  // Paths may hold bytes that are not UTF-8: they are replaced rather than refused.
  write_synced(s.partial + "/store.json", to_json(info).dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  // The marker goes after the rename: a partial folder without it would be taken for someone else's. A finished store that still has it is whole.
  std::error_code error;
  sync_folder(s.partial);
  fs::rename(s.partial, s.folder, error);
  if (error) throw DataError(s.folder + ": the finished store cannot be moved there (" + error.message() + ")");
  s.is_ours = false;
  const auto parent = fs::path(s.folder).parent_path().native();
  sync_folder(parent.empty() ? "." : parent);
  clear_marker(s.folder);
  return info;
}

}  // namespace atoll
