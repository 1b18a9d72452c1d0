// Tokenizer: a SentencePiece model. The serialized model is the tokenizer's identity: it lies in the token store, rides in checkpoints, and
// its hash says whether two of them mean the same ids. Policy: a lossless model (byte pieces for all 256 bytes, no normalisation, no dummy
// prefix: what train_tokenizer makes) gives decode(encode(x)) == x for any bytes; any other model does exactly what SentencePiece does. Texts without a place to cut go in parts: lines
// beyond 64 KB (a lossless model's), texts beyond 1 MB (another's), cut before a space or between characters.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace atoll {

class Tokenizer {
 public:
  static Tokenizer load(const std::string& path);                          // DataError names the path
  static Tokenizer from_serialized(std::string bytes, const std::string& origin = "the serialized tokenizer");
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  std::vector<int32_t> encode(std::string_view text) const;                // no BOS, no EOS; thread safe
  void encode_to(std::string_view text, std::vector<int32_t>& ids) const;  // appends
  std::string decode(std::span<const int32_t> ids) const;                  // control tokens are empty; ids out of range: Error
  std::string_view token_bytes(int32_t id) const;  // what one token adds to the text (control tokens: nothing): feed it to Utf8Stream
  const std::string& piece(int32_t id) const;      // as the model spells it

  int32_t vocab_size() const;
  int32_t bos_id() const;  // -1: the model has none
  int32_t eos_id() const;
  bool is_lossless() const;
  const std::string& serialized() const;
  const std::string& hash() const;  // XXH3-128 of serialized()

 private:
  struct Model;
  explicit Tokenizer(std::unique_ptr<Model> model);
  std::unique_ptr<Model> model_;
};

struct TrainTokenizerOptions {
  int vocab_size = 4096;
  int64_t max_sample_bytes = 8 << 20;  // blocks spread evenly over the texts; the time is about one second a megabyte
  double character_coverage = 0.9995;  // rarer characters are spelled in byte pieces
  bool is_quiet = true;                // the trainer's own log
};

// Texts are given by number so that they need not be in memory together: text(i) is called once for each i in ascending order.
// BPE, byte pieces, digits alone, lines are sentences (with their newline), long lines cut, nothing dropped. Same texts, same model.
// Throws DataError when the texts are too few for that vocabulary.
Tokenizer train_tokenizer(size_t num_texts, int64_t total_bytes, const std::function<std::string(size_t)>& text, const TrainTokenizerOptions& options);
Tokenizer train_tokenizer(const std::vector<std::string>& texts, const TrainTokenizerOptions& options);

}  // namespace atoll
