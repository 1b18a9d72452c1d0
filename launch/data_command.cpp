// atoll data prepare | check: text to a token store, with progress.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "data/prepare.h"
#include "launch/commands.h"
#include "trainer/metrics.h"

namespace atoll {
namespace {
void show(const PrepareProgress& p) {
  static const bool is_terminal = isatty(STDERR_FILENO) != 0;
  static std::string last_phase;
  const bool is_new = p.phase != last_phase;
  last_phase = p.phase;
  if (!is_terminal && !is_new && p.done < p.total) return;
  const double percent = p.total > 0 ? 100.0 * static_cast<double>(p.done) / static_cast<double>(p.total) : 0.0;
  std::fprintf(stderr, "%s%s: %.0f %% of %s%s%s", is_terminal ? "\r\033[K" : "", p.phase.c_str(), percent, with_thousands(p.total).c_str(),
               p.eta_seconds >= 0 && p.done < p.total ? (", ETA " + duration(p.eta_seconds)).c_str() : "", is_terminal && p.done < p.total ? "" : "\n");
  std::fflush(stderr);
}
}  // namespace

void add_data(CLI::App& app, Command& chosen) {
  CLI::App* data = app.add_subcommand("data", "text to token stores");
  data->require_subcommand(1);
  CLI::App* prepare = data->add_subcommand("prepare", "make a token store from text files and folders");
  static PrepareOptions options;
  static std::string tokenizer = "train:4096", held_out = "1%";
  prepare->add_option("paths", options.paths, "text files, and folders that are walked. Each file is one document. In folders, links, hidden folders and files above 1 GiB are left out; binary and empty files are left out anywhere; all is counted")->required();
  prepare->add_option("--tokenizer", tokenizer, "train:PIECES trains a SentencePiece BPE on this text; else a .model file")->capture_default_str();
  prepare->add_option("--exclude", options.exclude, "shell pattern of names that are left out where folders are walked, files and folders alike; with a '/', of paths. May be given again")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false);
  prepare->add_option("--held-out", held_out, "share of whole files kept for evaluation, chosen by content hash; near duplicates of training files leave it")->capture_default_str();
  prepare->add_option("--out", options.out, "folder of the store; appears at once when all is done")->required();
  prepare->add_option("--threads", options.num_threads, "0: all cores; the bytes of the store do not depend on it")->capture_default_str()->check(CLI::NonNegativeNumber);
  prepare->footer("For example: atoll data prepare docs/ corpus.txt --tokenizer train:4096 --out runs/store, then data.store=runs/store in a recipe.\n"
                  "Interrupted, it leaves FOLDER.partial, which the next start clears; the same request again finds the finished store and does nothing.\n"
                  "A FOLDER that holds anything else, or a store of other text or options, is left alone (exit 65).");
  prepare->callback([&chosen] {
    chosen = [](MpiSession&, std::string& phase) {
      phase = "preparing data";
      options.tokenizer = parse_tokenizer_spec(tokenizer);
      options.held_out_fraction = parse_fraction(held_out);
      options.progress = show;
      std::printf("%s\n", describe(prepare_store(options)).c_str());
      return 0;
    };
  });
  CLI::App* check = data->add_subcommand("check", "verify every hash and token of a store");
  static std::string folder;
  check->add_option("store", folder, "folder of the store")->required();
  check->footer("Exit 0: sound; 65: damaged, and the file is named.");
  check->callback([&chosen] {
    chosen = [](MpiSession&, std::string& phase) {
      phase = "checking a store";
      verify_token_store(folder);
      const StoreInfo info = TokenStore::open(folder).info();
      std::printf("%s: sound; %s training tokens in %s documents, %s held out\n", folder.c_str(), with_thousands(info.train.tokens).c_str(), with_thousands(info.train.documents).c_str(),
                  with_thousands(info.heldout.tokens).c_str());
      return 0;
    };
  });
}

}  // namespace atoll
