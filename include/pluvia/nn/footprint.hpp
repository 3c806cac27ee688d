#pragma once
#include <cstdint>

#include "pluvia/comm/halo.hpp"
#include "pluvia/nn/st_unet.hpp"

namespace pluvia {

/// What one sample costs one rank of a partition.
struct Footprint {
  std::int64_t activation_bytes = 0; ///< kept from the forward for the backward pass
  std::int64_t inside_bytes = 0;     ///< of the largest block, when blocks are made anew one at a time
  HaloTraffic forward, backward;     ///< sent in each pass
};

/// Adds up what the operators of StUnet::forward (see list_operators) keep and exchange, without
/// allocating or communicating anything: for planning a run on ranks that are not there. Local.
Footprint estimate_footprint(const ModelSettings& settings, const StUnetPorts& ports,
                             const Partition& partition, int rank, Tape::Keep keep = Tape::Keep::everything);

} // namespace pluvia
