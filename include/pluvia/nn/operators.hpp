#pragma once
#include <cstdint>
#include <vector>

#include "pluvia/comm/halo.hpp"
#include "pluvia/nn/st_unet.hpp"

namespace pluvia {

/// One operator as a rank of a partition applies it to one sample: what a profile books it as, what it keeps
/// and what it exchanges.
struct Operator {
  /// Tensors of so many channels each, whose margins are filled before; none = nothing is exchanged.
  struct Halo {
    HaloPlan plan;
    Index frames = 0;
    std::vector<Index> channels = {};
    HaloTraffic traffic(int rank) const;
  };
  Work work;
  Shape output;
  std::int64_t kept_bytes = 0; ///< for the backward pass
  int block = 0;               ///< neighbours of one block, which may be made anew as a whole, share a number
  int piece = 0;               ///< in list_pieces(settings)
  Halo forward, backward;
  double behind = 0;                   ///< share of the pull-back that the backward halo travels behind
  double weight_flop = 0;              ///< part of the pull-back's: of gradients of weights
  std::int64_t deferred_bytes = 0;     ///< what these read, its input and the gradient of its output
  HaloTraffic up, down;                ///< sent along the parts of the frames, forward and backward
  HaloTraffic gathered, gathered_back; ///< sent to those who share out channels, forward and backward
  Index domain_sums = 0;               ///< values that are summed over all tiles, in each pass
};

/// The operators of StUnet::forward in their order, without allocating or communicating anything: for
/// planning a run on ranks that are not there. Local.
std::vector<Operator> list_operators(const ModelSettings& settings, const StUnetPorts& ports,
                                     const Partition& partition, int rank, const ChannelShare& share = {});

} // namespace pluvia
