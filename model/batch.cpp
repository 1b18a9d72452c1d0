// Builds a micro-batch sequence by sequence, and MTP's shifted rows from it. Policy: positions restart with every document; a target beyond the sequence's end does not exist,
// so depth k has exactly n - k rows.
#include "model/batch.h"

#include <algorithm>

namespace atoll {

int64_t TokenRows::num_labels() const {
  return std::count_if(labels.begin(), labels.end(), [](int32_t label) { return label >= 0; });
}

void TokenRows::clear() {
  ids.clear();
  labels.clear();
  position.clear();
  cu_seqs.assign(1, 0);
  cu_docs.assign(1, 0);
}

void MicroBatch::clear() {
  main.clear();
  for (TokenRows& rows : mtp) rows.clear();
}

void MicroBatch::add_sequence(std::span<const int32_t> ids, std::span<const int32_t> labels, std::span<const int32_t> document_begin) {
  ATOLL_CHECK(ids.size() == labels.size(), ids.size(), " ids, ", labels.size(), " labels");
  if (main.cu_seqs.empty()) main.clear();
  const auto base = static_cast<int32_t>(main.ids.size());
  const auto n = static_cast<int32_t>(ids.size());
  main.ids.insert(main.ids.end(), ids.begin(), ids.end());
  main.labels.insert(main.labels.end(), labels.begin(), labels.end());
  for (size_t d = 0; d < std::max<size_t>(1, document_begin.size()); ++d) {
    const int32_t begin = document_begin.empty() ? 0 : document_begin[d];
    const int32_t end = d + 1 < document_begin.size() ? document_begin[d + 1] : n;
    for (int32_t i = begin; i < end; ++i) main.position.push_back(i - begin);
    if (end > begin) main.cu_docs.push_back(base + end);
  }
  main.cu_seqs.push_back(base + n);
}

void MicroBatch::derive_mtp(int depth) {
  mtp.resize(static_cast<size_t>(depth));
  for (int k = 1; k <= depth; ++k) {
    TokenRows& out = mtp[static_cast<size_t>(k - 1)];
    out.clear();
    size_t doc = 0;  // the document [cu_docs[doc], cu_docs[doc+1]) that holds the current token
    for (int64_t s = 0; s < main.num_sequences(); ++s) {
      const int32_t begin = main.cu_seqs[s], end = main.cu_seqs[s + 1], last = end - k;
      for (int32_t i = begin; i < last; ++i) {
        while (main.cu_docs[doc + 1] <= i) ++doc;
        if (i > begin && i == main.cu_docs[doc]) out.cu_docs.push_back(static_cast<int32_t>(out.ids.size()));
        const bool same_document = i + k < main.cu_docs[doc + 1];
        out.ids.push_back(main.ids[i + k]);
        out.labels.push_back(same_document ? main.labels[i + k] : kIgnoredLabel);
        out.position.push_back(main.position[i]);
      }
      const auto rows = static_cast<int32_t>(out.ids.size());
      if (out.cu_docs.back() != rows) out.cu_docs.push_back(rows);
      out.cu_seqs.push_back(rows);
    }
  }
}

}  // namespace atoll
