// How long the pieces of a step take: phases of a layer, its exchanges, a stage's F, B and W alone, and an overlapped pair of F and B.
// Policy: the device is fed by a host that launches kernel after kernel (host_time.cpp); computation = FLOPs / the measured rate of the nearest shape,
// memory-bound work = bytes / the reached part of the bandwidth; exchanges = wire bytes / the reached part of the line rate. A pair is two streams, computation
// and communication, in the order of DeepSeek's trace (one layer of F against one of B).
#pragma once
#include <array>
#include <string>
#include <vector>

#include "model/work.h"
#include "parallel/mesh.h"
#include "trainer/plan/ledger.h"
#include "trainer/plan/settings.h"

namespace atoll::plan {

// Wire volume of one exchange of one MoE layer and micro-batch, bytes of one device: sent to other nodes, and inside the node.
struct Exchange {
  double inter = 0, intra = 0;
  double seconds = 0;
};
struct LayerTimes {
  double phase[static_cast<size_t>(WorkPhase::kNumPhases)] = {};  // computation
  double host[static_cast<size_t>(WorkPhase::kNumPhases)] = {};   // the host's launches of it
  Exchange dispatch, combine, grad_dispatch, grad_combine;        // zero in a dense layer, or without expert parallelism
  double of(WorkPhase p) const { return phase[static_cast<size_t>(p)]; }
  double host_of(WorkPhase p) const { return host[static_cast<size_t>(p)]; }
  double host_forward() const { return host_of(WorkPhase::kAttnForward) + host_of(WorkPhase::kMlpForward); }
  double host_backward() const { return host_of(WorkPhase::kAttnBackward) + host_of(WorkPhase::kMlpBackward); }
  double host_weight() const { return host_of(WorkPhase::kAttnWeight) + host_of(WorkPhase::kMlpWeight); }
};

// Which devices an expert-parallel group is on, and what a token sends through it.
struct Routing {
  double nodes = 1;         // that the EP group spans
  double remote_nodes = 0;  // that a token's copies reach, its own left out
  double copies = 0;        // crossings to other nodes: remote_nodes, or with flat dispatch one for each expert there
  double local_copies = 0;  // copies inside nodes, to other devices
  double imbalance = 1;     // rows of the most loaded rank / mean
  double rows = 0;          // at that rank, of one layer and micro-batch
};

struct StageTimes {
  std::vector<LayerTimes> layers;                                  // forward order; MTP blocks included
  double extra_forward = 0, extra_backward = 0, extra_weight = 0;  // embedding, head, loss, MTP's joining
  double forward = 0, backward = 0, weight = 0;                    // alone, exchanges exposed
  double exposed_forward = 0, exposed_backward = 0;                // exchanges in these
  double host_forward = 0, host_backward = 0, host_weight = 0;     // what the device waits for the host in these
  double weights_forward = 0, weights_backward = 0;                // ZeRO-3: weights gathered and gradients reduced beside F, and beside B and W
};

// What a stage holds.
struct StageSpec {
  Range layers;
  bool has_embedding = false, has_head = false;
  int64_t mtp = 0;  // MTP modules; their uses of the head are where the head is
};

class ChunkModel {
 public:
  // seq_len, micro_batch: of the stage of the run that is priced; cp, ep, pp: of its layout.
  struct Layout {
    int64_t seq_len = 4096, micro_batch = 1;
    int tp = 1, cp = 1, ep = 1, etp = 1;
    int64_t dp = 1;
    int num_stages = 1;
  };
  ChunkModel(const PlanInput& input, const Layout& layout);

  const Routing& routing() const { return routing_; }
  const LayerTimes& dense() const { return dense_; }
  const LayerTimes& moe() const { return moe_; }
  const WorkShape& shape() const { return shape_; }
  StageTimes stage(const StageSpec& spec) const;
  // Seconds of dispatch, combine, gradient dispatch, gradient combine of a MoE layer with this dispatch form.
  std::array<double, 4> exchange_seconds(const std::string& dispatch) const;
  // host: what of it the device waits for the host.
  double pair(const StageTimes& forward, const StageTimes& backward, double* host = nullptr) const;
  double compute_sms() const;
  double message_seconds(bool is_inter) const;  // one boundary message
  double message_bytes() const;
  // Seconds of one work item on the compute SMs, and the rate it used (null: glue).
  double seconds(const Work& work, const Rate** used = nullptr) const;
  // Puts every phase, op and exchange of a MoE layer into the ledger.
  void explain(Ledger& ledger) const;

 private:
  LayerTimes layer(int64_t index) const;
  const Reached& exchange_rate(const std::string& what) const;
  Exchange exchange(const std::string& what, bool is_fp8, const Routing& routing) const;
  void add_context_exchange(LayerTimes& times, double attention_forward, double attention_backward) const;
  void add_tensor_parallel(LayerTimes& times, bool is_moe) const;
  void add_host(LayerTimes& times, bool is_moe) const;
  Routing route(bool is_flat) const;

  const PlanInput& in_;
  Layout layout_;
  WorkShape shape_;
  Routing routing_;
  LayerTimes dense_, moe_;
  double head_[3] = {}, mtp_[3] = {}, embedding_[2] = {};
};

// Distinct nodes (or devices) that `picks` of `of` equal parts reach on average.
double expected_distinct(double of, double picks);
// Rows of the most loaded rank / mean; kind: balanced, zipf or worst; left out: the plan's.
double routing_imbalance(const PlanInput& input, int ep);
double routing_imbalance(const PlanInput& input, int ep, const std::string& kind);

}  // namespace atoll::plan
