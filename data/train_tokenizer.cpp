// Training of a SentencePiece BPE on a bounded, evenly spread sample. Time and memory follow the sample, not the collection.
#include <sentencepiece_trainer.h>

#include <algorithm>

#include "data/tokenizer.h"
#include "data/utf8.h"
#include "kernels/base/error.h"

namespace atoll {

namespace {

constexpr size_t kBlock = 16 << 10;         // the sample is taken in blocks of about this many bytes
constexpr size_t kMaxSentence = 4096;       // longer lines are cut, so that the trainer drops none
constexpr int kFixedPieces = 256 + 3;       // bytes, <unk>, <s>, </s>

class Lines : public sentencepiece::SentenceIterator {
 public:
  bool done() const override { return at_ >= lines_.size(); }
  void Next() override { ++at_; }
  const std::string& value() const override { return lines_[at_]; }
  sentencepiece::util::Status status() const override { return {}; }

  void add(std::string_view text) {
    while (!text.empty()) {
      const size_t newline = text.find('\n');
      size_t length = newline == std::string_view::npos ? text.size() : newline + 1;
      if (length > kMaxSentence) {
        length = kMaxSentence;
        while (length > kMaxSentence - 3 && (static_cast<unsigned char>(text[length]) & 0xC0) == 0x80) --length;
      }
      lines_.emplace_back(text.substr(0, length));
      text.remove_prefix(length);
    }
  }
  bool empty() const { return lines_.empty(); }

 private:
  std::vector<std::string> lines_;
  size_t at_ = 0;
};

// Ends of lines near multiples of kBlock cut a text into blocks.
size_t block_end(std::string_view text, size_t begin) {
  if (text.size() - begin <= kBlock) return text.size();
  const size_t newline = text.find('\n', begin + kBlock);
  size_t end = newline == std::string_view::npos || newline > begin + 2 * kBlock ? begin + kBlock : newline + 1;
  while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
  return end;
}

}  // namespace

Tokenizer train_tokenizer(size_t num_texts, int64_t total_bytes, const std::function<std::string(size_t)>& text, const TrainTokenizerOptions& options) {
  if (options.vocab_size < kFixedPieces + 41 || options.vocab_size > 1000000)
    throw ConfigError(detail::concat("a trained tokenizer has 300 to 1000000 pieces, not ", options.vocab_size, " (259 are bytes and control tokens)"));
  const double share = total_bytes > options.max_sample_bytes ? static_cast<double>(options.max_sample_bytes) / static_cast<double>(total_bytes) : 1.0;
  Lines lines;
  double due = 0;  // bytes the sample is behind its share
  for (size_t i = 0; i < num_texts; ++i) {
    std::string document = text(i);
    if (!is_valid_utf8(document)) document = latin1_to_utf8(document);
    for (size_t begin = 0; begin < document.size();) {
      const size_t end = block_end(document, begin);
      due += share * static_cast<double>(end - begin);
      if (share >= 1.0 || due >= static_cast<double>(end - begin)) {
        lines.add(std::string_view(document).substr(begin, end - begin));
        due -= static_cast<double>(end - begin);
      }
      begin = end;
    }
  }
  if (lines.empty()) throw DataError("no text to train a tokenizer on");

  std::string serialized;
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      {{"model_type", "bpe"},
       {"vocab_size", std::to_string(options.vocab_size)},
       {"byte_fallback", "true"},
       {"normalization_rule_name", "identity"},
       {"add_dummy_prefix", "false"},
       {"remove_extra_whitespaces", "false"},
       {"allow_whitespace_only_pieces", "true"},
       {"split_digits", "true"},
       {"character_coverage", std::to_string(options.character_coverage)},
       {"max_sentence_length", std::to_string(2 * kMaxSentence)},
       {"input_sentence_size", "0"},
       {"num_threads", "1"},
       {"minloglevel", options.is_quiet ? "2" : "0"}},
      &lines, &serialized);
  if (!status.ok())
    throw DataError(detail::concat("SentencePiece cannot make ", options.vocab_size, " pieces from this text: ", status.error_message(),
                                   "; give more text or ask for another number (--tokenizer train:N)"));
  return Tokenizer::from_serialized(std::move(serialized), "the trained tokenizer");
}

Tokenizer train_tokenizer(const std::vector<std::string>& texts, const TrainTokenizerOptions& options) {
  int64_t total = 0;
  for (const auto& text : texts) total += static_cast<int64_t>(text.size());
  return train_tokenizer(texts.size(), total, [&](size_t i) { return texts[i]; }, options);
}

}  // namespace atoll
