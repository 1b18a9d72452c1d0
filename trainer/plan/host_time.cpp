// Launches by phase, and two clocks, host and device, over the phases of a layer.
#include "trainer/plan/host_time.h"

#include <algorithm>

#include "kernels/base/error.h"

namespace atoll::plan {

double host_launches(const PlanInput& in, WorkPhase phase, bool is_moe, double local_experts) {
  const Sheet& s = in.plan;
  const double eager = 1 - s.number("host.graphs"), experts = is_moe ? local_experts : 0;
  const bool is_full = s.has_word("recompute", "full"), are_experts_again = is_full || s.has_word("recompute", "experts");
  const double attention = s.number("host.attention_forward") * eager, mlp = s.number("host.mlp_forward") + s.number("host.expert_forward") * experts;
  switch (phase) {
    case WorkPhase::kAttnForward: return attention;
    case WorkPhase::kMlpForward: return mlp;
    case WorkPhase::kMlpBackward: return s.number("host.mlp_backward") + s.number("host.expert_backward") * experts + (are_experts_again ? mlp : 0);
    case WorkPhase::kAttnBackward: return s.number("host.attention_backward") * eager + (is_full ? attention : 0);
    case WorkPhase::kMlpWeight: return s.number("host.weight");
    default: return 0;  // host.weight holds both
  }
}

double waiting_forward(const LayerTimes& l) {
  double host = l.host_of(WorkPhase::kMlpForward);
  double device = std::max(l.of(WorkPhase::kMlpForward), host) + l.combine.seconds;
  host += l.host_of(WorkPhase::kAttnForward);
  device = std::max(device + l.of(WorkPhase::kAttnForward), host);
  return device + l.dispatch.seconds;
}

void explain_host(const LayerTimes& l, double local_experts, Ledger& ledger) {
  const std::vector<std::string> inputs = {"plan.host.launch",         "plan.host.attention_forward",
                                           "plan.host.mlp_forward",    "plan.host.attention_backward",
                                           "plan.host.mlp_backward",   "plan.host.weight",
                                           "plan.host.expert_forward", "plan.host.expert_backward",
                                           "plan.host.graphs",         "plan.recompute"};
  ledger.put("layer.host_forward", l.host_forward(), Unit::kSeconds,
             detail::concat("the host's time to launch F of one layer, ", local_experts, " routed experts on a device"), inputs);
  ledger.put("layer.host_backward", l.host_backward() + l.host_weight(), Unit::kSeconds, "the same, B and W", inputs);
}

}  // namespace atoll::plan
