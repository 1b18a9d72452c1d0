// First-fit over a list of free blocks that is sorted by address and coalesced when a buffer comes back. Policy: address space is reserved once, pages are never given
// back, and the list has its room from the start, so a step in steady state calls neither malloc nor mmap.
#include "kernels/base/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace atoll {
namespace {
constexpr int64_t kAlign = 128;  // two cache lines: adjacent-line prefetch never shares a line between buffers
constexpr int64_t kHugePage = 2 << 20;
constexpr int64_t kCommit = 16 << 20;  // made usable at a time
int64_t rounded(int64_t bytes) { return std::max<int64_t>(kAlign, (bytes + kAlign - 1) / kAlign * kAlign); }
}  // namespace

void Buffer::reset() noexcept {
  if (owner_) owner_->give_back(tensor_.data, rounded(tensor_.bytes()));
  owner_ = nullptr;
  tensor_ = {};
}

Segment::Segment(std::string name, int64_t bound_bytes, std::string setting) : name_(std::move(name)), setting_(std::move(setting)), bound_(bound_bytes) {
  const int64_t physical = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE);
  reserved_ = (bound_ > 0 ? bound_ : physical) / kHugePage * kHugePage + kHugePage;
  free_.reserve(4096);
}

Segment::~Segment() {
  if (base_) munmap(base_, static_cast<size_t>(reserved_));
}

Buffer Segment::take(std::initializer_list<int64_t> dims, DType dtype) {
  Tensor t(nullptr, dtype, dims);
  const int64_t bytes = rounded(t.bytes());
  if (!base_) {
    void* p = mmap(nullptr, static_cast<size_t>(reserved_), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ATOLL_CHECK(p != MAP_FAILED, "cannot reserve ", reserved_, " bytes of address space for segment ", name_, "; raise `ulimit -v`");
    madvise(p, static_cast<size_t>(reserved_), MADV_HUGEPAGE);
    base_ = static_cast<char*>(p);
    free_.push_back({0, reserved_});
  }
  const bool over_bound = bound_ > 0 && used_ + bytes > bound_;
  auto it = over_bound ? free_.end() : std::find_if(free_.begin(), free_.end(), [&](const Block& b) { return b.size >= bytes; });
  if (it == free_.end()) {
    const int64_t all = bound_ > 0 ? bound_ : reserved_;
    const std::string advice = bound_ > 0 && !setting_.empty() ? "raise " + setting_ + " or use smaller micro-batches (train.micro_batch)"
                                                               : "use more ranks, more pipeline stages (parallel.pp) or smaller micro-batches (train.micro_batch)";
    throw ConfigError(detail::concat("out of memory in segment '", name_, "': asked ", bytes, " bytes for ", t.shape(), ", ", std::max<int64_t>(0, all - used_), " left of ", all,
                                     bound_ > 0 ? "" : " (what the machine has)", "; ", advice));
  }
  commit(it->begin + bytes);
  t.data = base_ + it->begin;
  it->begin += bytes;
  it->size -= bytes;
  if (it->size == 0) free_.erase(it);
  used_ += bytes;
  high_water_ = std::max(high_water_, used_);
  return Buffer(this, t);
}

// Address space is reserved without rights, which no accounting counts (vm.overcommit_memory=2, ulimit -d), and made usable from its beginning on as it is needed.
void Segment::commit(int64_t end) {
  if (end <= committed_) return;
  const int64_t until = std::min(reserved_, (end + kCommit - 1) / kCommit * kCommit);
  if (mprotect(base_ + committed_, static_cast<size_t>(until - committed_), PROT_READ | PROT_WRITE) != 0)
    throw ConfigError(detail::concat("out of memory in segment '", name_, "': the system refuses ", until - committed_, " more bytes (", std::strerror(errno), "); it has ", committed_,
                                     ". Use more ranks, smaller micro-batches (train.micro_batch), or raise the limit (ulimit -d, vm.overcommit_memory)"));
  committed_ = until;
}

void Segment::give_back(void* pointer, int64_t bytes) noexcept {
  const int64_t begin = static_cast<char*>(pointer) - base_;
  used_ -= bytes;
  auto next = std::lower_bound(free_.begin(), free_.end(), begin, [](const Block& b, int64_t at) { return b.begin < at; });
  const bool joins_next = next != free_.end() && begin + bytes == next->begin;
  const bool joins_previous = next != free_.begin() && std::prev(next)->begin + std::prev(next)->size == begin;
  if (joins_previous && joins_next) {
    std::prev(next)->size += bytes + next->size;
    free_.erase(next);
  } else if (joins_previous) {
    std::prev(next)->size += bytes;
  } else if (joins_next) {
    next->begin = begin;
    next->size += bytes;
  } else {
    free_.insert(next, {begin, bytes});
  }
}

}  // namespace atoll
