// The yardstick: an interpolated bigram model, fitted on the very tokens a model was trained on and measured on the same held-out rows.
//   p(b | a) = w_a c(a,b)/c(a) + (1 - w_a) (u c(b)/N + (1 - u)/V)
// w depends on a through the size of c(a) (Jelinek & Mercer 1980); w and u are fitted by EM on a twentieth of the training rows, with counts from
// the other rows; then all rows are counted. Nothing is fitted on held-out text.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "data/sampler.h"

namespace atoll {

class BigramModel {
 public:
  explicit BigramModel(int64_t vocab_size);
  void add_row(std::span<const int32_t> input_S, std::span<const int32_t> label_S);  // labels below 0 are left out; at most 8 bytes a token are kept
  void fit();                                                                        // Error when there were no rows
  double log_prob(int32_t previous, int32_t token) const;                            // nats
  int64_t num_tokens() const { return num_tokens_; }

 private:
  static constexpr int kBuckets = 24;  // log2 of c(a)
  struct Counts {
    std::vector<uint64_t> pairs;   // a V + b: sorted, each once
    std::vector<uint32_t> counts;
    std::vector<int64_t> row_sum, column_sum;
    int64_t total = 0;
  };
  static int bucket_of(int64_t count);
  Counts count(std::vector<uint64_t> keys) const;
  int64_t pair_count(const Counts& counts, uint64_t pair) const;
  double unigram(const Counts& counts, int32_t token) const;

  int64_t vocab_size_, num_rows_ = 0, num_tokens_ = 0;
  std::vector<uint64_t> fitted_on_, held_back_;
  Counts counts_;
  std::array<double, kBuckets> bigram_weight_{};
  double unigram_weight_ = 0.99;
};

struct HeldOutScore {
  double sum_nats = 0;
  int64_t tokens = 0, bytes = 0;
  double nats_per_token() const { return tokens > 0 ? sum_nats / static_cast<double>(tokens) : 0; }
  double bits_per_byte() const { return atoll::bits_per_byte(sum_nats, bytes); }
};
HeldOutScore score(const BigramModel& model, const HeldOut& held_out, int64_t num_rows);  // on held-out rows [0, num_rows)
BigramModel fit_bigram(Sampler& sampler, int64_t num_rows);  // on rows [0, num_rows) of a run; further epochs add nothing and are left out

}  // namespace atoll
