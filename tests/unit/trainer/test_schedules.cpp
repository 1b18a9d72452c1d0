// Learning rate, batch ramp and piecewise values at the points where they change. Policy: DeepSeek-V3's published schedule is the reference, written out as numbers.
#include <catch2/catch.hpp>
#include <cmath>

#include "kernels/base/error.h"
#include "trainer/schedules.h"

using namespace atoll;

static constexpr int64_t kB = 1'000'000'000, kT = 1000 * kB;

static LrConfig deepseek_v3() {
  LrConfig c;
  c.max = 2.2e-4;
  c.min = 2.2e-5;
  c.warmup = RunPoint::steps(2000);
  c.constant_until = RunPoint::tokens(10 * kT);
  c.decay_until = RunPoint::tokens(14300 * kB);
  c.plateaus = {{RunPoint::tokens(14633 * kB), 7.3e-6}};
  return c;
}

TEST_CASE("DeepSeek-V3's learning rate passes through its published values", "[trainer][schedules]") {
  const LrSchedule lr(deepseek_v3(), RunPoint::tokens(14800 * kB));
  const auto at = [&](int64_t step, int64_t tokens) { return lr.at({step, tokens}); };
  CHECK(at(1, kB) == 2.2e-4 * (1.0 / 2000));
  CHECK(at(1000, 20 * kB) == 1.1e-4);
  CHECK(at(2000, 50 * kB) == 2.2e-4);
  CHECK(at(100000, 10 * kT) == 2.2e-4);
  CHECK(at(200000, 12150 * kB) == Approx(0.5 * (2.2e-4 + 2.2e-5)).epsilon(1e-12));
  for (int64_t n : {10500 * kB, 11 * kT, 13 * kT, 14 * kT})  // the formula of the paper
    CHECK(at(200000, n) == Approx(2.2e-5 + 1.98e-4 * 0.5 * (1 + std::cos(M_PI * static_cast<double>(n - 10 * kT) / 4.3e12))).epsilon(1e-12));
  CHECK(at(200000, 14300 * kB) == 2.2e-5);
  CHECK(at(200000, 14633 * kB) == 2.2e-5);
  CHECK(at(200000, 14633 * kB + 1) == 7.3e-6);
  CHECK(at(200000, 14800 * kB) == 7.3e-6);
}

TEST_CASE("Without a constant part the cosine starts where the warm-up ends", "[trainer][schedules]") {
  LrConfig c;
  c.max = 1.0;
  c.min = 0.1;
  c.warmup = RunPoint::steps(10);
  const LrSchedule lr(c, RunPoint::steps(110));  // decay_until: end
  CHECK(lr.at({5, 0}) == 0.5);
  CHECK(lr.at({10, 0}) == 1.0);
  CHECK(lr.at({60, 0}) == Approx(0.55));
  CHECK(lr.at({110, 0}) == Approx(0.1));
  CHECK(lr.at({500, 0}) == 0.1);
  CHECK(LrSchedule(c, RunPoint::steps(4)).at({4, 0}) == 0.4);  // a run shorter than its warm-up is legal
}

TEST_CASE("Learning rates that cannot be evaluated are named", "[trainer][schedules]") {
  LrConfig c;
  c.max = 1e-3;
  c.min = 2e-3;
  c.warmup = RunPoint::steps(10);
  const auto problems = LrSchedule::problems(c, RunPoint::tokens(1000));  // steps against tokens, and min > max
  REQUIRE(problems.size() == 2);
  CHECK(problems[0].find("min = 0.002") == 0);
  CHECK(problems[1].find("constant_until") == 0);
  c.min = 0;
  c.constant_until = RunPoint::tokens(500);
  CHECK(LrSchedule::problems(c, RunPoint::tokens(1000)).empty());
  c.decay_until = RunPoint::tokens(400);
  CHECK(LrSchedule::problems(c, RunPoint::tokens(1000)).size() == 1);
  CHECK_THROWS_AS(LrSchedule(c, RunPoint::tokens(1000)), ConfigError);
  LrConfig v3 = deepseek_v3();
  v3.plateaus[0].at = RunPoint::tokens(kT);
  CHECK(LrSchedule::problems(v3, RunPoint::tokens(14800 * kB)).size() == 1);
}

TEST_CASE("A piecewise value holds until the step that ends at the next point", "[trainer][schedules]") {
  const PiecewiseConstant lambda{{{RunPoint::tokens(0), 0.3}, {RunPoint::tokens(10 * kT), 0.1}}};
  CHECK(lambda.at({1, 1}) == 0.3);
  CHECK(lambda.at({7, 10 * kT}) == 0.3);
  CHECK(lambda.at({8, 10 * kT + 1}) == 0.1);
  const PiecewiseConstant gamma{{{RunPoint::tokens(0), 1e-3}, {RunPoint::steps(3), 0}}};
  CHECK(gamma.at({3, 1000}) == 1e-3);
  CHECK(gamma.at({4, 1000}) == 0);
}

TEST_CASE("DeepSeek-V3's batch grows from 3072 to 15360 over 469B tokens", "[trainer][schedules]") {
  const BatchRamp ramp({3072, 469 * kB, 1}, 15360, 4096);
  CHECK(ramp.sequences(0) == 3072);
  CHECK(ramp.sequences(469 * kB / 2) == 3072 + (15360 - 3072) / 2);
  CHECK(ramp.sequences(469 * kB - 1) == 15359);
  CHECK(ramp.sequences(469 * kB) == 15360);
  CHECK(ramp.sequences(14 * kT) == 15360);
  Position walked;
  int64_t last = 0;
  for (int i = 0; i < 20000; ++i) {
    const int64_t batch = ramp.sequences(walked.tokens);
    REQUIRE(batch >= last);
    last = batch;
    walked = ramp.next(walked);
  }
  CHECK(last == 15360);
  CHECK(ramp.after(20000).tokens == walked.tokens);
  CHECK(ramp.steps_until(walked.tokens) == 20000);
  CHECK(ramp.steps_until(walked.tokens + 1) == 20001);
  CHECK(ramp.steps_until(walked.tokens - 1) == 20000);
  CHECK(ramp.after(ramp.steps_until(100 * kB)).tokens >= 100 * kB);
  CHECK(ramp.after(ramp.steps_until(100 * kB) - 1).tokens < 100 * kB);
}

TEST_CASE("The growing batch is a multiple and a constant batch needs no walk", "[trainer][schedules]") {
  const BatchRamp ramp({8, 1000, 8}, 64, 10);
  for (int64_t tokens = 0; tokens < 1200; tokens += 7) CHECK(ramp.sequences(tokens) % 8 == 0);
  const BatchRamp constant({}, 64, 10);
  CHECK(constant.sequences(0) == 64);
  CHECK(constant.after(kB).tokens == 640 * kB);
  CHECK(constant.steps_until(1) == 1);
  CHECK(constant.steps_until(640) == 1);
  CHECK(constant.steps_until(641) == 2);
}

TEST_CASE("A ramp is measured as it is walked", "[trainer][schedules]") {
  for (const BatchRampConfig& config : {BatchRampConfig{8, 1000, 8}, {3, 997, 5}, {1, 50, 1}, {7, 100000, 64}, {64, 500, 3}, {10, 5, 4}})
    for (int64_t seq_len : {1, 10, 333}) {
      const BatchRamp ramp(config, 64, seq_len);
      CAPTURE(config.start, config.until_tokens, config.multiple, seq_len);
      Position at;
      for (int64_t step = 1; step < 400; ++step) {
        const Position next = ramp.next(at);
        REQUIRE(ramp.after(step).tokens == next.tokens);
        REQUIRE(ramp.after(step).step == step);
        REQUIRE(ramp.steps_until(at.tokens + 1) == step);
        REQUIRE(ramp.steps_until(next.tokens) == step);
        at = next;
      }
    }
}
