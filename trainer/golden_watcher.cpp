// See the header. Names are those of the io files.
#include "trainer/golden_watcher.h"

#include <algorithm>
#include <utility>

#include "kernels/ops.h"

namespace atoll {

GoldenFeed golden_feed(const SafetensorsFile& io, Engine& engine, bool with_labels) {
  const Tensor ids = io.tensor("input_ids"), labels = io.tensor("labels");
  const int64_t B = ids.dim[0], S = ids.dim[1];
  const int dp = engine.groups().dp->size(), rank = engine.groups().dp->rank();
  std::vector<int32_t> documents;
  if (io.find("cu_seqlens")) {
    const Tensor cu = io.tensor("cu_seqlens");
    for (int64_t i = 0; i + 1 < cu.size(); ++i) documents.push_back(static_cast<int32_t>(cu.as<int64_t>()[i]));
  }
  GoldenFeed f;
  for (int64_t begin = 0; begin < B; begin += dp) {
    Range mine = split_evenly(std::min<int64_t>(dp, B - begin), dp, rank);
    mine = {mine.begin + begin, mine.end + begin};
    MicroBatch batch;
    batch.clear();
    for (int64_t s = mine.begin; s < mine.end; ++s) {
      std::vector<int32_t> x(ids.as<int64_t>() + s * S, ids.as<int64_t>() + (s + 1) * S), y(labels.as<int64_t>() + s * S, labels.as<int64_t>() + (s + 1) * S);
      if (!with_labels) y.assign(y.size(), kIgnoredLabel);
      batch.add_sequence(x, y, documents);
    }
    f.batches.push_back(std::move(batch));
    f.sequences.push_back(mine);
  }
  return f;
}

GoldenWatcher::GoldenWatcher(Engine& engine, const SafetensorsFile& io, const GoldenFeed& feed, Deviations& out, bool force_routing) : engine_(engine), io_(io), feed_(feed), out_(out) {
  engine.stage().probe.observe = [this](const std::string& name, const Tensor& value) { observe(name, value); };
  if (force_routing) engine.stage().probe.force_routing = [this](int64_t layer, const Tensor& ids) { return fill_routing(layer, ids); };
}

GoldenWatcher::~GoldenWatcher() { engine_.stage().probe = {}; }

int64_t GoldenWatcher::depth_of(int64_t layer) const { return std::max<int64_t>(0, layer + 1 - engine_.options().model.num_hidden_layers); }

Tensor GoldenWatcher::stored(const std::string& name) const { return io_.tensor(name).rows(sequences().begin, sequences().size()); }

void GoldenWatcher::compare(const std::string& name, const Tensor& value) {
  if (io_.find(name)) out_.compare(name, value, stored(name));
}

void GoldenWatcher::observe(const std::string& name, const Tensor& value) {
  compare(name, value);
  if (const std::string tail = ".router_logits"; name.size() > tail.size() && name.ends_with(tail)) compare_balance(std::stoll(name.substr(4)), value);  // "moe.3.router_logits"
  const bool is_main = name == "hidden.final_norm", is_mtp = name.rfind("mtp.", 0) == 0;
  if (!is_main && !is_mtp) return;
  const std::string logits_name = is_main ? "logits" : name.substr(0, name.rfind('.')) + ".logits";
  const Tensor head = engine_.stage().head_weight();
  Buffer logits = engine_.ctx().memory.workspace.take({value.dim[0], head.dim[0]}, acc_dtype(value.dtype));
  const bool is_rounding = std::exchange(engine_.ctx().round_outputs_to_bf16, false);  // logits are FP32 in a BF16 run
  linear(engine_.ctx(), {.x_TK = value, .w_NK = head, .y_TN = logits});
  engine_.ctx().round_outputs_to_bf16 = is_rounding;
  compare(logits_name, logits);
}

// f and P of the balance loss, by the ops that the pass uses, from the pass's own logits.
void GoldenWatcher::compare_balance(int64_t layer, const Tensor& logits) {
  const std::string name = "moe." + std::to_string(layer) + ".balance_";
  if (!io_.find(name + "f") && !io_.find(name + "P")) return;
  const ModelConfig& model = engine_.options().model;
  const int64_t T = logits.dim[0], E = logits.dim[1], K = model.num_experts_per_tok, B = sequences().size(), rows = B > 0 ? T / B : 0;
  Segment& memory = engine_.ctx().memory.workspace;
  Buffer scores = memory.take({T, E}, logits.dtype), weights = memory.take({T, K}, logits.dtype), ids = memory.take({T, K}, DType::kI32), f = memory.take({B, E}, logits.dtype);
  router(engine_.ctx(), {.logits_TE = logits, .bias_E = {}, .scores_TE = scores, .topk_idx_TK = ids, .weight_TK = weights, .config = model.router()});
  std::vector<int32_t> cu_seqs;
  for (int64_t b = 0; b <= B; ++b) cu_seqs.push_back(static_cast<int32_t>(b * rows));
  double term = 0;
  balance_loss(engine_.ctx(), {.scores_TE = scores, .cu_seqs = cu_seqs, .topk = static_cast<int>(K), .f_BE = f, .loss_sum = &term});
  std::vector<double> P(static_cast<size_t>(B * E), 0.0);
  for (int64_t t = 0; t < T; ++t) {
    double sum = 0;
    for (int64_t e = 0; e < E; ++e) sum += element(scores, t * E + e);
    for (int64_t e = 0; e < E; ++e) P[static_cast<size_t>(t / rows * E + e)] += element(scores, t * E + e) / sum / static_cast<double>(rows);
  }
  compare(name + "f", f);
  compare(name + "P", {P.data(), DType::kF64, {B, E}});
}

void GoldenWatcher::compare_rows() {
  for (size_t m = 0; m < feed_.batches.size(); ++m) {
    const MicroBatch& batch = feed_.batches[m];
    const Range mine = feed_.sequences[m];
    const auto against = [&](const std::string& name, const std::vector<int32_t>& values, int64_t rows) {  // the first `rows` of each stored row; what follows must be ignored labels
      if (!io_.find(name)) return;
      const Tensor reference = io_.tensor(name);
      Deviation& d = out_[name];
      for (int64_t s = mine.begin, at = 0; s < mine.end; ++s)
        for (int64_t i = 0; i < reference.dim[1]; ++i) d.add(i < rows ? values[static_cast<size_t>(at++)] : kIgnoredLabel, element(reference, s * reference.dim[1] + i));
    };
    const int64_t S = io_.tensor("input_ids").dim[1];
    for (size_t k = 0; k < batch.mtp.size(); ++k) against("mtp." + std::to_string(k + 1) + ".labels", batch.mtp[k].labels, S - static_cast<int64_t>(k) - 1);
    against("position_ids", batch.main.position, S);
    std::vector<int32_t> documents;
    for (size_t d = 0, sequence = 0, first = 0; d + 1 < batch.main.cu_docs.size(); ++d) {
      if (batch.main.cu_docs[d] == batch.main.cu_seqs[sequence]) first = d, ++sequence;
      documents.insert(documents.end(), static_cast<size_t>(batch.main.cu_docs[d + 1] - batch.main.cu_docs[d]), static_cast<int32_t>(d - first));
    }
    against("document_of_token", documents, S);
  }
}

bool GoldenWatcher::fill_routing(int64_t layer, const Tensor& ids) const {
  const Tensor from = stored("moe." + std::to_string(layer) + ".topk_ids");
  for (int64_t i = 0; i < ids.size(); ++i) ids.as<int32_t>()[i] = static_cast<int32_t>(from.as<int64_t>()[i]);
  return true;
}

}  // namespace atoll
