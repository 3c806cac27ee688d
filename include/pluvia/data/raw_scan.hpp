#pragma once
#include <string>
#include <vector>

#include "pluvia/comm/communicator.hpp"
#include "pluvia/core/log.hpp"
#include "pluvia/data/cell_means.hpp"
#include "pluvia/data/slots.hpp"

namespace pluvia {

/// What a set of raw files holds for a grid.
struct RawScan {
  std::vector<FoundFrame> frames; ///< in the order of the files
  Skips skips;                    ///< whole files that are of no use
};

/// Opens every file, each on one rank, and lists its frames; the result is the same on all ranks. A file that
/// cannot be read is warned about and left out, and so is one whose pixels all lie outside the grid or are
/// coarser than its cells. Collective.
RawScan scan_raw_files(const Communicator& comm, const std::vector<std::string>& files, const CellGrid& grid,
                       const Log& log);

} // namespace pluvia
