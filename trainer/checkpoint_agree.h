// Agreement between ranks: errors and texts that all ranks learn, so that all go on or all give up. Policy: a null communicator is a process alone.
#pragma once
#include <exception>
#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "parallel/communicator.h"

namespace atoll {

// Collective. "" if no rank has an error; else "rank 1: ...; rank 3: ... and 5 more", the same on every rank.
std::string errors_of_all(Communicator* world, const std::string& mine);
std::string broadcast_text(Communicator* world, const std::string& of_rank_0);
// On rank 0 all texts by rank; elsewhere empty.
std::vector<std::string> gather_texts(Communicator* world, const std::string& mine);

// What `body` threw, as text; "" if nothing. Between two agreements nothing may leave a rank by exception: the others would wait for it.
template <class Body>
std::string error_of(Body&& body) {
  try {
    body();
    return "";
  } catch (const std::exception& error) {
    const std::string what = error.what();
    return what.empty() ? "unknown error" : what;
  }
}

// Collective. Runs `body` on rank 0 alone; what it throws, every rank throws, with the same text and exit code.
template <class Body>
void on_rank_0(Communicator& world, Body&& body) {
  int64_t code = 0;
  std::string what;
  if (world.rank() == 0) {
    try {
      body();
    } catch (const Error& error) {
      code = static_cast<int64_t>(error.code());
      what = error.what();
    } catch (const std::exception& error) {
      code = static_cast<int64_t>(ExitCode::kFailed);
      what = error.what();
    }
  }
  world.broadcast(&code, sizeof code, 0);
  what = broadcast_text(&world, what);
  if (code != 0) throw Error(what, static_cast<ExitCode>(code));
}

}  // namespace atoll
