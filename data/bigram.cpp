// Counting and fitting of the bigram yardstick. Policy: pairs are sorted keys, not a V x V table, so memory follows the tokens that were seen;
// the weights are fitted by EM on rows that the counts have not seen.
#include "data/bigram.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/base/error.h"

namespace atoll {

BigramModel::BigramModel(int64_t vocab_size) : vocab_size_(vocab_size) { ATOLL_CHECK(vocab_size > 0 && vocab_size < (1ll << 31), "vocabulary of ", vocab_size); }

void BigramModel::add_row(std::span<const int32_t> input_S, std::span<const int32_t> label_S) {
  ATOLL_CHECK(input_S.size() == label_S.size(), input_S.size(), " inputs, ", label_S.size(), " labels");
  auto& keys = num_rows_++ % 20 == 19 ? held_back_ : fitted_on_;
  for (size_t i = 0; i < input_S.size(); ++i) {
    if (label_S[i] < 0) continue;
    ATOLL_CHECK(input_S[i] >= 0 && input_S[i] < vocab_size_ && label_S[i] < vocab_size_, "tokens ", input_S[i], ", ", label_S[i], " of ", vocab_size_);
    keys.push_back(static_cast<uint64_t>(input_S[i]) * static_cast<uint64_t>(vocab_size_) + static_cast<uint64_t>(label_S[i]));
    ++num_tokens_;
  }
}

int BigramModel::bucket_of(int64_t count) { return std::min(kBuckets - 1, static_cast<int>(std::bit_width(static_cast<uint64_t>(count)))); }

BigramModel::Counts BigramModel::count(std::vector<uint64_t> keys) const {
  const auto V = static_cast<uint64_t>(vocab_size_);
  Counts counts;
  counts.row_sum.assign(V, 0);
  counts.column_sum.assign(V, 0);
  counts.total = static_cast<int64_t>(keys.size());
  std::sort(keys.begin(), keys.end());
  size_t distinct = 0;
  for (size_t i = 0; i < keys.size();) {
    size_t end = i;
    while (end < keys.size() && keys[end] == keys[i]) ++end;
    const uint64_t key = keys[i];
    counts.row_sum[key / V] += static_cast<int64_t>(end - i);
    counts.column_sum[key % V] += static_cast<int64_t>(end - i);
    counts.counts.push_back(static_cast<uint32_t>(end - i));
    keys[distinct++] = key;
    i = end;
  }
  keys.resize(distinct);
  counts.pairs = std::move(keys);
  return counts;
}

int64_t BigramModel::pair_count(const Counts& counts, uint64_t pair) const {
  const auto it = std::lower_bound(counts.pairs.begin(), counts.pairs.end(), pair);
  return it != counts.pairs.end() && *it == pair ? counts.counts[static_cast<size_t>(it - counts.pairs.begin())] : 0;
}

double BigramModel::unigram(const Counts& counts, int32_t token) const {
  const double known = counts.total > 0 ? static_cast<double>(counts.column_sum[static_cast<size_t>(token)]) / static_cast<double>(counts.total) : 0;
  return unigram_weight_ * known + (1 - unigram_weight_) / static_cast<double>(vocab_size_);
}

void BigramModel::fit() {
  ATOLL_CHECK(num_tokens_ > 0, "no training tokens to fit a bigram model on");
  bigram_weight_.fill(0.5);
  bigram_weight_[0] = 0;  // nothing is known of what follows `a`
  unigram_weight_ = 0.99;
  if (!held_back_.empty() && !fitted_on_.empty()) {
    const Counts counts = count(fitted_on_);
    struct Pair { int bucket; double bigram, known; };  // c(a,b)/c(a), c(b)/N
    std::vector<Pair> pairs;
    pairs.reserve(held_back_.size());
    for (const uint64_t key : held_back_) {
      const auto a = key / static_cast<uint64_t>(vocab_size_), b = key % static_cast<uint64_t>(vocab_size_);
      const int64_t row = counts.row_sum[a];
      pairs.push_back({bucket_of(row), row > 0 ? static_cast<double>(pair_count(counts, key)) / static_cast<double>(row) : 0,
                       static_cast<double>(counts.column_sum[b]) / static_cast<double>(counts.total)});
    }
    const double uniform = 1.0 / static_cast<double>(vocab_size_);
    for (int round = 0; round < 30; ++round) {
      std::array<double, kBuckets> share{}, number{};
      double unigram_share = 0, lower_number = 0;
      for (const auto& pair : pairs) {
        const double w = bigram_weight_[static_cast<size_t>(pair.bucket)], u = unigram_weight_;
        const double lower = u * pair.known + (1 - u) * uniform, p = w * pair.bigram + (1 - w) * lower;
        share[static_cast<size_t>(pair.bucket)] += w * pair.bigram / p;
        number[static_cast<size_t>(pair.bucket)] += 1;
        unigram_share += (1 - w) * u * pair.known / p;
        lower_number += (1 - w) * lower / p;
      }
      for (size_t k = 1; k < kBuckets; ++k)
        if (number[k] > 0) bigram_weight_[k] = share[k] / number[k];
      // Never exactly 1: a token that was not seen must keep some probability.
      if (lower_number > 0) unigram_weight_ = std::min(unigram_share / lower_number, 1 - 1e-6);
    }
    for (double& w : bigram_weight_) w = std::min(w, 1 - 1e-6);
  }
  std::vector<uint64_t> all = std::move(fitted_on_);
  all.insert(all.end(), held_back_.begin(), held_back_.end());
  fitted_on_ = {};
  held_back_ = {};
  counts_ = count(std::move(all));
}

double BigramModel::log_prob(int32_t previous, int32_t token) const {
  ATOLL_CHECK(counts_.total > 0, "fit() the bigram model first");
  ATOLL_CHECK(previous >= 0 && previous < vocab_size_ && token >= 0 && token < vocab_size_, "tokens ", previous, ", ", token, " of ", vocab_size_);
  const int64_t row = counts_.row_sum[static_cast<size_t>(previous)];
  const double w = bigram_weight_[static_cast<size_t>(bucket_of(row))];
  const double bigram =
      row > 0 ? static_cast<double>(pair_count(counts_, static_cast<uint64_t>(previous) * static_cast<uint64_t>(vocab_size_) + static_cast<uint64_t>(token))) / static_cast<double>(row) : 0;
  return std::log((row > 0 ? w : 0) * bigram + (1 - (row > 0 ? w : 0)) * unigram(counts_, token));
}

HeldOutScore score(const BigramModel& model, const HeldOut& held_out, int64_t num_rows) {
  HeldOutScore score;
  const auto S = static_cast<size_t>(held_out.seq_len());
  std::vector<int32_t> input_S(S), label_S(S), boundaries;
  for (int64_t row = 0; row < std::min(num_rows, held_out.num_rows()); ++row) {
    const auto counts = held_out.fill_row(row, input_S, label_S, boundaries);
    score.tokens += counts.tokens;
    score.bytes += counts.bytes;
    for (size_t i = 0; i < S; ++i)
      if (label_S[i] != kIgnoredLabel) score.sum_nats -= model.log_prob(input_S[i], label_S[i]);
  }
  return score;
}

BigramModel fit_bigram(Sampler& sampler, int64_t num_rows) {
  BigramModel model(sampler.store().info().vocab_size);
  const auto S = static_cast<size_t>(sampler.seq_len());
  std::vector<int32_t> input_S(S), label_S(S), boundaries;
  const int64_t rows_of_epoch = std::max<int64_t>(1, sampler.tokens_per_epoch() / sampler.seq_len());  // as stream_row has it
  for (int64_t row = 0; row < std::min(num_rows, rows_of_epoch); ++row) {
    sampler.fill_row(row, input_S, label_S, boundaries);
    model.add_row(input_S, label_S);
  }
  model.fit();
  return model;
}

}  // namespace atoll
