// Replaces the global operator new to count. Policy: linked only into programs that count, and every form of new must be here: one that is missed is an allocation unseen.
#include "allocations.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

#include "kernels/base/library_call.h"

namespace {
std::atomic<long> num_allocations{0};
}
void* operator new(size_t size) {
  if (!atoll::LibraryCall::is_active()) ++num_allocations;
  if (void* p = std::malloc(size ? size : 1)) return p;
  throw std::bad_alloc();
}
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  if (!atoll::LibraryCall::is_active()) ++num_allocations;
  return std::malloc(size ? size : 1);
}
void* operator new(size_t size, std::align_val_t align) {
  if (!atoll::LibraryCall::is_active()) ++num_allocations;
  const auto a = static_cast<size_t>(align);
  if (void* p = std::aligned_alloc(a, (std::max<size_t>(size, 1) + a - 1) / a * a)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace atoll::test {
long num_own_allocations() { return num_allocations; }
}  // namespace atoll::test
