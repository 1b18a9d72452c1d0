// Texts are exchanged as (length, bytes).
#include "trainer/checkpoint_agree.h"

namespace atoll {
namespace {

constexpr int kChannel = 15;

std::vector<int64_t> lengths_of_all(Communicator& world, int64_t mine) {
  std::vector<int64_t> lengths(static_cast<size_t>(world.size()));
  world.all_gather(&mine, sizeof mine, lengths.data());
  return lengths;
}

}  // namespace

std::string errors_of_all(Communicator* world, const std::string& mine) {
  if (!world || world->size() == 1) return mine;
  constexpr size_t kLongest = 2000;  // of one rank's text; what follows says no more
  const std::string text = mine.substr(0, kLongest);
  const std::vector<int64_t> lengths = lengths_of_all(*world, static_cast<int64_t>(text.size()));
  std::vector<int64_t> begins;
  int64_t total = 0;
  for (int64_t length : lengths) {
    begins.push_back(total);
    total += length;
  }
  if (total == 0) return "";
  std::string all(static_cast<size_t>(total), '\0');
  world->all_gather_v(text.data(), static_cast<int64_t>(text.size()), all.data(), lengths, begins);
  std::string report;
  int shown = 0, failed = 0;
  for (size_t r = 0; r < lengths.size(); ++r) {
    if (lengths[r] == 0) continue;
    if (++failed > 3) continue;
    ++shown;
    report += (report.empty() ? "rank " : "; rank ") + std::to_string(r) + ": " + all.substr(static_cast<size_t>(begins[r]), static_cast<size_t>(lengths[r]));
  }
  if (failed > shown) report += "; and " + std::to_string(failed - shown) + " more ranks";
  return report;
}

std::string broadcast_text(Communicator* world, const std::string& of_rank_0) {
  if (!world || world->size() == 1) return of_rank_0;
  int64_t length = static_cast<int64_t>(of_rank_0.size());
  world->broadcast(&length, sizeof length, 0);
  std::string text = world->rank() == 0 ? of_rank_0 : std::string(static_cast<size_t>(length), '\0');
  if (length > 0) world->broadcast(text.data(), length, 0);
  return text;
}

std::vector<std::string> gather_texts(Communicator* world, const std::string& mine) {
  if (!world || world->size() == 1) return {mine};
  const std::vector<int64_t> lengths = lengths_of_all(*world, static_cast<int64_t>(mine.size()));
  if (world->rank() != 0) {
    world->send(mine.data(), static_cast<int64_t>(mine.size()), 0, kChannel);
    return {};
  }
  std::vector<std::string> texts = {mine};
  for (int r = 1; r < world->size(); ++r) {
    texts.emplace_back(static_cast<size_t>(lengths[static_cast<size_t>(r)]), '\0');
    world->recv(texts.back().data(), static_cast<int64_t>(texts.back().size()), r, kChannel);
  }
  return texts;
}

}  // namespace atoll
