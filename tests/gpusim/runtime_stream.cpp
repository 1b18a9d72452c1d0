// The CUDA runtime API: streams and events over the stream engine; what happens when the process ends.
#include <unistd.h>

#include <set>

#include "tests/gpusim/runtime.h"

namespace {
// Runs what is still queued and reports what was never freed, after the program's own handlers and static destructors.
void at_exit(int status, void*) {
  Guard lk(api_mutex());
  streams().synchronize_all();
  if (!options().leaks) return;
  const int leaks = mem_report_leaks();
  if (leaks && status == 0) {
    fprintf(stderr, "[gpusim] %d leaked allocation%s: exit status 86\n", leaks, leaks == 1 ? "" : "s");
    fflush(nullptr);
    _exit(86);
  }
}
__attribute__((constructor)) void register_exit() { on_exit(at_exit, nullptr); }

std::set<const void*>& handles() {  // streams and events that exist
  static auto* live = new std::set<const void*>;
  return *live;
}
bool is_live(const void* handle) {
  Guard lk(api_mutex());
  return handles().count(handle) > 0;
}
cudaError_t create(cudaStream_t* s, unsigned flags, int priority) {
  Guard lk(api_mutex());
  if (!s) return refuse("cudaStreamCreate", "nowhere to put the stream", kInvalidValue);
  *s = (cudaStream_t) new Stream{streams().create(!(flags & cudaStreamNonBlocking)), flags, priority};
  handles().insert(*s);
  OK;
}
bool is_own(cudaStream_t s) { return (u64)s > 2; }
cudaError_t refuse_event(const char* call) { return refuse(call, "no such event (never created, or destroyed)", 400); }
}  // namespace

namespace atoll::gpusim {
bool is_stream(cudaStream_t s) { return !is_own(s) || is_live(s); }
cudaError_t refuse(const char* call, const std::string& why, int code) {
  fprintf(stderr, "[gpusim] %s: %s\n", call, why.c_str());
  return ret(code);
}
}  // namespace atoll::gpusim

extern "C" {
API cudaError_t cudaStreamCreate(cudaStream_t* s) { return create(s, 0, 0); }
API cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned f) { return create(s, f, 0); }
API cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned f, int p) { return create(s, f, p); }
API cudaError_t cudaStreamDestroy(cudaStream_t s) {
  Guard lk(api_mutex());
  if (!is_own(s)) OK;
  if (handles().erase(s) == 0) return refuse_stream("cudaStreamDestroy");
  delete (Stream*)s;
  OK;
}
API cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  Guard lk(api_mutex());
  if (!is_stream(s)) return refuse_stream("cudaStreamSynchronize");
  streams().synchronize(streams().tail(queue_of(s)));
  return synced();
}
API cudaError_t cudaStreamQuery(cudaStream_t s) {
  Guard lk(api_mutex());
  if (!is_stream(s)) return refuse_stream("cudaStreamQuery");
  const bool done = streams().poll(streams().tail(queue_of(s)));
  return sticky_error() ? synced() : done ? cudaSuccess : cudaErrorNotReady;
}
API cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
  Guard lk(api_mutex());
  if (!is_stream(s)) return refuse_stream("cudaStreamWaitEvent");
  if (!is_live(e)) return refuse_event("cudaStreamWaitEvent");
  streams().wait(queue_of(s), ((Event*)e)->mark);
  OK;
}
API cudaError_t cudaStreamGetFlags(cudaStream_t s, unsigned* f) {
  if (!is_stream(s)) return refuse_stream("cudaStreamGetFlags");
  *f = is_own(s) ? ((Stream*)s)->flags : 0;
  OK;
}
API cudaError_t cudaStreamGetPriority(cudaStream_t s, int* p) {
  if (!is_stream(s)) return refuse_stream("cudaStreamGetPriority");
  *p = is_own(s) ? ((Stream*)s)->priority : 0;
  OK;
}
API cudaError_t cudaStreamGetDevice(cudaStream_t, int* d) {
  *d = 0;
  OK;
}
API cudaError_t cudaStreamGetId(cudaStream_t s, unsigned long long* id) {
  *id = (u64)s;
  OK;
}
API cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* s) {
  *s = cudaStreamCaptureStatusNone;
  OK;
}
API cudaError_t cudaStreamGetCaptureInfo(cudaStream_t, cudaStreamCaptureStatus* s, unsigned long long* id, cudaGraph_t*, const cudaGraphNode_t**,
                                         const cudaGraphEdgeData**, size_t*) {
  *s = cudaStreamCaptureStatusNone;
  if (id) *id = 0;
  OK;
}
API cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) { return ret(801); }
API cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t*) { return ret(801); }
API cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { OK; }
API cudaError_t cudaStreamSetAttribute(cudaStream_t, cudaStreamAttrID, const cudaStreamAttrValue*) { OK; }
API cudaError_t cudaStreamGetAttribute(cudaStream_t, cudaStreamAttrID, cudaStreamAttrValue* v) {
  memset(v, 0, sizeof *v);
  OK;
}
API cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned flags) {
  Guard lk(api_mutex());
  if (!e) return refuse("cudaEventCreate", "nowhere to put the event", kInvalidValue);
  *e = (cudaEvent_t) new Event{(flags & cudaEventDisableTiming) == 0, nullptr, {}};
  handles().insert(*e);
  OK;
}
API cudaError_t cudaEventCreate(cudaEvent_t* e) { return cudaEventCreateWithFlags(e, cudaEventDefault); }
API cudaError_t cudaEventDestroy(cudaEvent_t e) {
  Guard lk(api_mutex());
  if (handles().erase(e) == 0) return refuse_event("cudaEventDestroy");
  delete (Event*)e;
  OK;
}
API cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
  Guard lk(api_mutex());
  if (!is_stream(s)) return refuse_stream("cudaEventRecord");
  if (!is_live(e)) return refuse_event("cudaEventRecord");
  Event& event = *(Event*)e;
  event.time = std::make_shared<std::chrono::steady_clock::time_point>();
  auto op = std::make_shared<Launch>();
  op->name = "cudaEventRecord";
  streams().enqueue(queue_of(s), op, [time = event.time](Launch&) {
    *time = std::chrono::steady_clock::now();
    return 0;
  });
  event.mark = streams().tail(queue_of(s));
  OK;
}
API cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned) { return cudaEventRecord(e, s); }
API cudaError_t cudaEventSynchronize(cudaEvent_t e) {
  Guard lk(api_mutex());
  if (!is_live(e)) return refuse_event("cudaEventSynchronize");
  streams().synchronize(((Event*)e)->mark);
  return synced();
}
API cudaError_t cudaEventQuery(cudaEvent_t e) {
  Guard lk(api_mutex());
  if (!is_live(e)) return refuse_event("cudaEventQuery");
  const bool done = streams().poll(((Event*)e)->mark);
  return sticky_error() ? synced() : done ? cudaSuccess : cudaErrorNotReady;
}
API cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t a, cudaEvent_t b) {
  if (!is_live(a) || !is_live(b)) return refuse_event("cudaEventElapsedTime");
  const Event &first = *(Event*)a, &last = *(Event*)b;
  if (!first.has_time || !last.has_time) return refuse("cudaEventElapsedTime", "an event made with cudaEventDisableTiming has no time", 400);
  if (!first.time || !last.time) return refuse("cudaEventElapsedTime", "an event was never recorded", 400);
  if (cudaEventQuery(a) != cudaSuccess || cudaEventQuery(b) != cudaSuccess) return cudaErrorNotReady;
  *ms = std::chrono::duration<float, std::milli>(*last.time - *first.time).count();
  OK;
}
API cudaError_t cudaProfilerStart() { OK; }
API cudaError_t cudaProfilerStop() { OK; }
}
