// `atoll data prepare`: text in, token store out. The same text and options give the same bytes, whatever the number of threads.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/collect.h"
#include "data/store.h"
#include "data/tokenizer.h"

namespace atoll {

struct TokenizerSpec {
  int train_pieces = 0;    // > 0: train one
  std::string model_path;  // else: this file
};
TokenizerSpec parse_tokenizer_spec(const std::string& text);  // "train:4096" or a path; ConfigError
double parse_fraction(const std::string& text);               // "1%", "0.5 %" or "0.01", in [0, 1); ConfigError

struct PrepareProgress {
  std::string phase;
  int64_t done = 0, total = 0;  // in the unit of the phase: bytes, or files
  double seconds = 0;           // since the phase began
  double eta_seconds = -1;      // of the phase; -1: not known yet
};

struct PrepareOptions {
  std::vector<std::string> paths;
  std::vector<std::string> exclude;  // as CollectOptions::exclude
  TokenizerSpec tokenizer{4096, ""};
  double held_out_fraction = 0.01;
  std::string out;
  int num_threads = 0;  // 0: as many as this process may use
  int64_t max_tokenizer_sample_bytes = 8 << 20;
  std::function<void(const PrepareProgress&)> progress;  // called from the calling thread, at most some times a second
};

struct PrepareReport {
  StoreInfo store;
  CollectReport collected;      // zeros when is_reused
  bool is_reused = false;       // the folder already is the store of this request (same options, same collected files): nothing was done
  double collect_seconds = 0, tokenizer_seconds = 0, encode_seconds = 0;
};

// DataError: an --out that exists and is not this request's store, no text, disk full. An interrupted run leaves only OUT.partial, which the next one clears.
PrepareReport prepare_store(const PrepareOptions& options);
std::string describe(const PrepareReport& report);  // a few lines for the log

}  // namespace atoll
