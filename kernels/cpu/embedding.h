// Embedding on the CPU: what kernels/embedding.cpp calls, and the additions built for each instruction set.
#pragma once
#include "kernels/cpu/isa.h"

namespace atoll {
struct Embedding;
struct EmbeddingBackward;
}

namespace atoll::cpu {

void embedding(Context& ctx, const Embedding& op);
void embedding_backward(Context& ctx, const EmbeddingBackward& op);

struct EmbeddingColumns {
  DType dtype;
  int64_t T, D;
  const int32_t* ids;
  const void* dy;
  void* dtable;  // acc
};
// Columns [begin, end) of all tokens, ascending: a thread owns columns, so that rows that several tokens share need no lock.
ATOLL_DECLARE_ISA(void embedding_backward_columns(const EmbeddingColumns& a, int64_t begin, int64_t end))

}  // namespace atoll::cpu
