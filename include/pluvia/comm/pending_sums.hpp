#pragma once
#include <cstdint>
#include <vector>

#include "pluvia/comm/communicator.hpp"

namespace pluvia {

/// Sums of arrays over all ranks that travel while the ranks do something else. All ranks start as many
/// arrays of the same sizes in the same order, between the same other collectives of the communicator.
template <class T> class PendingSums {
public:
  /// `comm` must outlive it. Local.
  explicit PendingSums(const Communicator& comm) : comm_(comm) {}
  /// Waits for sums that nobody finished, but not for ever: a rank that failed may wait elsewhere.
  ~PendingSums();
  PendingSums(const PendingSums&) = delete;
  PendingSums& operator=(const PendingSums&) = delete;

  /// Sends this rank's share on its way.
  void start(std::vector<T> share);
  /// Moves what is on its way, which few MPI libraries do by themselves; true when all has arrived. Local.
  bool advance();
  /// Waits for all and hands the sums over in the order in which they were started.
  std::vector<std::vector<T>> finish();

private:
  const Communicator& comm_;
  std::vector<std::vector<T>> shares_, sums_; ///< apart: libraries sum faster than in place
  std::vector<MPI_Request> requests_;
};

extern template class PendingSums<float>;
extern template class PendingSums<std::int64_t>;

} // namespace pluvia
