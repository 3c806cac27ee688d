#pragma once
#include <cstddef>
#include <span>
#include <vector>

#include "pluvia/data/readers/raw_file.hpp"
#include "pluvia/io/grid.hpp"

namespace pluvia {

/// The cells that pixels are gathered in: a regular latitude-longitude grid, south and west first. A cell
/// holds its southern and western border. A plain value.
struct CellGrid {
  double south = 0, west = 0, cell_degrees = 1;
  Index ny = 0, nx = 0;
  GeoBox box() const {
    return {south, south + static_cast<double>(ny) * cell_degrees, west,
            west + static_cast<double>(nx) * cell_degrees};
  }
  std::size_t cells() const { return static_cast<std::size_t>(ny * nx); }
  /// Cell centres, rounded to 1e-9 degrees.
  Grid grid() const;
};

/// What the pixels of one frame make of the cells [ny x nx]; NaN where a cell is missing.
struct CellMeans {
  std::vector<float> mean;
  std::vector<float> least;   ///< of brightness temperatures alone: the coldest pixel
  std::size_t impossible = 0; ///< pixels taken as missing because no such value exists in nature
};

/// Gathers pixels [the window of `where`] in cells. A brightness temperature belongs to the cell that holds
/// its pixel's centre; rain falls on the whole pixel and counts in each cell by the overlap, so that a grid
/// finer than, coarser than or offset against the pixels keeps the amount. The mean is weighted with the area
/// (on regular grids with the cosine of latitude); missing pixels are left out of it, and a cell with less
/// than half of its pixels valid is missing. Possible values: 160 to 340 K, 0 to 300 mm h-1. Local.
CellMeans gather_in_cells(const CellGrid& grid, const Geolocation& where, Quantity quantity,
                          std::span<const float> pixels);

} // namespace pluvia
