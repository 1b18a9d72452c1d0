// The space is a product of small lists; a layout whose parameters alone do not fit is dropped before it is simulated. The best ones then move single layers
// between stages.
#include "trainer/plan/search.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <thread>

#include "kernels/base/error.h"
#include "model/parameters.h"

namespace atoll::plan {
namespace {
struct ScheduleChoice {
  const char* name;
  int chunks;
  const char* overlap;
};
constexpr ScheduleChoice kSchedules[] = {{"1f1b", 1, "none"},        {"zb-h1", 1, "none"},     {"interleaved", 2, "none"},
                                         {"interleaved", 4, "none"}, {"dualpipe", 1, "pairs"}, {"dualpipev", 1, "pairs"}};
const std::vector<std::vector<std::string>> kRecompute = {{}, {"norms", "mla_up", "swiglu"}, {"norms", "mla_up", "swiglu", "experts"}, {"full"}};

void set_words(PlanInput& in, const std::string& key, const std::vector<std::string>& words) {
  Value v = in.plan.at(key);
  v.words = words;
  in.plan.set(key, v);
}

std::string describe(const PlanInput& in) {
  const MeshSizes& m = in.run.parallel.mesh;
  std::string recompute;
  for (const std::string& w : in.plan.words("recompute")) recompute += (recompute.empty() ? "" : "+") + w;
  return fmt::format("pp {} dp {}{} ep {}, {}{}, {} x {} micro-batches, zero {}, recompute {}{}{}", m.pp, in.dp(), m.tp > 1 ? fmt::format(" tp {}", m.tp) : "",
                     m.ep, in.schedule(), in.schedule() == "interleaved" ? fmt::format(" x{}", in.chunks()) : "",
                     in.run.train.global_batch / in.dp() / in.run.train.micro_batch, in.run.train.micro_batch, in.plan.number("zero"),
                     recompute.empty() ? "none" : recompute, in.plan.text("dispatch") == "flat" ? ", flat dispatch" : "",
                     in.run.parallel.stage_layers.empty() ? "" : ", own layer split");
}

// Parameters, gradients and optimizer of an even share: nothing that is held less.
double least_memory(const PlanInput& in) {
  const MeshSizes& m = in.run.parallel.mesh;
  const ModelConfig& c = in.run.model;
  double shared = 0, experts = 0;
  for (int64_t l = 0; l < c.num_blocks(); ++l) {
    const BlockParameters b = block_parameters(c, l, static_cast<int64_t>(in.plan.number("kv_heads")));
    shared += static_cast<double>(b.shared);
    experts += static_cast<double>(b.expert * b.num_experts);
  }
  const double per_rank = (in.schedule() == "dualpipe" ? 2.0 : 1.0) / m.pp, zero = in.plan.number("zero");
  const double held = shared / m.tp * per_rank + experts / m.ep / m.etp * per_rank, split = held / std::max<double>(1, static_cast<double>(in.dp()) / m.ep);
  const double weight = in.plan.text("precision") == "fp8" ? 1 : 2, grad = in.plan.text("grads") == "bf16" ? 2 : 4;
  return (zero >= 3 ? split : held) * weight + (zero >= 2 ? split : held) * grad + in.plan.number("reserve");
}

std::string bound_of(const Candidate& c, double pipeline) {
  const std::pair<double, const char*> parts[] = {
      {c.bubble, "bubble"}, {c.exposed, "exposed exchanges"}, {c.optimizer, "gradient and weight collectives"}, {c.messages, "messages between stages"}};
  const auto* most = std::max_element(std::begin(parts), std::end(parts), [](const auto& a, const auto& b) { return a.first < b.first; });
  const double rest = pipeline - c.bubble - c.exposed - c.messages;
  return fmt::format("computation and what hides beside it {:.0f} %, then {} {:.0f} %", 100 * rest / c.step, most->second, 100 * most->first / c.step);
}

// Prices one; false: it cannot be built.
bool price(Candidate& c) {
  try {
    if (!layout_problems(c.in).empty()) return false;
    const StepPrediction s = predict_step(c.in, pretraining(c.in), nullptr);
    c.gpus = c.in.gpus();
    c.step = s.step;
    c.tokens_per_gpu_second = s.tokens_per_gpu_second;
    c.bubble = s.bubble;
    c.exposed = s.exposed;
    c.optimizer = s.reduce + s.update + s.gather;
    c.messages = c.in.plan.text("p2p") == "exposed" ? s.message * (s.pair_count * 2) : 0;
    c.memory = fullest(plan_memory(c.in, s, c.in.plan.text("routing"))).total();
    c.bound_by = bound_of(c, s.pipeline);
  } catch (const ConfigError&) { return false; }
  return true;
}

// Prices all of them on the machine's cores; those that cannot be built are taken out. Each is priced by itself, so the result does not depend on the number of
// cores.
void price_all(std::vector<Candidate>& batch, Search& out) {
  std::vector<char> is_built(batch.size(), 0);
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < batch.size(); i = next++) is_built[i] = price(batch[i]);
  };
  std::vector<std::thread> threads;
  for (unsigned t = 1; t < std::clamp(std::thread::hardware_concurrency(), 1u, 16u) && t < batch.size(); ++t) threads.emplace_back(work);
  work();
  for (std::thread& t : threads) t.join();
  out.tried += std::ssize(batch);
  size_t kept = 0;
  for (size_t i = 0; i < batch.size(); ++i)
    if (is_built[i]) {
      if (kept != i) batch[kept] = std::move(batch[i]);
      ++kept;
    }
  out.impossible += std::ssize(batch) - static_cast<int64_t>(kept);
  batch.resize(kept);
}

std::vector<int> powers_of_two(int64_t most) {
  std::vector<int> list;
  for (int64_t n = 1; n <= most; n *= 2) list.push_back(static_cast<int>(n));
  return list;
}

class Searcher {
 public:
  Searcher(const PlanInput& in, Search& out) : in_(in), out_(out) {}
  std::vector<Candidate> all;

  void run(int64_t gpus) {
    const ModelConfig& c = in_.run.model;
    for (const int pp : powers_of_two(std::min<int64_t>(64, c.num_hidden_layers)))
      for (const int tp : powers_of_two(std::min<int64_t>(in_.cluster.gpus_per_node, 8)))
        for (const int ep : c.n_routed_experts > 0 ? powers_of_two(c.n_routed_experts) : std::vector<int>{1}) {
          batch_.clear();
          for (const int64_t micro : {1, 2}) layout(gpus, pp, tp, ep, micro);
          price_all(batch_, out_);
          for (Candidate& candidate : batch_) {
            candidate.text = describe(candidate.in);
            all.push_back(std::move(candidate));
          }
        }
  }

 private:
  void layout(int64_t gpus, int pp, int tp, int ep, int64_t micro) {
    if (gpus % (static_cast<int64_t>(pp) * tp) != 0 || (gpus / pp) % ep != 0 || c_heads() % tp != 0) return;
    for (const ScheduleChoice& s : kSchedules) {
      if (pp == 1 && std::string(s.name) != "1f1b") continue;
      for (const int zero : {1, 3}) {
        if (zero == 3 && pp > 1) continue;
        Candidate c{in_};
        set_number(c.in, "gpus", static_cast<double>(gpus));
        c.in.run.parallel.mesh = {.pp = pp, .tp = tp, .cp = 1, .ep = ep, .etp = 1};
        c.in.run.parallel.stage_layers.clear();
        c.in.run.train.micro_batch = micro;
        set_words(c.in, "stages", {});
        set_text(c.in, "schedule", s.name);
        set_number(c.in, "chunks", s.chunks);
        set_number(c.in, "flushes", 1);
        set_number(c.in, "zero", zero);
        set_text(c.in, "overlap", s.overlap);
        set_text(c.in, "p2p", std::string(s.overlap) == "pairs" ? in_.plan.text("p2p") : "overlapped");
        if (least_memory(c.in) > in_.cluster.memory) {
          out_.too_large += static_cast<int64_t>(kRecompute.size());
          continue;
        }
        for (const auto& recompute : kRecompute) {
          set_words(c.in, "recompute", recompute);
          batch_.push_back(c);
        }
      }
    }
  }
  int64_t c_heads() const { return in_.run.model.num_attention_heads; }
  const PlanInput& in_;
  Search& out_;
  std::vector<Candidate> batch_;  // of one layout
};

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
    price_all(batch, out);
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

// Constants, one at a time, at which the given plan would be as good as the best one.
void find_hinges(Search& out) {
  const Candidate& best = out.front.front();
  if (best.step >= out.given.step * 0.999 || best.gpus != out.given.gpus) return;
  out.hinges.push_back(fmt::format("memory: it leaves {} of {}; plan.reserve and balanced routing decide whether it fits",
                                   show(out.in.cluster.memory - best.memory, Unit::kBytes), show(out.in.cluster.memory, Unit::kBytes)));
  const std::pair<const char*, Link Cluster::*> links[] = {{"links between nodes", &Cluster::inter}, {"links inside a node", &Cluster::intra}};
  for (const auto& [name, link] : links) {
    std::string found;
    for (const double factor : {0.8, 0.5, 0.25, 1.25, 2.0, 3.0, 5.0}) {
      Candidate a = best, b = out.given;
      (a.in.cluster.*link).bandwidth *= factor;
      (b.in.cluster.*link).bandwidth *= factor;
      if (found.empty() && price(a) && price(b) && a.step >= b.step)
        found = fmt::format("at {} the given plan is faster", show((a.in.cluster.*link).bandwidth, Unit::kBandwidth));
    }
    out.hinges.push_back(fmt::format("{}: {}", name, found.empty() ? "from a quarter to five times the bandwidth it stays ahead" : found));
  }
}
}  // namespace

Search search_layouts(const PlanInput& input) {
  const auto begin = std::chrono::steady_clock::now();
  Search out{input, {input}};
  if (!price(out.given)) throw ConfigError("the plan as given cannot be built");
  out.given.text = describe(out.given.in);
  PlanInput lean = input;  // what a candidate carries with it
  lean.context.clear();
  lean.fleet.clear();
  lean.published.clear();
  Searcher searcher(lean, out);
  searcher.run(input.gpus());
  if (input.gpus() % 2 == 0 && input.gpus() > 1) searcher.run(input.gpus() / 2);
  std::vector<Candidate>& all = searcher.all;
  out.front = pareto(all, input.cluster.memory);
  if (out.front.empty())
    throw ConfigError(fmt::format("none of {} layouts fits {} of memory; give more devices, plan.cache=fp8, or a smaller model", out.tried,
                                  show(input.cluster.memory, Unit::kBytes)));
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
  find_hinges(out);
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return out;
}

std::string search_text(const Search& s) {
  std::string out = fmt::format("{} on {}: {} layouts simulated in {:.1f} s ({} not possible; {} more whose parameters alone exceed {})\n\n", s.in.name,
                                s.in.cluster.name, s.tried, s.seconds, s.impossible, s.too_large, show(s.in.cluster.memory, Unit::kBytes));
  out += fmt::format("{:>6} {:>9} {:>12} {:>9}   {}\n", "GPUs", "step", "tokens/s/GPU", "memory", "layout; bound by");
  const auto line = [&](const Candidate& c) {
    out += fmt::format("{:>6} {:>9} {:>12.0f} {:>9}   {}\n{:>42}{}\n", c.gpus, show(c.step, Unit::kSeconds), c.tokens_per_gpu_second,
                       show(c.memory, Unit::kBytes), c.text, "", c.bound_by);
  };
  const size_t shown = std::min<size_t>(12, s.front.size());
  for (size_t i = 0; i < shown; ++i) line(s.front[i]);
  if (shown < s.front.size()) out += fmt::format("... {} more points of the front, slower in less memory (--json has all)\n", s.front.size() - shown);
  out += "as given:\n";
  line(s.given);
  const Candidate& best = s.front.front();
  out += fmt::format("\nbest: {}\n  {:+.1f} % of the given plan's step; bound by {}\n", best.text, 100 * (best.step / s.given.step - 1), best.bound_by);
  if (!best.in.run.parallel.stage_layers.empty()) {
    std::string layers;
    for (const int64_t n : best.in.run.parallel.stage_layers) layers += (layers.empty() ? "" : ", ") + std::to_string(n);
    out += "  layers of its stages: [" + layers + "]\n";
  }
  for (const std::string& h : s.hinges) out += "  hinges on " + h + "\n";
  out += fmt::format("  one more GB of memory would buy {} a step, one more GB/s between nodes {}\n", show(best.step - s.step_with_more_memory, Unit::kSeconds),
                     show(best.step - s.step_with_more_bandwidth, Unit::kSeconds));
  return out;
}

std::string search_json(const Search& s) {
  nlohmann::ordered_json j;
  const auto item = [](const Candidate& c) {
    nlohmann::ordered_json o = {{"gpus", c.gpus},           {"step_time", c.step}, {"tokens_per_gpu_second", c.tokens_per_gpu_second},
                                {"memory", c.memory},       {"bubble", c.bubble},  {"exposed", c.exposed},
                                {"optimizer", c.optimizer}, {"layout", c.text},    {"bound_by", c.bound_by}};
    if (!c.in.run.parallel.stage_layers.empty()) o["stage_layers"] = c.in.run.parallel.stage_layers;
    return o;
  };
  j["given"] = item(s.given);
  for (const Candidate& c : s.front) j["front"].push_back(item(c));
  j["tried"] = s.tried;
  j["impossible"] = s.impossible;
  j["too_large"] = s.too_large;
  j["seconds"] = s.seconds;
  j["step_with_one_more_gb"] = s.step_with_more_memory;
  j["step_with_one_more_gb_per_second"] = s.step_with_more_bandwidth;
  j["hinges"] = s.hinges;
  return j.dump(2) + "\n";
}

}  // namespace atoll::plan
