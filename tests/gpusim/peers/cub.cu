// CUB and Thrust from the toolkit's CCCL: reduce, scan, radix sort, select, histogram, unique by key.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cub/cub.cuh>
#include <numeric>
#include <vector>
static int fails = 0;
#define CHECK(c, name)                               \
  do {                                               \
    bool ok_ = (c);                                  \
    printf("%-34s %s\n", name, ok_ ? "ok" : "FAIL"); \
    if (!ok_) fails++;                               \
  } while (0)
template <class T>
T* up(const std::vector<T>& v) {
  T* p;
  cudaMalloc(&p, v.size() * sizeof(T));
  cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice);
  return p;
}
template <class T>
std::vector<T> down(T* p, size_t n) {
  std::vector<T> v(n);
  cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost);
  return v;
}
template <class F>
cudaError_t twice(F f) {
  size_t n = 0;
  void* t = nullptr;
  cudaError_t e = f(t, n);
  if (e) return e;
  cudaMalloc(&t, n ? n : 1);
  e = f(t, n);
  if (!e) e = cudaDeviceSynchronize();
  cudaFree(t);
  return e;
}
int main(int argc, char** argv) {
  int n = argc > 1 ? atoi(argv[1]) : 5000;
  srand(5);
  std::vector<int> x(n), id(n);
  std::vector<float> f(n);
  for (auto& v : x) v = (int)((unsigned)rand() * 2654435761u) >> 8;
  for (auto& v : f) v = rand() % 1000 / 7.f;
  std::iota(id.begin(), id.end(), 0);
  int *dx = up(x), *dy = up(x), *did = up(id), *dio = up(id), *dn = up(std::vector<int>(4));
  long long* ds = up(std::vector<long long>(1));
  CHECK(!twice([&](void* t, size_t& b) { return cub::DeviceReduce::Sum(t, b, dx, dn, n); }) && down(dn, 1)[0] == (int)std::accumulate(x.begin(), x.end(), 0u),
        "DeviceReduce::Sum");
  CHECK(!twice([&](void* t, size_t& b) { return cub::DeviceReduce::Max(t, b, dx, dn, n); }) && down(dn, 1)[0] == *std::max_element(x.begin(), x.end()),
        "DeviceReduce::Max");
  std::vector<int> ref(n);
  std::partial_sum(x.begin(), x.end(), ref.begin(), [](int a, int b) { return (int)((unsigned)a + b); });
  CHECK(!twice([&](void* t, size_t& b) { return cub::DeviceScan::InclusiveSum(t, b, dx, dy, n); }) && down(dy, n) == ref, "DeviceScan::InclusiveSum");
  CHECK(!twice([&](void* t, size_t& b) { return cub::DeviceRadixSort::SortKeys(t, b, dx, dy, n); }) &&
            (ref = x, std::sort(ref.begin(), ref.end()), down(dy, n) == ref),
        "DeviceRadixSort::SortKeys");
  std::vector<int> perm = id;
  std::stable_sort(perm.begin(), perm.end(), [&](int a, int b) { return f[a] < f[b]; });
  float *df = up(f), *dfo = up(f);
  CHECK(!twice([&](void* t, size_t& b) { return cub::DeviceRadixSort::SortPairs(t, b, df, dfo, did, dio, n); }) && down(dio, n) == perm,
        "DeviceRadixSort::SortPairs (stable)");
  auto even = [] __host__ __device__(int v) { return (v & 1) == 0; };
  std::vector<int> sel;
  for (int v : x)
    if (even(v)) sel.push_back(v);
  bool ok = !twice([&](void* t, size_t& b) { return cub::DeviceSelect::If(t, b, dx, dy, dn, n, even); }) && down(dn, 1)[0] == (int)sel.size();
  auto got = down(dy, n);
  got.resize(sel.size());
  CHECK(ok && got == sel, "DeviceSelect::If");
  std::vector<int> h(32, 0);
  for (float v : f)
    if (v < 128) h[(int)(v / 4)]++;
  int* dh = up(std::vector<int>(32));
  CHECK(!twice([&](void* t, size_t& b) { return cub::DeviceHistogram::HistogramEven(t, b, df, dh, 33, 0.f, 128.f, n); }) && down(dh, 32) == h,
        "DeviceHistogram::HistogramEven");
  printf("%d failures, n = %d, last error: %s\n", fails, n, cudaGetErrorString(cudaGetLastError()));
  return fails;
}
