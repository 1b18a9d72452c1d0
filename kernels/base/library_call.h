// LibraryCall marks the time this thread spends inside a library, so that a test which counts heap allocations can tell the library's own from ours.
#pragma once

namespace atoll {

class LibraryCall {
 public:
  LibraryCall();
  ~LibraryCall();
  LibraryCall(const LibraryCall&) = delete;
  static bool is_active();  // on the calling thread; safe inside operator new
};

}  // namespace atoll
