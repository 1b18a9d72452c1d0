// The Megatron indexed layout, read and written. All fields are little-endian and unaligned: they are copied, never cast.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "data/store.h"
#include "kernels/base/error.h"

namespace atoll {

static_assert(std::endian::native == std::endian::little, "the token files are little-endian");

namespace {

constexpr char kMagic[9] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0};
constexpr size_t kHeader = 34;
constexpr int64_t kScanBytes = 256 << 20;

template <class T>
T field(std::string_view bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

size_t size_of(TokenType type) { return type == TokenType::kI32 ? 4 : 2; }

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw DataError(path + ": " + what + "; make the store again (atoll data prepare) or copy it again");
}

}  // namespace

TokenType token_type_for(int64_t vocab_size) { return vocab_size < 65500 ? TokenType::kU16 : TokenType::kI32; }

MappedFile::MappedFile(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw DataError(path + ": cannot be opened (" + std::strerror(errno) + "); is this a token store? make one with atoll data prepare");
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    throw DataError(path + ": not a regular file; is this a token store?");
  }
  size_ = static_cast<size_t>(info.st_size);
  if (size_ > 0) {
    void* data = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0);
    if (data != MAP_FAILED) data_ = static_cast<const char*>(data);
  }
  const int error = errno;
  ::close(fd);
  if (size_ > 0 && !data_) throw DataError(path + ": cannot be mapped (" + std::strerror(error) + ")");
}
MappedFile::MappedFile(MappedFile&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}
MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<char*>(data_), size_);
}

TokenFile::TokenFile(const std::string& prefix, int64_t vocab_size)
    : prefix_(prefix), vocab_size_(vocab_size), idx_(prefix + ".idx"), bin_(prefix + ".bin") {
  const std::string path = prefix + ".idx";
  const auto idx = idx_.bytes();
  if (idx.empty()) refuse(path, "empty");
  if (std::memcmp(idx.data(), kMagic, std::min(idx.size(), sizeof kMagic)) != 0) refuse(path, "not a Megatron index (its first bytes are not MMIDIDX)");
  if (idx.size() < kHeader) refuse(path, detail::concat("cut off in its header (", idx.size(), " bytes)"));
  if (field<uint64_t>(idx, 9) != 1) refuse(path, detail::concat("version ", field<uint64_t>(idx, 9), " of the index, only 1 is known"));
  const int code = field<uint8_t>(idx, 17);
  if (code != 4 && code != 8) refuse(path, detail::concat("token type ", code, ", only 4 (i32) and 8 (u16) hold tokens here"));
  type_ = static_cast<TokenType>(code);
  const auto sequences = field<uint64_t>(idx, 18), index_length = field<uint64_t>(idx, 26);
  if (sequences > idx.size() || index_length > idx.size() || index_length == 0)
    refuse(path, detail::concat("its header promises ", sequences, " sequences and ", index_length, " document entries, more than its ", idx.size(), " bytes hold"));
  const size_t wanted = kHeader + 12 * sequences + 8 * index_length;
  if (idx.size() != wanted && idx.size() != wanted + sequences)  // the latter: with modes, which are not looked at
    refuse(path, detail::concat(idx.size() < wanted ? "cut off: " : "too long: ", idx.size(), " bytes, its header promises ", wanted));
  num_sequences_ = static_cast<int64_t>(sequences);
  num_documents_ = static_cast<int64_t>(index_length) - 1;
  check_index();
  if (num_tokens_ * static_cast<int64_t>(size_of(type_)) <= kScanBytes) {
    std::vector<int32_t> tokens(1 << 16);
    for (int64_t at = 0; at < num_tokens_; at += static_cast<int64_t>(tokens.size()))
      read(at, std::span(tokens).first(static_cast<size_t>(std::min<int64_t>(num_tokens_ - at, static_cast<int64_t>(tokens.size())))));
  }
}

void TokenFile::check_index() {
  const std::string path = prefix_ + ".idx";
  const auto idx = idx_.bytes();
  const auto item = static_cast<int64_t>(size_of(type_));
  const size_t pointers = kHeader + 4 * static_cast<size_t>(num_sequences_), documents = kHeader + 12 * static_cast<size_t>(num_sequences_);
  int64_t begin = 0;
  for (int64_t s = 0; s < num_sequences_; ++s) {
    const int32_t length = field<int32_t>(idx, kHeader + 4 * static_cast<size_t>(s));
    if (length < 0) refuse(path, detail::concat("sequence ", s, " has ", length, " tokens"));
    if (field<int64_t>(idx, pointers + 8 * static_cast<size_t>(s)) != begin) refuse(path, detail::concat("sequence ", s, " does not begin where the one before it ends"));
    begin += length * item;
  }
  num_tokens_ = begin / item;
  if (begin != static_cast<int64_t>(bin_.bytes().size()))
    refuse(prefix_ + ".bin", detail::concat(static_cast<int64_t>(bin_.bytes().size()) < begin ? "cut off: " : "too long: ", bin_.bytes().size(), " bytes, the index promises ", begin));
  int64_t last = 0;
  for (int64_t d = 0; d <= num_documents_; ++d) {
    const int64_t at = field<int64_t>(idx, documents + 8 * static_cast<size_t>(d));
    if (at < last || (d == 0 && at != 0)) refuse(path, detail::concat("document ", d, " does not begin after the one before it"));
    last = at;
  }
  if (last != num_sequences_) refuse(path, detail::concat("its documents end at sequence ", last, " of ", num_sequences_));
}

int64_t TokenFile::sequence_length(int64_t sequence) const {
  ATOLL_CHECK(sequence >= 0 && sequence < num_sequences_, "sequence ", sequence, " of ", num_sequences_);
  return field<int32_t>(idx_.bytes(), kHeader + 4 * static_cast<size_t>(sequence));
}

int64_t TokenFile::document_begin(int64_t document) const {
  ATOLL_CHECK(document >= 0 && document <= num_documents_, "document ", document, " of ", num_documents_);
  const auto n = static_cast<size_t>(num_sequences_);
  const int64_t sequence = field<int64_t>(idx_.bytes(), kHeader + 12 * n + 8 * static_cast<size_t>(document));
  if (sequence == num_sequences_) return num_tokens_;
  return field<int64_t>(idx_.bytes(), kHeader + 4 * n + 8 * static_cast<size_t>(sequence)) / static_cast<int64_t>(size_of(type_));
}

void TokenFile::read(int64_t begin, std::span<int32_t> tokens) const {
  ATOLL_CHECK(begin >= 0 && begin + static_cast<int64_t>(tokens.size()) <= num_tokens_, "tokens ", begin, "..", begin + static_cast<int64_t>(tokens.size()), " of ", num_tokens_);
  const char* from = bin_.bytes().data() + static_cast<size_t>(begin) * size_of(type_);
  uint32_t largest = 0;  // a negative token is a large one
  if (type_ == TokenType::kU16) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      uint16_t token;
      std::memcpy(&token, from + 2 * i, 2);
      tokens[i] = token;
      largest = std::max<uint32_t>(largest, token);
    }
  } else {
    if (!tokens.empty()) std::memcpy(tokens.data(), from, 4 * tokens.size());
    for (const int32_t token : tokens) largest = std::max(largest, static_cast<uint32_t>(token));
  }
  if (!tokens.empty() && static_cast<int64_t>(largest) >= vocab_size_)
    refuse(prefix_ + ".bin", detail::concat("holds token ", static_cast<int32_t>(largest), ", outside the vocabulary of ", vocab_size_));
}

// ---- writing ----

struct TokenFileWriter::File {
  std::string path;
  int fd = -1;
  std::string buffer;

  explicit File(std::string path_) : path(std::move(path_)) {
    fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) throw DataError(path + ": cannot be written (" + std::strerror(errno) + ")");
  }
  ~File() {
    if (fd >= 0) ::close(fd);
  }
  void flush() {
    for (size_t done = 0; done < buffer.size();) {
      const ssize_t n = ::write(fd, buffer.data() + done, buffer.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) throw DataError(path + ": cannot be written (" + std::strerror(errno) + "); is the disk full?");
      done += static_cast<size_t>(n);
    }
    buffer.clear();
  }
  void add(const void* bytes, size_t size) {
    buffer.append(static_cast<const char*>(bytes), size);
    if (buffer.size() >= (1 << 20)) flush();
  }
  void close() {
    flush();
    const bool is_good = ::fsync(fd) == 0;
    const int error = errno;
    if (::close(std::exchange(fd, -1)) != 0 || !is_good) throw DataError(path + ": cannot be written (" + std::strerror(error) + "); is the disk full?");
  }
};

TokenFileWriter::TokenFileWriter(const std::string& prefix, TokenType type) : prefix_(prefix), type_(type), bin_(std::make_unique<File>(prefix + ".bin")) {}
TokenFileWriter::~TokenFileWriter() = default;

void TokenFileWriter::add_sequence(std::span<const int32_t> tokens) {
  ATOLL_CHECK(tokens.size() <= static_cast<size_t>(std::numeric_limits<int32_t>::max()), "a sequence of ", tokens.size(), " tokens");
  if (type_ == TokenType::kI32) {
    bin_->add(tokens.data(), 4 * tokens.size());
  } else {
    std::vector<uint16_t> narrow;
    for (std::span<const int32_t> rest = tokens; !rest.empty(); rest = rest.subspan(narrow.size())) {
      narrow.resize(std::min<size_t>(rest.size(), 1 << 16));
      for (size_t i = 0; i < narrow.size(); ++i) {
        ATOLL_CHECK(rest[i] >= 0 && rest[i] <= 65535, "token ", rest[i], " does not fit u16");
        narrow[i] = static_cast<uint16_t>(rest[i]);
      }
      bin_->add(narrow.data(), 2 * narrow.size());
    }
  }
  lengths_.push_back(static_cast<int32_t>(tokens.size()));
  num_tokens_ += static_cast<int64_t>(tokens.size());
}

void TokenFileWriter::end_document() { document_index_.push_back(static_cast<int64_t>(lengths_.size())); }

void TokenFileWriter::finish() {
  bin_->close();
  File idx(prefix_ + ".idx");
  const auto put = [&](auto value) { idx.add(&value, sizeof value); };
  idx.add(kMagic, sizeof kMagic);
  put(uint64_t{1});
  put(static_cast<uint8_t>(type_));
  put(static_cast<uint64_t>(lengths_.size()));
  put(static_cast<uint64_t>(document_index_.size()));
  idx.add(lengths_.data(), 4 * lengths_.size());
  int64_t begin = 0;
  for (const int32_t length : lengths_) {
    put(begin);
    begin += length * static_cast<int64_t>(size_of(type_));
  }
  idx.add(document_index_.data(), 8 * document_index_.size());
  idx.close();
}

}  // namespace atoll
