#pragma once
#include <vector>

#include "pluvia/core/settings.hpp"
#include "pluvia/data/archive.hpp"
#include "pluvia/nn/attention_probe.hpp"

namespace pluvia {

/// The cells of a grid that hold the given points, found among this rank's `tile` and its neighbours'.
/// Collective. Throws a usage Error on all ranks when a point lies outside the grid.
std::vector<AttentionProbe::Cell> cells_holding(const Communicator& comm, const ArchiveIndex& index,
                                                const Rect& tile, const std::vector<LatLon>& points);

} // namespace pluvia
