// Handle<Traits> owns one C handle. Traits: `using type`, `static type null()`, `static void destroy(type) noexcept`.
#pragma once
#include <utility>

namespace atoll {

template <class Traits>
class Handle {
 public:
  using type = typename Traits::type;
  Handle() = default;
  explicit Handle(type value) : value_(value) {}
  Handle(Handle&& other) noexcept : value_(std::exchange(other.value_, Traits::null())) {}
  Handle& operator=(Handle&& other) noexcept {
    if (this != &other) { reset(); value_ = std::exchange(other.value_, Traits::null()); }
    return *this;
  }
  ~Handle() { reset(); }
  void reset() noexcept {
    if (value_ != Traits::null()) Traits::destroy(std::exchange(value_, Traits::null()));
  }
  type get() const { return value_; }
  explicit operator bool() const { return value_ != Traits::null(); }

 private:
  type value_ = Traits::null();
};

}  // namespace atoll
