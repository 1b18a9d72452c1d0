// Memory: named segments of address space, each with a bound and a high-water mark. A Segment hands out Buffers (owning,
// move-only) first-fit with coalescing; pages are committed on first touch and kept, so a steady-state step allocates nothing from the system.
// Exhaustion is an error that names rank, segment, bytes asked and left, and what to change. Not thread-safe: one main thread allocates.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/tensor.h"

namespace atoll {

class Segment;

// Owns one block of a Segment; gives it back when destroyed. `tensor()` is valid while the Buffer lives.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Segment* owner, Tensor tensor) : owner_(owner), tensor_(tensor) {}
  Buffer(Buffer&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)), tensor_(std::exchange(other.tensor_, {})) {}
  Buffer& operator=(Buffer&& other) noexcept {
    if (this != &other) { reset(); owner_ = std::exchange(other.owner_, nullptr); tensor_ = std::exchange(other.tensor_, {}); }
    return *this;
  }
  ~Buffer() { reset(); }
  void reset() noexcept;
  const Tensor& tensor() const { return tensor_; }
  operator const Tensor&() const { return tensor_; }
  explicit operator bool() const { return owner_ != nullptr; }

 private:
  Segment* owner_ = nullptr;
  Tensor tensor_;
};

class Segment {
 public:
  // `setting`: the config key that raises the bound, for the error message; empty where there is none. bound_bytes 0: as much as the machine has.
  Segment(std::string name, int64_t bound_bytes, std::string setting = "");
  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  // Contents are undefined, except in a zeroed segment's first use of pages. An empty shape gives a valid Buffer of 0 elements.
  Buffer take(std::initializer_list<int64_t> dims, DType dtype);
  int64_t used() const { return used_; }
  int64_t high_water() const { return high_water_; }
  int64_t bound() const { return bound_; }
  void reset_high_water() { high_water_ = used_; }
  const std::string& name() const { return name_; }

 private:
  friend class Buffer;
  struct Block { int64_t begin, size; };
  void give_back(void* pointer, int64_t bytes) noexcept;
  void commit(int64_t end);

  std::string name_, setting_;
  int64_t bound_ = 0, reserved_ = 0, committed_ = 0, used_ = 0, high_water_ = 0;
  char* base_ = nullptr;
  std::vector<Block> free_;  // by address
};

// The segments of one rank. Bounds in bytes; 0: unbounded. Every tensor of a step lies in one of these.
struct Memory {
  Segment weights{"weights", 0};
  Segment grads{"main grads", 0};
  Segment optimizer{"optimizer", 0};
  Segment activations;
  Segment routed;      // routed rows: what dispatch receives and the experts keep
  Segment workspace;   // scratch of an op; empty between ops
  Segment comm{"comm", 0};
  struct Bounds { int64_t activations = 0, routed = 0, workspace = 0; };
  Memory() : Memory(Bounds{}) {}
  explicit Memory(Bounds bounds)
      : activations("activations", bounds.activations, "memory.activations"), routed("routed", bounds.routed, "memory.routed"),
        workspace("workspace", bounds.workspace, "memory.workspace") {}
  std::vector<Segment*> all() { return {&weights, &grads, &optimizer, &activations, &routed, &workspace, &comm}; }
};

}  // namespace atoll
