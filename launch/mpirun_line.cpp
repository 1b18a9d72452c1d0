// A mesh that does not fit the ranks is refused with the mpirun line that would work, quoted for the shell.
#include "launch/mpirun_line.h"

#include <unistd.h>

#include <cctype>
#include <cstring>
#include <limits>
#include <optional>

#include "kernels/base/error.h"

namespace atoll {
namespace {
// The fewest ranks that have this mesh; none when it is broken in itself.
std::optional<int> ranks_that_work(const MeshSizes& sizes) {
  const int64_t ranks = static_cast<int64_t>(sizes.pp) * sizes.ep;
  if (ranks < 1 || ranks > std::numeric_limits<int>::max()) return std::nullopt;
  try {
    Mesh(static_cast<int>(ranks), sizes);
  } catch (const ConfigError&) {
    return std::nullopt;
  }
  return static_cast<int>(ranks);
}
}  // namespace

std::string shell_quoted(const std::string& word) {
  const auto is_plain = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || (c != '\0' && std::strchr("_@%+=:,./-", c) != nullptr); };
  bool all_plain = !word.empty();
  for (const char c : word) all_plain = all_plain && is_plain(c);
  if (all_plain) return word;
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

void check_mesh(int world, const MeshSizes& sizes, const std::vector<std::string>& words) {
  try {
    Mesh(world, sizes);
  } catch (const ConfigError& e) {
    const std::optional<int> ranks = ranks_that_work(sizes);
    if (!ranks) throw;
    std::string line = std::string("mpirun ") + (geteuid() == 0 ? "--allow-run-as-root " : "") + "--oversubscribe --bind-to none -n " + std::to_string(*ranks);
    for (const std::string& word : words) line += " " + shell_quoted(word);
    throw ConfigError(std::string(e.what()) + "\nwould work: " + line);
  }
}

}  // namespace atoll
