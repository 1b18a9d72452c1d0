// Thrust: sort, reduce, scan, transform on device vectors.
#include <thrust/device_vector.h>
#include <thrust/host_vector.h>
#include <thrust/reduce.h>
#include <thrust/scan.h>
#include <thrust/sequence.h>
#include <thrust/sort.h>
#include <thrust/transform.h>
#include <thrust/unique.h>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
struct Sq {
  __host__ __device__ float operator()(float x) const { return x * x; }
};
struct Less {
  __host__ __device__ bool operator()(const int2& a, const int2& b) const { return a.x != b.x ? a.x < b.x : a.y > b.y; }
};
int main() {
  int n = 3000, fails = 0;
  thrust::host_vector<float> h(n);
  for (int i = 0; i < n; i++) h[i] = (rand() % 1000) / 10.f;
  thrust::device_vector<float> d = h;
  thrust::sort(d.begin(), d.end());
  thrust::host_vector<float> s = d, r = h;
  std::sort(r.begin(), r.end());
  bool ok = s == r;
  printf("thrust::sort               %s\n", ok ? "ok" : "FAIL");
  fails += !ok;
  thrust::transform(d.begin(), d.end(), d.begin(), Sq());
  float sum = thrust::reduce(d.begin(), d.end());
  double ref = 0;
  for (float v : r) ref += (double)v * v;
  ok = fabs(sum - ref) < ref * 1e-5;
  printf("thrust::transform, reduce  %s\n", ok ? "ok" : "FAIL");
  fails += !ok;
  thrust::device_vector<int2> q(n);
  thrust::host_vector<int2> hq(n);
  for (int i = 0; i < n; i++) hq[i] = make_int2(rand() % 50, rand() % 1000);
  q = hq;
  thrust::stable_sort(q.begin(), q.end(), Less());
  thrust::host_vector<int2> gq = q;
  std::stable_sort(hq.begin(), hq.end(), Less());
  ok = true;
  for (int i = 0; i < n; i++) ok &= gq[i].x == hq[i].x && gq[i].y == hq[i].y;
  printf("thrust::stable_sort (merge) %s\n", ok ? "ok" : "FAIL");
  fails += !ok;
  thrust::device_vector<int> u(n);
  thrust::sequence(u.begin(), u.end());
  thrust::exclusive_scan(u.begin(), u.end(), u.begin());
  ok = u[n - 1] == (n - 1) * (n - 2) / 2;
  printf("thrust::exclusive_scan     %s\n", ok ? "ok" : "FAIL");
  fails += !ok;
  printf("%d failures\n", fails);
  return fails;
}
