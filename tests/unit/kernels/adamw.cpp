// AdamW against torch.optim.AdamW in float64 (tests/golden/optim), and what sum_of_squares lets through.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

#include "kernels/ops.h"
#include "op_cases.h"

namespace atoll::test {
namespace {

// An F32 tensor of a safetensors file. Its header is one line of JSON without spaces in keys; enough of it is read to find the tensor's bytes.
Array read_f32(const std::string& name) {
  std::ifstream file(ATOLL_SOURCE_DIR "/tests/golden/optim/optim.safetensors", std::ios::binary);
  uint64_t header_bytes = 0;
  file.read(reinterpret_cast<char*>(&header_bytes), 8);
  std::string header(header_bytes, ' ');
  file.read(header.data(), static_cast<std::streamsize>(header_bytes));
  const size_t entry = header.find('"' + name + '"');
  REQUIRE(entry != std::string::npos);
  const size_t offsets = header.find("\"data_offsets\":[", entry) + 16;
  const uint64_t begin = std::stoull(header.substr(offsets)), end = std::stoull(header.substr(header.find(',', offsets) + 1));
  std::vector<float> values((end - begin) / 4);
  file.seekg(static_cast<std::streamoff>(8 + header_bytes + begin));
  file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(end - begin));
  REQUIRE(file.good());
  return Array(values.begin(), values.end());
}

void check_golden(const std::string& shape, const std::string& name, double lr, double weight_decay, DType acc, double tolerance) {
  Context ctx(2);
  const Array start = read_f32(shape + ".w0");
  const auto n = static_cast<int64_t>(start.size());
  const Owned master(acc, {n}, start), weight(acc, {n}), m(acc, {n}, Array(start.size(), 0.0)), v(acc, {n}, Array(start.size(), 0.0));
  for (int64_t step = 1; step <= 5; ++step) {
    Array gradient = read_f32(shape + ".grad." + std::to_string(step));
    if (name == "adamw_sparse" && step != 3) std::fill(gradient.begin() + (shape == "24x40" ? 40 : 24), gradient.end(), 0.0);
    adamw(ctx, {.master = master, .grad = Owned(acc, {n}, gradient), .m = m, .v = v, .weight = weight, .lr = lr, .weight_decay = weight_decay, .step = step});
    INFO(shape << "." << name << " step " << step << " " << name_of(acc));
    CHECK(relative_error(master.values(), read_f32(shape + "." + name + ".w." + std::to_string(step))) <= tolerance);
    CHECK((weight.values() == master.values()));
  }
  CHECK(relative_error(m.values(), read_f32(shape + "." + name + ".exp_avg.5")) <= tolerance);
  CHECK(relative_error(v.values(), read_f32(shape + "." + name + ".exp_avg_sq.5")) <= tolerance);
}

}  // namespace

TEST_CASE("AdamW follows torch.optim.AdamW for five steps") {
  for (const char* shape : {"24x40", "40x24"})
    for (DType acc : {DType::kF64, DType::kF32}) {
      const double tolerance = acc == DType::kF64 ? 1e-7 : 1e-6;  // the references are stored as F32
      check_golden(shape, "adamw", 1e-3, 0.1, acc, tolerance);
      check_golden(shape, "adamw_sparse", 1e-2, 0.0, acc, tolerance);
    }
}

TEST_CASE("AdamW refuses moments of another type and a step before the first") {
  Context ctx;
  const Owned p(DType::kF32, {4}, Array(4, 1.0)), g(DType::kF32, {4}, Array(4, 1.0)), m(DType::kF32, {4}), v(DType::kBF16, {4}), w(DType::kBF16, {4}),
      small(DType::kF32, {3});
  CHECK_THROWS_WITH(adamw(ctx, {.master = p, .grad = g, .m = m, .v = v, .weight = w}), Catch::Contains("moments"));
  CHECK_THROWS_WITH(adamw(ctx, {.master = p, .grad = g, .m = m, .v = m, .weight = w, .step = 0}), Catch::Contains("counts from 1"));
  CHECK_THROWS_WITH(adamw(ctx, {.master = p, .grad = small, .m = m, .v = m, .weight = w}), Catch::Contains("[3]"));
}

TEST_CASE("AdamW may rewrite a weight that is its own master") {
  Context ctx(2);
  const int64_t n = 20001;
  const Array start = draw("p", static_cast<size_t>(n)), gradient = draw("g", static_cast<size_t>(n));
  const Owned apart(DType::kF32, {n}, start), weight(DType::kF32, {n}), together(DType::kF32, {n}, start), g(DType::kF32, {n}, gradient);
  for (const Owned* master : {&apart, &together}) {
    const Owned m(DType::kF32, {n}, Array(static_cast<size_t>(n), 0.0)), v(DType::kF32, {n}, Array(static_cast<size_t>(n), 0.0));
    adamw(ctx, {.master = *master, .grad = g, .m = m, .v = v, .weight = master == &apart ? weight : together, .lr = 0.1, .weight_decay = 0.1});
  }
  CHECK((apart.values() == together.values()));
  CHECK((weight.values() == together.values()));
}

TEST_CASE("A sum of squares lets NaN and infinity through and does not overflow in FP32") {
  Context ctx(2);
  Array x(9000, 1.0);
  x[8999] = std::nan("");
  CHECK(std::isnan(sum_of_squares(ctx, Owned(DType::kBF16, {9000}, x))));
  x[8999] = std::numeric_limits<double>::infinity();
  CHECK(std::isinf(sum_of_squares(ctx, Owned(DType::kF32, {9000}, x))));
  x.assign(9000, 0x1p100);
  CHECK(sum_of_squares(ctx, Owned(DType::kF32, {9000}, x)) == 9000 * 0x1p200);
}

}  // namespace atoll::test
