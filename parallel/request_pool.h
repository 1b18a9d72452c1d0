// Pool of request states of one communicator: grows to the most that were ever outstanding, then allocates nothing. One thread uses it.
#pragma once
#include <memory>
#include <vector>

namespace atoll {

template <class State>
class RequestPool {
 public:
  template <class... Args>
  State* take(Args&&... args) {
    if (free_.empty()) {
      all_.push_back(std::make_unique<State>(std::forward<Args>(args)...));
      free_.reserve(all_.size());
      return all_.back().get();
    }
    State* state = free_.back();
    free_.pop_back();
    return state;
  }
  template <class... Args>
  void reserve(size_t count, const Args&... args) {  // states made ahead: how many are out at once may depend on timing
    free_.reserve(all_.size() + count);
    for (; count > 0; --count) {
      all_.push_back(std::make_unique<State>(args...));
      free_.push_back(all_.back().get());
    }
  }
  void give_back(State* state) noexcept { free_.push_back(state); }  // capacity was reserved by take()

 private:
  std::vector<std::unique_ptr<State>> all_;
  std::vector<State*> free_;
};

}  // namespace atoll
