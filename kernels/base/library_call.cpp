// The marker is a depth of the calling thread: calls nest, and other threads' allocations are not excused by it.
#include "kernels/base/library_call.h"

namespace atoll {
namespace {
thread_local int depth = 0;  // of this thread's nested calls; not state of a computation
}  // namespace

LibraryCall::LibraryCall() { ++depth; }
LibraryCall::~LibraryCall() { --depth; }
bool LibraryCall::is_active() { return depth > 0; }

}  // namespace atoll
