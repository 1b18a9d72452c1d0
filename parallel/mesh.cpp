// Mesh arithmetic: two factorizations of the same ranks, one for attention (pp dp cp tp), one for experts (pp edp ep etp), slowest axis first.
#include "parallel/mesh.h"

#include <algorithm>

#include "kernels/base/error.h"

namespace atoll {
namespace {
std::string divisors(int n) {
  std::string text;
  for (int d = 1; d <= n; ++d)
    if (n % d == 0) text += (text.empty() ? "" : ",") + std::to_string(d);
  return "{" + text + "}";
}
std::string multiples_near(int64_t n, int64_t of) {  // the multiples of `of` on both sides of n
  const int64_t below = n / of * of, above = below + of;
  return below > 0 ? detail::concat(below, " or ", above) : std::to_string(above);
}
}  // namespace

const char* name_of(Axis axis) {
  switch (axis) {
    case Axis::kWorld: return "world";
    case Axis::kPp: return "pp";
    case Axis::kDp: return "dp";
    case Axis::kTp: return "tp";
    case Axis::kCp: return "cp";
    case Axis::kEp: return "ep";
    case Axis::kEdp: return "edp";
    case Axis::kEtp: return "etp";
  }
  return "?";
}

Mesh::Mesh(int world, const MeshSizes& sizes) : world_(world), pp_(sizes.pp), tp_(sizes.tp), cp_(sizes.cp), ep_(sizes.ep), etp_(sizes.etp) {
  std::vector<std::string> problems;
  const auto at_least_one = [&](const char* name, int size) {
    if (size < 1) problems.push_back(detail::concat(name, "=", size, " must be at least 1"));
  };
  const auto not_yet = [&](const char* name, int size) {
    if (size > 1) problems.push_back(detail::concat(name, "=", size, " is not supported yet; use ", name, "=1"));
  };
  at_least_one("world", world);
  at_least_one("pp", pp_);
  at_least_one("ep", ep_);
  for (const auto& [name, size] : {std::pair{"tp", tp_}, {"cp", cp_}, {"etp", etp_}}) {
    at_least_one(name, size);
    not_yet(name, size);
  }
  const int64_t pp_ep = static_cast<int64_t>(pp_) * ep_;  // of two ints that nobody has judged yet
  if (world >= 1 && pp_ >= 1) {
    if (world % pp_ != 0) problems.push_back(detail::concat(world, " ranks are not divisible by pp=", pp_, "; use ", multiples_near(world, pp_), " ranks, or pp in ", divisors(world)));
    dp_ = std::max(1, world / pp_);  // the rule of ep is judged on what dp would be
    if (ep_ >= 1 && world % pp_ == 0 && dp_ % ep_ != 0)
      problems.push_back(detail::concat("dp=", dp_, " (", world, " ranks / pp=", pp_, ") is not divisible by ep=", ep_, "; use ep in ", divisors(dp_), ", or ",
                                        multiples_near(world, pp_ep), " ranks"));
    if (ep_ >= 1 && world % pp_ != 0 && world % ep_ != 0)
      problems.push_back(detail::concat(world, " ranks are not divisible by ep=", ep_, "; use a multiple of pp*ep=", pp_ep, " ranks, or ep in ", divisors(world)));
  }
  if (!problems.empty()) {
    std::string text = "impossible mesh:";
    for (const std::string& problem : problems) text += (problems.size() > 1 ? "\n  " : " ") + problem;
    throw ConfigError(text);
  }
  dp_ = world / (pp_ * tp_ * cp_);
  edp_ = dp_ * tp_ * cp_ / (ep_ * etp_);
}

int Mesh::size(Axis axis) const {
  switch (axis) {
    case Axis::kWorld: return world_;
    case Axis::kPp: return pp_;
    case Axis::kDp: return dp_;
    case Axis::kTp: return tp_;
    case Axis::kCp: return cp_;
    case Axis::kEp: return ep_;
    case Axis::kEdp: return edp_;
    case Axis::kEtp: return etp_;
  }
  return 1;
}

int Mesh::stride(Axis axis) const {
  switch (axis) {
    case Axis::kWorld: case Axis::kTp: case Axis::kEtp: return 1;
    case Axis::kCp: return tp_;
    case Axis::kDp: return tp_ * cp_;
    case Axis::kPp: return tp_ * cp_ * dp_;
    case Axis::kEp: return etp_;
    case Axis::kEdp: return etp_ * ep_;
  }
  return 1;
}

int Mesh::index(Axis axis, int rank) const {
  ATOLL_CHECK(rank >= 0 && rank < world_, "rank ", rank, " of a world of ", world_);
  return rank / stride(axis) % size(axis);
}

std::vector<int> Mesh::group(Axis axis, int rank) const {
  const int first = rank - index(axis, rank) * stride(axis);
  std::vector<int> ranks(static_cast<size_t>(size(axis)));
  for (int i = 0; i < size(axis); ++i) ranks[static_cast<size_t>(i)] = first + i * stride(axis);
  return ranks;
}

std::string Mesh::describe(int rank) const {
  std::string text = detail::concat("rank ", rank, ":");
  const char* separator = " ";
  for (Axis axis : {Axis::kPp, Axis::kDp, Axis::kCp, Axis::kTp, Axis::kEp, Axis::kEdp, Axis::kEtp}) {
    const bool is_later = axis == Axis::kCp || axis == Axis::kTp || axis == Axis::kEtp;
    if (is_later && size(axis) == 1) continue;
    text += detail::concat(separator, name_of(axis), " ", index(axis, rank), "/", size(axis));
    separator = ", ";
  }
  return text;
}

Range split_evenly(int64_t n, int parts, int index) {
  ATOLL_CHECK(n >= 0 && parts >= 1 && index >= 0 && index < parts, "part ", index, " of ", n, " things in ", parts, " parts");
  const int64_t each = n / parts, larger = n % parts;
  const int64_t begin = index * each + std::min<int64_t>(index, larger);
  return {begin, begin + each + (index < larger ? 1 : 0)};
}

}  // namespace atoll
