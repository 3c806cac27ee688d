#pragma once
#include <csignal>

#include "pluvia/comm/communicator.hpp"

namespace pluvia {

/// Keeps SIGTERM and SIGUSR1 waiting, in this thread and those it starts, from the first moment of a program
/// until it knows what they mean to it: those that come while MPI starts are not lost on a StopSignals, and
/// kill nobody. Local.
void hold_stop_signals();
/// Lets them act again, as those that waited do now. Local.
void release_stop_signals();

/// Catches SIGTERM and SIGUSR1 while it lives, so that long work can save and end. One at a time.
class StopSignals {
public:
  StopSignals(); ///< releases them
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  /// True on all ranks when any was asked to stop. Collective.
  bool agreed(const Communicator& comm) const;

private:
  struct sigaction old_term_ {
  }, old_usr1_{};
};

} // namespace pluvia
