// Segments of memory: what they say when they are full must be something that a user can do.
#include <catch2/catch.hpp>

#include "kernels/base/error.h"
#include "kernels/base/memory.h"

using namespace atoll;

namespace {
std::string complaint(Segment& segment, int64_t bytes) {
  try {
    const Buffer taken = segment.take({bytes}, DType::kBF16);
    return "";
  } catch (const ConfigError& e) { return e.what(); }
}
constexpr int64_t kMoreThanAnyMachine = int64_t{1} << 60;
}  // namespace

TEST_CASE("A full segment names the key that raises its bound, where there is one") {
  Memory memory({.activations = 4096});
  CHECK_THAT(complaint(memory.activations, 8192), Catch::Contains("'activations'") && Catch::Contains("left of 4096") && Catch::Contains("raise memory.activations"));
  // Without a bound there is nothing to raise; weights, gradients, optimizer and transport have no key at all.
  for (Segment* segment : memory.all()) {
    if (segment == &memory.activations) continue;
    CAPTURE(segment->name());
    const std::string said = complaint(*segment, kMoreThanAnyMachine);
    CHECK_THAT(said, Catch::Contains("what the machine has") && Catch::Contains("use more ranks, more pipeline stages"));
    CHECK(said.find("memory.") == std::string::npos);
  }
  Segment plain("plain", 128);
  CHECK(complaint(plain, 1).empty());
  CHECK_THAT(complaint(plain, 1000), Catch::Contains("left of 128; use more ranks"));
}

TEST_CASE("A segment gives blocks back, joins them, and remembers its high-water mark") {
  Segment segment("test", 1024, "memory.test");
  {
    Buffer a = segment.take({64}, DType::kBF16), b = segment.take({64}, DType::kBF16), c = segment.take({64}, DType::kBF16);
    CHECK(segment.used() == 3 * 128);
    b.reset();
    a.reset();
    CHECK(segment.used() == 128);
    const Buffer joined = segment.take({128}, DType::kBF16);  // where a and b were
    CHECK(static_cast<char*>(joined.tensor().data) + 256 == c.tensor().data);
  }
  CHECK(segment.used() == 0);
  CHECK(segment.high_water() == 3 * 128);
  CHECK(complaint(segment, 512).empty());
  CHECK_THAT(complaint(segment, 513), Catch::Contains("raise memory.test"));
}
