#include "pluvia/io/grid.hpp"

#include <cmath>
#include <numbers>

namespace pluvia {

bool closes_in_longitude(const Grid& grid) {
  if (grid.kind != Grid::Kind::latlon || grid.nx() < 2) return false;
  const double dx = (grid.x.back() - grid.x.front()) / static_cast<double>(grid.nx() - 1);
  return std::abs(std::abs(dx) * static_cast<double>(grid.nx()) - 360.0) < 0.5 * std::abs(dx);
}

std::vector<float> row_areas(const Grid& grid) {
  std::vector<float> areas(grid.y.size(), 1.0F);
  if (grid.kind == Grid::Kind::latlon)
    for (std::size_t i = 0; i < areas.size(); ++i)
      areas[i] = static_cast<float>(std::cos(grid.y[i] * std::numbers::pi / 180.0));
  return areas;
}

} // namespace pluvia
