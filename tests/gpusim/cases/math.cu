// Device math library functions and rounding-mode intrinsics against the host.
#include "tests/gpusim/cases/check.h"

#include <cfenv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>
#define N 4096
#define F 24
__global__ void k(const float* x, const float* y, double* o) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  float a = x[i], b = y[i];
  double d = a, e = b;
  double* r = o + (size_t)i * F;
  r[0] = sinf(a);
  r[1] = cosf(a * 1000);
  r[2] = expf(b);
  r[3] = logf(fabsf(a));
  r[4] = powf(fabsf(a), b);
  r[5] = erff(a);
  r[6] = tanhf(b);
  r[7] = sqrtf(fabsf(a));
  r[8] = sin(d);
  r[9] = exp(e);
  r[10] = log(fabs(d));
  r[11] = pow(fabs(d), e);
  r[12] = d / e;
  r[13] = sqrt(fabs(d));
  r[14] = fmod(d, e);
  r[15] = a / b;
  r[16] = __frcp_rz(b);
  r[17] = __fadd_rd(a, b);
  r[18] = __fmaf_ru(a, b, a);
  r[19] = (double)__float2int_rn(a) + (double)__float2ll_rz(b * 1e6f);
  r[20] = (double)(unsigned char)(int)fabsf(a);
  r[21] = rsqrtf(fabsf(a));
  r[22] = cbrt(d) + lgamma(fabs(e));
  r[23] = __double2float_rd(d / 3) + (double)__ull2float_rz((unsigned long long)(fabs(d) * 1e15));
}
int main() {
  std::vector<float> x(N), y(N);
  srand(9);
  for (auto& v : x) v = (rand() % 200001 - 100000) / 3000.f + 1e-3f;
  for (auto& v : y) v = (rand() % 200001 - 100000) / 30000.f + 1e-4f;
  float *dx, *dy;
  double* dd;
  cudaMalloc(&dx, N * 4);
  cudaMalloc(&dy, N * 4);
  cudaMalloc(&dd, N * F * 8);
  cudaMemcpy(dx, x.data(), N * 4, cudaMemcpyHostToDevice);
  cudaMemcpy(dy, y.data(), N * 4, cudaMemcpyHostToDevice);
  k<<<N / 128, 128>>>(dx, dy, dd);
  std::vector<double> o(N * F);
  if (cudaMemcpy(o.data(), dd, N * F * 8, cudaMemcpyDeviceToHost)) {
    printf("error\n");
    return 1;
  }
  double worst[F] = {};
  for (int i = 0; i < N; i++) {
    float a = x[i], b = y[i];
    double d = a, e = b;
    double r[F];
    r[0] = sin(d);
    r[1] = cos((double)(a * 1000));
    r[2] = exp(e);
    r[3] = log(fabs(d));
    r[4] = pow(fabs(d), e);
    r[5] = erf(d);
    r[6] = tanh(e);
    r[7] = sqrt(fabs(d));
    r[8] = sin(d);
    r[9] = exp(e);
    r[10] = log(fabs(d));
    r[11] = pow(fabs(d), e);
    r[12] = d / e;
    r[13] = sqrt(fabs(d));
    r[14] = fmod(d, e);
    r[15] = a / b;
    volatile float va = a, vb = b;
    fesetround(FE_TOWARDZERO);
    r[16] = 1.0f / vb;
    volatile float uz = (float)(unsigned long long)(fabs(d) * 1e15);
    fesetround(FE_DOWNWARD);
    r[17] = va + vb;
    volatile float dr = (float)(d / 3);
    fesetround(FE_UPWARD);
    r[18] = fmaf(va, vb, va);
    fesetround(FE_TONEAREST);
    r[19] = (double)lrintf(a) + (double)(long long)(b * 1e6f);
    r[20] = (double)(unsigned char)(int)fabsf(a);
    r[21] = 1 / sqrt(fabs(d));
    r[22] = cbrt(d) + lgamma(fabs(e));
    volatile double d3 = d / 3;
    fesetround(FE_DOWNWARD);
    dr = (float)d3;
    fesetround(FE_TONEAREST);
    r[23] = dr + (double)uz;
    for (int q = 0; q < F; q++) {
      double err = fabs(o[(size_t)i * F + q] - r[q]) / (fabs(r[q]) + 1e-6);
      if (!(err <= worst[q])) worst[q] = err;
    }
  }
  for (int q = 0; q < F; q++) {
    const bool exact = q == 15 || (q >= 16 && q <= 20) || q == 23;  // operations that IEEE 754 rounds correctly
    const double tolerance = exact ? 0 : (q >= 8 && q <= 14) || q == 22 ? 1e-11 : 3e-5;
    char fact[80];
    snprintf(fact, sizeof fact, "function %d is within %g of the host's (%g)", q, tolerance, worst[q]);
    check(worst[q] <= tolerance, fact);
  }
  cudaFree(dx), cudaFree(dy), cudaFree(dd);
  return finish();
}
