#pragma once
#include <cstddef>

#include "pluvia/comm/communicator.hpp"

namespace pluvia {

/// How the ranks of a training share the work: as replicas of the whole domain, whose tiles and frames lie
/// over `tiles`.
/// Replicas work on samples of their own and meet where gradients are summed.
struct ProcessGrid {
  Communicator tiles; ///< the ranks of this replica
  int replica = 0, replicas = 1;
  /// Samples are dealt out in turn.
  bool works_on(std::size_t sample) const {
    return sample % static_cast<std::size_t>(replicas) == static_cast<std::size_t>(replica);
  }
};

/// Replica r has the r-th of as many equal runs of ranks, so that tiles that meet lie near each other.
/// Collective. Throws a usage Error when the ranks cannot be shared out evenly.
ProcessGrid make_process_grid(const Communicator& world, int replicas);

} // namespace pluvia
