// Near duplicates: the distinct 5-word shingles of some files (words: runs of letters, digits, _ and non-ASCII), and how many of them another
// file contains. Exact while the shingles fit the bound; beyond it a sample by hash value, the same for all files. Case and punctuation are ignored.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

namespace atoll {

std::vector<uint64_t> shingles_of(std::string_view text);  // in order, with repeats; a shorter text is one shingle; no word: none

class ShingleIndex {
 public:
  explicit ShingleIndex(size_t max_shingles) : max_shingles_(max_shingles) {}
  void add(std::string_view text);   // the next file, numbered from 0
  void finish();                     // after the last add
  void match(std::string_view text, double share);  // marks the files of which `text` contains at least `share`
  bool is_repeated(size_t file) const { return is_repeated_[file]; }

 private:
  struct Entry {
    uint64_t shingle;
    uint32_t file;
  };
  void thin_out();
  bool is_kept(uint64_t shingle) const { return shingle >> (64 - drop_bits_ - 1) >> 1 == 0; }

  size_t max_shingles_;
  int drop_bits_ = 0;  // a shingle is kept when its upper bits are zero
  std::vector<Entry> entries_;
  std::vector<uint32_t> bucket_;    // first entry of each bucket (by hash)
  std::vector<uint64_t> last_seen_; // by entry: the last matched text that had it
  std::vector<uint32_t> count_, total_, touched_;
  std::vector<bool> is_repeated_;
  int bucket_bits_ = 0;
  uint64_t num_matched_ = 0;
};

}  // namespace atoll
