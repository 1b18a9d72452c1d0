// Sampling from a checkpoint. Policy: each new token runs the whole window again (no key-value cache): exact, and quick enough at the sizes one CPU trains.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "data/utf8.h"
#include "kernels/base/rng.h"
#include "kernels/ops.h"
#include "trainer/loaded_run.h"

namespace atoll {
namespace {
// Nucleus sampling (Holtzman et al. 2020): the smallest set of likeliest tokens whose mass reaches top_p; ties by lowest id.
int32_t sample(const float* logits, int64_t vocab, const GenerateOptions& o, const Rng& rng, uint64_t index) {
  std::vector<int32_t> order(static_cast<size_t>(vocab));
  std::iota(order.begin(), order.end(), 0);
  const auto likelier = [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  if (o.temperature <= 0) return *std::min_element(order.begin(), order.end(), likelier);
  std::sort(order.begin(), order.end(), likelier);
  std::vector<double> p(order.size());
  double sum = 0;
  for (size_t i = 0; i < order.size(); ++i) sum += p[i] = std::exp((static_cast<double>(logits[order[i]]) - logits[order[0]]) / o.temperature);
  double mass = 0;
  size_t kept = 0;
  while (kept < p.size() && (kept == 0 || mass < o.top_p * sum)) mass += p[kept++];
  double at = rng.uniform(index) * mass;
  for (size_t i = 0; i < kept; ++i)
    if ((at -= p[i]) < 0) return order[i];
  return order[kept - 1];
}
}  // namespace

std::vector<int32_t> prompt_ids(const Tokenizer& tokenizer, const std::string& prompt, bool document_mask) {
  std::vector<int32_t> ids;
  if (prompt.empty() || !document_mask) ids.push_back(tokenizer.eos_id());
  tokenizer.encode_to(prompt, ids);
  return ids;
}

void generate(LoadedRun& run, const GenerateOptions& o, const std::function<void(const std::string&)>& emit) {
  if (o.temperature < 0 || !std::isfinite(o.temperature)) throw ConfigError("--temperature: 0 or more");
  if (!(o.top_p > 0 && o.top_p <= 1)) throw ConfigError("--top-p: above 0, at most 1");
  const Tokenizer& tokenizer = *run.tokenizer;
  const size_t window = static_cast<size_t>(run.config.data.seq_len);
  const int64_t vocab = std::min<int64_t>(run.config.model.vocab_size, tokenizer.vocab_size());  // padded rows of the head are never sampled
  std::vector<int32_t> ids = prompt_ids(tokenizer, o.prompt, run.config.data.document_mask);
  Engine& engine = *run.engine;
  engine.stage().keep_final_state = true;
  const Tensor head = engine.stage().head_weight();
  const Rng rng(o.seed, "generate");
  Utf8Stream text;
  std::vector<MicroBatch> batches(1);
  std::vector<float> logits(static_cast<size_t>(head.dim[0]));
  for (int64_t n = 0; n < o.max_tokens; ++n) {
    const size_t begin = ids.size() > window ? ids.size() - window : 0, length = ids.size() - begin;
    const std::vector<int32_t> labels(length, kIgnoredLabel);
    batches[0].clear();
    batches[0].add_sequence({ids.data() + begin, length}, labels, {});
    engine.evaluate(batches);
    const Tensor state = engine.stage().final_state().rows(static_cast<int64_t>(length) - 1, 1);
    Buffer row = engine.ctx().memory.workspace.take({1, head.dim[0]}, acc_dtype(state.dtype));
    linear(engine.ctx(), {.x_TK = state, .w_NK = head, .y_TN = row});
    for (size_t v = 0; v < logits.size(); ++v)
      logits[v] = row.tensor().dtype == DType::kF64 ? static_cast<float>(row.tensor().as<double>()[v]) : row.tensor().as<float>()[v];
    const int32_t token = sample(logits.data(), vocab, o, rng, static_cast<uint64_t>(n));
    if (token == tokenizer.eos_id()) break;
    ids.push_back(token);
    emit(text.push(tokenizer.token_bytes(token)));
  }
  emit(text.finish());
}

}  // namespace atoll
