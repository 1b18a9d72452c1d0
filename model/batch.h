// The tokens that one rank feeds in one micro-batch, at depth 0 (the main model) and at each MTP depth. Host values; capacity is kept between steps.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/base/labels.h"
#include "kernels/base/tensor.h"

namespace atoll {

// T tokens of B sequences, one after the other. At MTP depth k a sequence of n tokens has max(0, n - k) rows: the last k positions do not exist there.
struct TokenRows {
  std::vector<int32_t> ids;       // [T] depth 0: t_i; depth k: t_{i+k}, the token whose embedding is joined
  std::vector<int32_t> labels;    // [T] depth 0: t_{i+1} or negative = ignored; depth k: l_{i+k}
  std::vector<int32_t> position;  // [T] for RoPE
  std::vector<int32_t> cu_seqs;   // [B+1] sequence boundaries: balance loss and MTP shift act within them
  std::vector<int32_t> cu_docs;   // attention sees only its own document; equals cu_seqs where documents are not masked
  int64_t size() const { return static_cast<int64_t>(ids.size()); }
  int64_t num_sequences() const { return static_cast<int64_t>(cu_seqs.size()) - 1; }
  int64_t num_labels() const;
  Tensor ids_T() const { return {const_cast<int32_t*>(ids.data()), DType::kI32, {size()}}; }
  Tensor labels_T() const { return {const_cast<int32_t*>(labels.data()), DType::kI32, {size()}}; }
  void clear();
};

struct MicroBatch {
  TokenRows main;
  std::vector<TokenRows> mtp;  // [depth k - 1]
  void clear();
  // Appends one sequence. document_begin: starts of its documents (first 0); with more than one, positions restart and attention stays inside each.
  void add_sequence(std::span<const int32_t> ids, std::span<const int32_t> labels, std::span<const int32_t> document_begin);
  // Derives mtp[0..depth) from main. A label is ignored at depth k where position i and i+k lie in different documents.
  void derive_mtp(int depth);
};

}  // namespace atoll
