#include "pluvia/comm/stop_signals.hpp"

#include <atomic>

namespace pluvia {

namespace {
std::atomic<bool> stop_requested{false}; // a signal handler can reach nothing else
}

StopSignals::StopSignals() {
  stop_requested = false;
  struct sigaction action {};
  action.sa_handler = [](int) { stop_requested = true; };
  action.sa_flags = SA_RESTART; // a write that is under way goes on
  sigaction(SIGTERM, &action, &old_term_);
  sigaction(SIGUSR1, &action, &old_usr1_);
}

StopSignals::~StopSignals() {
  sigaction(SIGTERM, &old_term_, nullptr);
  sigaction(SIGUSR1, &old_usr1_, nullptr);
}

bool StopSignals::agreed(const Communicator& comm) const {
  std::int64_t stop = stop_requested ? 1 : 0;
  comm.all_reduce(std::span(&stop, 1), Reduce::max);
  return stop != 0;
}

} // namespace pluvia
