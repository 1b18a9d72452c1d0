// A small model's state for checkpoint tests: tensors whose every element is known from (tensor, row, column, step), cut among any number of ranks.
#pragma once
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "trainer/checkpoint.h"

namespace atoll::test {

namespace fs = std::filesystem;

// A rank alone. Only what a group of one needs.
class OneRank : public Communicator {
 public:
  OneRank() : Communicator(0, 1) {}
  Request isend(const void*, int64_t, int, int) override { throw Error("a rank alone sends nothing"); }
  Request irecv(void*, int64_t, int, int) override { throw Error("a rank alone receives nothing"); }
  Request iall_to_all_v(const void*, std::span<const int64_t>, std::span<const int64_t>, void*, std::span<const int64_t>, std::span<const int64_t>) override {
    throw Error("a rank alone exchanges nothing");
  }
  void all_gather(const void* send, int64_t bytes, void* recv) override { std::memcpy(recv, send, static_cast<size_t>(bytes)); }
  void all_gather_v(const void* send, int64_t bytes, void* recv, std::span<const int64_t>, std::span<const int64_t>) override { all_gather(send, bytes, recv); }
  void broadcast(void*, int64_t, int) override {}
  void barrier() override {}
  std::unique_ptr<Communicator> split(int, int) override { return std::make_unique<OneRank>(); }
  [[noreturn]] void abort(int code) override { throw Error("aborted with " + std::to_string(code)); }
};

// A folder that is removed at the end.
class TempDir {
 public:
  explicit TempDir(const std::string& where = fs::temp_directory_path().string()) {
    std::string pattern = where + "/atoll-test-XXXXXX";
    ATOLL_CHECK(::mkdtemp(pattern.data()), "mkdtemp ", pattern);
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

struct StateTensor { const char* name; const char* kind; DType dtype; int64_t rows, cols; bool is_vector; };
inline const std::vector<StateTensor>& state_tensors() {
  static const std::vector<StateTensor> tensors = {
      {"model.embed_tokens.weight", "master", DType::kF32, 61, 24, false},    {"model.embed_tokens.weight", "exp_avg", DType::kF32, 61, 24, false},
      {"model.embed_tokens.weight", "exp_avg_sq", DType::kBF16, 61, 24, false}, {"model.layers.0.mlp.gate_proj.weight", "master", DType::kF32, 48, 24, false},
      {"model.norm.weight", "master", DType::kF32, 24, 1, true},              {"model.layers.1.mlp.gate.e_score_correction_bias", "bias", DType::kF64, 17, 1, true},
      {"tokens_per_expert", "bias", DType::kI64, 17, 1, true},                {"wide", "master", DType::kF32, 3, 700000, false},
      {"one", "master", DType::kF32, 1, 1, true},                             {"flags", "bias", DType::kU8, 5, 3, false},
      {"steps", "bias", DType::kI32, 5, 1, true}};
  return tensors;
}

// Bytes that no other (tensor, row, byte, step) shares by accident.
inline void fill_rows(std::byte* data, size_t tensor, int64_t row_begin, int64_t row_count, int64_t row_bytes, int64_t step) {
  for (int64_t r = 0; r < row_count; ++r)
    for (int64_t b = 0; b < row_bytes; ++b) {
      uint64_t x = (static_cast<uint64_t>(row_begin + r) * 1000003u + static_cast<uint64_t>(b)) * 0x9e3779b97f4a7c15u + tensor * 7919u + static_cast<uint64_t>(step) * 104729u;
      x ^= x >> 29;
      x *= 0xbf58476d1ce4e5b9u;
      data[r * row_bytes + b] = static_cast<std::byte>(x >> 56);
    }
}

// The shards of one rank of `world`, with memory. Rows are split unevenly, and differently for each `salt`: another layout.
struct RankState {
  std::vector<std::vector<std::byte>> memory;
  std::vector<ShardView> views;
  RankState(int rank, int world, int64_t step, int salt = 0) {
    for (size_t t = 0; t < state_tensors().size(); ++t) {
      const StateTensor& tensor = state_tensors()[t];
      const auto cut = [&](int r) { return r <= 0 ? 0 : r >= world ? tensor.rows : std::min(tensor.rows, (tensor.rows * r + salt) / world); };
      const int64_t begin = cut(rank), count = cut(rank + 1) - begin, row_bytes = tensor.cols * static_cast<int64_t>(size_of(tensor.dtype));
      memory.emplace_back(static_cast<size_t>(count * row_bytes));
      if (step > 0) fill_rows(memory.back().data(), t, begin, count, row_bytes, step);
      views.push_back({tensor.name, tensor.kind, tensor.dtype, tensor.rows, tensor.cols, tensor.is_vector, begin, count, memory.back().data()});
    }
  }
  bool holds(int64_t step) const {
    for (size_t t = 0; t < memory.size(); ++t) {
      std::vector<std::byte> expected(memory[t].size());
      fill_rows(expected.data(), t, views[t].row_begin, views[t].row_count, views[t].global_cols * static_cast<int64_t>(size_of(views[t].dtype)), step);
      if (expected != memory[t]) return false;
    }
    return true;
  }
};

inline CheckpointMeta meta_of(int64_t step) { return {step, step * 4096, step * 8, "train:\n  steps: 20\n", "fingerprint-1", "pp 1 x dp 1", R"({"loss_hex":"0x1.8p+1","skipped":0})"}; }

inline SaveResult save_alone(const std::string& run_dir, int64_t step, int keep_last = 0) {
  OneRank world;
  RankState state(0, 1, step);
  const std::vector<AttachedFile> files = {{"config.yaml", "train:\n  steps: 20\n"}, {"tokenizer.model", std::string("\0\x01tok", 5)}};
  return CheckpointWriter().save(world, run_dir, meta_of(step), state.views, files, keep_last);
}

// The step whose state the newest good checkpoint holds, bit for bit; 0 if there is none. Throws if the contents are those of no step.
inline int64_t newest_step(const std::string& run_dir) {
  const auto reader = CheckpointReader::open_newest(run_dir);
  if (!reader) return 0;
  RankState state(0, 1, 0);
  reader->load(state.views);
  ATOLL_CHECK(state.holds(reader->meta().step), "step ", reader->meta().step, " loads other values than were saved");
  return reader->meta().step;
}

inline std::string text_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}
inline void write_text(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

inline std::string step_dir(const std::string& run_dir, int64_t step) {
  char name[64];
  std::snprintf(name, sizeof name, "/checkpoints/step-%08lld", static_cast<long long>(step));
  return run_dir + name;
}
inline std::vector<std::string> names_in(const std::string& dir) {
  std::vector<std::string> names;
  if (!fs::exists(dir)) return names;
  for (const auto& entry : fs::directory_iterator(dir)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace atoll::test
