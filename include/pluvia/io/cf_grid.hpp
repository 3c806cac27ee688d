#pragma once
#include <span>
#include <string>
#include <vector>

#include "pluvia/comm/tiling.hpp"
#include "pluvia/io/grid.hpp"
#include "pluvia/io/netcdf.hpp"
#include "pluvia/io/time.hpp"

namespace pluvia {

/// Edges of a grid's rows and columns, half-way between their centres: [n][2], in the order of the cells.
/// Local.
std::vector<double> row_edges(const Grid& grid);
std::vector<double> column_edges(const Grid& grid);
/// Adds a grid to a file: dimensions and 1-D coordinates grid.y_name, grid.x_name with bounds, and the grid
/// mapping. Collective.
void write_grid(NcWriter& file, const Grid& grid);
/// Adds the grid mapping variable "crs" (WGS 84 for latlon grids). Collective.
void write_grid_mapping(NcWriter& file, const Grid& grid);
/// CF standard names of a grid's 1-D coordinates.
struct AxisNames {
  std::string y, x;
};
AxisNames standard_names(const Grid& grid);
/// Adds and writes "lat" and "lon" on (y, x) [degrees] of a projected grid, from this rank's tile.
/// Collective.
void write_latitude_longitude(NcWriter& file, const Grid& grid, const Rect& tile,
                              std::span<const float> latitudes, std::span<const float> longitudes);
/// Sets what ties a field to its grid: grid_mapping "crs", and coordinates `coordinates` (with "lat lon" on
/// projected grids). Collective.
void set_grid_attributes(NcWriter& file, const Grid& grid, const std::string& field,
                         const std::string& coordinates = {});

/// Adds the time axis "time" in seconds since 1970-01-01, standard calendar; `extent` may be unlimited.
/// Collective.
void write_time_axis(NcWriter& file, std::size_t extent, const std::string& long_name);
/// Writes one value of the time axis. Collective.
void write_time(NcWriter& file, std::size_t position, Time time);

/// The grid of a field on (..., y, x). Local. Throws a data Error when it has no 1-D coordinates.
Grid read_grid(const NcReader& file, const NcVariable& field);
/// The whole time axis of a file in whole seconds (rounded). Local. Throws a data Error when it cannot be
/// decoded.
std::vector<Time> read_times(const NcReader& file, const std::string& axis);
/// Latitudes or longitudes [degrees] of a rectangle, row-major: from the coordinates of a latlon grid, or
/// from the 2-D coordinates of a projected one. Local. Throws a data Error when a projected grid has none.
enum class Coordinate { latitude, longitude };
std::vector<float> read_coordinate(const NcReader& file, const NcVariable& field, const Grid& grid,
                                   const Rect& rect, Coordinate coordinate);

} // namespace pluvia
