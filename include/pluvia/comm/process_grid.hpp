#pragma once
#include <cstddef>

#include "pluvia/comm/communicator.hpp"

namespace pluvia {

/// How the ranks of a run share the work: as replicas of the whole domain, and in each as stages of the
/// network, whose tiles and frames lie over `tiles`; each of these over `channels`. Replicas work on samples
/// of their own and meet where gradients are summed; through the stages of a replica its samples pass one
/// after the other.
struct ProcessGrid {
  Communicator tiles;  ///< the ranks of this stage of this replica that have the same channels
  Communicator stages; ///< those of this replica with the same tile, frames and channels, one for each stage
  Communicator channels; ///< those of this stage of this replica with the same tile and frames
  int replica = 0, replicas = 1;
  int stage() const { return stages.rank(); }
  /// Of the ranks that hold the same, one counts.
  bool counts() const { return channels.rank() == 0; }
  /// Without gradients nobody waits for another stage, or for another's channels: the ranks of each take the
  /// whole network through samples of their own. The number of such crews, and that of this rank.
  int crews() const { return replicas * stages.size() * channels.size(); }
  int crew() const { return (replica * stages.size() + stage()) * channels.size() + channels.rank(); }
  /// Samples are dealt out in turn.
  bool works_on(std::size_t sample) const {
    return sample % static_cast<std::size_t>(replicas) == static_cast<std::size_t>(replica);
  }
};

/// Replica r has the r-th of as many equal runs of ranks, and so has stage s in it, so that tiles that meet
/// lie near each other; the `tensor` ranks of a tile are neighbours, for they exchange most. Collective.
/// Throws a usage Error when the ranks cannot be shared out evenly.
ProcessGrid make_process_grid(const Communicator& world, int replicas, int stages, int tensor);

} // namespace pluvia
