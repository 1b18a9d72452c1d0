// The queues of stream_engine.h and the order they imply between any two operations (used by the race checker).
#include "tests/gpusim/stream_engine.h"

#include "tests/gpusim/api.h"

namespace atoll::gpusim {
namespace {
struct OpRecord {
  int stream;
  u32 seq;
  std::string name;
};
std::deque<OpRecord>& op_records() {
  static auto* r = new std::deque<OpRecord>(1);  // 0: none
  return *r;
}
void join(std::vector<u32>& a, const std::vector<u32>& b) {
  if (a.size() < b.size()) a.resize(b.size());
  for (size_t k = 0; k < b.size(); k++) a[k] = std::max(a[k], b[k]);
}
}  // namespace

StreamEngine& streams() {
  static auto* e = new StreamEngine;  // used until the process has ended
  return *e;
}
bool op_seen(const std::vector<u32>& before, u32 op) {
  const OpRecord& r = op_records()[op];
  return (size_t)r.stream < before.size() && before[r.stream] >= r.seq;
}
std::string op_name(u32 op) {
  const OpRecord& r = op_records()[op];
  return r.name + " (operation " + std::to_string(r.seq) + " of stream " + std::to_string(r.stream) + ")";
}

StreamEngine::StreamEngine() : queues_(1), rng_(options().seed + 77) {}

int StreamEngine::create(bool blocking) {
  queues_.emplace_back();
  queues_.back().blocking = blocking;
  return (int)queues_.size() - 1;
}
void StreamEngine::enqueue(int stream, std::shared_ptr<Launch> launch, std::function<int(Launch&)> run) {
  Queue& q = queues_[stream];
  auto after = [&](int other) {
    const Queue& o = queues_[other];
    if (!o.issued) return;
    q.waits.push_back({other, o.issued});
    join(q.before, o.before);
  };
  if (stream == kLegacy) {
    for (int s = 1; s < (int)queues_.size(); s++)
      if (queues_[s].blocking) after(s);
  } else if (q.blocking)
    after(kLegacy);
  join(q.before, host_);
  launch->before = q.before;
  launch->op = (u32)op_records().size();
  op_records().push_back({stream, ++q.issued, launch->name});
  if ((int)q.before.size() <= stream) q.before.resize(stream + 1);
  q.before[stream] = q.issued;
  q.ops.push_back({std::move(launch), std::move(run), std::move(q.waits)});
  q.waits.clear();
  if (!options().async_streams)
    while (run_one()) {}
}
StreamEngine::Mark StreamEngine::tail(int stream) {
  const Queue& q = queues_[stream];
  return {stream, q.issued, q.before};
}
void StreamEngine::wait(int stream, const Mark& m) {
  if (!m.seq) return;
  queues_[stream].waits.push_back({m.stream, m.seq});
  join(queues_[stream].before, m.before);
}
bool StreamEngine::run_one() {
  std::vector<int> runnable;
  for (int s = 0; s < (int)queues_.size(); s++) {
    if (queues_[s].ops.empty()) continue;
    bool ready = true;
    for (auto& [stream, seq] : queues_[s].ops.front().waits) ready &= queues_[stream].done >= seq;
    if (ready) runnable.push_back(s);
  }
  if (runnable.empty()) return false;
  const int s = options().seed ? runnable[rng_() % runnable.size()] : runnable.front();
  Op op = std::move(queues_[s].ops.front());
  queues_[s].ops.pop_front();
  if (!sticky_error()) {
    int e = op.run(*op.launch);
    if (!e && op.launch->num_races) {
      fprintf(stderr, "[gpusim] %s: %d race%s\n", op.launch->name.c_str(), op.launch->num_races, op.launch->num_races == 1 ? "" : "s");
      e = kLaunchFailure;
    }
    if (e) set_error(e, true);
  }
  queues_[s].done++;
  return true;
}
bool StreamEngine::poll(const Mark& m) {
  if (queues_[m.stream].done < m.seq) run_one();
  if (queues_[m.stream].done < m.seq) return false;
  join(host_, m.before);
  return true;
}
void StreamEngine::synchronize(const Mark& m) {
  while (queues_[m.stream].done < m.seq && run_one()) {}
  join(host_, m.before);
}
void StreamEngine::synchronize_all() {
  while (run_one()) {}
  for (auto& q : queues_) join(host_, q.before);
}
bool StreamEngine::idle() const {
  for (auto& q : queues_)
    if (!q.ops.empty()) return false;
  return true;
}

}  // namespace atoll::gpusim
