// atoll plan schedule: figures and refusals of the command, files of one's own, and what the picture and the trace hold.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <regex>

#include "kernels/base/error.h"
#include "trainer/plan_schedule.h"
#include "trainer/schedule_file.h"
#include "trainer/schedule_picture.h"

using namespace atoll;

namespace {
size_t count(const std::string& text, const std::string& what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + what.size())) ++n;
  return n;
}
void refuses(const std::string& name, const std::vector<std::string>& assignments, const std::string& why) {
  CHECK_THROWS_AS(plan_schedule(name, assignments), ConfigError);
  CHECK_THROWS_WITH(plan_schedule(name, assignments), Catch::Contains(why));
}
void refuses_file(const std::string& text, const std::string& path, const std::string& why) {
  INFO(text);
  CHECK_THROWS_AS(parse_schedule_file(text, path), ConfigError);
  CHECK_THROWS_WITH(parse_schedule_file(text, path), Catch::Contains(why));
}
}  // namespace

TEST_CASE("The published DualPipe is counted, timed and bounded as published", "[plan]") {
  const SchedulePlan plan = plan_schedule("dualpipe", {"stages=16", "microbatches=120", "f=1", "b=2", "w=1", "pair=2.5"});
  const auto json = nlohmann::json::parse(schedule_json(plan));
  CHECK(json["step_time"] == 319);
  CHECK(json["largest_bubble"] == 10.5);
  REQUIRE(json["ranks"].size() == 16);
  CHECK(json["ranks"][0]["counts"] == nlohmann::json{{"F", 23}, {"BW", 8}, {"B", 15}, {"W", 15}, {"F&BW", 97}});
  CHECK(json["ranks"][7]["counts"]["F&BW"] == 103);
  CHECK(json["ranks"][7]["stages"] == std::vector<int>{7, 8});
  CHECK(json["ranks"][15]["peak_activation"] == 17);
  const auto& actions = json["ranks"][0]["actions"];
  CHECK(actions[0] == nlohmann::json{{"kind", "F"}, {"stage", 0}, {"microbatch", 0}, {"begin", 0}, {"end", 1}});
  CHECK(actions.back()["end"] == 319);
  CHECK_THAT(schedule_text(plan), Catch::Contains("step 319, largest bubble 10.5 (3.3 %)") && Catch::Contains("at most 17 live activations"));
}

TEST_CASE("Costs default to a backward of two forwards, half of it weight gradients", "[plan]") {
  CHECK(plan_schedule("1f1b", {"stages=4", "microbatches=8"}).simulation.step_time == 8 * 3 + 3 * 3);
  CHECK(plan_schedule("1f1b", {"stages=4", "microbatches=8", "f=2"}).simulation.step_time == 2 * (8 * 3 + 3 * 3));
  CHECK(plan_schedule("interleaved", {"stages=8", "vpp=2", "microbatches=8"}).schedule.num_ranks == 4);
  CHECK(plan_schedule("interleaved", {"stages=8", "microbatches=8"}).schedule.num_ranks == 4);
  CHECK(plan_schedule("zb1p", {"stages=4", "microbatches=8"}).schedule.name == "zb-h1");
  CHECK(plan_schedule("dualpipev", {"stages=8", "microbatches=8"}).schedule.num_ranks == 4);
  CHECK(plan_schedule("gpipe", {"stages=2", "microbatches=1", "comm=0.5"}).simulation.step_time == 2 * 3 + 2 * 0.5);
  CHECK(plan_schedule("gpipe", {"stages=2", "microbatches=3", "activation=1GiB"}).simulation.peak_activation[0] == 3.0 * (1 << 30));
}

TEST_CASE("Requests that make no sense are refused with every reason", "[plan]") {
  refuses("zigzag", {"stages=4", "microbatches=8"}, "unknown pipeline schedule 'zigzag'; known: gpipe, 1f1b");
  refuses("1f1b", {"stages=4"}, "needs microbatches=N");
  refuses("1f1b", {"stages=4", "microbatches=8", "stage=3", "f=fast", "w=-1"}, "stage=3: no such key");
  refuses("1f1b", {"stages=4", "microbatches=8", "stage=3", "f=fast", "w=-1"}, "f=fast: ");
  refuses("1f1b", {"stages=4", "microbatches=8", "stage=3", "f=fast", "w=-1"}, "w=-1: must lie in 0..1e12");
  refuses("1f1b", {"stages=4", "stages=5", "microbatches=8"}, "stages=5: given twice");
  refuses("1f1b", {"stages=0", "microbatches=8"}, "stages=0: must lie in 1..65536");
  refuses("1f1b", {"stages=4", "microbatches=8", "b=1", "w=2"}, "w = 2 is larger than b = 1");
  refuses("1f1b", {"stages=4", "microbatches=8", "fast"}, "fast: an assignment is key=value");
  refuses("dualpipe", {"stages=5", "microbatches=20"}, "dualpipe needs an even number of ranks");
  refuses("dualpipev", {"stages=5", "microbatches=20"}, "so their number must be a multiple of 2");
  refuses("interleaved", {"stages=8", "microbatches=8", "vpp=1"}, "interleaved needs at least 2 stages a rank");
  refuses("1f1b", {"stages=4", "microbatches=8", "f=1e308"}, "f=1e308: must lie in 0..1e12");
  refuses("1f1b", {"stages=8", "microbatches=8", "vpp=2"}, "vpp must be 1");
  refuses("interleaved", {"stages=8", "vpp=2", "microbatches=1"}, "not 1; nearest: 4");
  CHECK_THROWS_WITH(plan_schedule("interleaved", {"stages=8", "vpp=2", "microbatches=1"}), !Catch::Contains(" or "));
  refuses("interleaved", {"stages=8", "vpp=2", "microbatches=6"}, "nearest: 4 or 8");
  refuses("no-such-file.yaml", {}, "no-such-file.yaml: cannot be read");
}

TEST_CASE("Every built schedule survives a file", "[plan]") {
  for (const std::string& name : schedule_names())
    for (int ranks : {2, 4, 6}) {
      const Schedule s = build_schedule(name, ranks, 2 * ranks, name == "interleaved" ? 2 : 1);
      INFO(name << " " << ranks);
      const Schedule back = parse_schedule_file(print_schedule_yaml(s), "x.yaml");
      CHECK(back.name == s.name);
      CHECK(back.actions == s.actions);
      CHECK(back.rank_of_stage == s.rank_of_stage);
      CHECK(back.is_mirrored == s.is_mirrored);
      CHECK(back.max_live == s.max_live);
      CHECK(check(back).empty());
      std::string csv = "# as rows\nrank,action\n";  // computation only: places and messages are derived
      for (int r = 0; r < ranks; ++r)
        for (const Action& a : s.actions[static_cast<size_t>(r)])
          if (is_computation(a)) csv += std::to_string(r) + "," + to_string(a) + "\n";
      const Schedule rows = parse_schedule_file(csv, "rows.csv");
      CHECK(rows.name == "rows");
      CHECK(rows.actions == s.actions);
      CHECK(rows.rank_of_stage == s.rank_of_stage);
      CHECK(rows.is_mirrored == s.is_mirrored);
    }
}

TEST_CASE("Mistakes in a schedule's file are named with their line", "[plan]") {
  refuses_file("actions:\n  - [F s0 m0, BW s0 m0]\n  - [F s1 m0, BQ s1 m0]\n", "a.yaml", "a.yaml:3: `BQ s1 m0` is no action");
  refuses_file("name: x\ncolour: red\nactions:\n  - [F s0 m0, BW s0]\n", "a.yaml", "a.yaml:2: colour: no such key");
  refuses_file("name: x\ncolour: red\nactions:\n  - [F s0 m0, BW s0]\n", "a.yaml", "a.yaml:4: `BW s0` is no action");
  refuses_file("actions:\n  - [F s0 m0]\nactions:\n  - [F s0 m0]\n", "a.yaml", "a.yaml:3: actions: given twice");
  refuses_file("name: x\n", "a.yaml", "`actions` is missing");
  refuses_file("actions:\n  - [F s0 m-1]\n", "a.yaml", "is no action");
  refuses_file("actions:\n  - [F s99999 m0]\n", "a.yaml", "at most 4096 stages");
  refuses_file("stages: [0, 1, 2]\nactions:\n  - [F s0 m0]\n", "a.yaml", "stages places 3 stages, the actions have 1");
  refuses_file("rank;action\n", "a.csv", "a.csv:1: the first row must be `rank,action`");
  refuses_file("rank,action\n0,F s0 m0\nx,F s0 m1\n0,F s0\n", "a.csv", "a.csv:3: a row is `rank,action`");
  refuses_file("rank,action\n0,F s0 m0\nx,F s0 m1\n0,F s0\n", "a.csv", "a.csv:4: `F s0` is no action");
  refuses_file("", "a.csv", "no rows");
  refuses_file("rank,action\n0,F s0 m0\n0,BW s0 m0\n2,F s1 m0\n2,BW s1 m0\n", "a.csv", "rank 1 has no actions, and there are ranks 0 to 2");
  CHECK(parse_schedule_file("rank,action # of one rank\n0,F s0 m0 # first\n  # then\n0,BW s0 m0# last\n", "a.csv").actions[0].size() == 2);
  CHECK(parse_schedule_file("\xEF\xBB\xBFrank,action\n0,F s0 m0\n0,BW s0 m0\n", "a.csv").num_ranks == 1);  // as spreadsheets write it
}

TEST_CASE("The picture numbers every cell of 16 stages and 120 micro-batches", "[plan]") {
  for (const char* name : {"1f1b", "zb-h1", "dualpipe", "gpipe"}) {
    INFO(name);
    const SchedulePlan plan = plan_schedule(name, {"stages=16", "microbatches=120", "pair=2.5"});
    const std::string svg = schedule_svg(plan.schedule, plan.simulation);
    size_t num_cells = 0, num_numbers = 0;
    for (const auto& timeline : plan.simulation.timeline)
      for (const TimedAction& t : timeline) num_cells += t.action.kind == ActionKind::kPair ? 2 : 1;
    for (const char* css : {"\"c\"", "\"c d\""}) num_numbers += count(svg, std::string("<text class=") + css);
    const auto num_cuts = static_cast<size_t>(16 * (count(svg, ">rank 15</text>") - 1));  // a cell that a band's end cuts may have its number twice, or no room for it
    CHECK(num_numbers >= num_cells - num_cuts);
    CHECK(num_numbers <= num_cells + num_cuts);
    CHECK(count(svg, ">rank 15</text>") >= 3);       // some bands
    CHECK_THAT(svg, Catch::Contains("font-size:9.5px") && Catch::Contains("forward (F)") && Catch::Contains(">time</text>") && Catch::EndsWith("</svg>\n"));
    CHECK(count(svg, "<text") == count(svg, "</text>"));
    CHECK(svg.find("nan") == std::string::npos);
    CHECK(svg.find("inf") == std::string::npos);
    std::smatch size;
    REQUIRE(std::regex_search(svg, size, std::regex("width=\"(\\d+)\" height=\"(\\d+)\"")));
    CHECK(std::stoi(size[1]) <= 2000);
    CHECK(std::stoi(size[2]) <= 3000);
  }
  const SchedulePlan nothing = plan_schedule("1f1b", {"stages=2", "microbatches=2", "f=0", "b=0"});
  CHECK_THAT(schedule_svg(nothing.schedule, nothing.simulation), Catch::EndsWith("</svg>\n") && !Catch::Contains("nan"));
}

TEST_CASE("The trace holds every action of every rank", "[plan]") {
  const SchedulePlan plan = plan_schedule("dualpipev", {"stages=8", "microbatches=10", "pair=2.5", "comm=0.25"});
  const auto trace = nlohmann::json::parse(schedule_trace(plan.schedule, plan.simulation));
  std::vector<size_t> num_of(4, 0);
  for (const auto& event : trace["traceEvents"])
    if (event["ph"] == "X") {
      const auto rank = event["tid"].get<size_t>();
      const TimedAction& t = plan.simulation.timeline[rank][num_of[rank]++];
      CHECK(event["name"] == to_string(t.action));
      CHECK(event["ts"] == t.begin * 1000);
      CHECK(event["dur"].get<double>() == Approx((t.end - t.begin) * 1000));
    }
  for (size_t rank = 0; rank < 4; ++rank) CHECK(num_of[rank] == plan.simulation.timeline[rank].size());
}

TEST_CASE("A picture or a trace that nobody could open is refused", "[plan]") {
  const Schedule one = build_schedule("gpipe", 1, 1);
  Simulation sim{.step_time = 1, .timeline = {{}}, .busy = {1}, .bubble = {0}, .peak_activation = {1}, .peak_time = {0}};
  const auto fill = [&](size_t n, ActionKind kind) { sim.timeline[0].assign(n, TimedAction{{kind, 0, 0, 0, 0}, 0, 1e-9}); };
  fill(300'000, ActionKind::kForward);
  CHECK_THAT(schedule_svg(one, sim), Catch::EndsWith("</svg>\n"));
  fill(300'001, ActionKind::kForward);
  CHECK_THROWS_WITH(schedule_svg(one, sim), Catch::Contains("a picture of 300001 boxes") && Catch::Contains("at most 300000; draw fewer micro-batches"));
  fill(150'001, ActionKind::kPair);
  CHECK_THROWS_WITH(schedule_svg(one, sim), Catch::Contains("a picture of 300002 boxes"));
  fill(4'000'001, ActionKind::kForward);
  CHECK_THROWS_WITH(schedule_trace(one, sim), Catch::Contains("a trace of 4000001 actions") && Catch::Contains("fewer micro-batches"));
}
