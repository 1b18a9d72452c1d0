// XXH3-128 in pieces of 1 MiB: large enough for full read speed, small enough to stay in the cache between read and hash.
#include "trainer/file_hash.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "kernels/base/error.h"

namespace atoll {
namespace {

std::string hex_of(XXH128_hash_t hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (unsigned char byte : canonical.digest) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

}  // namespace

std::string hash_of(const void* data, size_t bytes) { return hex_of(XXH3_128bits(data, bytes)); }

FileHash hash_of_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) throw DataError(path + ": cannot be opened: " + std::strerror(errno));
  constexpr size_t kPiece = 1 << 20;
  const auto piece = std::make_unique<char[]>(kPiece);
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(), XXH3_freeState);
  XXH3_128bits_reset(state.get());
  FileHash result;
  for (;;) {
    const ssize_t n = ::read(fd, piece.get(), kPiece);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int error = errno;
      ::close(fd);
      throw DataError(path + ": cannot be read: " + std::strerror(error));
    }
    if (n == 0) break;
    XXH3_128bits_update(state.get(), piece.get(), static_cast<size_t>(n));
    result.bytes += n;
  }
  ::close(fd);
  result.hash = hex_of(XXH3_128bits_digest(state.get()));
  return result;
}

}  // namespace atoll
