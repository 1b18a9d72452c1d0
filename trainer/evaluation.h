// Held-out loss of the current weights, over whatever layout the engine has.
#pragma once
#include "trainer/data_feed.h"
#include "trainer/engine.h"

namespace atoll {

struct HeldOutLoss {
  double nats_per_token = 0, bits_per_byte = 0;
  std::vector<double> mtp_nats_per_token;
  int64_t labels = 0, bytes = 0;
};
// The first `rows` held-out rows (the same on every layout). Collective. bits/byte: nats of the labels over the bytes of text they stand for.
HeldOutLoss heldout_loss(Engine& engine, DataFeed& feed, int64_t rows);

}  // namespace atoll
