// From text files to a finished store. Policy: threads encode a batch of files side by side, one thread writes them in their order: the bytes do not depend on
// the number of threads. A store of the same content and options is recognised by its request hash and kept; any other is refused, never overwritten.
#include "data/prepare.h"

#include <fmt/format.h>
#include <sched.h>

#include <atomic>
#include <charconv>
#include <chrono>
#include <exception>
#include <filesystem>
#include <mutex>
#include <thread>

#include "kernels/base/error.h"
#include "kernels/base/log.h"

namespace atoll {

namespace {

constexpr int64_t kBatchBytes = 8 << 20;

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

class Reporter {
 public:
  explicit Reporter(const PrepareOptions& options) : callback_(options.progress) {}
  void operator()(const std::string& phase, int64_t done, int64_t total) {
    if (!callback_) return;
    if (phase != phase_) {
      phase_ = phase;
      begin_ = Clock::now();
      last_ = {};
    }
    if (done < total && seconds_since(last_) < 0.2) return;
    last_ = Clock::now();
    PrepareProgress progress{phase, done, total, seconds_since(begin_)};
    if (done > 0 && progress.seconds > 0.5) progress.eta_seconds = progress.seconds * static_cast<double>(total - done) / static_cast<double>(done);
    callback_(progress);
  }

 private:
  std::function<void(const PrepareProgress&)> callback_;
  std::string phase_;
  Clock::time_point begin_ = Clock::now(), last_{};
};

int usable_threads(int asked) {
  if (asked > 0) return asked;
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

// What the store's bytes depend on: options, and every file's content in its order.
std::string request_hash(const PrepareOptions& options, const Collection& collection, const std::string& tokenizer) {
  Hasher hasher;
  const std::string head = fmt::format("store 1 tokenizer {} held out {:.17g}\n", tokenizer, options.held_out_fraction);
  hasher.update(head.data(), head.size());
  for (const auto& file : collection.files) {
    const std::string line = file.hash.hex() + (file.is_held_out ? " held out\n" : " train\n");
    hasher.update(line.data(), line.size());
  }
  return hasher.digest().hex();
}

std::vector<int32_t> encode_file(const Tokenizer& tokenizer, const SourceFile& file) {
  const std::string text = read_text(file);  // its errors name the file
  try {
    return tokenizer.encode(text);
  } catch (const Error& e) {
    throw Error(file.path + ": " + e.what(), e.code());
  } catch (const std::exception& e) {  // out of memory, or the library's own
    throw DataError(fmt::format("{}: its {} bytes cannot be tokenized ({}); split it into files, one a document", file.path, file.bytes, e.what()));
  }
}

std::vector<std::vector<int32_t>> encode_batch(const Tokenizer& tokenizer, const std::vector<SourceFile>& files, size_t begin, size_t end, int num_threads) {
  std::vector<std::vector<int32_t>> tokens(end - begin);
  std::atomic<size_t> next{begin};
  std::exception_ptr failure;
  std::mutex mutex;
  const auto work = [&] {
    try {
      for (size_t i; (i = next++) < end;) tokens[i - begin] = encode_file(tokenizer, files[i]);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
      next = end;
    }
  };
  std::vector<std::thread> threads;
  for (int t = 1; t < num_threads; ++t) threads.emplace_back(work);
  work();
  for (auto& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
  return tokens;
}

void write_documents(const Tokenizer& tokenizer, const Collection& collection, int num_threads, StoreWriter& writer, Reporter& report) {
  const auto& files = collection.files;
  int64_t done = 0;
  for (size_t begin = 0; begin < files.size();) {
    size_t end = begin;
    int64_t bytes = 0;
    while (end < files.size() && (end == begin || bytes + files[end].bytes <= kBatchBytes)) bytes += files[end++].bytes;
    auto tokens = encode_batch(tokenizer, files, begin, end, num_threads);
    for (size_t i = begin; i < end; ++i) writer.add_document(files[i].is_held_out, std::move(tokens[i - begin]), files[i].bytes);
    done += bytes;
    report("tokenizing", done, collection.report.bytes);
    begin = end;
  }
}

Tokenizer make_tokenizer(const PrepareOptions& options, const Collection& collection, Reporter& report) {
  if (options.tokenizer.train_pieces <= 0) return Tokenizer::load(options.tokenizer.model_path);
  std::vector<const SourceFile*> training;  // held-out text does not shape the tokenizer
  int64_t total = 0;
  for (const auto& file : collection.files) {
    if (file.is_held_out) continue;
    training.push_back(&file);
    total += file.bytes;
  }
  int64_t done = 0;
  TrainTokenizerOptions train;
  train.vocab_size = options.tokenizer.train_pieces;
  train.max_sample_bytes = options.max_tokenizer_sample_bytes;
  const auto text = [&](size_t i) {
    done += training[i]->bytes;
    report("sampling text for the tokenizer", done, total);
    if (i + 1 == training.size()) report("training the tokenizer", 0, 0);
    return read_text(*training[i]);
  };
  return train_tokenizer(training.size(), total, text, train);
}

double parse_number(const std::string& text, const std::string& whole) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) throw ConfigError("\"" + whole + "\" is not a share; write 1% or 0.01");
  return value;
}

}  // namespace

TokenizerSpec parse_tokenizer_spec(const std::string& text) {
  if (text.empty()) throw ConfigError("--tokenizer is empty; write train:4096 or the path of a SentencePiece .model file");
  if (text.rfind("train:", 0) != 0) {
    if (text.rfind("train", 0) == 0 && !std::filesystem::exists(text)) throw ConfigError("\"" + text + "\": write train:N with N pieces, for example train:4096");
    return {0, text};
  }
  int pieces = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data() + 6, end, pieces);
  if (error != std::errc() || stop != end) throw ConfigError("\"" + text + "\": write train:N with N pieces, for example train:4096");
  if (pieces < 300 || pieces > 1000000) throw ConfigError(fmt::format("\"{}\": a trained tokenizer has 300 to 1000000 pieces", text));
  return {pieces, ""};
}

double parse_fraction(const std::string& text) {
  std::string number = text;
  double scale = 1;
  if (!number.empty() && number.back() == '%') {
    number.pop_back();
    while (!number.empty() && number.back() == ' ') number.pop_back();
    scale = 0.01;
  }
  const double value = parse_number(number, text) * scale;
  if (!(value >= 0 && value < 1)) throw ConfigError("\"" + text + "\": the held-out share must be at least 0 and below 100% (write 1% or 0.01)");
  return value;
}

PrepareReport prepare_store(const PrepareOptions& options) {
  if (options.out.empty()) throw ConfigError("no --out folder for the token store");
  namespace fs = std::filesystem;
  if (fs::exists(options.out) && !is_token_store(options.out) && !(fs::is_directory(options.out) && fs::is_empty(options.out)))
    throw DataError(options.out + ": exists and is not a token store; give another --out (nothing is overwritten)");
  PrepareReport report;
  Reporter reporter(options);
  auto begin = Clock::now();
  CollectOptions collect_options;
  collect_options.paths = options.paths;
  collect_options.exclude = options.exclude;
  collect_options.held_out_fraction = options.held_out_fraction;
  const Collection collection = collect(collect_options, [&](const std::string& phase, int64_t done, int64_t total) { reporter(phase, done, total); });
  report.collected = collection.report;
  report.collect_seconds = seconds_since(begin);
  if (options.held_out_fraction > 0 && collection.report.held_out_files == 0)
    log::warn("no file was held out (whole files are, by content): where there are few files, ask for a larger --held-out or split them, one document a file");

  const bool is_trained = options.tokenizer.train_pieces > 0;
  const std::string tokenizer_name = is_trained ? fmt::format("train {} sample {}", options.tokenizer.train_pieces, options.max_tokenizer_sample_bytes)
                                                : Tokenizer::load(options.tokenizer.model_path).hash();
  const std::string request = request_hash(options, collection, tokenizer_name);
  if (is_token_store(options.out)) {
    report.store = TokenStore::open(options.out).info();
    if (report.store.request_hash != request) throw DataError(options.out + ": is a token store of other text or options; give another --out, or remove it");
    clear_marker(options.out);
    report.is_reused = true;
    return report;
  }

  begin = Clock::now();
  const Tokenizer tokenizer = make_tokenizer(options, collection, reporter);
  report.tokenizer_seconds = seconds_since(begin);
  if (!tokenizer.is_lossless())
    log::warn("with this tokenizer, decoding does not give every text back byte for byte (a dummy prefix, a normaliser, or unknown characters): bits per byte will count the bytes that tokens spell");
  begin = Clock::now();
  StoreWriter writer(options.out, tokenizer);
  write_documents(tokenizer, collection, usable_threads(options.num_threads), writer, reporter);
  const std::string rule = fmt::format("whole files whose content hash (upper 53 bits of XXH3-128, as a fraction) is below {:.6g}; then without those of which one training "
                                       "file contains at least {:.0f} % of the distinct 5-word shingles",
                                       options.held_out_fraction, 100 * collect_options.near_duplicate_share);
  report.store = writer.commit(rule, request, describe(collection.report));
  report.encode_seconds = seconds_since(begin);
  return report;
}

std::string describe(const PrepareReport& report) {
  const auto& s = report.store;
  std::string text = report.is_reused ? std::string("the token store is there already, made from the same text and options\n") : describe(report.collected) + "\n";
  const auto split = [](const char* name, const SplitInfo& info) {
    return fmt::format("{}: {} tokens, {} documents, {} bytes, {:.2f} bytes a token\n", name, info.tokens, info.documents, info.bytes,
                       info.tokens > 0 ? static_cast<double>(info.bytes) / static_cast<double>(info.tokens) : 0.0);
  };
  text += split("train", s.train) + split("held out", s.heldout);
  if (!report.is_reused)
    text += fmt::format("seconds: collecting {:.1f}, tokenizer {:.1f}, tokenizing {:.1f} ({:.1f} MB/s)\n", report.collect_seconds, report.tokenizer_seconds, report.encode_seconds,
                        1e-6 * static_cast<double>(s.train.bytes + s.heldout.bytes) / std::max(report.encode_seconds, 1e-9));
  return text;
}

}  // namespace atoll
