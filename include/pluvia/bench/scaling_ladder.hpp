#pragma once
#include <vector>

#include "pluvia/bench/timing.hpp"
#include "pluvia/comm/communicator.hpp"
#include "pluvia/comm/tiling.hpp"
#include "pluvia/core/device.hpp"
#include "pluvia/core/precision.hpp"
#include "pluvia/core/settings.hpp"

namespace pluvia {

/// So many ranks of a ladder: parts of the frames, as many as go into both the ranks and parallel.time, of
/// tiles.
struct LadderShape {
  int parts;
  GridShape tiles;
};
/// Local. Throws a usage Error when so many ranks do not fit the grid.
LadderShape ladder_shape(const Settings& settings, int ranks);

/// Training steps of one replica on the first so many ranks.
struct Rung {
  bool strong; ///< the same grid on all ranks; else as much for each
  int ranks, parts;
  Index ny, nx;
  double median_s, min_s, max_s, halo_wait_share; ///< the last on the rank that waits most
  double efficiency;                              ///< of the first rung's
};
/// Of the rank counts of bench.ranks, first on one grid, then on as much for each. Collective.
std::vector<Rung> climb_ladder(const Communicator& world, const Settings& settings, Precision precision,
                               Device device);

} // namespace pluvia
