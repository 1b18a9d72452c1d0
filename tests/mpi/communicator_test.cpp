// The communicator's contract on MPI, with whole messages and with messages cut into parts as those beyond 1 GiB are.
#include <catch2/catch.hpp>
#include <cstdlib>

#include "tests/unit/parallel/communicator_contract.h"

using namespace atoll;

TEST_CASE("MPI keeps the communicator's contract") {
  const auto comm = mpi_world();
  if (const char* launched = std::getenv("OMPI_COMM_WORLD_SIZE")) REQUIRE(comm->size() == std::atoi(launched));
  for (const auto& [name, body] : contract::cases()) {
    INFO(name);
    REQUIRE_NOTHROW(body(*comm));
    comm->barrier();
  }
}

TEST_CASE("Messages cut into parts keep the contract") {
  const auto comm = mpi_world(1000);
  for (const auto& [name, body] : contract::cases()) {
    INFO(name);
    REQUIRE_NOTHROW(body(*comm));
    comm->barrier();
  }
}

TEST_CASE("A communicator of MPI goes before its session ends and splits many times") {
  const auto comm = mpi_world();
  for (int i = 0; i < 50; ++i) {
    const auto part = comm->split(comm->rank() % 2, 0);
    part->barrier();
  }
  comm->barrier();
}

TEST_CASE("A message beyond 2 GiB arrives whole", "[.][slow]") {
  const auto comm = mpi_world();
  const int64_t bytes = (int64_t{1} << 31) + 4097;
  REQUIRE(comm->size() >= 2);
  if (comm->rank() < 2) {
    std::vector<unsigned char> data(static_cast<size_t>(bytes));
    if (comm->rank() == 0) {
      for (int64_t i = 0; i < bytes; ++i) data[static_cast<size_t>(i)] = static_cast<unsigned char>(i * 2654435761u >> 13);
      comm->send(data.data(), bytes, 1, 0);
    } else {
      comm->recv(data.data(), bytes, 0, 0);
      int64_t wrong = 0;
      for (int64_t i = 0; i < bytes; ++i) wrong += data[static_cast<size_t>(i)] != static_cast<unsigned char>(i * 2654435761u >> 13);
      CHECK(wrong == 0);
    }
  }
  comm->barrier();
}

// Started by tests/mpi/failures, which sees the job end with rank 1 named, though the others wait in a barrier.
TEST_CASE("Planted: one rank fails while the others wait", "[.][planted]") {
  const auto comm = mpi_world();
  REQUIRE(comm->rank() != (comm->size() > 1 ? 1 : 0));
  comm->barrier();
}
