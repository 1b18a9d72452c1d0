// The keys. Each line: name, where it lives, range, why it may not change on resume (empty: it may), meaning.
#include "trainer/config_schema.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "parallel/schedule.h"
#include "trainer/config_values.h"
#include "trainer/schedule_file.h"

namespace atoll {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
constexpr int64_t kMaxLength = 100'000'000'000'000'000;  // steps or tokens: sums of a few of them still fit 64 bits
constexpr const char* kShape = "the checkpoint's tensors belong to this model; start a new run (run.name=...)";
constexpr const char* kOrder = "the data would not continue where it stopped; start a new run (run.name=...)";
constexpr const char* kMaths = "it would not be the same run; start a new one (run.name=...)";
constexpr const char* kMay = "";

// Members are reached through generic lambdas, `[](auto& c) -> auto& { return c.train.steps; }`: one for reading and writing.
#define ATOLL_AT(member) \
  [](auto& c) -> auto& { return c.member; }

std::string range(int64_t least, int64_t most) {
  if (most != kMax) return print_count(least) + ".." + print_count(most);
  return ">= " + print_count(least);
}

template <class At, class Parse, class Print>
ConfigKey number(std::string name, At at, Parse parse, Print print, const std::string& what, int64_t least, int64_t most, std::string why_fixed,
                 std::string doc) {
  using T = std::decay_t<decltype(at(std::declval<RunConfig&>()))>;
  return {std::move(name),
          what + ", " + range(least, most),
          std::move(doc),
          std::move(why_fixed),
          [=](const YamlNode& node, RunConfig& c) -> std::string {
            int64_t value = 0;
            if (const std::string error = parse(node, value); !error.empty()) return error;
            if (value < least || value > most) return "out of range: must be " + range(least, most);
            at(c) = static_cast<T>(value);
            return "";
          },
          [=](const RunConfig& c) { return print(static_cast<int64_t>(at(c))); }};
}
template <class At>
ConfigKey whole(std::string name, At at, int64_t least, int64_t most, std::string why_fixed, std::string doc) {
  return number(
      std::move(name), at, parse_whole, [](int64_t v) { return std::to_string(v); }, "whole number", least, most, std::move(why_fixed), std::move(doc));
}
template <class At>
ConfigKey count(std::string name, At at, int64_t least, int64_t most, std::string why_fixed, std::string doc) {
  return number(std::move(name), at, parse_count, print_count, "count (K M B T)", least, most, std::move(why_fixed), std::move(doc));
}
template <class At>
ConfigKey bytes(std::string name, At at, std::string doc) {
  return number(std::move(name), at, parse_bytes, print_bytes, "bytes (KiB MiB GiB TiB)", 0, kMax, kMay, std::move(doc));
}

template <class At>
ConfigKey real(std::string name, At at, double least, double most, std::string why_fixed, std::string doc) {
  const bool is_bounded = most < std::numeric_limits<double>::max();
  const std::string bounds = is_bounded ? print_real(least) + ".." + print_real(most) : ">= " + print_real(least);
  return {std::move(name),
          "number, " + bounds,
          std::move(doc),
          std::move(why_fixed),
          [=](const YamlNode& node, RunConfig& c) -> std::string {
            double value = 0;
            if (const std::string error = parse_real(node, value); !error.empty()) return error;
            if (!(value >= least && value <= most)) return "out of range: must be " + bounds;
            at(c) = value;
            return "";
          },
          [=](const RunConfig& c) { return print_real(at(c)); }};
}
constexpr double kAnyReal = std::numeric_limits<double>::max();

template <class At, class T>
ConfigKey parsed(std::string name, At at, std::string (*parse)(const YamlNode&, T&), std::string (*print)(const T&), std::string type, std::string why_fixed,
                 std::string doc) {
  return {std::move(name),
          std::move(type),
          std::move(doc),
          std::move(why_fixed),
          [=](const YamlNode& node, RunConfig& c) -> std::string {
            T value{};
            if (const std::string error = parse(node, value); !error.empty()) return error;
            at(c) = std::move(value);
            return "";
          },
          [=](const RunConfig& c) { return print(at(c)); }};
}
std::string print_switch(const bool& value) { return value ? "true" : "false"; }
std::string print_point(const RunPoint& point) { return to_string(point); }

template <class At>
ConfigKey on_off(std::string name, At at, std::string why_fixed, std::string doc) {
  return parsed(std::move(name), at, parse_switch, print_switch, "true | false", std::move(why_fixed), std::move(doc));
}
template <class At>
ConfigKey text(std::string name, At at, std::string why_fixed, std::string doc) {
  return parsed(std::move(name), at, parse_text, print_text, "text", std::move(why_fixed), std::move(doc));
}
template <class At>
ConfigKey point(std::string name, At at, std::string why_fixed, std::string doc) {
  return parsed(std::move(name), at, parse_point, print_point, "point of the run (2000 steps, 10T tokens, end)", std::move(why_fixed), std::move(doc));
}
template <class At>
ConfigKey points(std::string name, At at, std::string why_fixed, std::string doc) {
  return parsed(std::move(name), at, parse_points, print_points, "number, or [[point, value], ...]", std::move(why_fixed), std::move(doc));
}

template <class At>
ConfigKey schedule(std::string name, At at, std::string why_fixed, std::string doc) {
  std::string list;
  for (const std::string& word : schedule_names()) list += word + " | ";
  list += "a file (*.yaml, *.csv)";
  return {std::move(name),
          list,
          std::move(doc),
          std::move(why_fixed),
          [=](const YamlNode& node, RunConfig& c) -> std::string {
            const auto& names = schedule_names();
            if (node.kind != YamlNode::Kind::kScalar || (!is_schedule_file(node.text) && std::find(names.begin(), names.end(), node.text) == names.end())) return "expected one of: " + list;
            at(c) = node.text;
            return "";
          },
          [=](const RunConfig& c) { return print_text(at(c)); }};
}

template <class At, class T>
ConfigKey choice(std::string name, At at, std::vector<std::pair<std::string, T>> choices, std::string why_fixed, std::string doc) {
  std::string list;
  for (const auto& [word, value] : choices) list += (list.empty() ? "" : " | ") + word;
  return {std::move(name),
          list,
          std::move(doc),
          std::move(why_fixed),
          [=](const YamlNode& node, RunConfig& c) -> std::string {
            for (const auto& [word, value] : choices)
              if (node.kind == YamlNode::Kind::kScalar && node.text == word) {
                at(c) = value;
                return "";
              }
            return "expected one of: " + list;
          },
          [=](const RunConfig& c) -> std::string {
            for (const auto& [word, value] : choices)
              if (value == at(c)) return print_text(word);
            return "?";
          }};
}
std::vector<std::pair<std::string, std::string>> words(const std::vector<std::string>& list) {
  std::vector<std::pair<std::string, std::string>> out;
  for (const std::string& word : list) out.emplace_back(word, word);
  return out;
}

template <class At>
ConfigKey dimension(const char* name, At at, int64_t least, const char* doc) {
  return whole(std::string("model.") + name, at, least, kMax, kShape, doc);  // upper bounds: ModelConfig::problems()
}

ConfigKey q_lora_rank() {
  ConfigKey key = dimension("q_lora_rank", ATOLL_AT(model.q_lora_rank), 0, "width of the query latent; null or 0: one q_proj instead");
  const auto parse = key.parse;
  key.parse = [parse](const YamlNode& node, RunConfig& c) -> std::string {
    if (node.kind != YamlNode::Kind::kNull) return parse(node, c);
    c.model.q_lora_rank = 0;
    return "";
  };
  return key;
}

void add_model(std::vector<ConfigKey>& t) {
  t.push_back(choice("model.model_type", ATOLL_AT(model.model_type), words({"deepseek_v3", "deepseek_v2"}), kShape,
                     "deepseek_v2 never normalises the routing weights"));
  t.push_back(dimension("vocab_size", ATOLL_AT(model.vocab_size), 2, "rows of embedding and head; at least the tokenizer's size"));
  t.push_back(dimension("hidden_size", ATOLL_AT(model.hidden_size), 1, "width of the residual stream"));
  t.push_back(dimension("intermediate_size", ATOLL_AT(model.intermediate_size), 0, "hidden width of a dense MLP"));
  t.push_back(dimension("moe_intermediate_size", ATOLL_AT(model.moe_intermediate_size), 0, "hidden width of one expert"));
  t.push_back(dimension("num_hidden_layers", ATOLL_AT(model.num_hidden_layers), 1, "transformer blocks, MTP's not counted"));
  t.push_back(dimension("num_attention_heads", ATOLL_AT(model.num_attention_heads), 1, "heads; MLA has as many key and value heads"));
  t.push_back(q_lora_rank());
  t.push_back(dimension("kv_lora_rank", ATOLL_AT(model.kv_lora_rank), 1, "width of the key-value latent"));
  t.push_back(dimension("qk_nope_head_dim", ATOLL_AT(model.qk_nope_head_dim), 1, "part of a query or key head without rotation"));
  t.push_back(dimension("qk_rope_head_dim", ATOLL_AT(model.qk_rope_head_dim), 2, "rotated part; the key's is shared by all heads"));
  t.push_back(dimension("v_head_dim", ATOLL_AT(model.v_head_dim), 1, "width of a value head"));
  t.push_back(dimension("n_routed_experts", ATOLL_AT(model.n_routed_experts), 0, "experts of a MoE layer; 0: every layer is dense"));
  t.push_back(dimension("n_shared_experts", ATOLL_AT(model.n_shared_experts), 0, "experts that every token uses (one MLP of n times the width)"));
  t.push_back(dimension("num_experts_per_tok", ATOLL_AT(model.num_experts_per_tok), 1, "routed experts a token uses"));
  t.push_back(dimension("n_group", ATOLL_AT(model.n_group), 1, "groups of consecutive experts"));
  t.push_back(dimension("topk_group", ATOLL_AT(model.topk_group), 1, "groups a token may use"));
  t.push_back(dimension("first_k_dense_replace", ATOLL_AT(model.first_k_dense_replace), 0, "this many first layers are dense"));
  t.push_back(choice("model.scoring_func", ATOLL_AT(model.scoring_func),
                     std::vector<std::pair<std::string, ScoreFunction>>{{"sigmoid", ScoreFunction::kSigmoid}, {"softmax", ScoreFunction::kSoftmax}}, kShape,
                     "router scores from logits"));
  t.push_back(choice("model.topk_method", ATOLL_AT(model.topk_method), words({"noaux_tc", "group_limited_greedy", "greedy"}), kShape,
                     "noaux_tc: biased, groups by their two best (V3); group_limited_greedy: groups by their best (V2); greedy: no groups"));
  t.push_back(on_off("model.norm_topk_prob", ATOLL_AT(model.norm_topk_prob), kShape, "routing weights sum to one before scaling (V3)"));
  t.push_back(real("model.routed_scaling_factor", ATOLL_AT(model.routed_scaling_factor), 0, kAnyReal, kShape, "factor on the routing weights"));
  t.push_back(dimension("num_nextn_predict_layers", ATOLL_AT(model.num_nextn_predict_layers), 0, "depth of multi-token prediction"));
  t.push_back(dimension("max_position_embeddings", ATOLL_AT(model.max_position_embeddings), 1, "longest sequence"));
  t.push_back(real("model.rope_theta", ATOLL_AT(model.rope_theta), 0, kAnyReal, kShape, "RoPE base"));
  t.push_back(choice("model.rope_scaling.type", ATOLL_AT(model.rope_scaling.is_yarn),
                     std::vector<std::pair<std::string, bool>>{{"default", false}, {"yarn", true}}, kShape, "yarn applies at every length"));
  t.push_back(real("model.rope_scaling.factor", ATOLL_AT(model.rope_scaling.factor), 0, kAnyReal, kShape, "YaRN: new length / original length"));
  t.push_back(whole("model.rope_scaling.original_max_position_embeddings", ATOLL_AT(model.rope_scaling.original_max_position), 1, kMax, kShape,
                    "YaRN: original length"));
  t.push_back(
      real("model.rope_scaling.beta_fast", ATOLL_AT(model.rope_scaling.beta_fast), 0, kAnyReal, kShape, "YaRN: rotations from which a frequency is kept"));
  t.push_back(real("model.rope_scaling.beta_slow", ATOLL_AT(model.rope_scaling.beta_slow), 0, kAnyReal, kShape,
                   "YaRN: rotations below which a frequency is divided by factor"));
  t.push_back(real("model.rope_scaling.mscale", ATOLL_AT(model.rope_scaling.mscale), 0, kAnyReal, kShape,
                   "YaRN: cos and sin are scaled by m(mscale) / m(mscale_all_dim)"));
  t.push_back(real("model.rope_scaling.mscale_all_dim", ATOLL_AT(model.rope_scaling.mscale_all_dim), 0, kAnyReal, kShape,
                   "YaRN: attention scores are scaled by m(mscale_all_dim) squared"));
  t.push_back(real("model.rms_norm_eps", ATOLL_AT(model.rms_norm_eps), 0, 1, kShape, "epsilon of block and final norms; the latent norms always have 1e-6"));
  t.push_back(on_off("model.tie_word_embeddings", ATOLL_AT(model.tie_word_embeddings), kShape, "the head is the embedding table"));
  t.push_back(real("model.initializer_range", ATOLL_AT(model.initializer_range), 0, kAnyReal, kShape, "standard deviation of the initial weights"));
}

void add_data(std::vector<ConfigKey>& t) {
  t.push_back(text("data.store", ATOLL_AT(data.store), kMay, "token store made by `atoll data prepare`; may move, but not change (its fingerprint is in the checkpoint)"));
  t.push_back(count("data.seq_len", ATOLL_AT(data.seq_len), 2, 1ll << 31, kOrder, "tokens of one sequence"));
  t.push_back(on_off("data.document_mask", ATOLL_AT(data.document_mask), kMaths, "a token attends within its own document only (DeepSeek-V3: false)"));
  t.push_back(whole("data.seed", ATOLL_AT(data.seed), 0, kMax, kOrder, "order of the data"));
}

void add_train(std::vector<ConfigKey>& t) {
  t.push_back(count("train.steps", ATOLL_AT(train.steps), 0, kMaxLength, kMay, "length of the run in optimizer steps (or give train.tokens)"));
  t.push_back(count("train.tokens", ATOLL_AT(train.tokens), 0, kMaxLength, kMay, "length of the run in tokens (or give train.steps)"));
  t.push_back(count("train.global_batch", ATOLL_AT(train.global_batch), 1, 1ll << 31, kMaths, "sequences of one optimizer step, over all ranks"));
  t.push_back(count("train.micro_batch", ATOLL_AT(train.micro_batch), 1, 1ll << 31, kMay, "sequences of one forward on one data-parallel rank"));
  t.push_back(count("train.batch_ramp.start", ATOLL_AT(train.batch_ramp.start), 0, 1ll << 31, kMaths, "sequences of the first step; 0: no ramp"));
  t.push_back(count("train.batch_ramp.until_tokens", ATOLL_AT(train.batch_ramp.until_tokens), 0, kMaxLength, kMaths,
                    "tokens after which the batch is train.global_batch; grows linearly in tokens until then"));
  t.push_back(
      count("train.batch_ramp.multiple", ATOLL_AT(train.batch_ramp.multiple), 1, 1ll << 31, kMaths, "the growing batch is rounded down to a multiple of this"));
  t.push_back(whole("train.seed", ATOLL_AT(train.seed), 0, kMax, kMaths, "initial weights"));
  t.push_back(real("train.lr.max", ATOLL_AT(train.lr.max), 0, kAnyReal, kMay, "learning rate after the warm-up"));
  t.push_back(real("train.lr.min", ATOLL_AT(train.lr.min), 0, kAnyReal, kMay, "learning rate where the cosine ends"));
  t.push_back(point("train.lr.warmup", ATOLL_AT(train.lr.warmup), kMay, "linear from 0 to max until here"));
  t.push_back(point("train.lr.constant_until", ATOLL_AT(train.lr.constant_until), kMay, "max until here; 0: the decay starts where the warm-up ends"));
  t.push_back(point("train.lr.decay_until", ATOLL_AT(train.lr.decay_until), kMay, "cosine from max to min until here; end: the end of the run"));
  t.push_back(points("train.lr.plateaus", ATOLL_AT(train.lr.plateaus), kMay, "constant learning rates after the decay, each from its point on"));
  t.push_back(real("train.adam.beta1", ATOLL_AT(train.adam.beta1), 0, 1, kMaths, "decay of the first moment"));
  t.push_back(real("train.adam.beta2", ATOLL_AT(train.adam.beta2), 0, 1, kMaths, "decay of the second moment"));
  t.push_back(real("train.adam.eps", ATOLL_AT(train.adam.eps), 1e-30, 1, kMaths, "added outside the root"));
  t.push_back(real("train.adam.weight_decay", ATOLL_AT(train.adam.weight_decay), 0, kAnyReal, kMaths, "decoupled; on matrices, not on norm gains"));
  t.push_back(choice("train.adam.moments", ATOLL_AT(train.adam.moments),
                     std::vector<std::pair<std::string, DType>>{{"fp32", DType::kF32}, {"bf16", DType::kBF16}}, kMaths,
                     "storage of both moments (fp32 is fp64 under train.dtype fp64)"));
  t.push_back(real("train.clip_norm", ATOLL_AT(train.clip_norm), 0, kAnyReal, kMay, "gradients are scaled down to this global norm; 0: never"));
  t.push_back(whole("train.nonfinite_budget", ATOLL_AT(train.nonfinite_budget), 0, kMax, kMay,
                    "updates that may be skipped for a non-finite loss or gradient before the run stops"));
  t.push_back(text("train.resume", ATOLL_AT(train.resume), kMay, "auto: from the newest good checkpoint of the run, if any; never; or a checkpoint's folder, for a run that has none of its own yet"));
  t.push_back(
      points("train.mtp_lambda", ATOLL_AT(train.mtp_lambda.values), kMay, "weight of the MTP losses along the run (DeepSeek-V3: [[0, 0.3], [10T, 0.1]])"));
  t.push_back(points("train.balance_alpha", ATOLL_AT(train.balance_alpha.values), kMay, "weight of the sequence-wise balance loss"));
  t.push_back(points("train.bias_gamma", ATOLL_AT(train.bias_gamma.values), kMay, "step of the router bias (DeepSeek-V3: [[0, 0.001], [14300B, 0]])"));
  t.push_back(choice("train.dtype", ATOLL_AT(train.dtype),
                     std::vector<std::pair<std::string, DType>>{{"bf16", DType::kBF16}, {"fp32", DType::kF32}, {"fp64", DType::kF64}}, kMaths,
                     "storage of weights and activations; masters, gradients and sums are fp32 (fp64)"));
  t.push_back(choice("train.bf16_gemm", ATOLL_AT(train.bf16_gemm),
                     std::vector<std::pair<std::string, Bf16Gemm>>{{"auto", Bf16Gemm::kAuto}, {"native", Bf16Gemm::kNative}, {"widen", Bf16Gemm::kWiden}}, kMay,
                     "how BF16 operands are multiplied; auto measures both at the start"));
  t.push_back(whole("train.threads", ATOLL_AT(train.threads), 0, 4096, kMay, "threads of one rank; 0: cores of the host / ranks on it"));
}

void add_rest(std::vector<ConfigKey>& t) {
  const auto axis = [&](const char* name, auto at, const char* doc) { t.push_back(whole(std::string("parallel.") + name, at, 1, 1 << 20, kMay, doc)); };
  axis("pp", ATOLL_AT(parallel.mesh.pp), "pipeline stages");
  axis("tp", ATOLL_AT(parallel.mesh.tp), "tensor-parallel ranks");
  axis("cp", ATOLL_AT(parallel.mesh.cp), "context-parallel ranks");
  axis("ep", ATOLL_AT(parallel.mesh.ep), "ranks that share the experts of a layer; divides dp = ranks / (pp tp cp)");
  axis("etp", ATOLL_AT(parallel.mesh.etp), "tensor-parallel ranks of one expert");
  t.push_back(schedule("parallel.schedule", ATOLL_AT(parallel.schedule), kMay,
                     "order of the pipeline's work (docs/schedules.md); the same bits in all, in dualpipe those of 1f1b with parallel.grad_halves = 2"));
  t.push_back(whole("parallel.vpp", ATOLL_AT(parallel.vpp), 1, 1024, kMay, "stages that a rank holds under schedule interleaved; 1 under all others"));
  t.push_back(whole("parallel.grad_halves", ATOLL_AT(parallel.grad_halves), 1, 2, kMay,
                    "2: each half of a step's micro-batches passes the pipeline and sums its gradients for itself, then they are added: dualpipe's bits under the other schedules"));
  t.push_back(parsed("parallel.stage_layers", ATOLL_AT(parallel.stage_layers), parse_wholes, print_wholes, "list of whole numbers", kMay,
                     "layers of each stage, such as [3, 2], num_hidden_layers in all: MTP is on the last one, uncounted; []: balanced by FLOPs"));
  t.push_back(
      choice("parallel.reduce", ATOLL_AT(parallel.reduce), words({"ordered"}), kMay, "how floats are summed over ranks: exchanged, then added in rank order"));
  t.push_back(count("checkpoint.every", ATOLL_AT(checkpoint.every), 0, kMax, kMay, "steps between checkpoints; 0: only at the end and on a signal"));
  t.push_back(whole("checkpoint.keep_last", ATOLL_AT(checkpoint.keep_last), 0, 1'000'000, kMay, "checkpoints to keep; 0: all"));
  t.push_back(count("eval.every", ATOLL_AT(eval.every), 0, kMax, kMay, "steps between held-out evaluations; 0: only at the end"));
  t.push_back(count("eval.sequences", ATOLL_AT(eval.sequences), 0, kMax, kMay, "held-out sequences of one evaluation; 0: all"));
  t.push_back(count("log.every", ATOLL_AT(log.every), 1, kMax, kMay, "steps between console lines; metrics.jsonl has every step"));
  t.push_back(choice("log.level", ATOLL_AT(log.level), words({"debug", "info", "warn", "error"}), kMay, "least level on the console"));
  t.push_back(bytes("memory.activations", ATOLL_AT(memory.activations), "bound of the activations of one rank; 0: what the machine has"));
  t.push_back(bytes("memory.routed", ATOLL_AT(memory.routed), "bound of the routed rows of one rank; 0: what the machine has"));
  t.push_back(bytes("memory.workspace", ATOLL_AT(memory.workspace), "bound of the scratch of one rank; 0: what the machine has"));
  t.push_back(text("run.dir", ATOLL_AT(run.dir), kMay, "folder of all runs"));
  t.push_back(text("run.name", ATOLL_AT(run.name), kMay, "this run's folder inside run.dir"));
}

#undef ATOLL_AT

}  // namespace

const std::vector<ConfigKey>& config_schema() {
  static const std::vector<ConfigKey> table = [] {
    std::vector<ConfigKey> t;
    add_model(t);
    add_data(t);
    add_train(t);
    add_rest(t);
    return t;
  }();
  return table;
}

}  // namespace atoll
