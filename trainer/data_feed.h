// From a token store to micro-batches. Policy: sequence i of the run is a pure function of (seed, i); which rank gets it in which micro-batch is a pure function of the mesh.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "data/sampler.h"
#include "data/store.h"
#include "model/batch.h"
#include "parallel/mesh.h"
#include "trainer/run_config.h"

namespace atoll {

class DataFeed {
 public:
  explicit DataFeed(const RunConfig& config);
  // Micro-batches of the step that takes global sequences [first, first + count): micro-batch m holds the next dp * micro_batch of them, split contiguously over dp.
  void fill(std::vector<MicroBatch>& batches, int64_t first, int64_t count, int dp_size, int dp_rank);
  // Held-out rows [first, first + count) in the same way; count is clipped to what there is.
  void fill_heldout(std::vector<MicroBatch>& batches, int64_t first, int64_t count, int dp_size, int dp_rank);
  int64_t num_heldout_rows() const { return heldout_->num_rows(); }
  int64_t micro_batch() const { return micro_batch_; }
  int64_t heldout_bytes(int64_t first, int64_t count);  // bytes of text that the labels of these rows stand for
  int64_t epoch(int64_t sequence) const { return sampler_->epoch_of(sequence); }
  const TokenStore& store() const { return store_; }
  Sampler& sampler() { return *sampler_; }
  const HeldOut& heldout() const { return *heldout_; }
  std::string fingerprint() const { return sampler_->fingerprint(); }

 private:
  template <class FillRow>
  void fill_rows(std::vector<MicroBatch>& batches, int64_t first, int64_t count, int dp_size, int dp_rank, FillRow&& fill_row);
  TokenStore store_;
  std::unique_ptr<Sampler> sampler_;
  std::unique_ptr<HeldOut> heldout_;
  int64_t seq_len_, micro_batch_;
  std::vector<int32_t> ids_, labels_, documents_;
};

// ConfigError where the store's tokens do not fit the model's tables.
void check_vocabulary(const RunConfig& config, const DataFeed& feed);

}  // namespace atoll
