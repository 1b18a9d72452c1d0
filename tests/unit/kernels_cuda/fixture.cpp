// Twins of host and GPU memory for the GPU tests.
#include "tests/unit/kernels_cuda/fixture.h"

#include <cmath>
#include <cstdlib>
#include <limits>

namespace atoll::gpu_test {

uint64_t seed() {
  const char* text = std::getenv("ATOLL_GPU_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 1;
}

Twin::Twin(DType type, int64_t rows, int64_t cols, int64_t pad) {
  const auto size = static_cast<int64_t>(size_of(type));
  bytes_.assign(static_cast<size_t>(rows * (cols + pad) * size), 0xff);
  device_ = GpuBuffer(rows * (cols + pad) * size);
  host_ = Tensor(bytes_.data(), type, {rows, cols});
  host_.stride[0] = cols + pad;
  gpu_ = host_;
  gpu_.data = device_.data();
}
float Twin::at(int64_t r, int64_t c) const {
  const int64_t i = r * host_.stride[0] + c;
  return host_.dtype == DType::kBF16 ? static_cast<float>(host_.as<bf16>()[i]) : host_.as<float>()[i];
}
void Twin::set(int64_t r, int64_t c, float value) {
  const int64_t i = r * host_.stride[0] + c;
  if (host_.dtype == DType::kBF16) host_.as<bf16>()[i] = bf16(value);
  else host_.as<float>()[i] = value;
}
void Twin::upload(Backends& b) {
  if (!bytes_.empty()) copy_to_gpu(b.gpu, device_.data(), bytes_.data(), static_cast<int64_t>(bytes_.size()));
}
std::vector<uint8_t> Twin::download(Backends& b) const {
  std::vector<uint8_t> bytes(bytes_.size());
  if (!bytes.empty()) copy_from_gpu(b.gpu, bytes.data(), device_.data(), static_cast<int64_t>(bytes.size()));
  return bytes;
}
bool Twin::same_bits(Backends& b) const {
  const std::vector<uint8_t> other = download(b);
  return bytes_ == other;  // padding included: the CPU left it alone too
}
bool Twin::padding_untouched(Backends& b) const {
  const std::vector<uint8_t> bytes = download(b);
  const auto size = static_cast<int64_t>(size_of(host_.dtype));
  for (int64_t r = 0; r < host_.dim[0]; ++r)
    for (int64_t i = (r * host_.stride[0] + host_.dim[1]) * size; i < (r + 1) * host_.stride[0] * size; ++i)
      if (bytes[static_cast<size_t>(i)] != 0xff) return false;
  return true;
}
std::vector<float> Twin::values(Backends& b) const {
  const std::vector<uint8_t> other = download(b);
  std::vector<float> v;
  for (int64_t r = 0; r < host_.dim[0]; ++r)
    for (int64_t c = 0; c < host_.dim[1]; ++c) {
      const auto i = static_cast<size_t>(r * host_.stride[0] + c);
      if (host_.dtype == DType::kBF16) {
        bf16 x;
        std::memcpy(&x, other.data() + 2 * i, 2);
        v.push_back(static_cast<float>(x));
      } else {
        float x;
        std::memcpy(&x, other.data() + 4 * i, 4);
        v.push_back(x);
      }
    }
  return v;
}

QTwin::QTwin(int64_t rows, int64_t cols, int block_rows, ScaleFormat format, ScaleLayout layout, int64_t pad)
    : codes(DType::kU8, rows, cols, pad), scales(format == ScaleFormat::kUE8M0 ? DType::kU8 : DType::kF32, 1, num_scales(rows, cols, block_rows, layout)) {
  Tensor s = scales.host();
  q = {codes.host(), Tensor(s.data, s.dtype, {s.dim[1]}), block_rows, format, layout};
}
QTensor QTwin::on_gpu() const {
  QTensor g = q;
  g.codes = codes.gpu();
  g.scales.data = scales.gpu().data;
  return g;
}
bool QTwin::same_bits(Backends& b) const { return codes.same_bits(b) && scales.same_bits(b); }

std::vector<int64_t> Dice::offsets(int num_groups, int64_t most_rows) {
  std::vector<int64_t> offsets{0};
  for (int g = 0; g < num_groups; ++g) offsets.push_back(offsets.back() + (one_of(0, 2) == 0 ? 0 : one_of(1, most_rows)));
  return offsets;
}

void fill(Twin& t, Kind kind, const std::string& purpose) {
  const Rng rng(seed(), purpose);
  const Tensor h = t.host();
  const float special[] = {0.0f, -0.0f, std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(),
                           -std::numeric_limits<float>::quiet_NaN(), 1e-40f, -1e-40f, 448.0f, 1e30f, 3e-5f};
  for (int64_t r = 0; r < h.dim[0]; ++r)
    for (int64_t c = 0; c < h.dim[1]; ++c) {
      const auto i = static_cast<uint64_t>(r * h.dim[1] + c);
      double x = rng.normal(2 * i);
      const uint64_t dice = rng.below(2 * i + 1, 500);
      if (kind == Kind::kOutliers && dice == 0) x *= 1000;
      if (kind == Kind::kGradient) x *= 1e-7 * std::exp(2 * rng.normal(2 * i + 1));
      // Rows and tiles of their own for what poisons a tile: zeros, one infinity, a NaN, values below the floor.
      if (kind == Kind::kSpecial) {
        const int64_t what = (r + c / 128) % 7;
        if (what == 1) x = 0;
        if (what == 2 && dice < 20) x = special[dice % 11];
        if (what == 3) x *= 1e-6;
        if (what == 4 && dice == 1) x = special[4 + dice % 2];
        if (what == 5) x *= 1e-39;
      }
      t.set(r, c, static_cast<float>(x));
    }
}

}  // namespace atoll::gpu_test
