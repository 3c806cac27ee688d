#pragma once
#include <algorithm>

#include "pluvia/core/tensor.hpp"

namespace pluvia {

/// Into which blocks of the global grid, and of the frames or leads, sums over cells are cut so that they
/// come out the same on every process grid: tiles and their frames begin on whole blocks, a gradient is
/// summed within each block in an order that its shape alone decides, and the blocks' sums are added in a
/// Parameter's order-free ones. Ranks that hold the same cells take turns at the blocks; without blocks each
/// sums some rows. A plain value.
struct GradientBlocks {
  Index size = 0;              ///< finest cells along a side, a multiple of the coarsest cell; 0: no blocks
  Index height = 0, width = 0; ///< of the tile [finest cells]
  Index frames = 0;            ///< frames, or leads, of a block; 0: all
  int member = 0, members = 1; ///< of the ranks that hold the same cells

  explicit operator bool() const { return size > 0; }
  /// One of these ranks counts what they do not share out.
  bool counts() const { return member == 0; }
  /// Cells along a block's sides in a tensor whose tile has so many rows or columns: on the level that these
  /// tell. Tiles within one block have one there, too.
  Index rows(Index of_tile) const { return along(height, of_tile); }
  Index columns(Index of_tile) const { return along(width, of_tile); }

private:
  Index along(Index tile, Index here) const {
    Index block = size;
    for (; tile > here && tile > 1; tile = (tile + 1) / 2) block = std::max<Index>(1, block / 2);
    return block;
  }
};

} // namespace pluvia
