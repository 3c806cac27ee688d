#pragma once
#include <string>
#include <utility>
#include <vector>

namespace pluvia {

/// The horizontal grid of an archive, in the archive's own order. Small: 1-D coordinates on every rank.
struct Grid {
  enum class Kind { latlon, projected };
  Kind kind = Kind::latlon;
  std::string y_name = "lat", x_name = "lon"; ///< dimension and coordinate names
  std::vector<double> y, x;                   ///< cell centres [degrees, or the projection's units]
  std::string y_units = "degrees_north", x_units = "degrees_east";
  /// Projected grids only: grid_mapping attributes as they stood in the archive (numbers printed in full).
  std::vector<std::pair<std::string, std::vector<double>>> mapping_numbers;
  std::vector<std::pair<std::string, std::string>> mapping_texts; ///< grid_mapping_name, crs_wkt, ...

  long ny() const { return static_cast<long>(y.size()); }
  long nx() const { return static_cast<long>(x.size()); }
  bool operator==(const Grid&) const = default;
};

/// True when the longitudes close on themselves (nx * dx = 360 within half a cell).
bool closes_in_longitude(const Grid& grid);

/// Relative areas of the cells of each row (cos latitude on latlon grids, 1 on projected ones).
std::vector<float> row_areas(const Grid& grid);

} // namespace pluvia
