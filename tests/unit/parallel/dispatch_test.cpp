// Dispatch and combine against tables: every row carries (source, expert, index), so each must be found where the routing says; bytes are counted from the tables alone.
#include <catch2/catch.hpp>

#include "kernels/base/error.h"
#include "kernels/base/rng.h"
#include "parallel/dispatch.h"

using namespace atoll;

namespace {
struct Row { int32_t source, expert, index, check; };

// Rows of each (rank, expert): ragged, experts without rows, the last rank without any.
int64_t count_of(int rank, int expert, int ranks, uint64_t round) {
  if (rank == ranks - 1 && ranks > 1 && round != 2) return 0;
  if (round == 3) return 0;
  const int64_t n = static_cast<int64_t>(Rng(5, "counts").below(round * 10000 + static_cast<uint64_t>(rank * 100 + expert), 9));
  return n < 3 ? 0 : n;
}

void round_trip(Communicator& ep, Dispatcher& dispatcher, int experts, uint64_t round, DispatchPlan& plan) {
  const int me = ep.rank(), n = ep.size();
  std::vector<int64_t> counts(static_cast<size_t>(experts));
  std::vector<Row> rows;
  for (int e = 0; e < experts; ++e) {
    counts[static_cast<size_t>(e)] = count_of(me, e, n, round);
    for (int64_t i = 0; i < counts[static_cast<size_t>(e)]; ++i) rows.push_back({me, e, static_cast<int32_t>(i), me ^ e ^ static_cast<int32_t>(i)});
  }
  dispatcher.plan(counts, plan);
  int64_t to_others = 0, from_others = 0, received = 0;
  const Range local = split_evenly(experts, n, me);
  for (int r = 0; r < n; ++r)
    for (int e = 0; e < experts; ++e) {
      const bool mine = e >= local.begin && e < local.end;
      if (mine) received += count_of(r, e, n, round);
      if (mine && r != me) from_others += count_of(r, e, n, round);
      if (!mine && r == me) to_others += count_of(r, e, n, round);
    }
  ATOLL_CHECK(plan.rows_sent == std::ssize(rows) && plan.rows_received == received, "rows");
  std::vector<Row> arrived(static_cast<size_t>(received)), back(rows.size());
  const int64_t dispatched = dispatcher.bytes_dispatched(), combined = dispatcher.bytes_combined();
  const ByteCount before = ep.bytes();
  dispatcher.dispatch(plan, rows.data(), sizeof(Row), arrived.data()).wait();
  ATOLL_CHECK(dispatcher.bytes_dispatched() - dispatched == to_others * 16 && ep.bytes().sent - before.sent == to_others * 16, "dispatched bytes differ from the routing table");
  ATOLL_CHECK(ep.bytes().received - before.received == from_others * 16, "received bytes differ from the routing table");
  // Expert order: experts ascending, then sources ascending, then the source's own order; no row missing.
  int64_t at = 0;
  for (int64_t e = local.begin; e < local.end; ++e) {
    ATOLL_CHECK(plan.expert_offsets[static_cast<size_t>(e - local.begin)] == at, "offset of expert ", e);
    for (int r = 0; r < n; ++r)
      for (int64_t i = 0; i < count_of(r, static_cast<int>(e), n, round); ++i, ++at) {
        const int32_t a = plan.expert_order[static_cast<size_t>(at)];
        const Row& row = arrived[static_cast<size_t>(a)];
        ATOLL_CHECK(row.source == r && row.expert == e && row.index == i && row.check == (r ^ e ^ i), "row ", at, " of rank ", me);
        ATOLL_CHECK(plan.arrival_order[static_cast<size_t>(a)] == at, "arrival_order is not the inverse");
      }
  }
  ATOLL_CHECK(at == received && plan.expert_offsets.back() == at, "all rows");
  for (Row& row : arrived) row.check += 1000;
  dispatcher.combine(plan, arrived.data(), sizeof(Row), back.data()).wait();
  ATOLL_CHECK(dispatcher.bytes_combined() - combined == from_others * 16, "combined bytes differ from the routing table");
  for (size_t i = 0; i < rows.size(); ++i)
    ATOLL_CHECK(back[i].source == me && back[i].expert == rows[i].expert && back[i].index == rows[i].index && back[i].check == rows[i].check + 1000, "row ", i, " came back wrong");
}
}  // namespace

TEST_CASE("Every row reaches its expert and comes back, and bytes equal the routing tables") {
  for (int ranks = 1; ranks <= 5; ++ranks)
    for (int experts : {5, 7, 16}) {
      INFO(ranks << " ranks, " << experts << " experts");
      CHECK_NOTHROW(run_ranks_as_threads(ranks, [&](Communicator& ep) {
        Dispatcher dispatcher(ep, experts);
        DispatchPlan plan;
        for (uint64_t round = 0; round < 4; ++round) round_trip(ep, dispatcher, experts, round, plan);
      }));
    }
}

TEST_CASE("Fewer experts than ranks are refused") {
  CHECK_THROWS_AS(run_ranks_as_threads(3, [](Communicator& ep) { Dispatcher dispatcher(ep, 2); }), ConfigError);
}
