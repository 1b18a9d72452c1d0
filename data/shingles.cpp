// Word shingles and their sample. Policy: one pass over the bytes with a ring of word hashes; beyond the bound, entries go by their hash's leading bits.
#include "data/shingles.h"

#include <algorithm>
#include <array>

namespace atoll {

namespace {

constexpr int kWords = 5;
constexpr uint64_t kPrime = 0x9E3779B97F4A7C15ull;

uint64_t mix(uint64_t x) {  // the finaliser of splitmix64
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

constexpr std::array<uint8_t, 256> word_table() {  // the character as hashed; 0 ends a word
  std::array<uint8_t, 256> table{};
  for (int c = 0; c < 256; ++c) {
    if (c >= 'A' && c <= 'Z') table[static_cast<size_t>(c)] = static_cast<uint8_t>(c + 32);
    else if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c >= 0x80) table[static_cast<size_t>(c)] = static_cast<uint8_t>(c);
  }
  return table;
}
constexpr auto kTable = word_table();

template <class Visit>
void for_each_shingle(std::string_view text, const Visit& visit) {
  std::array<uint64_t, kWords> ring{};
  uint64_t num_words = 0, word = 0;
  const auto combined = [&](uint64_t count) {
    uint64_t h = 0;
    for (uint64_t k = num_words - count; k < num_words; ++k) h = (h ^ ring[k % kWords]) * kPrime + 1;
    return mix(h);
  };
  const auto end_word = [&] {
    if (word == 0) return;
    ring[num_words++ % kWords] = mix(word);
    word = 0;
    if (num_words >= kWords) visit(combined(kWords));
  };
  for (const char c : text) {
    const uint8_t folded = kTable[static_cast<unsigned char>(c)];
    if (folded != 0) word = (word ^ folded) * 0x100000001B3ull + kPrime;
    else end_word();
  }
  end_word();
  if (num_words > 0 && num_words < kWords) visit(combined(num_words));
}

}  // namespace

std::vector<uint64_t> shingles_of(std::string_view text) {
  std::vector<uint64_t> shingles;
  for_each_shingle(text, [&](uint64_t shingle) { shingles.push_back(shingle); });
  return shingles;
}

void ShingleIndex::add(std::string_view text) {
  const auto file = static_cast<uint32_t>(total_.size());
  auto shingles = shingles_of(text);
  std::sort(shingles.begin(), shingles.end());
  shingles.erase(std::unique(shingles.begin(), shingles.end()), shingles.end());
  for (const uint64_t shingle : shingles)
    if (is_kept(shingle)) entries_.push_back({shingle, file});
  total_.push_back(0);
  while (entries_.size() > max_shingles_ && drop_bits_ < 40) thin_out();
}

void ShingleIndex::thin_out() {
  ++drop_bits_;
  std::erase_if(entries_, [&](const Entry& entry) { return !is_kept(entry.shingle); });
}

void ShingleIndex::finish() {
  std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.shingle != b.shingle ? a.shingle < b.shingle : a.file < b.file; });
  for (const auto& entry : entries_) ++total_[entry.file];
  count_.assign(total_.size(), 0);
  is_repeated_.assign(total_.size(), false);
  last_seen_.assign(entries_.size(), 0);
  for (bucket_bits_ = 8; (size_t{1} << bucket_bits_) < 2 * entries_.size() && bucket_bits_ < 26;) ++bucket_bits_;
  // Kept shingles have drop_bits_ leading zeros: the bits after those select the bucket.
  bucket_.assign((size_t{1} << bucket_bits_) + 1, 0);
  for (const auto& entry : entries_) ++bucket_[((entry.shingle << drop_bits_) >> (64 - bucket_bits_)) + 1];
  for (size_t b = 1; b < bucket_.size(); ++b) bucket_[b] += bucket_[b - 1];
}

void ShingleIndex::match(std::string_view text, double share) {
  ++num_matched_;
  touched_.clear();
  for_each_shingle(text, [&](uint64_t shingle) {
    if (!is_kept(shingle)) return;
    const size_t bucket = (shingle << drop_bits_) >> (64 - bucket_bits_);
    for (uint32_t e = bucket_[bucket]; e < bucket_[bucket + 1]; ++e) {
      if (entries_[e].shingle != shingle || last_seen_[e] == num_matched_) continue;
      last_seen_[e] = num_matched_;
      if (count_[entries_[e].file]++ == 0) touched_.push_back(entries_[e].file);
    }
  });
  for (const uint32_t file : touched_) {
    if (static_cast<double>(count_[file]) >= share * static_cast<double>(total_[file])) is_repeated_[file] = true;
    count_[file] = 0;
  }
}

}  // namespace atoll
