// Sampler: training rows as a pure function of (store, seed, sequence length, row number). Ranks, world size and history do not enter: whoever
// needs row i computes row i. The stream is epoch after epoch of all documents, each epoch in its own order, packed without padding; row i is
// stream tokens [r S, (r+1) S) as inputs and the one token further on as labels, where r = stream_row(i): the rows of an epoch are shuffled, so that the rows of one
// step come from documents far apart. So each token is an input exactly once an epoch.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/store.h"
#include "kernels/base/labels.h"

namespace atoll {

struct SamplerOptions {
  int64_t seq_len = 0;
  uint64_t seed = 0;
  bool document_mask = false;  // true: a document sees only itself, and the label of its last token (EOS) is ignored; false: V3, one text
};

class Sampler {  // not shared between threads: it caches two epochs' orders (12 bytes a document)
 public:
  Sampler(TokenStore store, SamplerOptions options);

  // boundaries: as cumulative lengths 0 = b0 < b1 < ... = S; with document_mask off always {0, S}.
  void fill_row(int64_t row, std::span<int32_t> input_S, std::span<int32_t> label_S, std::vector<int32_t>& boundaries);

  int64_t stream_row(int64_t row) const;  // a permutation of each run of tokens_per_epoch() / S rows
  int64_t tokens_per_epoch() const { return store_.train().num_tokens(); }
  int64_t epoch_of(int64_t row) const { return row * options_.seq_len / tokens_per_epoch(); }  // of the row's first token; counts from 0
  int64_t seq_len() const { return options_.seq_len; }
  std::vector<int32_t> document_order(int64_t epoch) const;

  // Of what a row depends on besides seed and number: store, tokenizer, sequence length, document mask. Checkpoints carry it.
  std::string fingerprint() const;
  const TokenStore& store() const { return store_; }

 private:
  struct Epoch {
    int64_t number = -1;
    std::vector<int32_t> documents;
    std::vector<int64_t> begin;  // in the epoch's stream, one longer than documents
  };
  const Epoch& epoch(int64_t number);
  TokenStore store_;
  SamplerOptions options_;
  Epoch cache_[2];
};

struct HeldOutRow {
  int64_t tokens = 0;  // labels that count
  int64_t bytes = 0;   // of text that they stand for
};

// The held-out split in store order, after one EOS that starts it: without document_mask each of its tokens is a label exactly once, so the rows'
// bytes add up to the split's bytes (if the tokenizer is lossless). With document_mask no document's first token is predicted, and its bytes do not count.
class HeldOut {
 public:
  HeldOut(TokenStore store, int64_t seq_len, bool document_mask = false);
  int64_t num_rows() const;  // 0 when nothing is held out
  HeldOutRow fill_row(int64_t row, std::span<int32_t> input_S, std::span<int32_t> label_S, std::vector<int32_t>& boundaries) const;
  const TokenStore& store() const { return store_; }
  int64_t seq_len() const { return seq_len_; }

 private:
  TokenStore store_;
  int64_t seq_len_;
  bool document_mask_;
};

inline double bits_per_byte(double sum_nats, int64_t bytes) { return bytes > 0 ? sum_nats / 0.69314718055994530942 / static_cast<double>(bytes) : 0; }

}  // namespace atoll
