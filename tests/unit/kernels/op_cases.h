// The op registry: an op is declared once as a case and run by op_registry.cpp for correctness, gradient, determinism over threads and every instruction set.
// A case works on named arrays of double. Inputs are exactly representable in BF16, so every dtype computes the same problem.
// Declare cases at namespace scope: static const bool registered = register_op_case({...}). An Op without a case fails the suite.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/context.h"
#include "kernels/base/rng.h"
#include "kernels/ops.h"

namespace atoll::test {

using Array = std::vector<double>;
using Arrays = std::map<std::string, Array>;

// How an oracle rounds: exact (nothing is rounded), or as the dtype would: `acc` after every operation of a sum, `storage` where a value is stored.
struct Rounding {
  DType dtype = DType::kF64;
  bool is_exact = true;
  double acc(double value) const;
  double storage(double value) const;
};

struct OpCase {
  Op op;
  std::string name;                                                                    // "linear 3x5x7": unique
  std::function<Arrays()> inputs;                                                      // draw() below
  std::function<Arrays(const Arrays& in, const Rounding& rounding)> oracle;            // the op's outputs in double; the simplest loops that are right
  std::function<Arrays(Context& ctx, DType storage, const Arrays& in)> run;            // the op's outputs, as double; same names and sizes as the oracle's
  // For a backward op: a scalar of the inputs (forward maths in double, dotted with the incoming gradient), and which output is its derivative by which input.
  // Checked by central differences against the op in FP64, entry by entry (at most 64 of each array, spread). Empty: the op has no gradient of its own.
  std::function<double(const Arrays& in)> objective;
  std::vector<std::pair<std::string, std::string>> gradients;                          // {input, output}: {"x", "dx"}
  std::vector<std::string> exact;                                                      // outputs compared bit for bit with the oracle's (integers, copies)
  std::vector<DType> dtypes = {DType::kF64, DType::kF32, DType::kBF16};
};

bool register_op_case(OpCase op_case);
const std::vector<OpCase>& op_cases();

// n normal values times `scale`, rounded to BF16. `name` keys the stream.
Array draw(const std::string& name, size_t n, double scale = 1.0);

// A tensor of its own memory. Filled from doubles (rounded to dtype), padded: rows may be strided by `extra` elements that hold NaN (floats) before and after the op.
class Owned {
 public:
  Owned(DType dtype, std::initializer_list<int64_t> dims, int64_t extra = 0);             // all elements NaN (floats) or 0x5a bytes
  Owned(DType dtype, std::initializer_list<int64_t> dims, const Array& values, int64_t extra = 0);
  const Tensor& tensor() const { return tensor_; }
  operator const Tensor&() const { return tensor_; }
  Array values() const;        // row by row, without the padding
  bool padding_is_untouched() const;

 private:
  std::vector<char> bytes_;
  Tensor tensor_;
};

double round_to(DType dtype, double value);

// max|a-b| / max|b|; infinity if sizes differ or a value is NaN in one only; 0 for two empty arrays. A zero b asks for a zero a.
double relative_error(const Array& a, const Array& b);

}  // namespace atoll::test
