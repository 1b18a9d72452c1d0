// atoll eval, atoll generate: a checkpoint of any layout, in one process.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <iterator>

#include "data/bigram.h"
#include "data/utf8.h"
#include "launch/commands.h"
#include "trainer/evaluation.h"
#include "trainer/loaded_run.h"

namespace atoll {
namespace {
int evaluate_command(const std::string& path, const std::string& store, int64_t rows, bool with_bigram, bool json, int threads, std::string& phase) {
  phase = "loading " + path;
  std::unique_ptr<LoadedRun> run = load_run(path, threads);
  RunConfig config = run->config;
  if (!store.empty()) config.data.store = store;
  phase = "opening the data";
  DataFeed feed(config);
  if (feed.store().tokenizer().hash() != run->tokenizer->hash()) throw DataError(config.data.store + ": made with another tokenizer than " + run->directory + "; evaluate on a store of the same tokenizer");
  const bool is_training_store = feed.fingerprint() == run->data_fingerprint;
  // The bigram model is fitted on the tokens that were trained on, whatever text both are measured on.
  std::unique_ptr<DataFeed> trained_on;
  if (with_bigram && !is_training_store) {
    if (!store.empty()) trained_on = std::make_unique<DataFeed>(run->config);
    if (!trained_on || trained_on->fingerprint() != run->data_fingerprint)
      throw DataError(run->config.data.store + ": not the store that " + run->directory + " was trained on, so no bigram model can be fitted on the same tokens; bring that store back, or leave --bigram out");
  }
  phase = "evaluating";
  const int64_t count = rows > 0 ? std::min(rows, feed.num_heldout_rows()) : feed.num_heldout_rows();
  if (count == 0) throw DataError(config.data.store + ": nothing is held out in this store");
  const HeldOutLoss loss = heldout_loss(*run->engine, feed, count);
  std::optional<HeldOutScore> bigram;
  if (with_bigram) {
    phase = "fitting the bigram model";
    bigram = score(fit_bigram((trained_on ? *trained_on : feed).sampler(), run->sequences), feed.heldout(), count);
  }
  if (json) {
    std::string out = fmt::format("{{\"checkpoint\": \"{}\", \"step\": {}, \"tokens_trained\": {}, \"loss\": {:.6f}, \"bits_per_byte\": {:.6f}, \"labels\": {}, \"bytes\": {}, \"is_training_store\": {}, \"is_lossless_tokenizer\": {}",
                                  run->directory, run->step, run->tokens, loss.nats_per_token, loss.bits_per_byte, loss.labels, loss.bytes, is_training_store, run->tokenizer->is_lossless());
    if (!loss.mtp_nats_per_token.empty()) out += fmt::format(", \"mtp_loss\": {:.6f}", loss.mtp_nats_per_token[0]);
    if (bigram) out += fmt::format(", \"bigram\": {{\"loss\": {:.6f}, \"bits_per_byte\": {:.6f}, \"labels\": {}}}", bigram->nats_per_token(), bigram->bits_per_byte(), bigram->tokens);
    fmt::print("{}}}\n", out);
    return 0;
  }
  fmt::print("{} (step {}, {} tokens)\nheld-out: {:.4f} nats/token, {:.4f} bits/byte ({} tokens, {} bytes of {}{})\n", run->directory, run->step, run->tokens, loss.nats_per_token,
             loss.bits_per_byte, loss.labels, loss.bytes, config.data.store, is_training_store ? "" : ", not the store it was trained on");
  if (!run->tokenizer->is_lossless())
    fmt::print("bits/byte is of the bytes that tokens spell: this tokenizer does not keep every byte of a text (the held-out text has {} in all)\n", feed.store().info().heldout.bytes);
  if (bigram)
    fmt::print("bigram model fitted on the same training tokens: {:.4f} nats/token, {:.4f} bits/byte; the model is {:.4f} nats/token {}\n", bigram->nats_per_token(), bigram->bits_per_byte(),
               std::abs(bigram->nats_per_token() - loss.nats_per_token), loss.nats_per_token < bigram->nats_per_token() ? "better" : "WORSE");
  return 0;
}
}  // namespace

void add_use(CLI::App& app, Command& chosen) {
  static std::string path, store;
  static int64_t rows = 0;
  static int threads = 0;
  static bool json = false, with_bigram = false;
  CLI::App* eval = app.add_subcommand("eval", "held-out loss of a checkpoint: nats per token and bits per byte");
  eval->add_option("run", path, "a run folder (its newest good checkpoint) or a checkpoint")->required();
  eval->add_option("--data", store, "token store, of the same tokenizer; default: the one it was trained on");
  eval->add_option("--sequences", rows, "held-out rows; 0: all")->capture_default_str()->check(CLI::NonNegativeNumber);
  eval->add_option("--threads", threads, "0: all cores")->capture_default_str()->check(CLI::NonNegativeNumber);
  eval->add_flag("--bigram", with_bigram, "also fit an interpolated bigram model on the very tokens trained on, and measure it on the same rows");
  eval->add_flag("--json", json, "JSON, for scripts");
  eval->footer("A row is data.seq_len tokens of held-out text. The checkpoint may come from any number of ranks.");
  eval->callback([&chosen] { chosen = [](MpiSession&, std::string& phase) { return evaluate_command(path, store, rows, with_bigram, json, threads, phase); }; });

  static GenerateOptions options;
  CLI::App* gen = app.add_subcommand("generate", "text from a checkpoint");
  gen->add_option("run", path, "a run folder (its newest good checkpoint) or a checkpoint")->required();
  CLI::Option* prompt = gen->add_option("--prompt", options.prompt, "text to go on from; without it, standard input is read unless it is a terminal");
  gen->add_option("--max-tokens", options.max_tokens, "at most so many; generation ends at end of text")->capture_default_str()->check(CLI::NonNegativeNumber);
  gen->add_option("--temperature", options.temperature, "0: always the likeliest token")->capture_default_str();
  gen->add_option("--top-p", options.top_p, "sample from the likeliest tokens with this mass")->capture_default_str();
  gen->add_option("--seed", options.seed, "equal seeds, equal text")->capture_default_str();
  gen->add_option("--threads", threads, "0: all cores")->capture_default_str()->check(CLI::NonNegativeNumber);
  gen->footer("The prompt is printed first, then what follows it. Without a prompt it begins a document of its own. The model sees the last data.seq_len tokens.");
  gen->callback([&chosen, prompt] {
    chosen = [prompt](MpiSession&, std::string& phase) {
      if (prompt->count() == 0 && isatty(STDIN_FILENO) == 0) options.prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
      if (!is_valid_utf8(options.prompt)) throw ConfigError("the prompt is not valid UTF-8");
      phase = "loading " + path;
      const std::unique_ptr<LoadedRun> run = load_run(path, threads);
      phase = "generating";
      std::cout << options.prompt << std::flush;
      generate(*run, options, [](const std::string& text) { std::cout << text << std::flush; });
      std::cout << std::endl;
      return 0;
    };
  });
}

}  // namespace atoll
