// Held-out loss by the engine's forward pipeline. Policy: sums of losses and counts of labels are added up and divided once at the end, so the cut into batches does not matter.
#include "trainer/evaluation.h"

#include <algorithm>
#include <cmath>

namespace atoll {

HeldOutLoss heldout_loss(Engine& engine, DataFeed& feed, int64_t rows) {
  const int dp = engine.groups().dp->size(), rank = engine.groups().dp->rank(), pp = engine.groups().pp->size();
  const int64_t at_once = std::max<int64_t>(1, feed.micro_batch() * dp * std::max(1, 2 * pp));  // keeps a pipeline filled, memory as in training
  HeldOutLoss out;
  double sum = 0;
  std::vector<double> mtp_sum;
  std::vector<int64_t> mtp_labels;
  std::vector<MicroBatch> batches;
  for (int64_t first = 0; first < rows; first += at_once) {
    feed.fill_heldout(batches, first, std::min(at_once, rows - first), dp, rank);
    const EvalResult r = engine.evaluate(batches);
    sum += r.loss_sum;
    out.labels += r.labels;
    mtp_sum.resize(r.mtp_loss_sum.size());
    mtp_labels.resize(r.mtp_labels.size());
    for (size_t k = 0; k < mtp_sum.size(); ++k) {
      mtp_sum[k] += r.mtp_loss_sum[k];
      mtp_labels[k] += r.mtp_labels[k];
    }
  }
  out.bytes = feed.heldout_bytes(0, rows);
  out.nats_per_token = out.labels > 0 ? sum / static_cast<double>(out.labels) : 0;
  out.bits_per_byte = out.bytes > 0 ? sum / std::log(2.0) / static_cast<double>(out.bytes) : 0;
  for (size_t k = 0; k < mtp_sum.size(); ++k) out.mtp_nats_per_token.push_back(mtp_labels[k] > 0 ? mtp_sum[k] / static_cast<double>(mtp_labels[k]) : 0);
  return out;
}

}  // namespace atoll
