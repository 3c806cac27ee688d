#pragma once
#include <csignal>

#include "pluvia/comm/communicator.hpp"

namespace pluvia {

/// Catches SIGTERM and SIGUSR1 while it lives, so that long work can save and end. One at a time.
class StopSignals {
public:
  StopSignals();
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
