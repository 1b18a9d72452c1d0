// One golden pass: the io file's sequences as micro-batches, and a probe that compares everything the pass shows with what is stored.
#pragma once
#include <string>
#include <vector>

#include "trainer/golden_case.h"

namespace atoll {

// Micro-batch m holds sequences [m dp, (m+1) dp), so with more ranks than sequences some hold none.
struct GoldenFeed {
  std::vector<MicroBatch> batches;
  std::vector<Range> sequences;  // of the io file, [micro-batch]
};
GoldenFeed golden_feed(const SafetensorsFile& io, Engine& engine, bool with_labels = true);  // without: nothing is to be predicted, every label is ignored

// Compares what a forward pass shows with the io file, sequence by sequence, while it lives.
class GoldenWatcher {
 public:
  GoldenWatcher(Engine& engine, const SafetensorsFile& io, const GoldenFeed& feed, Deviations& out, bool force_routing);
  ~GoldenWatcher();
  GoldenWatcher(const GoldenWatcher&) = delete;
  void stop_comparing() { engine_.stage().probe.observe = nullptr; }  // routing stays forced
  void compare_rows();  // what the micro-batches themselves say: MTP labels, positions, documents. After the pass, which derives some

 private:
  int64_t depth_of(int64_t layer) const;
  Range sequences() const { return feed_.sequences[static_cast<size_t>(engine_.stage().current_microbatch())]; }
  Tensor stored(const std::string& name) const;  // this micro-batch's sequences
  void compare(const std::string& name, const Tensor& value);
  void observe(const std::string& name, const Tensor& value);
  void compare_balance(int64_t layer, const Tensor& logits);
  bool fill_routing(int64_t layer, const Tensor& ids) const;

  Engine& engine_;
  const SafetensorsFile& io_;
  const GoldenFeed& feed_;
  Deviations& out_;
};

}  // namespace atoll
