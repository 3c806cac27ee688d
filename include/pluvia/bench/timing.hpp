#pragma once
#include <functional>
#include <string>
#include <vector>

#include "pluvia/comm/communicator.hpp"

namespace pluvia {

/// Seconds of repeated runs.
struct Timing {
  std::vector<double> seconds; ///< in the order they were run
  double median() const;
  double least() const;
  double most() const;
};

/// Of all ranks. Collective.
double largest(const Communicator& comm, double value);

/// One thing to time: what it is called, and the arithmetic or bytes that one run stands for.
struct Contender {
  std::string name;
  std::function<void()> run;
  double amount = 0;
};

/// Times the contenders in turn, round after round, so that what else the machine does falls on all of them
/// alike; one round before the first is thrown away. A run counts as long as its slowest rank. Collective
/// when the contenders are.
std::vector<Timing> time_in_turn(const Communicator& comm, const std::vector<Contender>& contenders,
                                 int rounds);

} // namespace pluvia
