#include "pluvia/bench/timing.hpp"

#include <algorithm>
#include <chrono>
#include <span>

namespace pluvia {

double Timing::median() const {
  std::vector<double> sorted = seconds;
  std::ranges::sort(sorted);
  const std::size_t n = sorted.size();
  return n % 2 == 1 ? sorted[n / 2] : 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]);
}
double Timing::least() const {
  return *std::ranges::min_element(seconds);
}
double Timing::most() const {
  return *std::ranges::max_element(seconds);
}

double largest(const Communicator& comm, double value) {
  comm.all_reduce(std::span(&value, 1), Reduce::max);
  return value;
}

std::vector<Timing> time_in_turn(const Communicator& comm, const std::vector<Contender>& contenders,
                                 int rounds) {
  std::vector<Timing> out(contenders.size());
  for (int round = -1; round < rounds; ++round)
    for (std::size_t i = 0; i < contenders.size(); ++i) {
      comm.barrier();
      const auto start = std::chrono::steady_clock::now();
      contenders[i].run();
      const double seconds =
          largest(comm, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
      if (round >= 0) out[i].seconds.push_back(seconds);
    }
  return out;
}

} // namespace pluvia
