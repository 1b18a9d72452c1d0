// Who owns what: segments hand out memory first-fit and get it back, handles destroy exactly once. Policy: a segment is compared with a model that knows every byte.
#include <catch2/catch.hpp>
#include <cstring>
#include <map>

#include "kernels/base/error.h"
#include "kernels/base/handle.h"
#include "kernels/base/memory.h"
#include "kernels/base/rng.h"

using namespace atoll;

namespace {
constexpr int64_t kBlock = 128;  // what a segment rounds up to

// The lowest address at which `bytes` fit between the blocks that are taken.
int64_t first_fit(const std::map<int64_t, int64_t>& taken, int64_t bytes) {
  int64_t at = 0;
  for (const auto& [begin, size] : taken) {
    if (begin - at >= bytes) break;
    at = begin + size;
  }
  return at;
}
}  // namespace

TEST_CASE("A segment is first-fit over any sequence of takes and returns") {
  Segment segment("test", 1 << 20, "test.bound");
  const Buffer anchor = segment.take({1}, DType::kU8);  // its address is the segment's beginning
  const char* base = anchor.tensor().as<char>();
  std::map<int64_t, int64_t> taken{{0, kBlock}};
  std::map<int64_t, std::pair<Buffer, unsigned char>> held;
  const Rng rng(1, "segment");
  int64_t high_water = kBlock;
  for (uint64_t i = 0; i < 20000; i += 3) {
    if (held.empty() || (held.size() < 40 && rng.below(i, 2) == 0)) {
      const auto bytes = static_cast<int64_t>(rng.below(i + 1, 2000));
      const int64_t rounded = std::max(kBlock, (bytes + kBlock - 1) / kBlock * kBlock);
      Buffer b = segment.take({bytes}, DType::kU8);
      const int64_t at = b.tensor().as<char>() - base;
      if (at != first_fit(taken, rounded)) FAIL("take " << i << " of " << bytes << " bytes lies at " << at << ", first fit is " << first_fit(taken, rounded));
      std::memset(b.tensor().data, static_cast<int>(i & 0xff), static_cast<size_t>(bytes));
      taken[at] = rounded;
      held.emplace(at, std::pair{std::move(b), static_cast<unsigned char>(i & 0xff)});
    } else {
      auto it = held.begin();
      std::advance(it, static_cast<int64_t>(rng.below(i + 1, held.size())));
      const Tensor& t = it->second.first.tensor();
      for (int64_t k = 0; k < t.size(); ++k)
        if (t.as<unsigned char>()[k] != it->second.second) FAIL("byte " << k << " of a buffer was overwritten by another");
      taken.erase(it->first);
      held.erase(it);
    }
    int64_t used = 0;
    for (const auto& block : taken) used += block.second;
    high_water = std::max(high_water, used);
    if (segment.used() != used) FAIL("used " << segment.used() << ", wanted " << used);
  }
  CHECK(segment.high_water() == high_water);
  held.clear();
  CHECK(segment.used() == kBlock);
  // All is one block again: the whole rest fits, and not a byte more.
  const Buffer rest = segment.take({(1 << 20) - kBlock}, DType::kU8);
  CHECK(rest.tensor().as<char>() == base + kBlock);
  CHECK_THROWS_AS(segment.take({1}, DType::kU8), ConfigError);
}

TEST_CASE("An exhausted segment says so with its numbers and stays usable") {
  Segment segment("test", 10 * kBlock, "test.bound");
  Buffer a = segment.take({8 * kBlock}, DType::kU8);
  CHECK_THROWS_WITH(segment.take({3, kBlock}, DType::kU8), Catch::Contains("'test'") && Catch::Contains("asked 384 bytes") && Catch::Contains("256 left of 1280"));
  CHECK(segment.used() == 8 * kBlock);
  const Buffer last = segment.take({2 * kBlock}, DType::kU8);
  CHECK(segment.used() == segment.bound());
  a.reset();
  CHECK(segment.take({8, kBlock}, DType::kU8));
  CHECK(segment.used() == 2 * kBlock);
}

TEST_CASE("A moved buffer is given back once, an empty one is a buffer") {
  Segment segment("test", 0, "test.bound");
  Buffer a = segment.take({100}, DType::kF32);
  void* data = a.tensor().data;
  Buffer b = std::move(a);
  CHECK_FALSE(a);  // NOLINT: what a move leaves is promised
  CHECK(b.tensor().data == data);
  Buffer c = segment.take({5}, DType::kF64);
  c = std::move(b);
  CHECK(segment.used() == 4 * kBlock);
  CHECK(c.tensor().data == data);
  c = segment.take({0, 7}, DType::kBF16);
  CHECK(c);
  CHECK(c.tensor().size() == 0);
  c.reset();
  c.reset();
  CHECK(segment.used() == 0);
  segment.reset_high_water();
  CHECK(segment.high_water() == 0);
}

namespace {
std::vector<int>& destroyed() {
  static std::vector<int> list;
  return list;
}
struct CountingTraits {
  using type = int;
  static int null() { return -1; }
  static void destroy(int value) noexcept { destroyed().push_back(value); }
};
using Counted = Handle<CountingTraits>;
}  // namespace

TEST_CASE("A handle destroys what it owns once, whatever it went through") {
  destroyed().clear();
  {
    Counted none;
    CHECK_FALSE(none);
    Counted a(1), b(2);
    Counted c = std::move(a);
    CHECK_FALSE(a);  // NOLINT
    CHECK(c.get() == 1);
    CHECK(destroyed().empty());
    b = std::move(c);  // destroys what b had
    CHECK(destroyed() == std::vector<int>{2});
    Counted& same = b;
    b = std::move(same);
    CHECK(b.get() == 1);
    b.reset();
    b.reset();
    CHECK(destroyed() == std::vector<int>{2, 1});
    const Counted zero(0);  // a legal value that is false as an integer
    CHECK(zero);
  }
  CHECK(destroyed() == std::vector<int>{2, 1, 0});
  static_assert(!std::is_copy_constructible_v<Counted> && !std::is_copy_assignable_v<Counted> && std::is_nothrow_move_constructible_v<Counted>);
}
