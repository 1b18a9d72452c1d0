// The communicator's contract on threads, and what only threads can show: an error of one rank releases the others.
#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

#include "tests/unit/parallel/communicator_contract.h"

using namespace atoll;

TEST_CASE("Threads keep the communicator's contract") {
  for (int ranks = 1; ranks <= 5; ++ranks)
    for (const auto& [name, body] : contract::cases()) {
      INFO(name << " on " << ranks << " ranks");
      CHECK_NOTHROW(run_ranks_as_threads(ranks, body));
    }
}

TEST_CASE("A world of one rank needs no MPI") {
  const auto comm = mpi_world();
  CHECK(comm->size() == 1);
  for (const auto& [name, body] : contract::cases()) {
    INFO(name);
    CHECK_NOTHROW(body(*comm));
  }
  CHECK(comm->bytes().sent == 0);
}

TEST_CASE("The first error of a rank releases the others and is the one reported") {
  for (int failing = 0; failing < 4; ++failing) {
    INFO("rank " << failing);
    std::atomic<int> passed{0};
    const auto body = [&](Communicator& comm) {
      comm.barrier();
      if (comm.rank() == failing) throw DataError("planted");
      switch (comm.rank()) {
        case 0: comm.barrier(); break;
        case 1: { int x; comm.recv(&x, 4, failing, 0); break; }
        case 2: { Request r; char c; r = comm.irecv(&c, 1, failing, 2); while (!r.test()) std::this_thread::yield(); break; }
        default: comm.split(0, 0); break;
      }
      ++passed;
    };
    CHECK_THROWS_AS(run_ranks_as_threads(4, body), DataError);
    CHECK(passed == 0);
  }
}

TEST_CASE("The error of a thread rank names the rank and keeps its kind") {
  const auto failing = [](Communicator& comm) {
    if (comm.rank() == 2) throw DataError("the file is bad");
    comm.barrier();
  };
  CHECK_THROWS_AS(run_ranks_as_threads(3, failing), DataError);
  CHECK_THROWS_WITH(run_ranks_as_threads(3, failing), "rank 2: the file is bad");
  CHECK_THROWS_WITH(run_ranks_as_threads(1, [](Communicator&) { throw ConfigError("alone"); }), "alone");
}

TEST_CASE("Abort ends all thread ranks with its code") {
  try {
    run_ranks_as_threads(3, [](Communicator& comm) {
      if (comm.rank() == 1) comm.abort(75);
      comm.barrier();
    });
    FAIL("abort returned");
  } catch (const Error& error) { CHECK(error.code() == ExitCode::kHang); }
}

TEST_CASE("A receive from a rank that has finished is an error, not a hang") {
  CHECK_THROWS_WITH(run_ranks_as_threads(2,
                                         [](Communicator& comm) {
                                           int x;
                                           if (comm.rank() == 0) comm.recv(&x, 4, 1, 5);
                                         }),
                    Catch::Contains("finished without sending"));
}

TEST_CASE("A message longer than its receive is an error at the receiver") {
  CHECK_THROWS_WITH(run_ranks_as_threads(2,
                                         [](Communicator& comm) {
                                           const char sent[8] = {};
                                           char received[4];
                                           if (comm.rank() == 0) comm.send(sent, 8, 1, 5);
                                           else comm.recv(received, 4, 0, 5);
                                         }),
                    Catch::Contains("expected 4 bytes, 8 were sent"));
}
