// The order of training rows. Policy: everything is computed from (seed, epoch, row) by counter-based random numbers; the two epochs cached here are only
// there for speed, so a resumed run or another layout asks for row i and gets the same tokens.
#include "data/sampler.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "kernels/base/error.h"
#include "kernels/base/rng.h"

namespace atoll {

namespace {

void check_seq_len(int64_t seq_len) {
  if (seq_len < 1 || seq_len > std::numeric_limits<int32_t>::max()) throw ConfigError(detail::concat("a row has at least one token, not ", seq_len, " (sequence length)"));
}

void check_spans(int64_t row, int64_t seq_len, std::span<int32_t> input_S, std::span<int32_t> label_S) {
  ATOLL_CHECK(row >= 0, "row ", row);
  ATOLL_CHECK(static_cast<int64_t>(input_S.size()) == seq_len && static_cast<int64_t>(label_S.size()) == seq_len, "rows have ", seq_len, " tokens, not ", input_S.size(),
              " and ", label_S.size());
}

}  // namespace

Sampler::Sampler(TokenStore store, SamplerOptions options) : store_(std::move(store)), options_(options) {
  check_seq_len(options.seq_len);
  ATOLL_CHECK(store_.train().num_documents() <= std::numeric_limits<int32_t>::max(), "more than 2^31 documents in one store; make several");
}

std::vector<int32_t> Sampler::document_order(int64_t epoch) const {
  std::vector<int32_t> order(static_cast<size_t>(store_.train().num_documents()));
  std::iota(order.begin(), order.end(), 0);
  const Rng rng(options_.seed, fnv1a("document order") + static_cast<uint64_t>(epoch));
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.below(i, i)]);
  return order;
}

const Sampler::Epoch& Sampler::epoch(int64_t number) {
  Epoch& slot = cache_[number & 1];  // a row reaches into the next epoch: neighbours never share a slot
  if (slot.number == number) return slot;
  slot.documents = document_order(number);
  slot.begin.assign(1, 0);
  slot.begin.reserve(slot.documents.size() + 1);
  const TokenFile& file = store_.train();
  for (const int32_t d : slot.documents) slot.begin.push_back(slot.begin.back() + file.document_begin(d + 1) - file.document_begin(d));
  slot.number = number;
  return slot;
}

// A Feistel network on the next power of four, walked until it lands inside (Black & Rogaway 2002): a permutation in constant memory.
int64_t Sampler::stream_row(int64_t row) const {
  const int64_t rows = std::max<int64_t>(1, tokens_per_epoch() / options_.seq_len), block = row / rows;
  int half = 1;
  while ((int64_t{1} << (2 * half)) < rows) ++half;
  const uint64_t mask = (uint64_t{1} << half) - 1;
  const Rng rng(options_.seed, fnv1a("row order") + static_cast<uint64_t>(block));
  auto at = static_cast<uint64_t>(row % rows);
  do {
    uint64_t left = at >> half, right = at & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      const uint64_t next = left ^ (rng.bits(round << 32 | right) & mask);
      left = right;
      right = next;
    }
    at = left << half | right;
  } while (at >= static_cast<uint64_t>(rows));
  return block * rows + static_cast<int64_t>(at);
}

void Sampler::fill_row(int64_t row, std::span<int32_t> input_S, std::span<int32_t> label_S, std::vector<int32_t>& boundaries) {
  const int64_t S = options_.seq_len, total = tokens_per_epoch();
  check_spans(row, S, input_S, label_S);
  boundaries.assign(1, 0);
  const TokenFile& file = store_.train();
  // Stream positions [r S, r S + S], r the shuffled row: S inputs and the last label. Documents are copied piece by piece.
  int64_t position = stream_row(row) * S;
  for (int64_t filled = 0; filled <= S;) {
    const Epoch& now = epoch(position / total);
    int64_t at = position % total;
    auto next = std::upper_bound(now.begin.begin(), now.begin.end(), at);  // ends the document that holds `at`; empty documents are passed over
    while (filled <= S && at < total) {
      const size_t k = static_cast<size_t>(next - now.begin.begin()) - 1;
      const int64_t from = at - now.begin[k], take = std::min(*next - at, S + 1 - filled);
      if (take > 0) {
        const int64_t source = file.document_begin(now.documents[k]) + from;
        const int64_t inputs = std::min(take, S - filled);
        file.read(source, input_S.subspan(static_cast<size_t>(filled), static_cast<size_t>(inputs)));
        if (filled + take == S + 1) file.read(source + take - 1, label_S.subspan(static_cast<size_t>(S - 1), 1));
        if (options_.document_mask && from == 0 && filled > 0 && filled < S) boundaries.push_back(static_cast<int32_t>(filled));
        // A document that begins right after the row: its first token is no continuation of this row.
        if (options_.document_mask && from == 0 && filled == S) label_S[static_cast<size_t>(S - 1)] = kIgnoredLabel;
      }
      filled += take;
      at += take;
      position += take;
      if (at == *next) ++next;
    }
  }
  std::copy(input_S.begin() + 1, input_S.end(), label_S.begin());
  boundaries.push_back(static_cast<int32_t>(S));
  for (size_t b = 1; b + 1 < boundaries.size(); ++b) label_S[static_cast<size_t>(boundaries[b]) - 1] = kIgnoredLabel;
}

std::string Sampler::fingerprint() const {
  return xxh3_hex(detail::concat(store_.fingerprint(), " seq_len ", options_.seq_len, " document_mask ", options_.document_mask));
}

HeldOut::HeldOut(TokenStore store, int64_t seq_len, bool document_mask) : store_(std::move(store)), seq_len_(seq_len), document_mask_(document_mask) { check_seq_len(seq_len); }

int64_t HeldOut::num_rows() const { return (store_.heldout().num_tokens() + seq_len_ - 1) / seq_len_; }

HeldOutRow HeldOut::fill_row(int64_t row, std::span<int32_t> input_S, std::span<int32_t> label_S, std::vector<int32_t>& boundaries) const {
  check_spans(row, seq_len_, input_S, label_S);
  ATOLL_CHECK(row < num_rows(), "held-out row ", row, " of ", num_rows());
  const TokenFile& file = store_.heldout();
  const int32_t eos = store_.info().eos_id;
  const int64_t begin = row * seq_len_, length = std::min(seq_len_, file.num_tokens() - begin);
  const auto labels = label_S.first(static_cast<size_t>(length));
  file.read(begin, labels);
  input_S[0] = eos;
  if (row > 0) file.read(begin - 1, input_S.first(1));
  std::copy(labels.begin(), labels.end() - 1, input_S.begin() + 1);
  std::fill(input_S.begin() + length, input_S.end(), eos);
  std::fill(label_S.begin() + length, label_S.end(), kIgnoredLabel);
  boundaries.assign(1, 0);
  if (document_mask_) {  // input i is stream token begin + i - 1: a document that begins at stream token b begins at input b - begin + 1
    int64_t low = 0, high = file.num_documents();
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (file.document_begin(middle) < begin) low = middle + 1;
      else high = middle;
    }
    for (int64_t d = low; d < file.num_documents() && file.document_begin(d) < begin + length; ++d) {
      const auto at = static_cast<int32_t>(file.document_begin(d) - begin);
      if (file.document_begin(d + 1) == file.document_begin(d)) continue;
      labels[static_cast<size_t>(at)] = kIgnoredLabel;
      if (at + 1 < seq_len_) boundaries.push_back(at + 1);
    }
    // The padding is a document of its own.
    if (length < seq_len_ && boundaries.back() != length) boundaries.push_back(static_cast<int32_t>(length));
  }
  boundaries.push_back(static_cast<int32_t>(seq_len_));
  HeldOutRow counts;
  for (const int32_t label : labels) {
    if (label == kIgnoredLabel) continue;
    ++counts.tokens;
    counts.bytes += store_.token_byte_lengths()[static_cast<size_t>(label)];
  }
  return counts;
}

}  // namespace atoll
