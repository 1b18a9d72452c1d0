// The two streams of a GPU context as a test uses them: copies on the communication stream, ordered against the ops by events (streams.cu sees the back end's state).
#pragma once
#include "kernels/base/context.h"

namespace atoll::gpu_test {

struct CommCopy { void* to; const void* from; int64_t bytes; bool after_compute = true, before_compute = true; };  // false: the event wait is left out
void copy_on_comm(Context& ctx, const CommCopy& copy);
void write_workspace(Context& ctx, int64_t bytes);  // throws where the workspace is smaller

}  // namespace atoll::gpu_test
