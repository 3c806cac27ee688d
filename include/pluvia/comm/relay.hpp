#pragma once
#include <span>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/comm/halo.hpp"

namespace pluvia {

/// Hands arrays along a line of ranks: each takes one from the rank before, works on it and passes it on, so
/// that the ranks before are busy with what comes next. Ranks take and pass as many arrays as each other, in
/// the same order.
class Relay {
public:
  enum class Direction { up, down }; ///< towards higher or lower ranks
  /// Both must outlive it; waiting and messages are booked in `cost`.
  Relay(const Communicator& line, Direction direction, HaloCost& cost);
  /// Waits until what was passed on has left.
  ~Relay();
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;

  /// Whether there is no other rank: nothing needs to be taken or passed.
  bool alone() const { return before_ == MPI_PROC_NULL && after_ == MPI_PROC_NULL; }
  /// Waits for the next array of the rank before; zeros on the first rank of the line.
  void take(std::span<float> values);
  /// To the rank after, without waiting; the last rank of the line drops it.
  void pass(std::vector<float> values);

private:
  const Communicator& line_;
  HaloCost& cost_;
  int before_, after_; ///< MPI_PROC_NULL at the ends
  std::vector<std::vector<float>> leaving_;
  std::vector<MPI_Request> requests_;
};

} // namespace pluvia
