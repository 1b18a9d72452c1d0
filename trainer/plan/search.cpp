// Pricing on all cores, the front, and what its first point hinges on. The best ones move single layers between stages.
#include "trainer/plan/search_space.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#include "kernels/base/error.h"
#include "trainer/plan/report.h"
#include "trainer/schedule_rules.h"

namespace atoll::plan {
namespace {
std::string bound_of(const Candidate& c, double pipeline) {
  std::pair<double, const char*> parts[] = {{pipeline - c.bubble - c.exposed - c.host - c.messages, "computation and what hides beside it"},
                                            {c.bubble, "bubble"},
                                            {c.exposed, "exposed exchanges"},
                                            {c.host, "the host"},
                                            {c.optimizer, "gradient and weight collectives"},
                                            {c.messages, "messages between stages"}};
  std::stable_sort(std::begin(parts), std::end(parts), [](const auto& a, const auto& b) { return a.first > b.first; });
  return fmt::format("{} {:.0f} %, then {} {:.0f} %", parts[0].second, 100 * parts[0].first / c.step, parts[1].second, 100 * parts[1].first / c.step);
}

// Schedules and stages that candidates of one group share.
class Store {
 public:
  StageMemories memories;

  std::shared_ptr<const Schedule> schedule(const PlanInput& in, const Priced& p) {
    if (p.schedule == in.run.parallel.schedule && custom_schedule(in.run)) return nullptr;  // of a file: prepare_step reads it
    const Key key{p.schedule, p.pp, p.num_microbatches(), p.chunks, p.is_paired};
    {
      const std::lock_guard lock(mutex_);
      if (const auto it = known_.find(key); it != known_.end()) return it->second;
    }
    auto built = std::make_shared<const Schedule>(schedule_of(p));
    const std::lock_guard lock(mutex_);
    return known_.try_emplace(key, std::move(built)).first->second;
  }

 private:
  using Key = std::tuple<std::string, int, int64_t, int, bool>;
  std::mutex mutex_;
  std::map<Key, std::shared_ptr<const Schedule>> known_;
};

enum class Pricing { kPriced, kImpossible, kTooLarge, kBeaten };

// Memory first, which needs no simulation.
Pricing price(Candidate& c, Store& store, const Front& front, double memory) {
  try {
    if (!layout_problems(c.in).empty()) return Pricing::kImpossible;
    const Priced priced = pretraining(c.in);
    StepPrediction s = prepare_step(c.in, priced, store.schedule(c.in, priced), nullptr);
    c.gpus = c.in.gpus();
    c.optimizer = s.reduce + s.update + s.gather;
    const double least = least_pipeline(c.in, *s.model) + c.optimizer;
    c.memory = fullest_bytes(c.in, s, store.memories, [&](double bytes) { return bytes > memory || front.beats({least, bytes, c.gpus}); });
    if (c.memory > memory) return Pricing::kTooLarge;
    if (front.beats({least, c.memory, c.gpus})) return Pricing::kBeaten;
    simulate_step(c.in, s, nullptr);
    c.step = s.step;
    c.tokens_per_gpu_second = s.tokens_per_gpu_second;
    c.bubble = s.bubble;
    c.exposed = s.exposed;
    c.host = s.host;
    c.messages = c.in.plan.text("p2p") == "exposed" ? s.message * (s.pair_count * 2) : 0;
    c.bound_by = bound_of(c, s.pipeline);
  } catch (const ConfigError&) { return Pricing::kImpossible; }
  return Pricing::kPriced;
}
bool price(Candidate& c) {
  Store store;
  return price(c, store, {}, std::numeric_limits<double>::infinity()) == Pricing::kPriced;
}

// Runs body(0..count-1) on the machine's cores. What it computes does not depend on how many there are.
void on_all_cores(size_t count, const std::function<void(size_t)>& body) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < count; i = next++) body(i);
  };
  std::vector<std::thread> threads;
  for (unsigned t = 1; t < std::clamp(std::thread::hardware_concurrency(), 1u, 16u) && t < count; ++t) threads.emplace_back(work);
  work();
  for (std::thread& t : threads) t.join();
}

// Prices a batch against the front as it was before; those that were priced stay in it.
void price_all(std::vector<Candidate>& batch, const Front& front, Search& out) {
  std::vector<Pricing> results(batch.size());
  Store store;
  on_all_cores(batch.size(), [&](size_t i) { results[i] = price(batch[i], store, front, batch[i].in.cluster.memory + 1e9); });  // one more GB is asked for
  size_t kept = 0;
  for (size_t i = 0; i < batch.size(); ++i) {
    ++(results[i] == Pricing::kPriced     ? out.tried
       : results[i] == Pricing::kTooLarge ? out.too_large
       : results[i] == Pricing::kBeaten   ? out.beaten
                                          : out.impossible);
    if (results[i] != Pricing::kPriced) continue;
    if (kept != i) batch[kept] = std::move(batch[i]);
    ++kept;
  }
  batch.resize(kept);
}

// Meshes in groups: of a group every candidate is made and priced against what the groups before have found.
void search_devices(const PlanInput& in, int64_t gpus, Front& front, std::vector<Candidate>& all, Search& out, const std::function<void(size_t)>& done) {
  constexpr size_t kGroup = 8;
  const std::vector<MeshSizes> meshes = meshes_of(in, gpus);
  for (size_t begin = 0; begin < meshes.size(); begin += kGroup) {
    const size_t count = std::min(kGroup, meshes.size() - begin);
    std::vector<std::vector<Candidate>> made(count);
    std::vector<SpaceCounts> counts(count);
    on_all_cores(count, [&](size_t i) { made[i] = candidates_of(in, gpus, meshes[begin + i], front, counts[i]); });
    std::vector<Candidate> batch;
    for (size_t i = 0; i < count; ++i) {
      out.impossible += counts[i].impossible;
      out.too_large += counts[i].too_large;
      out.beaten += counts[i].beaten;
      std::move(made[i].begin(), made[i].end(), std::back_inserter(batch));
    }
    price_all(batch, front, out);
    for (Candidate& c : batch) {
      if (c.memory <= in.cluster.memory) front.add({c.step, c.memory, c.gpus});
      c.text = describe(c.in);
      all.push_back(std::move(c));
    }
    done(count);
  }
}

// Moves single layers from a stage to a neighbour as long as that makes the step shorter.
void improve_split(Candidate& best, Search& out) {
  StepPrediction s = predict_step(best.in, pretraining(best.in), nullptr);
  std::vector<int64_t> layers;
  for (const StageSpec& spec : s.specs) layers.push_back(spec.layers.size());
  for (int round = 0; round < 12; ++round) {
    std::vector<Candidate> batch;
    for (size_t from = 0; from < layers.size(); ++from)
      for (size_t to = 0; to < layers.size(); ++to) {
        if (from == to || layers[from] < 2) continue;
        Candidate c = best;
        std::vector<int64_t> moved = layers;
        --moved[from];
        ++moved[to];
        c.in.run.parallel.stage_layers = moved;
        batch.push_back(std::move(c));
      }
    price_all(batch, {}, out);
    Candidate found = best;
    for (const Candidate& c : batch)
      if (c.memory <= best.in.cluster.memory && c.step < found.step * 0.9999) found = c;
    if (found.step >= best.step) return;
    best = found;
    layers = best.in.run.parallel.stage_layers;
    best.text = describe(best.in);
  }
}

// Equal ones too: the first of them stands for all.
bool dominates(const Candidate& a, const Candidate& b) { return a.step <= b.step * (1 + 1e-9) && a.memory <= b.memory * (1 + 1e-9) && a.gpus <= b.gpus; }

std::vector<Candidate> pareto(std::vector<Candidate> all, double memory) {
  std::erase_if(all, [&](const Candidate& c) { return c.memory > memory; });
  std::sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) { return a.step != b.step ? a.step < b.step : a.memory < b.memory; });
  std::vector<Candidate> front;
  for (const Candidate& c : all)
    if (std::none_of(front.begin(), front.end(), [&](const Candidate& f) { return dominates(f, c); })) front.push_back(c);
  return front;
}

// The part of the measured rates at which GEMMs make `a` as slow as `b`; 0: none does.
double breakeven_rate(const Candidate& a, double step) {
  const auto slowed = [&](double factor) {
    Candidate c = a;
    for (Rate& r : c.in.calibration.rates)
      if (r.op != "attention") r.flops *= factor;
    return price(c) ? c.step : 0;
  };
  double slow = 0.1, fast = 1;
  if (slowed(slow) < step) return 0;
  while (fast - slow > 0.002) (slowed((slow + fast) / 2) < step ? fast : slow) = (slow + fast) / 2;
  return fast;
}

constexpr double kTight = 0.1;  // of the memory left: routing that is a little less even takes it

// Constants, one at a time, at which the given plan would be as good as the best one.
void find_hinges(Search& out) {
  const Candidate& best = out.front.front();
  if (best.step >= out.given.step * 0.999 || best.gpus != out.given.gpus) return;
  const double left = out.in.cluster.memory - best.memory;
  if (left < kTight * out.in.cluster.memory)
    out.hinges.push_back(fmt::format("hinges on memory: it leaves {} of {}; plan.reserve and balanced routing decide whether it fits", show(left, Unit::kBytes),
                                     show(out.in.cluster.memory, Unit::kBytes)));
  const std::pair<const char*, Link Cluster::*> links[] = {{"links between nodes", &Cluster::inter}, {"links inside a node", &Cluster::intra}};
  for (const auto& [name, link] : links) {
    if (link == &Cluster::inter && best.gpus <= out.in.cluster.gpus_per_node) continue;
    std::string found;
    for (const double factor : {0.8, 0.5, 0.25, 1.25, 2.0, 3.0, 5.0}) {
      Candidate a = best, b = out.given;
      (a.in.cluster.*link).bandwidth *= factor;
      (b.in.cluster.*link).bandwidth *= factor;
      if (found.empty() && price(a) && price(b) && a.step >= b.step)
        found = fmt::format("at {} the given plan is faster", show((a.in.cluster.*link).bandwidth, Unit::kBandwidth));
    }
    out.hinges.push_back(found.empty() ? fmt::format("does not hinge on {}: from a quarter to five times the bandwidth it stays ahead", name)
                                       : fmt::format("hinges on {}: {}", name, found));
  }
  const auto rows = [](const PlanInput& in) { return in.run.data.seq_len * in.run.train.micro_batch / in.run.parallel.mesh.cp; };
  if (rows(best.in) >= rows(out.given.in)) return;  // rates of more rows are no lower
  if (const double rate = breakeven_rate(best, out.given.step); rate > 0)
    out.hinges.push_back(
        fmt::format("hinges on GEMMs of {} rows, {} in the given plan, at the rate of the nearest measured shape: at {:.1f} % of it the given plan is as fast",
                    rows(best.in), rows(out.given.in), 100 * rate));
}
}  // namespace

Search search_layouts(const PlanInput& input, const std::function<void(size_t, size_t)>& progress) {
  const auto begin = std::chrono::steady_clock::now();
  Search out{input, {input}};
  if (!price(out.given)) {
    const std::vector<std::string> problems = layout_problems(input);
    out.why_not_given = problems.empty() ? price_choice(input, "", [](PlanInput&) {}).problem : problems.front();
  }
  out.given.text = describe(out.given.in);
  PlanInput lean = input;  // what a candidate carries with it
  lean.context.clear();
  lean.fleet.clear();
  lean.published.clear();
  lean.cluster.sheet = {};
  for (Rate& r : lean.calibration.rates) r.source.clear();
  Front front;
  std::vector<Candidate> all;
  if (out.why_not_given.empty() && out.given.memory <= input.cluster.memory) {
    front.add({out.given.step, out.given.memory, out.given.gpus});
    all.push_back(out.given);
    all.back().in = lean;
  }
  std::vector<int64_t> sizes = {input.gpus()};
  if (input.gpus() % 2 == 0 && input.gpus() > 1) sizes.push_back(input.gpus() / 2);
  size_t meshes = 0, done = 0;
  for (const int64_t gpus : sizes) meshes += meshes_of(lean, gpus).size();
  for (const int64_t gpus : sizes)
    search_devices(lean, gpus, front, all, out, [&](size_t count) {
      done += count;
      if (progress) progress(done, meshes);
    });
  out.front = pareto(all, input.cluster.memory);
  if (out.front.empty() && out.tried + out.too_large == 0)
    throw ConfigError(fmt::format("none of {} layouts can be built; the one as given: {}", out.impossible, out.why_not_given));
  if (out.front.empty())
    throw ConfigError(
        fmt::format("none of {} layouts fits {} of memory ({} exceed it, {} cannot be built); give more devices, plan.cache=fp8, or a smaller model",
                    out.tried + out.too_large + out.impossible, show(input.cluster.memory, Unit::kBytes), out.tried + out.too_large, out.impossible));
  for (size_t i = 0, tuned = 0; i < out.front.size() && tuned < 3; ++i)
    if (out.front[i].in.run.parallel.mesh.pp > 1 && out.front[i].gpus == input.gpus()) {
      Candidate c = out.front[i];
      improve_split(c, out);
      all.push_back(c);
      ++tuned;
    }
  out.front = pareto(all, input.cluster.memory);
  const double more = input.cluster.memory + 1e9;
  out.step_with_more_memory = pareto(all, more).front().step;
  Candidate faster = out.front.front();
  faster.in.cluster.inter.bandwidth += 1e9;
  out.step_with_more_bandwidth = price(faster) ? faster.step : out.front.front().step;
  if (!out.why_not_given.empty()) out.given = out.front.front();
  find_hinges(out);
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return out;
}

}  // namespace atoll::plan
