#include "pluvia/io/library_lock.hpp"

namespace pluvia {

void FairMutex::lock() {
  std::unique_lock guard(state_);
  const std::thread::id me = std::this_thread::get_id();
  if (depth_ == 0 || owner_ != me) {
    const std::uint64_t ticket = next_ticket_++;
    turn_.wait(guard, [&] { return serving_ == ticket; });
    owner_ = me;
  }
  ++depth_;
}

void FairMutex::unlock() {
  const std::scoped_lock guard(state_);
  if (--depth_ > 0) return;
  ++serving_;
  turn_.notify_all();
}

FairMutex& library_lock() {
  static FairMutex lock;
  return lock;
}

} // namespace pluvia
