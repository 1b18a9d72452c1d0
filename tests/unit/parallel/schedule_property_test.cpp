// Properties of schedules over random builders and sizes: all are proven; what breaks one is always found, with the right reason; and the checker's verdict on any change equals
// that of an oracle which decides by another algorithm.
#include <catch2/catch.hpp>
#include <iostream>

#include "kernels/base/error.h"
#include "tests/unit/parallel/schedule_cases.h"
#include "tests/unit/parallel/schedule_oracle.h"

using namespace atoll;
using test::Dice;
using test::joined;
using enum ActionKind;

namespace {
using List = std::vector<Action>;
void move_before(List& list, size_t from, size_t to) {  // to < from
  const Action action = list[from];
  list.erase(list.begin() + static_cast<ptrdiff_t>(from));
  list.insert(list.begin() + static_cast<ptrdiff_t>(to), action);
}
bool is_same(StageMicrobatch a, StageMicrobatch b) { return a.stage >= 0 && a.stage == b.stage && a.microbatch == b.microbatch; }
// What `then` needs of `first`, on one rank: the reason that the checker gives when `then` comes first. Empty: nothing.
std::string dependency(const Action& first, const Action& then) {
  const StageMicrobatch f = forward_of(first), b = backward_of(first), own{first.stage, first.microbatch};
  if (is_same(f, backward_of(then))) return "runs before F";
  if (then.kind == kWeight && is_same(b, weight_of(then))) return "runs before B";
  if (first.kind == kRecvForward && is_same(own, forward_of(then))) return "runs before recvF";
  if (first.kind == kRecvBackward && is_same(own, backward_of(then))) return "runs before recvB";
  if (then.kind == kSendForward && is_same(f, {then.stage, then.microbatch})) return "runs before F";
  if (then.kind == kSendBackward && is_same(b, {then.stage, then.microbatch})) return "runs before B";
  return "";
}
// The first event that is missing when an action is: in the checker's words.
std::string event(const Action& a) {
  if (a.kind == kPair) return to_string({kForward, a.stage, a.microbatch});
  return to_string({a.kind == kFullBackward ? kBackward : a.kind, a.stage, a.microbatch});
}
}  // namespace

TEST_CASE("Every builder's schedule is proven for random sizes, and the oracle agrees", "[schedules]") {
  Dice dice(11, "proven");
  std::map<std::string, int> num_of;
  for (int i = 0; i < 400; ++i) {
    const Schedule s = test::random_schedule(dice, 32, 256);
    INFO(test::describe(s));
    REQUIRE(joined(check(s)) == "");
    if (i % 4 == 0) REQUIRE(test::Oracle(s).is_sound());
    ++num_of[s.name];
  }
  CHECK(num_of.size() == schedule_names().size());
  std::cout << "figure: 400 random schedules of up to 32 stages and 256 micro-batches proven, " << num_of.size() << " kinds\n";
}

TEST_CASE("Every admitted size up to 16 stages is proven", "[schedules]") {
  int num_proven = 0, num_refused = 0;
  for (int ranks = 1; ranks <= 16; ++ranks)
    for (int n : {1, 2, 3, ranks, ranks + 1, 2 * ranks, 2 * ranks + 1, 2 * ranks + 2, 3 * ranks, 4 * ranks})
      for (const std::string& name : schedule_names())
        for (int chunks = 1; chunks <= 4; ++chunks) {
          Schedule s;
          try {
            s = build_schedule(name, ranks, n, chunks);
          } catch (const ConfigError&) {
            ++num_refused;
            continue;
          }
          INFO(test::describe(s));
          REQUIRE(joined(check(s)) == "");
          ++num_proven;
        }
  CHECK(num_proven > 1000);
  CHECK(num_refused > 1000);
}

TEST_CASE("A dropped, doubled, swapped or re-ordered action is always rejected with its reason", "[schedules]") {
  Dice dice(12, "faults");
  int num_faults = 0;
  for (int i = 0; i < 1500; ++i) {
    const Schedule good = test::random_schedule(dice, i % 10 == 0 ? 32 : 8, i % 10 == 0 ? 64 : 16);
    const auto rank = static_cast<size_t>(dice.below(good.num_ranks));
    const List& list = good.actions[rank];
    const auto a = static_cast<size_t>(dice.below(static_cast<int>(list.size())));
    const auto b = static_cast<size_t>(dice.below(static_cast<int>(list.size())));
    INFO(test::describe(good) << ", rank " << rank << ", positions " << a << " (" << to_string(list[a]) << ") and " << b << " (" << to_string(list[b]) << ")");
    const auto expect = [&](const Schedule& bad, const std::string& reason) {
      ++num_faults;
      REQUIRE_THAT(joined(check(bad)), Catch::Contains(reason));
    };
    Schedule dropped = good;
    dropped.actions[rank].erase(dropped.actions[rank].begin() + static_cast<ptrdiff_t>(a));
    expect(dropped, detail::concat("rank ", rank, ": ", event(list[a]), " is missing"));
    Schedule doubled = good;
    doubled.actions[rank].insert(doubled.actions[rank].begin() + static_cast<ptrdiff_t>(b), list[a]);
    expect(doubled, detail::concat("(", to_string(list[a]), "): duplicate"));
    // Two actions of one kind and stage exchanged: an order that gradients, losses or a channel rely on. (Two of different kinds may well be exchanged: a sound schedule of its own.)
    if (a != b && list[a].kind == list[b].kind && list[a].stage == list[b].stage && list[a].pair_stage == list[b].pair_stage &&
        good.is_second_half(list[a].microbatch) == good.is_second_half(list[b].microbatch)) {
      Schedule swapped = good;
      std::swap(swapped.actions[rank][a], swapped.actions[rank][b]);
      expect(swapped, is_computation(list[a]) ? detail::concat("): out of order, ") : detail::concat("channel "));
    }
    for (size_t then = a + 1; then < list.size(); ++then) {  // whatever needs this action, before it or in exchange with it
      const std::string reason = dependency(list[a], list[then]);
      if (reason.empty()) continue;
      Schedule moved = good;
      move_before(moved.actions[rank], then, a);
      expect(moved, detail::concat("(", to_string(list[then]), "): ", reason));
      Schedule exchanged = good;
      std::swap(exchanged.actions[rank][a], exchanged.actions[rank][then]);
      expect(exchanged, detail::concat("(", to_string(list[then]), "): ", reason));
    }
  }
  CHECK(num_faults > 5000);
  std::cout << "figure: " << num_faults << " planted faults rejected with their reason\n";
}

TEST_CASE("The checker's verdict on any change equals the oracle's", "[schedules]") {
  Dice dice(13, "verdicts");
  int num_sound = 0, num_broken = 0, num_deadlocks = 0;
  for (int i = 0; i < 6000; ++i) {
    Schedule s = test::random_schedule(dice, 6, 10);
    INFO(test::describe(s));
    for (int change = dice.between(1, 2); change > 0; --change) {
      List& list = s.actions[static_cast<size_t>(dice.below(s.num_ranks))];
      const auto a = static_cast<size_t>(dice.below(static_cast<int>(list.size())));
      const size_t near = std::min(list.size() - 1, a + static_cast<size_t>(dice.between(1, 6)));
      switch (dice.below(8)) {
        case 0: list.erase(list.begin() + static_cast<ptrdiff_t>(a)); break;
        case 1: list.insert(list.begin() + static_cast<ptrdiff_t>(near), Action(list[a])); break;
        case 2: list[a].microbatch = dice.below(s.num_microbatches); break;
        case 3: s.max_live[static_cast<size_t>(dice.below(s.num_ranks))] -= dice.below(2); break;
        case 4: move_before(list, near, a); break;
        case 5:
        case 6:  // a receive too early: sound for one action alone, but others may wait for what it now holds up
          for (size_t at = near; at > 0; --at)
            if (list[at].kind == kRecvForward || list[at].kind == kRecvBackward) {
              move_before(list, at, at - std::min(at, static_cast<size_t>(dice.between(1, 10))));
              break;
            }
          break;
        default: std::swap(list[a], list[near]);
      }
    }
    const std::vector<std::string> violations = check(s);
    const bool is_sound = test::Oracle(s).is_sound();
    INFO(joined(violations));
    REQUIRE(violations.empty() == is_sound);
    ++(is_sound ? num_sound : num_broken);
    if (violations.size() > 0 && violations[0].find("deadlock") != std::string::npos) ++num_deadlocks;  // nothing else is wrong with it
  }
  CHECK(num_sound > 500);
  CHECK(num_broken > 2000);
  CHECK(num_deadlocks > 20);
  std::cout << "figure: 6000 changed schedules, verdict equal to the oracle's: " << num_broken << " rejected (" << num_deadlocks << " only because they deadlock), " << num_sound << " sound\n";
}

TEST_CASE("More live activations than promised are rejected where they appear", "[schedules]") {
  Dice dice(14, "live");
  for (int i = 0; i < 100; ++i) {
    Schedule s = test::random_schedule(dice, 12, 32);
    INFO(test::describe(s));
    for (int r = 0; r < s.num_ranks; ++r) REQUIRE(peak_live_until_weight(s, r) <= s.max_live[static_cast<size_t>(r)]);
    const auto rank = static_cast<size_t>(dice.below(s.num_ranks));
    const int peak = peak_live_until_weight(s, static_cast<int>(rank));
    s.max_live[rank] = peak - 1;
    REQUIRE_THAT(joined(check(s)), Catch::Contains(detail::concat("rank ", rank, " position ")) &&
                                       Catch::Contains(detail::concat(peak, " live activations (F until W), the schedule promises at most ", peak - 1)));
  }
}

TEST_CASE("Members of a group must post the same collectives in the same order", "[schedules]") {
  Dice dice(15, "collectives");
  for (int i = 0; i < 200; ++i) {
    const Schedule s = test::random_schedule(dice, 8, 16);
    const List& list = s.actions[static_cast<size_t>(dice.below(s.num_ranks))];
    INFO(test::describe(s));
    std::vector<List> members(3, list);
    REQUIRE(check_collectives(members).empty());
    std::erase_if(members[1], [](const Action& a) { return !is_computation(a) || a.kind == kWeight; });
    REQUIRE(check_collectives(members).empty());  // what is not a collective does not matter
    size_t a = 0, b = list.size() - 1;  // first and last collective, exchanged on one member
    while (!is_computation(list[a]) || list[a].kind == kWeight) ++a;
    while (!is_computation(list[b]) || list[b].kind == kWeight) --b;
    std::swap(members[2][a], members[2][b]);
    REQUIRE_THAT(joined(check_collectives(members)), Catch::Contains(detail::concat("member 2 posts ", to_string(list[b]), " at position ", a, ", member 0 ", to_string(list[a]))));
    members[2] = list;
    members[2].erase(members[2].begin() + static_cast<ptrdiff_t>(b));
    REQUIRE_THAT(joined(check_collectives(members)), Catch::Contains("member 2 posts nothing more, member 0 " + to_string(list[b])));
  }
}
