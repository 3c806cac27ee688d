#pragma once
#include <cstdint>
#include <limits>

#include "pluvia/comm/halo.hpp"
#include "pluvia/nn/st_unet.hpp"

namespace pluvia {

/// What one sample costs one rank of a partition.
struct Footprint {
  std::int64_t activation_bytes = 0; ///< kept from the forward for the backward pass
  std::int64_t inside_bytes = 0;     ///< of the largest block, when blocks are made anew one at a time
  std::int64_t deferred_bytes =
      0;                         ///< at most, of what gradients of weights read, when they are left for later
  HaloTraffic forward, backward; ///< sent in each pass
};

constexpr Span every_piece{0, std::numeric_limits<Index>::max()};

/// Adds up what the operators of StUnet::forward (see list_operators) keep and exchange, or those of some of
/// its pieces, without allocating or communicating anything: for planning a run on ranks that are not there.
/// Local.
Footprint estimate_footprint(const ModelSettings& settings, const StUnetPorts& ports,
                             const Partition& partition, int rank, Tape::Keep keep = Tape::Keep::everything,
                             Span pieces = every_piece, const ChannelShare& share = {});

} // namespace pluvia
