#include "pluvia/data/cell_means.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace pluvia {

namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// The cells [first, last] of an axis that a pixel touches, and its edges [low, high] in cells; both edges
/// are the centre when the pixel counts as a point.
struct Reach {
  Index first = 0, last = -1;
  double low = 0, high = 0;
  double share(Index cell) const {
    if (low == high) return 1;
    return std::min(high, static_cast<double>(cell + 1)) - std::max(low, static_cast<double>(cell));
  }
};

/// Edges of pixels and cells that agree up to the rounding of coordinates are the same.
double snap(double position) {
  const double whole = std::round(position);
  return std::abs(position - whole) < 1e-4 ? whole : position;
}

Reach reach(double centre, double width) {
  Reach out;
  out.low = snap(centre - width / 2), out.high = snap(centre + width / 2);
  if (width == 0) out.high = out.low;
  out.first = static_cast<Index>(std::floor(out.low));
  out.last = width == 0 ? out.first : static_cast<Index>(std::ceil(out.high)) - 1;
  return out;
}

struct Range {
  float least, most;
};
Range possible(Quantity quantity) {
  return quantity == Quantity::brightness_temperature ? Range{160, 340} : Range{0, 300};
}

struct Cell {
  double pixels = 0, valid = 0;      ///< how many, or how much of the cell they cover
  double area = 0, weighted_sum = 0; ///< of the valid ones
  float least = std::numeric_limits<float>::infinity();
};

} // namespace

Grid CellGrid::grid() const {
  Grid out;
  const auto centre = [&](double edge, Index i) {
    return std::round((edge + (static_cast<double>(i) + 0.5) * cell_degrees) * 1e9) / 1e9;
  };
  for (Index y = 0; y < ny; ++y) out.y.push_back(centre(south, y));
  for (Index x = 0; x < nx; ++x) out.x.push_back(centre(west, x));
  return out;
}

CellMeans gather_in_cells(const CellGrid& grid, const Geolocation& where, Quantity quantity,
                          std::span<const float> pixels) {
  const Index rows = where.window.height(), columns = where.window.width();
  const bool regular = where.latitudes.size() == static_cast<std::size_t>(rows) &&
                       where.longitudes.size() == static_cast<std::size_t>(columns);
  const bool points = quantity == Quantity::brightness_temperature;
  const double around = 360 / grid.cell_degrees; // cells in a full circle
  const bool closed = std::abs(around - static_cast<double>(grid.nx)) < 0.5;
  const double middle = static_cast<double>(grid.nx) / 2;

  const auto reach_of_latitude = [&](double latitude) {
    return reach((latitude - grid.south) / grid.cell_degrees,
                 points ? 0 : where.pixel_height / grid.cell_degrees);
  };
  const auto reach_of_longitude = [&](double longitude) {
    // In the turn around the Earth that is nearest to the middle of the grid.
    const double offset = std::remainder((longitude - grid.west) / grid.cell_degrees - middle, around);
    return reach(middle + offset, points ? 0 : where.pixel_width / grid.cell_degrees);
  };
  std::vector<Reach> of_row, of_column;
  if (regular) {
    for (const double latitude : where.latitudes) of_row.push_back(reach_of_latitude(latitude));
    for (const double longitude : where.longitudes) of_column.push_back(reach_of_longitude(longitude));
  }

  CellMeans out;
  const Range range = possible(quantity);
  std::vector<Cell> cells(grid.cells());
  for (Index y = 0; y < rows; ++y)
    for (Index x = 0; x < columns; ++x) {
      const auto pixel = static_cast<std::size_t>(y * columns + x);
      if (!regular && std::isnan(where.latitudes[pixel])) continue; // it looks past the Earth
      const Reach row =
          regular ? of_row[static_cast<std::size_t>(y)] : reach_of_latitude(where.latitudes[pixel]);
      const Reach column =
          regular ? of_column[static_cast<std::size_t>(x)] : reach_of_longitude(where.longitudes[pixel]);
      const float value = pixels[pixel];
      const bool valid = value >= range.least && value <= range.most;
      out.impossible += !valid && !std::isnan(value);
      const double area =
          regular ? std::cos(where.latitudes[static_cast<std::size_t>(y)] * std::numbers::pi / 180) : 1;
      for (Index cy = std::max<Index>(row.first, 0); cy <= std::min(row.last, grid.ny - 1); ++cy)
        for (Index turn = column.first; turn <= column.last; ++turn) {
          const Index cx = closed ? (turn % grid.nx + grid.nx) % grid.nx : turn;
          if (cx < 0 || cx >= grid.nx) continue;
          Cell& cell = cells[static_cast<std::size_t>(cy * grid.nx + cx)];
          const double share = row.share(cy) * column.share(turn);
          cell.pixels += share;
          if (!valid) continue;
          cell.valid += share;
          cell.area += share * area;
          cell.weighted_sum += share * area * static_cast<double>(value);
          cell.least = std::min(cell.least, value);
        }
    }

  out.mean.assign(cells.size(), nan);
  if (points) out.least.assign(cells.size(), nan);
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const Cell& cell = cells[i];
    if (cell.valid == 0 || 2 * cell.valid < cell.pixels * (1 - 1e-9)) continue;
    out.mean[i] = static_cast<float>(cell.weighted_sum / cell.area);
    if (points) out.least[i] = cell.least;
  }
  return out;
}

} // namespace pluvia
