// Rows of the sampler to micro-batches of a rank. Policy: a step's rows are cut over micro-batches first and over dp ranks second, as evenly as possible; a rank may get none.
#include "trainer/data_feed.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/base/error.h"

namespace atoll {

DataFeed::DataFeed(const RunConfig& config) : store_(TokenStore::open(config.data.store)), seq_len_(config.data.seq_len), micro_batch_(config.train.micro_batch) {
  sampler_ = std::make_unique<Sampler>(store_, SamplerOptions{seq_len_, config.data.seed, config.data.document_mask});
  heldout_ = std::make_unique<HeldOut>(store_, seq_len_, config.data.document_mask);
  ids_.resize(static_cast<size_t>(seq_len_));
  labels_.resize(static_cast<size_t>(seq_len_));
}

template <class FillRow>
void DataFeed::fill_rows(std::vector<MicroBatch>& batches, int64_t first, int64_t count, int dp_size, int dp_rank, FillRow&& fill_row) {
  const int64_t per_microbatch = micro_batch_ * dp_size, n = std::max<int64_t>(1, (count + per_microbatch - 1) / per_microbatch);
  batches.resize(static_cast<size_t>(n));
  for (int64_t m = 0; m < n; ++m) {
    MicroBatch& batch = batches[static_cast<size_t>(m)];
    batch.clear();
    const int64_t begin = m * per_microbatch;
    const Range mine = split_evenly(std::min(per_microbatch, count - begin), dp_size, dp_rank);
    for (int64_t row = first + begin + mine.begin; row < first + begin + mine.end; ++row) {
      fill_row(row);
      documents_.pop_back();  // boundaries end with the row's length; a document is named by its start
      batch.add_sequence(ids_, labels_, documents_);
    }
  }
}

void DataFeed::fill(std::vector<MicroBatch>& batches, int64_t first, int64_t count, int dp_size, int dp_rank) {
  fill_rows(batches, first, count, dp_size, dp_rank, [&](int64_t row) { sampler_->fill_row(row, ids_, labels_, documents_); });
}

void DataFeed::fill_heldout(std::vector<MicroBatch>& batches, int64_t first, int64_t count, int dp_size, int dp_rank) {
  fill_rows(batches, first, std::min(count, num_heldout_rows() - first), dp_size, dp_rank, [&](int64_t row) { heldout_->fill_row(row, ids_, labels_, documents_); });
}

int64_t DataFeed::heldout_bytes(int64_t first, int64_t count) {
  int64_t bytes = 0;
  for (int64_t row = first; row < std::min(first + count, num_heldout_rows()); ++row) bytes += heldout_->fill_row(row, ids_, labels_, documents_).bytes;
  return bytes;
}

void check_vocabulary(const RunConfig& config, const DataFeed& feed) {
  const int64_t tokens = feed.store().info().vocab_size;
  if (tokens > config.model.vocab_size)
    throw ConfigError(fmt::format("model.vocab_size = {} is smaller than the {} tokens of the store {}; set model.vocab_size={}", config.model.vocab_size, tokens, config.data.store, tokens));
}

}  // namespace atoll
