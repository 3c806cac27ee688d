#include "pluvia/comm/stop_signals.hpp"

#include <atomic>

namespace pluvia {

namespace {
std::atomic<bool> stop_requested{false}; // a signal handler can reach nothing else

void mask_stop_signals(int how) {
  sigset_t both;
  sigemptyset(&both);
  sigaddset(&both, SIGTERM);
  sigaddset(&both, SIGUSR1);
  pthread_sigmask(how, &both, nullptr);
}
} // namespace

void hold_stop_signals() {
  mask_stop_signals(SIG_BLOCK);
}

void release_stop_signals() {
  mask_stop_signals(SIG_UNBLOCK);
}

StopSignals::StopSignals() {
  stop_requested = false;
  struct sigaction action {};
  action.sa_handler = [](int) { stop_requested = true; };
  action.sa_flags = SA_RESTART; // a write that is under way goes on
  sigaction(SIGTERM, &action, &old_term_);
  sigaction(SIGUSR1, &action, &old_usr1_);
  release_stop_signals();
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
