// The queues of stream_engine.h and the order they imply between any two operations (used by the race checker).
#include "tests/gpusim/stream_engine.h"

#include <chrono>

#include "tests/gpusim/api.h"

namespace atoll::gpusim {
namespace {
struct OpRecord {
  int stream;
  u32 seq;
  std::string name;
  std::vector<u32> order;
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

const std::vector<u32>& op_order(u32 op) { return op_records()[op].order; }

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
  op_records().push_back({stream, ++q.issued, launch->name, {}});
  if ((int)q.before.size() <= stream) q.before.resize(stream + 1);
  q.before[stream] = q.issued;
  if (options().race) op_records().back().order = q.before;
  q.ops.push_back({std::move(launch), std::move(run), std::move(q.waits)});
  q.waits.clear();
  if (!options().async_streams)
    while (advance(~0ull)) {}
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
std::vector<int> StreamEngine::ready() const {
  std::vector<int> streams;
  for (int s = 0; s < (int)queues_.size(); s++) {
    if (queues_[s].ops.empty() || queues_[s].busy) continue;
    bool may = true;
    for (auto& [stream, seq] : queues_[s].ops.front().waits) may &= queues_[stream].done >= seq;
    if (may) streams.push_back(s);
  }
  return streams;
}
bool StreamEngine::advance(u64 steps) {
  const std::vector<int> next = ready();
  const size_t n = next.size() + flights_.size();
  if (!n) return false;
  const size_t k = options().seed ? rng_() % n : next.empty() ? turn_++ % n : 0;
  if (k < next.size()) {
    begin(next[k]);
    return true;
  }
  // Alone it runs to its end; else for a while: sometimes long enough to finish before the others begin.
  if (n > 1) steps = std::min<u64>(steps, options().seed ? 1 + rng_() % (rng_() % 4 ? 8 : 2000) : 1);
  advance_flight(k - next.size(), steps);
  return true;
}
void StreamEngine::begin(int stream) {
  Op op = std::move(queues_[stream].ops.front());
  queues_[stream].ops.pop_front();
  if (sticky_error()) return complete(stream, *op.launch, 0);
  queues_[stream].busy = true;
  if (op.run) return complete(stream, *op.launch, op.run(*op.launch));
  fflush(stdout);
  auto run = std::make_unique<Execution>(*op.launch, world_);
  flights_.push_back({stream, std::move(op.launch), std::move(run)});
}
void StreamEngine::advance_flight(size_t k, u64 steps) {
  Execution& run = *flights_[k].run;
  const auto start = std::chrono::steady_clock::now();
  bool goes_on = true;
  while (steps-- && (goes_on = run.step())) {}
  run.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (goes_on) return;
  Flight f = std::move(flights_[k]);
  flights_.erase(flights_.begin() + k);
  std::string report;
  const int e = f.run->finish(report);
  if (e == kLaunchTimeout)  // who waits for whom may span launches
    for (auto& other : flights_) report += other.run->waits();
  if (e) fprintf(stderr, "[gpusim] ERROR %s\n", report.c_str());
  complete(f.stream, *f.launch, e);
}
void StreamEngine::complete(int stream, Launch& l, int e) {
  if (!e && l.num_races) {
    fprintf(stderr, "[gpusim] %s: %d race%s\n", l.name.c_str(), l.num_races, l.num_races == 1 ? "" : "s");
    e = kLaunchFailure;
  }
  queues_[stream].done++;
  queues_[stream].busy = false;
  world_++;
  if (!e) return;
  set_error(e, true);
  while (!flights_.empty()) {  // as on a card: the context is lost with all that was running
    Flight f = std::move(flights_.back());
    flights_.pop_back();
    f.run->abandon();
    queues_[f.stream].done++;
    queues_[f.stream].busy = false;
  }
}
bool StreamEngine::poll(const Mark& m) {
  if (queues_[m.stream].done < m.seq) advance(256);
  if (queues_[m.stream].done < m.seq) return false;
  join(host_, m.before);
  synced();
  return true;
}
void StreamEngine::synchronize(const Mark& m) {
  while (queues_[m.stream].done < m.seq && advance(~0ull)) {}
  join(host_, m.before);
  synced();
}
void StreamEngine::synchronize_all() {
  while (advance(~0ull)) {}
  for (auto& q : queues_) join(host_, q.before);
  synced();
}
// When the host has waited for everything, later work comes after all flags.
void StreamEngine::synced() {
  if (!options().race || !idle()) return;
  for (size_t s = 0; s < queues_.size(); s++)
    if (queues_[s].issued && (s >= host_.size() || host_[s] < queues_[s].issued)) return;
  race_forget_flags();
}
bool StreamEngine::idle() const {
  for (auto& q : queues_)
    if (!q.ops.empty() || q.busy) return false;
  return true;
}

}  // namespace atoll::gpusim
