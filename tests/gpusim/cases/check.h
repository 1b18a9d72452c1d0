// What the CUDA test programs share: a check that names its fact, and vectors to and from the device. A program ends with `return finish();`.
#pragma once
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

inline int& num_failed() {
  static int n = 0;
  return n;
}
inline void check(bool ok, const char* fact) {
  if (!ok) ++num_failed();
  std::printf("%s %s\n", ok ? "ok    " : "FAILED", fact);
}
inline void must(cudaError_t e, const char* what) {
  if (e == cudaSuccess) return;
  std::printf("FAILED %s: %s\n", what, cudaGetErrorString(e));
  ++num_failed();
}
inline std::vector<void*>& device_memory() {  // freed by finish()
  static std::vector<void*> v;
  return v;
}
template <class T>
T* device_alloc(size_t n) {
  T* p = nullptr;
  must(cudaMalloc(&p, n * sizeof(T)), "cudaMalloc");
  device_memory().push_back(p);
  return p;
}
template <class T>
T* to_device(const std::vector<T>& v) {
  T* p = device_alloc<T>(v.size());
  must(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice), "copy to the device");
  return p;
}
template <class T>
std::vector<T> to_host(const T* p, size_t n) {
  std::vector<T> v(n);
  must(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost), "copy to the host");
  return v;
}
inline int finish() {
  must(cudaDeviceSynchronize(), "the last launch");
  must(cudaGetLastError(), "the last call");
  for (void* p : device_memory()) cudaFree(p);
  std::printf("%s\n", num_failed() ? "FAILED" : "all ok");
  return num_failed() != 0;
}
