// Runs every declared op case (op_cases.h). Tolerance is derived: an op's error against the double oracle is at most twice that of the same maths rounded
// as the dtype rounds, plus the last bit of what is stored.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <set>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa.h"
#include "child.h"
#include "op_cases.h"

namespace atoll::test {
namespace {

double unit_roundoff(DType dtype) { return dtype == DType::kF64 ? 0x1p-48 : dtype == DType::kF32 ? 0x1p-23 : 0x1p-8; }

std::vector<Bf16Gemm> modes(DType dtype) {
  if (dtype != DType::kBF16 || !cpu::has_native_bf16_gemm()) return {Bf16Gemm::kWiden};
  return {Bf16Gemm::kNative, Bf16Gemm::kWiden};
}
std::vector<Isa> isas() {
  std::vector<Isa> all;
  for (Isa isa : {Isa::kX86_64, Isa::kAvx2, Isa::kAvx512})
    if (cpu::has_isa(isa)) all.push_back(isa);
  return all;
}

// The mode of BF16 products is fixed, not probed: a probe's choice may differ from one context to the next.
Arrays run(const OpCase& c, DType dtype, Isa isa, int threads, const Arrays& in, Bf16Gemm mode) {
  Context ctx(threads);
  ctx.bf16_gemm = mode;
  cpu::set_isa(ctx, isa);
  return c.run(ctx, dtype, in);
}

bool same_bits(const Array& a, const Array& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0);
}

bool is_in(const std::vector<std::string>& names, const std::string& name) {
  for (const std::string& n : names)
    if (n == name) return true;
  return false;
}

void check_against_oracle(const OpCase& c, DType dtype, const Arrays& got, const Arrays& exact, const Arrays& rounded) {
  REQUIRE(got.size() == exact.size());
  for (const auto& [name, want] : exact) {
    INFO("output " << name);
    REQUIRE(got.count(name) == 1);
    if (is_in(c.exact, name)) {
      CHECK((got.at(name) == want));
      continue;
    }
    const double tolerance = 2 * relative_error(rounded.at(name), want) + unit_roundoff(dtype) / 2;
    CHECK(relative_error(got.at(name), want) <= tolerance);
  }
}

}  // namespace

TEST_CASE("Every op has a case") {
  std::set<Op> declared;
  std::set<std::string> names;
  for (const OpCase& c : op_cases()) {
    declared.insert(c.op);
    CHECK(names.insert(c.name).second);
  }
  for (int op = 0; op < static_cast<int>(Op::kNumOps); ++op) {
    INFO(name_of(static_cast<Op>(op)));
    CHECK(std::string(name_of(static_cast<Op>(op))) != "?");
    CHECK(declared.count(static_cast<Op>(op)) == 1);
  }
}

TEST_CASE("An op that sizes takes the scratch that it takes when it runs") {
  std::set<Op> takers;
  for (const OpCase& c : op_cases()) {
    if (c.op == Op::kRouterBackward) continue;  // takes none; its case goes on with what the router chose
    const Arrays in = c.inputs();
    for (DType dtype : c.dtypes)
      for (Bf16Gemm mode : modes(dtype))
        for (int threads : {1, 3}) {
          Context running(threads), sizing(threads);
          running.bf16_gemm = sizing.bf16_gemm = mode;
          sizing.is_sizing = true;
          c.run(running, dtype, in);
          c.run(sizing, dtype, in);
          INFO(c.name << ", " << name_of(dtype) << ", " << threads << " threads");
          CHECK(sizing.memory.workspace.high_water() == running.memory.workspace.high_water());
          if (running.memory.workspace.high_water() > 0) takers.insert(c.op);
        }
  }
  CHECK(takers.size() >= 12);  // products, attention, norms' gradients, head, router: there is something to compare
}

TEST_CASE("Every op agrees with its double oracle on every instruction set") {
  for (const OpCase& c : op_cases()) {
    const Arrays in = c.inputs();
    const Arrays exact = c.oracle(in, Rounding{});
    for (DType dtype : c.dtypes) {
      const Arrays rounded = c.oracle(in, Rounding{dtype, false});
      for (Bf16Gemm mode : modes(dtype))
        for (Isa isa : isas()) {
          INFO(c.name << " " << name_of(dtype) << " " << name_of(isa) << (mode == Bf16Gemm::kNative ? " native" : ""));
          check_against_oracle(c, dtype, run(c, dtype, isa, 1, in, mode), exact, rounded);
        }
    }
  }
}

// Hidden: the case below runs it in processes of other instruction sets. oneDNN is narrowed once a process, so set_isa() alone leaves the products on the widest.
TEST_CASE("Products agree with their double oracle on this process's instruction set", "[.this-isa]") {
  const char* most = std::getenv("ONEDNN_MAX_CPU_ISA");
  CHECK(cpu::has_native_bf16_gemm() == (best_isa() == Isa::kAvx512 && !most));
  int num_cases = 0;
  for (const OpCase& c : op_cases()) {
    if (c.op > Op::kGroupedLinearBackwardWeight && c.op != Op::kHeadLoss) continue;
    ++num_cases;
    const Arrays in = c.inputs();
    const Arrays exact = c.oracle(in, Rounding{});
    for (DType dtype : c.dtypes) {
      const Arrays rounded = c.oracle(in, Rounding{dtype, false});
      for (Bf16Gemm mode : modes(dtype)) {
        INFO(c.name << " " << name_of(dtype) << " " << name_of(best_isa()));
        const Arrays got = run(c, dtype, best_isa(), 1, in, mode);
        check_against_oracle(c, dtype, got, exact, rounded);
        for (const auto& [name, values] : run(c, dtype, best_isa(), 3, in, mode)) CHECK(same_bits(values, got.at(name)));
      }
    }
  }
  CHECK(num_cases > 40);
}

TEST_CASE("Products are right in a process of each narrower instruction set, the library's included") {
  for (const auto& [isa, environment] : {std::pair{Isa::kX86_64, "ATOLL_ISA=x86-64"}, {Isa::kAvx2, "ATOLL_ISA=avx2"}, {Isa::kX86_64, "ONEDNN_MAX_CPU_ISA=AVX2"}}) {
    if (!cpu::has_isa(isa)) continue;
    const Child child = run_in_child(environment, "[this-isa]");
    INFO(environment << "\n" << child.output);
    CHECK(child.status == 0);
    CHECK(child.output.find("All tests passed") != std::string::npos);
  }
}

TEST_CASE("Bits of every op do not depend on the thread count, and repeat") {
  for (const OpCase& c : op_cases()) {
    const Arrays in = c.inputs();
    for (DType dtype : c.dtypes) {
      const Arrays one = run(c, dtype, best_isa(), 1, in, modes(dtype).front());
      for (int threads : {1, 2, 3}) {
        const Arrays other = run(c, dtype, best_isa(), threads, in, modes(dtype).front());
        for (const auto& [name, values] : one) {
          INFO(c.name << " " << name_of(dtype) << " " << threads << " threads, output " << name);
          CHECK(same_bits(values, other.at(name)));
        }
      }
    }
  }
}

// An op that computes gradients, and whether some case compares each of its gradients (outputs named d...) with finite differences.
TEST_CASE("Every gradient of every backward op has an objective") {
  for (Op op : {Op::kLinearBackwardInput, Op::kLinearBackwardWeight, Op::kGroupedLinearBackwardInput, Op::kGroupedLinearBackwardWeight, Op::kRmsNormBackward, Op::kAttentionBackward,
                Op::kSwigluBackward, Op::kRouterBackward, Op::kEmbeddingBackward, Op::kHeadLoss}) {
    std::set<std::string> outputs, checked;
    for (const OpCase& c : op_cases()) {
      if (c.op != op) continue;
      for (const auto& [name, values] : c.oracle(c.inputs(), Rounding{}))
        if (name[0] == 'd') outputs.insert(name);
      if (!c.objective) continue;
      const Arrays in = c.inputs();
      for (const auto& [input, output] : c.gradients)
        if (in.at(input).size() > 4) checked.insert(output);
    }
    INFO(name_of(op));
    CHECK(!outputs.empty());
    CHECK(checked == outputs);
  }
}

TEST_CASE("Every backward op agrees with finite differences") {
  for (const OpCase& c : op_cases()) {
    if (!c.objective) continue;
    const Arrays in = c.inputs();
    const Arrays got = run(c, DType::kF64, best_isa(), 1, in, Bf16Gemm::kWiden);
    for (const auto& [input, output] : c.gradients) {
      INFO(c.name << ": d objective / d " << input << " is " << output);
      const Array& gradient = got.at(output);
      REQUIRE(gradient.size() == in.at(input).size());
      double largest = 0;
      for (double g : gradient) largest = std::max(largest, std::abs(g));
      const size_t step = std::max<size_t>(1, gradient.size() / 64);
      for (size_t i = 0; i < gradient.size(); i += step) {
        const double h = 0x1p-14;
        const auto at = [&](double shift) {
          Arrays moved = in;
          moved.at(input)[i] += shift;
          return c.objective(moved);
        };
        const double numeric = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);  // error O(h^4)
        INFO("entry " << i);
        CHECK(std::abs(numeric - gradient[i]) <= 1e-7 * std::max(largest, 1e-3));
      }
    }
  }
}

}  // namespace atoll::test
