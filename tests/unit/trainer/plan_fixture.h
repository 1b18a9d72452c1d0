// What tests of the planner share: the shipped files, DeepSeek-V3 on its cluster, and an error as text.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "trainer/plan/settings.h"

namespace atoll::plan {

inline const std::string kLaunch = std::string(ATOLL_SOURCE_DIR) + "/launch";
inline const PlanFolders kFolders = {kLaunch + "/recipes", kLaunch + "/clusters", kLaunch + "/calibration"};

inline PlanInput v3(std::vector<std::string> more = {}) {
  more.insert(more.begin(), "cluster=h800-2048");
  return load_plan("deepseek-v3", more, kFolders);
}
inline std::string error_text(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) { return e.what(); }
  return "";
}

}  // namespace atoll::plan
