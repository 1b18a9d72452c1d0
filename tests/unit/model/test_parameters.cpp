// Where a rank's weights and gradients lie, and how many bytes they take.
#include <catch2/catch.hpp>

#include "model/parameters.h"

using namespace atoll;

namespace {
ModelConfig tiny(int64_t mtp, bool tied) {
  ModelConfig c = *model_preset("debug");
  c.num_nextn_predict_layers = mtp;
  c.tie_word_embeddings = tied;
  return c;
}
Placement place(const ModelConfig& c, int stage, int stages) { return {{stage}, stages, split_layers(c, stages, {}), {0, c.n_routed_experts}}; }
}  // namespace

TEST_CASE("Main gradients are as many as the parameters a rank owns and the embedding's uses, replicas have none", "[model][parameters]") {
  for (const auto& [mtp, tied] : {std::pair{0, false}, {1, false}, {0, true}, {2, true}}) {
    const ModelConfig c = tiny(mtp, tied);
    const auto manifest = parameter_manifest(c);
    for (int stages : {1, 2})
      for (int stage = 0; stage < stages; ++stage) {
        INFO("mtp " << mtp << " tied " << tied << " stage " << stage << " of " << stages);
        Context ctx;
        const ParameterStore store(ctx, c, manifest, place(c, stage, stages), DType::kBF16);
        int64_t elements = 0, num_replicas = 0;
        for (const LocalParameter& p : store.all()) {
          num_replicas += p.is_replica;
          CHECK(p.weight.size() == p.spec->rows * p.spec->cols);
          CHECK(p.grad.size() == (p.is_replica ? 0 : p.weight.size()));
          if (!p.is_replica) elements += p.weight.size();
        }
        const bool is_last = stage == stages - 1;
        const int64_t uses = is_last ? (mtp > 0) + tied : 0;
        CHECK(num_replicas == (is_last && stages > 1 && uses > 0 ? 1 : 0));
        const int64_t gap = 128 * (static_cast<int64_t>(store.all().size()) + 3);  // of alignment, at most
        CHECK(ctx.memory.grads.used() >= 4 * (elements + uses * c.vocab_size * c.hidden_size));
        CHECK(ctx.memory.grads.used() <= 4 * (elements + uses * c.vocab_size * c.hidden_size) + gap);
      }
  }
}
