#include "pluvia/io/cf_grid.hpp"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "pluvia/core/error.hpp"

namespace pluvia {

namespace {

constexpr const char* wgs84 =
    "GEOGCRS[\"WGS 84\",DATUM[\"World Geodetic System 1984\",ELLIPSOID[\"WGS 84\",6378137,298.257223563]],"
    "CS[ellipsoidal,2],AXIS[\"latitude\",north],AXIS[\"longitude\",east],"
    "ANGLEUNIT[\"degree\",0.0174532925199433],ID[\"EPSG\",4326]]";

/// Edges of cells half-way between their centres, at most `limit` from 0; [n][2].
std::vector<double> edges(const std::vector<double>& centres, double limit) {
  const std::size_t n = centres.size();
  std::vector<double> out(2 * n);
  for (std::size_t i = 0; i < n; ++i) {
    const double before = i > 0 ? centres[i] - centres[i - 1] : n > 1 ? centres[1] - centres[0] : 0;
    const double after = i + 1 < n ? centres[i + 1] - centres[i] : before;
    out[2 * i] = std::clamp(centres[i] - before / 2, -limit, limit);
    out[2 * i + 1] = std::clamp(centres[i] + after / 2, -limit, limit);
  }
  return out;
}

struct Axis {
  std::string name, standard_name, units, letter;
  const std::vector<double>& centres;
  std::vector<double> edges;
};

void write_axis(NcWriter& file, const Axis& axis) {
  file.add_dimension(axis.name, axis.centres.size());
  file.add_table(axis.name, NcType::f64, {axis.name});
  file.set_text(axis.name, "standard_name", axis.standard_name);
  file.set_text(axis.name, "units", axis.units);
  file.set_text(axis.name, "axis", axis.letter);
  file.set_text(axis.name, "bounds", axis.name + "_bnds");
  file.add_table(axis.name + "_bnds", NcType::f64, {axis.name, "bnds"});
  file.write_table(axis.name, axis.centres);
  file.write_table(axis.name + "_bnds", axis.edges);
}

bool starts_with(const std::string& text, const char* start) {
  return text.rfind(start, 0) == 0;
}

bool is_coordinate(const NcReader& file, const std::string& name, Coordinate which) {
  const bool latitude = which == Coordinate::latitude;
  if (file.text(name, "standard_name") == (latitude ? "latitude" : "longitude")) return true;
  const std::string units = file.text(name, "units");
  if (!starts_with(units, "degree")) return false;
  if (units == "degrees" || units == "degree") return starts_with(name, latitude ? "lat" : "lon");
  return units.find(latitude ? 'N' : 'E') != std::string::npos ||
         units.find(latitude ? "north" : "east") != std::string::npos;
}

std::vector<double> read_axis(const NcReader& file, const std::string& name) {
  if (!file.has(name) || file.variable(name).dimensions != std::vector<std::string>{name})
    fail(ExitCode::data, file.path() + " has no coordinate variable for its dimension " + name,
         "a grid needs 1-D coordinates of both its dimensions",
         "Add them, for example with ncap2 or xarray.");
  std::vector<double> values = read_decimals(file, name);
  for (double v : values)
    if (std::isnan(v)) fail(ExitCode::data, file.path() + " has missing values in its coordinate " + name);
  for (std::size_t i = 2; i < values.size(); ++i)
    if ((values[i] - values[i - 1]) * (values[1] - values[0]) <= 0)
      fail(ExitCode::data, file.path() + " has a coordinate " + name + " that is not monotone");
  return values;
}

} // namespace

std::vector<double> row_edges(const Grid& grid) {
  return edges(grid.y, grid.kind == Grid::Kind::latlon ? 90.0 : HUGE_VAL);
}

std::vector<double> column_edges(const Grid& grid) {
  return edges(grid.x, HUGE_VAL);
}

AxisNames standard_names(const Grid& grid) {
  if (grid.kind == Grid::Kind::latlon) return {"latitude", "longitude"};
  const std::string kind = starts_with(grid.x_units, "rad") ? "_angular_coordinate" : "_coordinate";
  return {"projection_y" + kind, "projection_x" + kind};
}

void write_grid(NcWriter& file, const Grid& grid) {
  const AxisNames names = standard_names(grid);
  file.add_dimension("bnds", 2);
  write_axis(file, {grid.y_name, names.y, grid.y_units, "Y", grid.y, row_edges(grid)});
  write_axis(file, {grid.x_name, names.x, grid.x_units, "X", grid.x, column_edges(grid)});
  write_grid_mapping(file, grid);
}

void write_grid_mapping(NcWriter& file, const Grid& grid) {
  file.add_table("crs", NcType::i32, {});
  if (grid.kind == Grid::Kind::latlon) {
    file.set_text("crs", "grid_mapping_name", "latitude_longitude");
    file.set_numbers("crs", "longitude_of_prime_meridian", NcType::f64, {0});
    file.set_numbers("crs", "semi_major_axis", NcType::f64, {6378137});
    file.set_numbers("crs", "inverse_flattening", NcType::f64, {298.257223563});
    file.set_text("crs", "crs_wkt", wgs84);
    return;
  }
  for (const auto& [name, text] : grid.mapping_texts) file.set_text("crs", name, text);
  for (const auto& [name, numbers] : grid.mapping_numbers)
    file.set_numbers("crs", name, NcType::f64, numbers);
}

void write_latitude_longitude(NcWriter& file, const Grid& grid, const Rect& tile,
                              std::span<const float> latitudes, std::span<const float> longitudes) {
  const auto write = [&](const std::string& name, const char* standard_name, const char* units,
                         std::span<const float> values) {
    file.add_field(name, NcType::f32, {grid.y_name, grid.x_name});
    file.set_text(name, "standard_name", standard_name);
    file.set_text(name, "units", units);
    file.write_tile(name, {}, {}, tile, values);
  };
  write("lat", "latitude", "degrees_north", latitudes);
  write("lon", "longitude", "degrees_east", longitudes);
}

void set_grid_attributes(NcWriter& file, const Grid& grid, const std::string& field,
                         const std::string& coordinates) {
  std::string all = coordinates;
  if (grid.kind == Grid::Kind::projected) all += all.empty() ? "lat lon" : " lat lon";
  if (!all.empty()) file.set_text(field, "coordinates", all);
  file.set_text(field, "grid_mapping", "crs");
}

void write_time_axis(NcWriter& file, std::size_t extent, const std::string& long_name) {
  file.add_dimension("time", extent);
  file.add_table("time", NcType::f64, {"time"});
  file.set_text("time", "standard_name", "time");
  file.set_text("time", "long_name", long_name);
  file.set_text("time", "units", "seconds since 1970-01-01 00:00:00");
  file.set_text("time", "calendar", "standard");
  file.set_text("time", "axis", "T");
}

void write_time(NcWriter& file, std::size_t position, Time time) {
  const double value = static_cast<double>(time);
  file.write_table("time", {position}, {1}, {&value, 1});
}

Grid read_grid(const NcReader& file, const NcVariable& field) {
  Grid grid;
  grid.y_name = field.dimensions.at(field.dimensions.size() - 2);
  grid.x_name = field.dimensions.back();
  grid.y = read_axis(file, grid.y_name);
  grid.x = read_axis(file, grid.x_name);
  if (is_coordinate(file, grid.y_name, Coordinate::latitude) &&
      is_coordinate(file, grid.x_name, Coordinate::longitude))
    return grid;

  grid.kind = Grid::Kind::projected;
  grid.y_units = file.text(grid.y_name, "units");
  grid.x_units = file.text(grid.x_name, "units");
  const std::string mapping = file.text(field.name, "grid_mapping");
  if (!mapping.empty() && file.has(mapping))
    for (const std::string& name : file.attributes(mapping)) {
      if (auto numbers = file.numbers(mapping, name); !numbers.empty())
        grid.mapping_numbers.emplace_back(name, numbers);
      else if (auto text = file.text(mapping, name); !text.empty())
        grid.mapping_texts.emplace_back(name, text);
    }
  return grid;
}

std::vector<Time> read_times(const NcReader& file, const std::string& axis) {
  TimeUnits units;
  try {
    units = parse_time_units(file.text(axis, "units"), file.text(axis, "calendar"));
  } catch (const Error& error) {
    fail(error.code(), file.path() + ": " + error.what());
  }
  std::vector<Time> out;
  for (double value : file.values(axis)) {
    if (std::isnan(value))
      fail(ExitCode::data, file.path() + " has a missing value in its time axis " + axis);
    out.push_back(units.epoch + std::llround(value * units.seconds_per_unit));
  }
  return out;
}

std::vector<float> read_coordinate(const NcReader& file, const NcVariable& field, const Grid& grid,
                                   const Rect& rect, Coordinate coordinate) {
  std::vector<float> out(static_cast<std::size_t>(rect.cells()));
  if (grid.kind == Grid::Kind::latlon) {
    auto cell = out.begin();
    for (Index y = rect.y0; y < rect.y1; ++y)
      for (Index x = rect.x0; x < rect.x1; ++x)
        *cell++ =
            static_cast<float>(coordinate == Coordinate::latitude ? grid.y[static_cast<std::size_t>(y)]
                                                                  : grid.x[static_cast<std::size_t>(x)]);
    return out;
  }
  // The field names its 2-D coordinates; older files only use the usual names.
  std::istringstream named(file.text(field.name, "coordinates") + " lat lon latitude longitude");
  for (std::string name; named >> name;) {
    if (!file.has(name) || !is_coordinate(file, name, coordinate)) continue;
    if (file.variable(name).dimensions != std::vector<std::string>{grid.y_name, grid.x_name}) continue;
    file.read(name, {static_cast<std::size_t>(rect.y0), static_cast<std::size_t>(rect.x0)},
              {static_cast<std::size_t>(rect.height()), static_cast<std::size_t>(rect.width())}, out);
    return out;
  }
  fail(ExitCode::data, file.path() + " does not say where its cells lie",
       "its grid is projected and it has no 2-D latitude and longitude on (" + grid.y_name + ", " +
           grid.x_name + ")",
       "Add the variables lat(" + grid.y_name + ", " + grid.x_name + ") and lon.");
}

} // namespace pluvia
