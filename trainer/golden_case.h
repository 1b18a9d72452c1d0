// What the two kinds of golden cases (one forward and backward; a training run) share: files, loading weights, gathering deviations over ranks.
#pragma once
#include <map>
#include <string>

#include "trainer/engine.h"
#include "trainer/safetensors.h"
#include "trainer/verify_golden.h"

namespace atoll {

struct Deviation {  // of one quantity, summed over whatever ranks hold parts of it
  double max_difference = 0, max_reference = 0, squares_difference = 0, squares_reference = 0;
  int64_t mismatches = 0, elements = 0;
  void add(double value, double reference);
  double relative_max() const;  // inf where the reference is zero and the value is not; inf if nothing was compared
  double relative_l2() const;
};

class Deviations {  // by name; every rank has seen the same names or none
 public:
  Deviation& operator[](const std::string& name) { return by_name_[name]; }
  void compare(const std::string& name, const Tensor& value, const Tensor& reference);  // any float or integer types, same number of elements
  void merge(Communicator& world);                                                      // afterwards equal on all ranks
  const std::map<std::string, Deviation>& all() const { return by_name_; }

 private:
  std::map<std::string, Deviation> by_name_;
};

EngineOptions golden_engine_options(const ModelConfig& model, const GoldenOptions& options, int64_t max_sequence);
// Masters and biases from model.safetensors (F32). DataError on missing tensors, other shapes, and tensors that are not the model's (copies of embedding and head in MTP modules excepted).
void load_golden_weights(Engine& engine, const SafetensorsFile& file);  // rounded to BF16 values where the engine emulates BF16
double element(const Tensor& t, int64_t i);

GoldenReport verify_golden_training(const std::string& folder, const GoldenOptions& options, Communicator& world);
// One forward and backward of `io_name` / `grads_name` (io.safetensors, io_packed.safetensors). Adds rows.
void verify_golden_pass(const std::string& folder, const std::string& suffix, const GoldenOptions& options, Communicator& world, GoldenReport& report);

}  // namespace atoll
