// The approximate functions stay within the documented bounds; with GPUSIM_APPROX=worst they use them up.
#include <cmath>
#include <cstring>
#include <string>

#include "tests/gpusim/approximate.h"
#include "tests/gpusim/cases/check.h"

constexpr int kFunctions = 9;
static const char* const kNames[kFunctions] = {"ex2", "lg2", "rcp", "rsqrt", "sqrt", "tanh", "sin", "cos", "div"};
__global__ void functions(const float* x, float* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const float v = x[i];
  float r[kFunctions];
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r[0]) : "f"(v));
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(r[1]) : "f"(v));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r[2]) : "f"(v));
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(r[3]) : "f"(v));
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(r[4]) : "f"(v));
  asm("tanh.approx.f32 %0, %1;" : "=f"(r[5]) : "f"(v));
  asm("sin.approx.ftz.f32 %0, %1;" : "=f"(r[6]) : "f"(v));
  asm("cos.approx.ftz.f32 %0, %1;" : "=f"(r[7]) : "f"(v));
  asm("div.approx.ftz.f32 %0, %1, %2;" : "=f"(r[8]) : "f"(3.f), "f"(v));
  for (int k = 0; k < kFunctions; k++) y[k * n + i] = r[k];
}
static double exact(int k, double x) {
  switch (k) {
    case 0: return std::exp2(x);
    case 1: return std::log2(x);
    case 2: return 1 / x;
    case 3: return 1 / std::sqrt(x);
    case 4: return std::sqrt(x);
    case 5: return std::tanh(x);
    case 6: return std::sin(x);
    case 7: return std::cos(x);
    default: return 3 / x;
  }
}
int main() {
  const int n = 4096;
  std::vector<float> x(n);
  for (int i = 0; i < n; i++) x[i] = 0.001f + 3.1f * i / n;
  float* y = device_alloc<float>(n * kFunctions);
  functions<<<n / 128, 128>>>(to_device(x), y, n);
  const std::vector<float> got = to_host(y, n * kFunctions);
  const char* mode = std::getenv("GPUSIM_APPROX");
  const bool worst = mode && std::string(mode) == "worst";
  for (int k = 0; k < kFunctions; k++) {
    double used = 0;
    for (int i = 0; i < n; i++) {
      const double e = exact(k, x[i]);
      const atoll::gpusim::ErrorBound b = atoll::gpusim::error_bound(kNames[k], x[i]);
      const double room = std::fmax(b.relative * std::fabs(e), b.absolute);
      if (room > 0) used = std::fmax(used, std::fabs(got[k * n + i] - e) / room);
    }
    const std::string fact = std::string(kNames[k]) + ".approx uses " + std::to_string(used) + " of its error bound";
    check(used <= 1.0 && (!worst || used > 0.7), fact.c_str());
  }
  return finish();
}
