// parallel_for: work items over the context's threads. Policy: item i is done by one thread and never depends on which; so bits do not depend on the
// thread count. `body(i)` must not throw (check before), and runs without a parallel region when one thread is enough.
#pragma once
#include <cstdint>

namespace atoll::cpu {

// body(item) for all items, thread t taking a contiguous share of them.
template <class Body>
void parallel_for(int num_threads, int64_t num_items, const Body& body) {
  const int64_t threads = num_items < num_threads ? num_items : num_threads;
  if (threads <= 1) {
    for (int64_t i = 0; i < num_items; ++i) body(i);
    return;
  }
#pragma omp parallel for num_threads(static_cast<int>(threads)) schedule(static, 1)
  for (int64_t t = 0; t < threads; ++t)
    for (int64_t i = num_items * t / threads; i < num_items * (t + 1) / threads; ++i) body(i);
}

// body(thread, begin, end): the same shares, for bodies that keep scratch of their thread. thread < num_threads.
template <class Body>
void parallel_ranges(int num_threads, int64_t num_items, const Body& body) {
  const int64_t threads = num_items < num_threads ? num_items : num_threads;
  if (threads <= 1) {
    if (num_items > 0) body(0, int64_t{0}, num_items);
    return;
  }
#pragma omp parallel for num_threads(static_cast<int>(threads)) schedule(static, 1)
  for (int64_t t = 0; t < threads; ++t) body(static_cast<int>(t), num_items * t / threads, num_items * (t + 1) / threads);
}

}  // namespace atoll::cpu
