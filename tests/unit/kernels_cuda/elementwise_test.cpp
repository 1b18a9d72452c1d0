// RMSNorm, SwiGLU and AdamW on the GPU: against the same formulas in FP64, against the CPU's bits where the arithmetic is the same, and their FP8 casts against
// the cast of the plain result. Results of storage type may differ from FP64 by their rounding and a little; sums by their length.
#include <catch2/catch.hpp>
#include <cmath>

#include "kernels/quant.h"
#include "tests/unit/kernels_cuda/fixture.h"

using namespace atoll;
using namespace atoll::gpu_test;

namespace {

// |got - want| <= 2^-8 |want| (BF16 rounding, twice what one needs) + floor.
int64_t beyond(const std::vector<float>& got, const std::vector<double>& want, double relative, double floor) {
  int64_t n = 0;
  for (size_t i = 0; i < want.size(); ++i) n += !(std::abs(static_cast<double>(got.at(i)) - want[i]) <= relative * std::abs(want[i]) + floor);
  return n;
}
double bf16_of(double x) { return static_cast<double>(static_cast<float>(bf16(static_cast<float>(x)))); }
Tensor flat(const Twin& t, bool gpu) {
  Tensor x = gpu ? t.gpu() : t.host();
  return Tensor(x.data, x.dtype, {x.dim[0] * x.dim[1]});
}

struct Shape { int64_t rows, cols, pad; };
const std::vector<Shape> kShapes = {{1, 16, 0}, {3, 128, 8}, {7, 528, 16}, {70, 1536, 0}, {2, 7168, 8}};

}  // namespace

TEST_CASE("RMSNorm with and without residual equals FP64, and its cast is the cast of its result", "[rows]") {
  Backends b;
  for (const Shape& s : kShapes)
    for (bool with_residual : {false, true}) {
      INFO(s.rows << " x " << s.cols << " residual " << with_residual);
      Twin x(DType::kBF16, s.rows, s.cols, s.pad), residual(DType::kBF16, s.rows, s.cols, s.pad), h(DType::kBF16, s.rows, s.cols, 8), y(DType::kBF16, s.rows, s.cols, s.pad);
      Twin gain(DType::kBF16, 1, s.cols), rstd(DType::kF32, 1, s.rows);
      fill(x, Kind::kOutliers, "x");
      fill(residual, Kind::kNormal, "residual");
      fill(gain, Kind::kNormal, "gain");
      for (Twin* t : {&x, &residual, &h, &y, &gain, &rstd}) t->upload(b);
      RmsNorm op{x.gpu(), {}, flat(gain, true), {}, y.gpu(), flat(rstd, true), 1e-6};
      if (with_residual) op.residual_TD = residual.gpu(), op.h_TD = h.gpu();
      rms_norm(b.gpu, op);
      std::vector<double> want_y, want_h, want_rstd;
      for (int64_t r = 0; r < s.rows; ++r) {
        double squares = 0;
        std::vector<double> row;
        for (int64_t c = 0; c < s.cols; ++c) {
          double v = static_cast<double>(x.at(r, c));
          if (with_residual) v = bf16_of(v + static_cast<double>(residual.at(r, c)));
          row.push_back(v);
          want_h.push_back(v);
          squares += v * v;
        }
        want_rstd.push_back(1 / std::sqrt(squares / static_cast<double>(s.cols) + 1e-6));
        for (int64_t c = 0; c < s.cols; ++c) want_y.push_back(row[static_cast<size_t>(c)] * want_rstd.back() * static_cast<double>(gain.at(0, c)));
      }
      const std::vector<float> plain = y.values(b);
      CHECK(beyond(plain, want_y, 0x1p-8, 1e-30) == 0);
      CHECK(beyond(rstd.values(b), want_rstd, 1e-5, 0) == 0);
      if (with_residual) CHECK(beyond(h.values(b), want_h, 0, 0) == 0);
      // Fused with the cast: the same y, and the codes of that y.
      for (bool keeps_y : {true, false}) {
        Twin y2(DType::kBF16, s.rows, s.cols, s.pad);
        y2.upload(b);
        QTwin q(s.rows, s.cols, 1, ScaleFormat::kF32, ScaleLayout::kMnMajor);
        q.upload(b);
        op.y_TD = keeps_y ? y2.gpu() : Tensor{};
        rms_norm_cast(b.gpu, {op, q.on_gpu()});
        if (keeps_y) CHECK(y2.download(b) == y.download(b));
        for (int64_t i = 0; i < s.rows * s.cols; ++i) y.set(i / s.cols, i % s.cols, plain[static_cast<size_t>(i)]);
        cast_tiles(b.cpu, {y.host(), q.q});
        CHECK(q.same_bits(b));
      }
    }
}

TEST_CASE("RMSNorm's gradients equal FP64; dgain is added to", "[rows]") {
  Backends b;
  for (const Shape& s : kShapes)
    for (bool with_add : {false, true}) {
      INFO(s.rows << " x " << s.cols << " add " << with_add);
      Twin dy(DType::kBF16, s.rows, s.cols, s.pad), h(DType::kBF16, s.rows, s.cols, s.pad), add(DType::kBF16, s.rows, s.cols, 8), dx(DType::kBF16, s.rows, s.cols, s.pad);
      Twin gain(DType::kBF16, 1, s.cols), rstd(DType::kF32, 1, s.rows), dgain(DType::kF32, 1, s.cols);
      fill(dy, Kind::kNormal, "dy");
      fill(h, Kind::kNormal, "h");
      fill(add, Kind::kNormal, "add");
      fill(gain, Kind::kNormal, "gain");
      fill(dgain, Kind::kNormal, "dgain");
      std::vector<double> want_dx, want_dgain;
      double scale = 0;
      for (int64_t c = 0; c < s.cols; ++c) want_dgain.push_back(static_cast<double>(dgain.at(0, c)));
      for (int64_t r = 0; r < s.rows; ++r) {
        double squares = 0, dot = 0;
        for (int64_t c = 0; c < s.cols; ++c) squares += static_cast<double>(h.at(r, c)) * static_cast<double>(h.at(r, c));
        rstd.set(0, r, static_cast<float>(1 / std::sqrt(squares / static_cast<double>(s.cols) + 1e-6)));
        const double inverse = static_cast<double>(rstd.at(0, r));
        for (int64_t c = 0; c < s.cols; ++c) {
          const double g = static_cast<double>(dy.at(r, c)) * static_cast<double>(h.at(r, c)) * inverse;
          want_dgain[static_cast<size_t>(c)] += g;
          dot += g * static_cast<double>(gain.at(0, c));
        }
        for (int64_t c = 0; c < s.cols; ++c) {
          const double grad = static_cast<double>(dy.at(r, c)) * static_cast<double>(gain.at(0, c));
          want_dx.push_back((grad - static_cast<double>(h.at(r, c)) * dot / static_cast<double>(s.cols) * inverse) * inverse + (with_add ? static_cast<double>(add.at(r, c)) : 0));
          scale = std::max(scale, std::abs(grad * inverse));
        }
      }
      for (Twin* t : {&dy, &h, &add, &dx, &gain, &rstd, &dgain}) t->upload(b);
      rms_norm_backward(b.gpu, {dy.gpu(), h.gpu(), flat(gain, true), flat(rstd, true), with_add ? add.gpu() : Tensor{}, dx.gpu(), flat(dgain, true)});
      CHECK(beyond(dx.values(b), want_dx, 0x1p-8, scale * 1e-5) == 0);
      CHECK(beyond(dgain.values(b), want_dgain, 1e-5, 1e-4) == 0);
      rms_norm_backward(b.gpu, {dy.gpu(), h.gpu(), flat(gain, true), flat(rstd, true), with_add ? add.gpu() : Tensor{}, dy.gpu(), {}});  // in place, without dgain
      CHECK(dy.values(b) == dx.values(b));
    }
}

TEST_CASE("SwiGLU and its gradients equal FP64, and its cast is the cast of its result", "[rows]") {
  Backends b;
  for (const Shape& s : kShapes)
    for (bool weighted : {false, true}) {
      INFO(s.rows << " x " << s.cols << " weighted " << weighted);
      const int64_t R = s.rows, F = s.cols;
      Twin gate_up(DType::kBF16, R, 2 * F), weight(DType::kF32, 1, R), y(DType::kBF16, R, F), dy(DType::kBF16, R, F), dgate_up(DType::kBF16, R, 2 * F), dweight(DType::kF32, 1, R);
      fill(gate_up, Kind::kOutliers, "gate_up");
      fill(weight, Kind::kNormal, "weight");
      fill(dy, Kind::kNormal, "dy");
      std::vector<double> want_y, want_dgate_up(static_cast<size_t>(R * 2 * F)), want_dweight, size_dweight;
      for (int64_t r = 0; r < R; ++r) {
        const double w = weighted ? static_cast<double>(weight.at(0, r)) : 1;
        double dot = 0, magnitude = 0;
        for (int64_t f = 0; f < F; ++f) {
          const double g = static_cast<double>(gate_up.at(r, f)), u = static_cast<double>(gate_up.at(r, F + f)), d = static_cast<double>(dy.at(r, f)), sig = 1 / (1 + std::exp(-g));
          want_y.push_back(w * g * sig * u);
          want_dgate_up[static_cast<size_t>(r * 2 * F + f)] = d * w * sig * u * (1 + g * (1 - sig));
          want_dgate_up[static_cast<size_t>(r * 2 * F + F + f)] = d * w * sig * g;
          dot += d * g * sig * u;
          magnitude += std::abs(d * g * sig * u);
        }
        want_dweight.push_back(dot);
        size_dweight.push_back(magnitude);
      }
      for (Twin* t : {&gate_up, &weight, &y, &dy, &dgate_up, &dweight}) t->upload(b);
      const Tensor w = weighted ? flat(weight, true) : Tensor{};
      swiglu(b.gpu, {gate_up.gpu(), w, y.gpu()});
      const std::vector<float> plain = y.values(b);
      CHECK(beyond(plain, want_y, 0x1p-8, 1e-30) == 0);
      QTwin q(R, F, 1, ScaleFormat::kPow2, ScaleLayout::kMnMajor);
      q.upload(b);
      swiglu_cast(b.gpu, {{gate_up.gpu(), w, {}}, q.on_gpu()});
      for (int64_t i = 0; i < R * F; ++i) y.set(i / F, i % F, plain[static_cast<size_t>(i)]);
      cast_tiles(b.cpu, {y.host(), q.q});
      CHECK(q.same_bits(b));
      swiglu_backward(b.gpu, {dy.gpu(), gate_up.gpu(), w, dgate_up.gpu(), weighted ? flat(dweight, true) : Tensor{}});
      CHECK(beyond(dgate_up.values(b), want_dgate_up, 0x1p-8, 1e-6) == 0);
      if (weighted) {
        const std::vector<float> got = dweight.values(b);
        for (size_t r = 0; r < want_dweight.size(); ++r) CHECK(std::abs(static_cast<double>(got[r]) - want_dweight[r]) <= 1e-5 * size_dweight[r]);
      }
      swiglu_backward(b.gpu, {dy.gpu(), gate_up.gpu(), w, gate_up.gpu(), {}});  // in place
      CHECK(gate_up.download(b) == dgate_up.download(b));
    }
}

TEST_CASE("AdamW on the GPU has the CPU's bits for both moment and weight types, step after step", "[rows]") {
  Backends b;
  for (int64_t n : {1, 8, 2048, 5003})
    for (DType moments : {DType::kF32, DType::kBF16})
      for (DType weights : {DType::kBF16, DType::kF32}) {
        INFO(n << " elements, moments " << name_of(moments) << ", weights " << name_of(weights));
        Twin master(DType::kF32, 1, n), grad(DType::kF32, 1, n), m(moments, 1, n), v(moments, 1, n), weight(weights, 1, n);
        fill(master, Kind::kNormal, "master");
        fill(grad, Kind::kGradient, "grad");
        for (int64_t i = 0; i < n; ++i) m.set(0, i, 0), v.set(0, i, 0);
        for (Twin* t : {&master, &grad, &m, &v, &weight}) t->upload(b);
        for (int64_t step = 1; step <= 3; ++step) {
          AdamW op{master.host(), grad.host(), m.host(), v.host(), weight.host(), 1e-3, 0.9, 0.95, 1e-8, 0.1, 0.37, step};
          adamw(b.cpu, op);
          op.master = master.gpu(), op.grad = grad.gpu(), op.m = m.gpu(), op.v = v.gpu(), op.weight = weight.gpu();
          adamw(b.gpu, op);
        }
        for (Twin* t : {&master, &m, &v, &weight}) CHECK(t->same_bits(b));
      }
}
