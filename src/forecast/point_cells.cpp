#include "pluvia/forecast/point_cells.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include <fmt/format.h>

#include "pluvia/core/error.hpp"

namespace pluvia {

namespace {

constexpr double radians = 0.017453292519943295;

/// A point seen from a cell's centre, in degrees of latitude.
struct Offset {
  double north = 0, east = 0;
};

/// A rectangle of cells with the coordinates of their centres.
struct Centres {
  Rect rect;
  std::vector<float> latitudes, longitudes;
  Offset between(Index y, Index x, double latitude, double longitude) const {
    const auto i = static_cast<std::size_t>((y - rect.y0) * rect.width() + x - rect.x0);
    const double east = std::remainder(longitude - static_cast<double>(longitudes[i]), 360.0);
    return {latitude - static_cast<double>(latitudes[i]), east * std::cos(latitude * radians)};
  }
  Offset step(Index y, Index x, Index to_y, Index to_x) const {
    const auto i = static_cast<std::size_t>((to_y - rect.y0) * rect.width() + to_x - rect.x0);
    return between(y, x, static_cast<double>(latitudes[i]), static_cast<double>(longitudes[i]));
  }
};

/// Whether a point lies within half a cell of the centre of (y, x), along both axes of the grid.
bool inside(const Centres& cells, Index y, Index x, const Offset& point) {
  const Rect& r = cells.rect;
  const auto axis = [&](Index dy, Index dx) {
    const Index y0 = std::max(y - dy, r.y0), y1 = std::min(y + dy, r.y1 - 1);
    const Index x0 = std::max(x - dx, r.x0), x1 = std::min(x + dx, r.x1 - 1);
    const Offset back = cells.step(y, x, y0, x0), on = cells.step(y, x, y1, x1);
    const double steps = static_cast<double>(y1 - y0 + x1 - x0);
    return Offset{(on.north - back.north) / steps, (on.east - back.east) / steps};
  };
  const Offset row = axis(1, 0), column = axis(0, 1);
  const double area = row.north * column.east - row.east * column.north;
  const double rows = (point.north * column.east - point.east * column.north) / area;
  const double columns = (point.east * row.north - point.north * row.east) / area;
  return std::abs(rows) <= 0.501 &&
         std::abs(columns) <= 0.501; // coordinates may be stored in single precision
}

} // namespace

std::vector<AttentionProbe::Cell> cells_holding(const Communicator& comm, const ArchiveIndex& index,
                                                const Rect& tile, const std::vector<LatLon>& points) {
  if (points.empty()) return {};
  constexpr std::int64_t nowhere = std::numeric_limits<std::int64_t>::max();
  const Index nx = index.grid.nx();
  std::vector<double> nearest(points.size(), HUGE_VAL);
  std::vector<std::int64_t> found(points.size(), nowhere); // 2 * cell, + 1 when the point is not in it
  together(comm, [&] {
    const Rect grown =
        intersect({tile.y0 - 1, tile.y1 + 1, tile.x0 - 1, tile.x1 + 1}, {0, index.grid.ny(), 0, nx});
    const ArchiveReader reader(index, grown, 0);
    const Centres cells{grown, reader.latitudes(), reader.longitudes()};
    for (std::size_t i = 0; i < points.size(); ++i)
      for (Index y = tile.y0; y < tile.y1; ++y)
        for (Index x = tile.x0; x < tile.x1; ++x) {
          const Offset point = cells.between(y, x, points[i].latitude, points[i].longitude);
          const double distance = std::hypot(point.north, point.east);
          if (!(distance < nearest[i])) continue;
          nearest[i] = distance;
          found[i] = 2 * (y * nx + x) + (inside(cells, y, x, point) ? 0 : 1);
        }
  });
  std::vector<double> global = nearest;
  comm.all_reduce(std::span<double>(global), Reduce::min);
  for (std::size_t i = 0; i < points.size(); ++i)
    if (nearest[i] > global[i]) found[i] = nowhere;
  comm.all_reduce(std::span<std::int64_t>(found), Reduce::min);
  std::vector<AttentionProbe::Cell> out;
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (found[i] % 2 != 0)
      fail(ExitCode::usage,
           fmt::format("forecast.write_attention names [{}, {}]", points[i].latitude, points[i].longitude),
           "it lies outside the archive's grid",
           "Write [latitude, longitude] in degrees; `pluvia info` shows the grid.");
    out.push_back({found[i] / 2 / nx, found[i] / 2 % nx});
  }
  return out;
}

} // namespace pluvia
